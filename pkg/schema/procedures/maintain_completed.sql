-- maintain, retention 1 of 6, of what is consumed: of the next partitions whose queue
-- keeps consumed messages for a time only, those that have older ones which every group
-- has behind its cursor. A group that has not begun, and a partition without groups,
-- keep everything.
-- $1 timestamptz now, $2 text and $3 uuid the queue and partition before the slice,
-- $4 int4 partitions in a slice
WITH slice AS MATERIALIZED (
    SELECT q.name, l.partition_id, $1::timestamptz - q.completed_retention_seconds * interval '1 second' AS cutoff
      FROM (SELECT name, completed_retention_seconds
              FROM queen.queues
             WHERE retention_enabled AND completed_retention_seconds > 0 AND name >= $2::text
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
       coalesce(c.at, '-infinity'), coalesce(c.id, '00000000-0000-0000-0000-000000000000'),
       coalesce(c.at IS NOT NULL AND o.created_at < s.cutoff AND (o.created_at, o.id) <= (c.at, c.id), false)
  FROM slice s
  LEFT JOIN LATERAL (SELECT g.last_consumed_created_at AS at, g.last_consumed_id AS id
                       FROM queen.partition_consumers g
                      WHERE g.partition_id = s.partition_id
                      ORDER BY g.last_consumed_created_at NULLS FIRST, g.last_consumed_id
                      LIMIT 1) c ON true
  LEFT JOIN LATERAL (SELECT m.created_at, m.id
                       FROM queen.messages m
                      WHERE m.partition_id = s.partition_id
                      ORDER BY m.created_at, m.id
                      LIMIT 1) o ON true
 ORDER BY s.name, s.partition_id;
