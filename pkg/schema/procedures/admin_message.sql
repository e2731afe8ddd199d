-- message detail: one message, what its newest dead letter says, and its queue.
-- $1 uuid partition, $2 text transaction
SELECT to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       d.error_message, m.id, coalesce(m.is_encrypted, false),
       to_char(c.lease_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       coalesce(q.namespace, ''), p.name, p.id, m.payload, m.producer_sub, q.name, d.retry_count,
       CASE WHEN d.message_id IS NOT NULL THEN 'dead_letter'
            WHEN NOT bus.queue_mode AND bus.groups > 0 THEN
                 CASE WHEN bus.consumed = bus.groups THEN 'completed' WHEN bus.leased THEN 'processing' ELSE 'pending' END
            WHEN bus.read THEN 'completed'
            WHEN c.lease_expires_at IS NOT NULL THEN 'processing'
            ELSE 'pending' END,
       coalesce(q.lease_time, 300), coalesce(q.priority, 0), coalesce(q.retry_delay, 1000), coalesce(q.retry_limit, 3), coalesce(q.ttl, 3600),
       coalesce(q.task, ''), m.trace_id, m.transaction_id
  FROM queen.messages m
  JOIN queen.partitions p ON p.id = m.partition_id
  JOIN queen.queues q ON q.id = p.queue_id
  LEFT JOIN queen.partition_consumers c
         ON c.partition_id = p.id AND c.consumer_group = '__QUEUE_MODE__' AND c.lease_expires_at > clock_timestamp()
  LEFT JOIN LATERAL (
      SELECT l.message_id, l.error_message, l.retry_count
        FROM queen.dead_letter_queue l
       WHERE l.partition_id = m.partition_id AND l.message_id = m.id
       ORDER BY l.failed_at DESC
       LIMIT 1) d ON true
 CROSS JOIN LATERAL (
      SELECT coalesce(bool_or(g.consumer_group = '__QUEUE_MODE__'), false) AS queue_mode,
             coalesce(bool_or(g.consumer_group = '__QUEUE_MODE__' AND past.it), false) AS read,
             count(*) FILTER (WHERE g.consumer_group <> '__QUEUE_MODE__') AS groups,
             count(*) FILTER (WHERE g.consumer_group <> '__QUEUE_MODE__' AND past.it) AS consumed,
             coalesce(bool_or(g.consumer_group <> '__QUEUE_MODE__' AND NOT past.it AND g.lease_expires_at > clock_timestamp()), false) AS leased
        FROM queen.partition_consumers g
       CROSS JOIN LATERAL (
            SELECT coalesce((m.created_at, m.id) <= (g.last_consumed_created_at, g.last_consumed_id), false) AS it) past
       WHERE g.partition_id = p.id) bus
 WHERE m.partition_id = $1::uuid AND m.transaction_id = $2::text;
