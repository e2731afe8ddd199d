-- maintain, retention 4 of 6 and counts 3 of 5: holes that lie behind the tail now.
-- $1 uuid[] partitions, $2 int8[] the number of the last message that went
DELETE FROM queen.message_holes h
 USING unnest($1::uuid[], $2::bigint[]) u (part, tail)
 WHERE h.partition_id = u.part AND h.seq <= u.tail;
