-- maintain, retention 1 of 6: of the next partitions whose queue keeps messages for a
-- time only, those that have older ones. All of them are answered, so that the next
-- slice can begin after the last. One probe of an index for each.
-- $1 timestamptz now, $2 text and $3 uuid the queue and partition before the slice,
-- $4 int4 partitions in a slice
WITH slice AS MATERIALIZED (
    SELECT q.name, l.partition_id, $1::timestamptz - q.retention_seconds * interval '1 second' AS cutoff
      FROM (SELECT name, retention_seconds
              FROM queen.queues
             WHERE retention_enabled AND retention_seconds > 0 AND name >= $2::text
             ORDER BY name) q
     CROSS JOIN LATERAL (SELECT h.partition_id
                           FROM queen.partition_lookup h
                          WHERE h.queue_name = q.name AND (q.name > $2::text OR h.partition_id > $3::uuid)
                          ORDER BY h.partition_id
                          LIMIT $4::int) l
     ORDER BY q.name, l.partition_id
     LIMIT $4::int)
SELECT s.name, s.partition_id, s.cutoff,
       '-infinity'::timestamptz, '00000000-0000-0000-0000-000000000000'::uuid,
       'infinity'::timestamptz, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid,
       coalesce((SELECT m.created_at
                   FROM queen.messages m
                  WHERE m.partition_id = s.partition_id
                  ORDER BY m.created_at, m.id
                  LIMIT 1) < s.cutoff, false)
  FROM slice s
 ORDER BY s.name, s.partition_id;
