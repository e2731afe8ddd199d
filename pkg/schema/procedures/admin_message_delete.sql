-- message delete: one message goes, with its dead letters and its traces, and leaves its
-- number as a hole, unless the tail has passed it. The partition's head is locked.
-- Returns whether anything was there: the message, or a dead letter that outlived it.
-- $1 uuid partition, $2 text transaction
WITH gone AS (
    DELETE FROM queen.messages
     WHERE partition_id = $1::uuid AND transaction_id = $2::text
    RETURNING id, seq),
hole AS (
    INSERT INTO queen.message_holes (partition_id, seq)
    SELECT h.partition_id, g.seq
      FROM gone g
      JOIN queen.partition_lookup h ON h.partition_id = $1::uuid
     WHERE g.seq > h.tail_seq
        ON CONFLICT DO NOTHING),
traces AS (
    DELETE FROM queen.message_traces
     WHERE partition_id = $1::uuid AND transaction_id = $2::text),
letters AS (
    DELETE FROM queen.dead_letter_queue
     WHERE partition_id = $1::uuid
       AND (transaction_id = $2::text OR message_id IN (SELECT id FROM gone))
    RETURNING 1)
SELECT EXISTS (SELECT FROM gone) OR EXISTS (SELECT FROM letters);
