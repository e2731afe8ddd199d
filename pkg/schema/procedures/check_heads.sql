-- check: a slice of heads, and whether each has its partition.
-- $1 uuid the partition before the slice, $2 int4 heads in a slice
WITH slice AS MATERIALIZED (
    SELECT l.partition_id, l.queue_name
      FROM queen.partition_lookup l
     WHERE l.partition_id > $1::uuid
     ORDER BY l.partition_id
     LIMIT $2::int)
SELECT s.partition_id, s.queue_name, p.id IS NOT NULL
  FROM slice s
  LEFT JOIN queen.partitions p ON p.id = s.partition_id
 ORDER BY s.partition_id;
