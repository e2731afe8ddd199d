-- ack, read 2 of 2: the cursors and leases, each distinct (partition, group) once, with
-- what the answer names. It locks nothing: ack_write compares before it sets. A
-- partition that is not there is left out. Each LATERAL is one probe of a key, whatever
-- the planner thinks of the tables. A lease ends with the last of its messages that is
-- still there: the others may have been deleted meanwhile. If none is, that is its cursor.
-- $1 uuid[] partitions, $2 text[] groups
SELECT u.o, q.name, p.name, coalesce(q.retry_limit, 3),
       c.partition_id IS NOT NULL,
       c.last_consumed_created_at, c.last_consumed_id, c.lease_expires_at, c.worker_id,
       coalesce(c.lease_expires_at > clock_timestamp(), false),
       coalesce(c.batch_size, 0), coalesce(c.acked_count, 0), coalesce(c.batch_retry_count, 0),
       CASE WHEN c.lease_end_id IS NOT NULL THEN coalesce(e.created_at, c.last_consumed_created_at, '-infinity') END,
       CASE WHEN c.lease_end_id IS NOT NULL THEN coalesce(e.id, c.last_consumed_id, '00000000-0000-0000-0000-000000000000') END,
       h.last_message_created_at, h.last_message_id
  FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY u (part, grp, o)
 CROSS JOIN LATERAL (SELECT x.name, x.queue_id FROM queen.partitions x WHERE x.id = u.part OFFSET 0) p
 CROSS JOIN LATERAL (SELECT x.name, x.retry_limit FROM queen.queues x WHERE x.id = p.queue_id OFFSET 0) q
  LEFT JOIN LATERAL (SELECT x.last_message_created_at, x.last_message_id
                       FROM queen.partition_lookup x WHERE x.partition_id = u.part OFFSET 0) h ON true
  LEFT JOIN LATERAL (SELECT x.* FROM queen.partition_consumers x
                      WHERE x.partition_id = u.part AND x.consumer_group = u.grp OFFSET 0) c ON true
  LEFT JOIN LATERAL (SELECT x.created_at, x.id FROM queen.messages x
                      WHERE x.partition_id = u.part AND (x.created_at, x.id) <= (c.lease_end_created_at, c.lease_end_id)
                        AND (x.created_at, x.id) > (coalesce(c.last_consumed_created_at, '-infinity'), coalesce(c.last_consumed_id, '00000000-0000-0000-0000-000000000000'))
                      ORDER BY x.created_at DESC, x.id DESC LIMIT 1) e ON true;
