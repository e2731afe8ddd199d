-- maintain, counts 2 of 5: where the tails belong: before the oldest message that is left, or
-- at the head when none is.
-- $1 uuid[] partitions
SELECT l.partition_id, greatest(l.tail_seq, coalesce(m.seq - 1, l.seq))
  FROM queen.partition_lookup l
  LEFT JOIN LATERAL (SELECT o.seq
                       FROM queen.messages o
                      WHERE o.partition_id = l.partition_id AND o.seq IS NOT NULL
                      ORDER BY o.created_at, o.id
                      LIMIT 1) m ON true
 WHERE l.partition_id = ANY ($1::uuid[]) AND l.seq IS NOT NULL
 ORDER BY l.partition_id;
