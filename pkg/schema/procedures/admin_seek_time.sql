-- seek to a time, 2 of 2: a group's cursor goes to the last message that is not younger,
-- in each partition; where there is none, before the first. Leases end. A partition that the
-- group has no cursor in is left alone, or not, as by admin_seek_end. The number of a message
-- that a take-over has not numbered yet is counted, from the newest that is not.
-- $1 text group, $2 text queue, $3 timestamptz
WITH sought AS MATERIALIZED (
    SELECT q.*, NOT EXISTS (SELECT FROM queen.partitions s
                              JOIN queen.partition_consumers k ON k.partition_id = s.id AND k.consumer_group = $1::text
                             WHERE s.queue_id = q.id)
                AND NOT EXISTS (SELECT FROM queen.consumer_groups_metadata g
                                 WHERE g.consumer_group = $1::text AND g.queue_name = q.name) AS stranger
      FROM queen.queues q
     WHERE q.name = $2::text)
INSERT INTO queen.partition_consumers AS c (id, partition_id, consumer_group, last_consumed_id, last_consumed_created_at, last_seq)
SELECT gen_random_uuid(), p.id, $1::text,
       coalesce(m.id, '00000000-0000-0000-0000-000000000000'), m.created_at, coalesce(m.seq, older.seq, 0)
  FROM sought q
  JOIN queen.partitions p ON p.queue_id = q.id
  LEFT JOIN LATERAL (
        SELECT n.id, n.created_at, n.seq
          FROM queen.messages n
         WHERE n.partition_id = p.id AND n.created_at <= $3::timestamptz
         ORDER BY n.created_at DESC, n.id DESC
         LIMIT 1) m ON true
  LEFT JOIN LATERAL (
        SELECT u.seq - (SELECT count(*) FROM queen.messages n
                         WHERE n.partition_id = p.id AND (n.created_at, n.id) > (m.created_at, m.id)
                           AND (n.created_at, n.id) < (u.before_created_at, u.before_id)) AS seq
          FROM queen.unnumbered u
         WHERE u.partition_id = p.id AND m.id IS NOT NULL AND m.seq IS NULL) older ON true
 WHERE (EXISTS (SELECT FROM queen.partition_consumers k WHERE k.partition_id = p.id AND k.consumer_group = $1::text)
        OR EXISTS (SELECT FROM queen.consumer_groups_metadata g
                    WHERE g.consumer_group = $1::text
                      AND (g.queue_name = q.name AND g.partition_name IN ('', p.name) AND g.namespace = '' AND g.task = ''
                           OR g.queue_name = '' AND g.partition_name = '' AND (g.namespace <> '' OR g.task <> '')
                              AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task)
                           OR g.queue_name = '' AND g.partition_name = '*' AND g.namespace = '*' AND g.task = '*'))
        OR q.stranger)
 ORDER BY p.id
    ON CONFLICT (partition_id, consumer_group) DO UPDATE
   SET last_consumed_id = excluded.last_consumed_id, last_consumed_created_at = excluded.last_consumed_created_at,
       last_seq = excluded.last_seq, lease_expires_at = NULL, lease_acquired_at = NULL, worker_id = NULL,
       lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL,
       message_batch = NULL, batch_size = 0, acked_count = 0, batch_retry_count = 0
RETURNING c.partition_id;
