-- bury 4 of 4: takes the message out of its partition; its number becomes a hole, unless
-- the tail has passed it. Nothing happens, and no row is returned, while Queen's foreign
-- key is there, which would delete the dead letter too.
-- $1 uuid partition, $2 text transaction
WITH gone AS (
    DELETE FROM queen.messages
     WHERE partition_id = $1::uuid AND transaction_id = $2::text
       AND NOT EXISTS (SELECT FROM pg_constraint
                        WHERE contype = 'f' AND conrelid = to_regclass('queen.dead_letter_queue') AND confrelid = to_regclass('queen.messages'))
    RETURNING seq),
hole AS (
    INSERT INTO queen.message_holes (partition_id, seq)
    SELECT $1::uuid, g.seq
      FROM gone g
      JOIN queen.partition_lookup h ON h.partition_id = $1::uuid AND g.seq > h.tail_seq
        ON CONFLICT DO NOTHING)
SELECT 1 FROM gone;
