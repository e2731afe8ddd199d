-- maintain, reconcile 3 of 6: locks heads, in the order in which pushes do. A statement
-- of its own: the next one sees what the last holder committed.
-- $1 uuid[] partitions
WITH held AS MATERIALIZED (
    SELECT 1
      FROM queen.partition_lookup h
     WHERE h.partition_id = ANY ($1::uuid[])
     ORDER BY h.partition_id
       FOR NO KEY UPDATE)
SELECT count(*) FROM held;
