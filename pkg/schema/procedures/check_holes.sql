-- check: a slice of holes, and what the heads say of their numbers.
-- $1 uuid and $2 int8 partition and number before the slice, $3 int4 rows in a slice
WITH slice AS MATERIALIZED (
    SELECT h.partition_id, h.seq
      FROM queen.message_holes h
     WHERE (h.partition_id, h.seq) > ($1::uuid, $2::bigint)
     ORDER BY h.partition_id, h.seq
     LIMIT $3::int)
SELECT s.partition_id, s.seq, q.name, p.name, l.seq, l.tail_seq
  FROM slice s
  LEFT JOIN queen.partitions p ON p.id = s.partition_id
  LEFT JOIN queen.queues q ON q.id = p.queue_id
  LEFT JOIN queen.partition_lookup l ON l.partition_id = s.partition_id
 ORDER BY s.partition_id, s.seq;
