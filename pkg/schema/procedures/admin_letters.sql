-- dead letters, newest first, with the payload of their own copy, or, where Queen wrote
-- them and they have none yet, of the message.
-- $1 text queue, $2 text partition, $3 text group, $4 timestamptz from, $5 timestamptz to (each
-- null: any), $6 int4 limit, $7 int4 offset
SELECT coalesce(d.consumer_group, '__QUEUE_MODE__'),
       to_char(d.original_created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       coalesce(d.payload::text, m.payload::text), d.error_message,
       to_char(d.failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       coalesce(d.message_id, d.id), d.partition_name, d.partition_id, coalesce(d.producer_sub, m.producer_sub), d.queue_name,
       coalesce(d.retry_count, 0), coalesce(d.transaction_id, m.transaction_id)
  FROM (SELECT l.*, p.name AS partition_name, q.name AS queue_name
          FROM queen.dead_letter_queue l
          JOIN queen.partitions p ON p.id = l.partition_id
          JOIN queen.queues q ON q.id = p.queue_id
         WHERE ($1::text IS NULL OR q.name = $1::text)
           AND ($2::text IS NULL OR p.name = $2::text)
           AND ($3::text IS NULL OR coalesce(l.consumer_group, '__QUEUE_MODE__') = $3::text)
           AND ($4::timestamptz IS NULL OR l.failed_at >= $4::timestamptz)
           AND ($5::timestamptz IS NULL OR l.failed_at <= $5::timestamptz)
         ORDER BY l.failed_at DESC, l.id DESC
         LIMIT $6::bigint OFFSET $7::bigint) d
  LEFT JOIN LATERAL (
        SELECT n.payload, n.transaction_id, n.producer_sub
          FROM queen.messages n
         WHERE d.payload IS NULL AND n.partition_id = d.partition_id AND n.created_at = d.original_created_at AND n.id = d.message_id) m ON true
 ORDER BY d.failed_at DESC, d.id DESC;
