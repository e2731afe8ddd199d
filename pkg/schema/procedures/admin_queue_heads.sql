-- queue delete 1 of 4: locks the heads of all partitions, in the order in which a push
-- locks them, so that the two cannot wait for each other.
-- $1 text queue
WITH held AS MATERIALIZED (
    SELECT 1
      FROM queen.partition_lookup
     WHERE queue_name = $1::text
     ORDER BY partition_id
       FOR UPDATE)
SELECT count(*) FROM held;
