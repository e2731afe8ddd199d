-- redrive: puts messages back that only their dead letters are left of.
-- $1 uuid partition, $2 timestamptz when, $3 uuid[] dead letters, $4 uuid[] new ids, $5 int4[] ranks
INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub, seq)
SELECT u.id, d.transaction_id, d.trace_id, d.partition_id, d.payload::text::json, $2::timestamptz, d.is_encrypted, d.producer_sub, h.seq + u.k
  FROM unnest($3::uuid[], $4::uuid[], $5::integer[]) u (letter, id, k)
  JOIN queen.dead_letter_queue d ON d.partition_id = $1::uuid AND d.id = u.letter
  JOIN queen.partition_lookup h ON h.partition_id = $1::uuid;
