-- pop and watch, before a group's first claim: writes down where it begins, unless that is
-- written already. For a partition, its queue's beginning is as good; for both, that in the
-- queues of their namespace and task, or in all queues: what came into a queue since then is
-- the group's too. All queues there are and will be have * in the place of partition,
-- namespace and task; no partition and no namespace has more than one of them. One global
-- order, so that two batches cannot wait for each other.
-- $1 text[] groups, $2 text[] queues, $3 text[] partitions, $4 text[] namespaces,
-- $5 text[] tasks, $6 text[] modes, $7 timestamptz[] times (null: now)
INSERT INTO queen.consumer_groups_metadata
       (id, consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp)
SELECT gen_random_uuid(), u.grp, u.queue, u.part, u.namespace, u.task, u.mode, coalesce(u.at, clock_timestamp())
  FROM unnest((SELECT $1::text[]), $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
       u (grp, queue, part, namespace, task, mode, at)
  LEFT JOIN queen.queues q ON q.name = u.queue AND u.namespace = '' AND u.task = ''
 WHERE NOT EXISTS (SELECT FROM queen.consumer_groups_metadata m
                    WHERE m.consumer_group = u.grp AND m.queue_name = u.queue AND m.namespace = u.namespace AND m.task = u.task
                      AND (m.partition_name = u.part OR m.partition_name = '' AND m.namespace = '' AND m.task = ''))
   AND NOT EXISTS (SELECT FROM queen.consumer_groups_metadata g
                    WHERE g.consumer_group = u.grp AND g.queue_name = '' AND q.id IS NOT NULL
                      AND (g.partition_name = '' AND (g.namespace <> '' OR g.task <> '') AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task)
                           OR g.partition_name = '*' AND g.namespace = '*' AND g.task = '*'))
 ORDER BY u.grp COLLATE "C", u.queue COLLATE "C", u.part COLLATE "C", u.namespace COLLATE "C", u.task COLLATE "C"
    ON CONFLICT DO NOTHING;
