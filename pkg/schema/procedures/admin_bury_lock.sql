-- bury 1 of 4: locks the cursors of a partition.
-- $1 uuid partition
WITH held AS MATERIALIZED (
    SELECT 1
      FROM queen.partition_consumers
     WHERE partition_id = $1::uuid
     ORDER BY consumer_group
       FOR UPDATE)
SELECT count(*) FROM held;
