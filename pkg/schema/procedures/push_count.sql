-- push, behind push_insert and in its transaction: the numbers of the last messages of its
-- partitions, for a push that is to be stored early. null: that head has no number.
-- $1 uuid[] partitions, sorted
SELECT array_agg(h.seq ORDER BY h.partition_id)
  FROM queen.partition_lookup h
 WHERE h.partition_id = ANY ((SELECT $1::uuid[])::uuid[]);
