-- maintain, partitions 3 of 3: deletes those that are still empty, now that their heads
-- are locked, with all that hangs on them.
-- $1 uuid[] partitions, $2 timestamptz since when nothing happened
DELETE FROM queen.partitions p
 WHERE p.id = ANY ($1::uuid[])
   AND NOT EXISTS (SELECT FROM queen.messages m WHERE m.partition_id = p.id)
   AND NOT EXISTS (SELECT FROM queen.dead_letter_queue d WHERE d.partition_id = p.id)
   AND NOT EXISTS (SELECT FROM queen.partition_lookup l WHERE l.partition_id = p.id AND l.updated_at >= $2::timestamptz);
