-- pop, before a group's first claim: writes down where it begins, unless that is
-- written already. One global order, so that two batches cannot wait for each other.
-- $1 text[] groups, $2 text[] queues, $3 text[] partitions, $4 text[] namespaces,
-- $5 text[] tasks, $6 text[] modes, $7 timestamptz[] times (null: now)
INSERT INTO queen.consumer_groups_metadata
       (id, consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp)
SELECT gen_random_uuid(), u.grp, u.queue, u.part, u.namespace, u.task, u.mode, coalesce(u.at, clock_timestamp())
  FROM unnest((SELECT $1::text[]), $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
       u (grp, queue, part, namespace, task, mode, at)
 ORDER BY u.grp COLLATE "C", u.queue COLLATE "C", u.part COLLATE "C", u.namespace COLLATE "C", u.task COLLATE "C"
    ON CONFLICT DO NOTHING;
