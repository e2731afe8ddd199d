-- seek: a group's cursors go to the heads, its leases end. A partition that the group has
-- no cursor in is left alone, unless it is written down where the group begins there, or in
-- the queues of its namespace and task: then it gets one. So does a group that has none in
-- the whole queue, everywhere: it has never popped, and is to skip what is there, unless it
-- is one partition that is sought in. Returns where each cursor was moved. A message that is
-- pushed meanwhile lies beyond the head that was read.
-- $1 text group, $2 text queue, $3 text partition (null: all)
WITH sought AS MATERIALIZED (
    SELECT q.*, NOT EXISTS (SELECT FROM queen.partitions s
                              JOIN queen.partition_consumers k ON k.partition_id = s.id AND k.consumer_group = $1::text
                             WHERE s.queue_id = q.id)
                AND NOT EXISTS (SELECT FROM queen.consumer_groups_metadata g
                                 WHERE g.consumer_group = $1::text AND g.queue_name = q.name) AS stranger
      FROM queen.queues q
     WHERE q.name = $2::text)
INSERT INTO queen.partition_consumers AS c (id, partition_id, consumer_group, last_consumed_id, last_consumed_created_at, last_seq)
SELECT gen_random_uuid(), p.id, $1::text, h.last_message_id,
       CASE WHEN h.last_message_id <> '00000000-0000-0000-0000-000000000000' THEN h.last_message_created_at END,
       coalesce(h.seq, 0)
  FROM sought q
  JOIN queen.partitions p ON p.queue_id = q.id
  JOIN queen.partition_lookup h ON h.partition_id = p.id
 WHERE ($3::text IS NULL OR p.name = $3::text)
   AND (EXISTS (SELECT FROM queen.partition_consumers k WHERE k.partition_id = p.id AND k.consumer_group = $1::text)
        OR EXISTS (SELECT FROM queen.consumer_groups_metadata g
                    WHERE g.consumer_group = $1::text
                      AND (g.queue_name = q.name AND g.partition_name IN ('', p.name) AND g.namespace = '' AND g.task = ''
                           OR g.queue_name = '' AND g.partition_name = '' AND (g.namespace <> '' OR g.task <> '')
                              AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task)
                           OR g.queue_name = '' AND g.partition_name = '*' AND g.namespace = '*' AND g.task = '*'))
        OR $3::text IS NULL AND q.stranger)
 ORDER BY p.id
    ON CONFLICT (partition_id, consumer_group) DO UPDATE
   SET last_consumed_id = excluded.last_consumed_id, last_consumed_created_at = excluded.last_consumed_created_at,
       last_seq = excluded.last_seq, lease_expires_at = NULL, lease_acquired_at = NULL, worker_id = NULL,
       lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL,
       message_batch = NULL, batch_size = 0, acked_count = 0, batch_retry_count = 0
RETURNING to_char(c.last_consumed_created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
