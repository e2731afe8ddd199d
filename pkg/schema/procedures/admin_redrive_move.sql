-- redrive: moves messages to the end of their partition. The number that each had
-- becomes a hole, unless the tail has passed it; its traces follow.
-- $1 uuid partition, $2 timestamptz when, $3 text[] transactions, $4 uuid[] new ids, $5 int4[] ranks
WITH h AS MATERIALIZED (
    SELECT seq, tail_seq FROM queen.partition_lookup WHERE partition_id = $1::uuid),
u AS MATERIALIZED (
    SELECT m.seq, n.txn, n.id, n.k
      FROM unnest($3::text[], $4::uuid[], $5::integer[]) n (txn, id, k)
      JOIN queen.messages m ON m.partition_id = $1::uuid AND m.transaction_id = n.txn),
holes AS (
    INSERT INTO queen.message_holes (partition_id, seq)
    SELECT $1::uuid, u.seq FROM u JOIN h ON u.seq > h.tail_seq
        ON CONFLICT DO NOTHING),
traces AS (
    UPDATE queen.message_traces t SET message_id = u.id
      FROM u
     WHERE t.partition_id = $1::uuid AND t.transaction_id = u.txn)
UPDATE queen.messages m
   SET id = u.id, created_at = $2::timestamptz, seq = h.seq + u.k
  FROM u CROSS JOIN h
 WHERE m.partition_id = $1::uuid AND m.transaction_id = u.txn;
