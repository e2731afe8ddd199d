-- maintain, retention 1 of 6, of what is consumed: of the next partitions whose queue
-- keeps consumed messages for a time only, those that have older ones which every group
-- has behind its cursor. A group that has not begun, and a partition without groups,
-- keep everything; a group that has no cursor here yet, and of which it is written down
-- where it begins, keeps what came since: it is to be deleted with its metadata when it is gone
-- for good.
-- $1 timestamptz now, $2 text and $3 uuid the queue and partition before the slice,
-- $4 int4 partitions in a slice
WITH slice AS MATERIALIZED (
    SELECT q.name, q.namespace, q.task, l.partition_id, $1::timestamptz - q.completed_retention_seconds * interval '1 second' AS cutoff
      FROM (SELECT name, namespace, task, completed_retention_seconds
              FROM queen.queues
             WHERE retention_enabled AND completed_retention_seconds > 0 AND name >= $2::text
             ORDER BY name) q
     CROSS JOIN LATERAL (SELECT h.partition_id
                           FROM queen.partition_lookup h
                          WHERE h.queue_name = q.name AND (q.name > $2::text OR h.partition_id > $3::uuid)
                          ORDER BY h.partition_id
                          LIMIT $4::int) l
     ORDER BY q.name, l.partition_id
     LIMIT $4::int),
told AS MATERIALIZED (
    SELECT q.name, g.partition_name, g.consumer_group, g.subscription_timestamp AS at,
           CASE WHEN g.namespace <> '' OR g.task <> '' THEN 3 WHEN g.partition_name = '' THEN 2 ELSE 1 END AS rank
      FROM (SELECT DISTINCT name, namespace, task FROM slice) q
      JOIN queen.consumer_groups_metadata g
        ON g.queue_name = q.name AND g.namespace = '' AND g.task = ''
        OR g.queue_name = '' AND g.partition_name = '' AND (g.namespace <> '' OR g.task <> '') AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task)
        OR g.queue_name = '' AND g.partition_name = '*' AND g.namespace = '*' AND g.task = '*')
SELECT s.name, s.partition_id, s.cutoff,
       '-infinity'::timestamptz, '00000000-0000-0000-0000-000000000000'::uuid,
       coalesce(e.at, '-infinity'), coalesce(e.id, '00000000-0000-0000-0000-000000000000'),
       coalesce(e.at IS NOT NULL AND o.created_at < s.cutoff AND (o.created_at, o.id) <= (e.at, e.id), false)
  FROM slice s
  LEFT JOIN LATERAL (SELECT g.last_consumed_created_at AS at, g.last_consumed_id AS id
                       FROM queen.partition_consumers g
                      WHERE g.partition_id = s.partition_id
                      ORDER BY g.last_consumed_created_at NULLS FIRST, g.last_consumed_id
                      LIMIT 1) c ON true
  LEFT JOIN LATERAL (SELECT min(x.at) AS at
                       FROM (SELECT DISTINCT ON (t.consumer_group) t.consumer_group, t.at
                               FROM told t
                              WHERE t.name = s.name
                                AND (t.rank > 1 OR t.partition_name = (SELECT p.name FROM queen.partitions p WHERE p.id = s.partition_id))
                              ORDER BY t.consumer_group, t.rank, t.at) x
                      WHERE NOT EXISTS (SELECT FROM queen.partition_consumers k
                                         WHERE k.partition_id = s.partition_id AND k.consumer_group = x.consumer_group)) b ON true
 CROSS JOIN LATERAL (SELECT CASE WHEN c.at IS NOT NULL THEN least(c.at, b.at) END AS at,
                            CASE WHEN b.at <= c.at THEN '00000000-0000-0000-0000-000000000000' ELSE c.id END AS id) e
  LEFT JOIN LATERAL (SELECT m.created_at, m.id
                       FROM queen.messages m
                      WHERE m.partition_id = s.partition_id
                      ORDER BY m.created_at, m.id
                      LIMIT 1) o ON true
 ORDER BY s.name, s.partition_id;
