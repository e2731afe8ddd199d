-- maintain, partitions 2 of 3: locks their heads. One that somebody holds is in use.
-- A push that waits for this lock finds the head gone and resolves the partition anew.
-- $1 uuid[] partitions
SELECT h.partition_id
  FROM queen.partition_lookup h
 WHERE h.partition_id = ANY ($1::uuid[])
 ORDER BY h.partition_id
   FOR UPDATE SKIP LOCKED;
