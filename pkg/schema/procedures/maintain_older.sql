-- maintain, eviction 3 of 6: the partitions in which messages are left that are older
-- than the first that went: there the numbers of those that went are holes.
-- $1 uuid[] partitions, $2 timestamptz[] and $3 uuid[] the first that went in each
SELECT u.part
  FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) u (part, at, id)
 CROSS JOIN LATERAL (SELECT 1
                       FROM queen.messages m
                      WHERE m.partition_id = u.part AND (m.created_at, m.id) < (u.at, u.id)
                      LIMIT 1) m;
