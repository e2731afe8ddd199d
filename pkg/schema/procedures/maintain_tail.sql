-- maintain, retention 6 of 6 and counts 5 of 5, the last statement before the commit, so that a push
-- waits for the heads no longer than that takes: the tail moves to the last message that
-- went. Heads are locked in the order of their ids, as by a push. The join goes by key:
-- a head that a push moved while this waited is found in its newest version.
-- $1 uuid[] partitions, $2 int8[] tails
WITH held AS MATERIALIZED (
    SELECT h.partition_id
      FROM queen.partition_lookup h
     WHERE h.partition_id = ANY ($1::uuid[])
     ORDER BY h.partition_id
       FOR NO KEY UPDATE)
UPDATE queen.partition_lookup l
   SET tail_seq = greatest(l.tail_seq, u.tail)
  FROM held
  JOIN unnest($1::uuid[], $2::bigint[]) u (part, tail) ON u.part = held.partition_id
 WHERE l.partition_id = held.partition_id;
