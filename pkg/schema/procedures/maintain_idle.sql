-- maintain, partitions 1 of 3: of the next partitions those that hold nothing and that
-- nobody has touched for long. A dead letter keeps its partition. All of the slice are
-- answered, so that the next one can begin after the last.
-- $1 timestamptz since when nothing happened, $2 uuid the partition before the slice,
-- $3 int4 partitions in a slice
WITH slice AS MATERIALIZED (
    SELECT p.id, greatest(p.created_at, p.last_activity) AS at
      FROM queen.partitions p
     WHERE p.id > $2::uuid
     ORDER BY p.id
     LIMIT $3::int)
SELECT s.id, l.partition_id IS NOT NULL,
       CASE WHEN greatest(s.at, l.updated_at) >= $1::timestamptz THEN false
            ELSE NOT EXISTS (SELECT FROM queen.messages m WHERE m.partition_id = s.id)
             AND NOT EXISTS (SELECT FROM queen.dead_letter_queue d WHERE d.partition_id = s.id)
             AND NOT EXISTS (SELECT FROM queen.partition_consumers c
                              WHERE c.partition_id = s.id
                                AND greatest(c.created_at, c.last_consumed_at, c.lease_expires_at) >= $1::timestamptz)
       END
  FROM slice s
  LEFT JOIN queen.partition_lookup l ON l.partition_id = s.id
 ORDER BY s.id;
