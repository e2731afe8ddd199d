-- pop and watch, before a group's first claim: writes down where it begins, unless that is
-- written already; for a partition, its queue's is as good. A queue that is met by a group
-- of its namespace and task, or of all queues, begins where that group began: what came
-- into the queue since is the group's too. The beginning in all queues there are and will
-- be has * in the place of partition, namespace and task; no partition's or namespace's
-- has more than one of them. One global order, so that two batches cannot wait for each
-- other. Nothing is written for what is there already.
-- $1 text[] groups, $2 text[] queues, $3 text[] partitions, $4 text[] namespaces,
-- $5 text[] tasks, $6 text[] modes, $7 timestamptz[] times (null: now)
INSERT INTO queen.consumer_groups_metadata
       (id, consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp)
SELECT gen_random_uuid(), u.grp, u.queue, u.part, u.namespace, u.task, coalesce(w.mode, u.mode), coalesce(w.at, u.at, clock_timestamp())
  FROM unnest((SELECT $1::text[]), $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
       u (grp, queue, part, namespace, task, mode, at)
  LEFT JOIN LATERAL (
       SELECT g.subscription_mode AS mode, g.subscription_timestamp AS at
         FROM queen.queues q
         JOIN queen.consumer_groups_metadata g ON g.consumer_group = u.grp AND g.queue_name = ''
        WHERE q.name = u.queue AND u.namespace = '' AND u.task = ''
          AND (g.partition_name = '' AND (g.namespace <> '' OR g.task <> '') AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task)
               OR g.partition_name = '*' AND g.namespace = '*' AND g.task = '*')
        ORDER BY g.subscription_timestamp
        LIMIT 1) w ON true
 WHERE NOT EXISTS (SELECT FROM queen.consumer_groups_metadata m
                    WHERE m.consumer_group = u.grp AND m.queue_name = u.queue AND m.namespace = u.namespace AND m.task = u.task
                      AND (m.partition_name = u.part OR m.partition_name = '' AND m.namespace = '' AND m.task = ''))
 ORDER BY u.grp COLLATE "C", u.queue COLLATE "C", u.part COLLATE "C", u.namespace COLLATE "C", u.task COLLATE "C"
    ON CONFLICT DO NOTHING;
