-- One message, one statement: the head's row lock is taken and the head moved by the
-- UPDATE, which under READ COMMITTED waits for the lock's holder and reads what that
-- committed, and the message is stamped with what the UPDATE returns. So commit order
-- is (created_at, id) order here too, numbers are dense, and a duplicate (23505)
-- undoes both. No row: the partition is gone.
-- $1 partition, $2 id, $3 transaction, $4 trace, $5 payload
WITH head AS (
    UPDATE queen.partition_lookup
       SET seq = seq + 1, last_message_id = $2, updated_at = now(),
           last_message_created_at = greatest(clock_timestamp(), last_message_created_at + interval '1 microsecond')
     WHERE partition_id = $1
    RETURNING partition_id, seq, last_message_created_at)
INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, seq)
SELECT $2, $3, $4, partition_id, $5, last_message_created_at, seq
  FROM head
