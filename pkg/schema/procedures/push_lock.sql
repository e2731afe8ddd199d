-- push, before push_insert where more is read than the heads, and for a while after a push was
-- blocked; and whoever else changes what a push may see: locks the partitions' heads, in one
-- global order, so that two batches cannot wait for each other. It must be a statement of its own: what follows has to see what the last holder of the lock has committed. NO KEY: references to the row
-- may be checked meanwhile. (SELECT $1) keeps the planner from looking into the array:
-- or it would find that a plan for this very array is cheaper than one for any, and
-- plan anew each time, which costs more than the push.
-- $1 uuid[] partitions
WITH held AS MATERIALIZED (
    SELECT 1
      FROM queen.partition_lookup
     WHERE partition_id = ANY ((SELECT $1::uuid[])::uuid[])
     ORDER BY partition_id
       FOR NO KEY UPDATE)
SELECT count(*) FROM held;
