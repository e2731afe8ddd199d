-- check: a slice of messages in the order of the partitions and of delivery, with what
-- the heads say of their numbers.
-- $1 uuid, $2 timestamptz, $3 uuid the message before the slice, $4 int4 messages in a slice
WITH slice AS MATERIALIZED (
    SELECT m.partition_id, m.created_at, m.id, m.seq
      FROM queen.messages m
     WHERE (m.partition_id, m.created_at, m.id) > ($1::uuid, $2::timestamptz, $3::uuid)
     ORDER BY m.partition_id, m.created_at, m.id
     LIMIT $4::int)
SELECT s.partition_id, s.created_at, s.id, s.seq, l.seq, l.tail_seq
  FROM slice s
  LEFT JOIN queen.partition_lookup l ON l.partition_id = s.partition_id
 ORDER BY s.partition_id, s.created_at, s.id;
