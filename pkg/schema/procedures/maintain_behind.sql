-- maintain, reconcile 1 of 6: of the next partitions those that have no head, and those
-- that have a message beyond their head, which only an INSERT by hand can bring about.
-- A head beyond the newest message is as it should be: that message was deleted. It
-- answers the last partition of the slice, how many it has, and what it found.
-- $1 uuid the partition before the slice, $2 int4 partitions in a slice
WITH slice AS MATERIALIZED (
    SELECT p.id
      FROM queen.partitions p
     WHERE p.id > $1::uuid
     ORDER BY p.id
     LIMIT $2::int)
SELECT (array_agg(s.id ORDER BY s.id DESC))[1],
       count(*),
       array_agg(s.id ORDER BY s.id) FILTER (WHERE l.partition_id IS NULL),
       array_agg(s.id ORDER BY s.id) FILTER (WHERE m.id IS NOT NULL)
  FROM slice s
  LEFT JOIN queen.partition_lookup l ON l.partition_id = s.id
  LEFT JOIN LATERAL (SELECT o.id
                       FROM queen.messages o
                      WHERE o.partition_id = s.id
                        AND (o.created_at, o.id) > (l.last_message_created_at, l.last_message_id)
                      ORDER BY o.created_at, o.id
                      LIMIT 1) m ON true;
