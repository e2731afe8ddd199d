-- messages list: messages of a span of time, newest first, with what the cursors and
-- leases of their partition say about them. A partition whose newest message is older is
-- not looked into; of each other one no more than a page is, from its newer end. What
-- became of a message is found out for the page that is shown, and for all others only
-- if a status is asked for.
-- $1 text queue, $2 text partition, $3 text namespace, $4 text task, $5 text status (each null: any),
-- $6 timestamptz from (null: an hour ago), $7 timestamptz to (null: the end of this minute), $8 int4 limit, $9 int4 offset
WITH span AS MATERIALIZED (
    SELECT coalesce($6::timestamptz, now() - interval '1 hour') AS lo,
           coalesce($7::timestamptz, date_trunc('minute', now()) + interval '1 minute') AS hi),
part AS MATERIALIZED (
    SELECT p.id, p.name, q.name AS queue, q.namespace, q.task, q.priority,
           c.partition_id IS NOT NULL AS read, c.last_consumed_created_at AS cursor_at, c.last_consumed_id AS cursor_id,
           CASE WHEN c.lease_expires_at > clock_timestamp() THEN c.lease_expires_at END AS lease
      FROM span
     CROSS JOIN queen.queues q
      JOIN queen.partitions p ON p.queue_id = q.id
      JOIN queen.partition_lookup h ON h.partition_id = p.id
      LEFT JOIN queen.partition_consumers c ON c.partition_id = p.id AND c.consumer_group = '__QUEUE_MODE__'
     WHERE ($1::text IS NULL OR q.name = $1::text)
       AND ($2::text IS NULL OR p.name = $2::text)
       AND ($3::text IS NULL OR q.namespace = $3::text)
       AND ($4::text IS NULL OR q.task = $4::text)
       AND h.last_message_created_at >= span.lo)
SELECT bus.consumed, bus.groups, to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), m.message_id,
       to_char(m.lease AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       coalesce(m.namespace, ''), m.name, m.partition_id, m.producer_sub, m.queue, coalesce(m.priority, 0),
       told.status, coalesce(told.status, CASE WHEN bus.consumed = bus.groups THEN 'completed' WHEN bus.leased THEN 'processing' ELSE 'pending' END),
       coalesce(m.task, ''), m.trace_id, m.transaction_id
  FROM (SELECT part.*, n.*
          FROM span
         CROSS JOIN part
         CROSS JOIN LATERAL (
            SELECT n.id AS message_id, n.partition_id, n.created_at, n.producer_sub, n.trace_id, n.transaction_id
              FROM queen.messages n
             WHERE n.partition_id = part.id AND n.created_at >= span.lo AND n.created_at <= span.hi
               AND ($5::text IS NULL OR $5::text = (
                    SELECT coalesce(told.status, CASE WHEN bus.consumed = bus.groups THEN 'completed' WHEN bus.leased THEN 'processing' ELSE 'pending' END)
                      FROM (SELECT count(*) AS groups,
                                   count(*) FILTER (WHERE (n.created_at, n.id) <= (c.last_consumed_created_at, c.last_consumed_id)) AS consumed,
                                   coalesce(bool_or(c.lease_expires_at > clock_timestamp()
                                                    AND ((n.created_at, n.id) <= (c.last_consumed_created_at, c.last_consumed_id)) IS NOT TRUE), false) AS leased
                              FROM queen.partition_consumers c
                             WHERE c.partition_id = part.id AND c.consumer_group <> '__QUEUE_MODE__') bus
                     CROSS JOIN LATERAL (
                            SELECT CASE WHEN EXISTS (SELECT FROM queen.dead_letter_queue d WHERE d.partition_id = part.id AND d.message_id = n.id) THEN 'dead_letter'
                                        WHEN NOT part.read AND bus.groups > 0 THEN NULL
                                        WHEN (n.created_at, n.id) <= (part.cursor_at, part.cursor_id) THEN 'completed'
                                        WHEN part.lease IS NOT NULL THEN 'processing'
                                        ELSE 'pending' END AS status) told))
             ORDER BY n.created_at DESC, n.id DESC
             LIMIT $8::bigint + $9::bigint) n
         ORDER BY n.created_at DESC, n.message_id DESC
         LIMIT $8::bigint OFFSET $9::bigint) m
 CROSS JOIN LATERAL (
    SELECT count(*) AS groups,
           count(*) FILTER (WHERE (m.created_at, m.message_id) <= (c.last_consumed_created_at, c.last_consumed_id)) AS consumed,
           coalesce(bool_or(c.lease_expires_at > clock_timestamp()
                            AND ((m.created_at, m.message_id) <= (c.last_consumed_created_at, c.last_consumed_id)) IS NOT TRUE), false) AS leased
      FROM queen.partition_consumers c
     WHERE c.partition_id = m.partition_id AND c.consumer_group <> '__QUEUE_MODE__') bus
 CROSS JOIN LATERAL (
    SELECT CASE WHEN EXISTS (SELECT FROM queen.dead_letter_queue d WHERE d.partition_id = m.partition_id AND d.message_id = m.message_id) THEN 'dead_letter'
                WHEN NOT m.read AND bus.groups > 0 THEN NULL
                WHEN (m.created_at, m.message_id) <= (m.cursor_at, m.cursor_id) THEN 'completed'
                WHEN m.lease IS NOT NULL THEN 'processing'
                ELSE 'pending' END AS status) told
 ORDER BY m.created_at DESC, m.message_id DESC;
