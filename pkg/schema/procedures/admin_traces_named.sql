-- traces that have a name, oldest first, with their message, if it is there still.
-- $1 text name, $2 int4 limit, $3 int4 offset
SELECT t.consumer_group, to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), t.data, t.event_type, t.id,
       m.payload, t.partition_id, p.name, q.name,
       (SELECT array_to_json(array_agg(n.trace_name::text ORDER BY n.trace_name COLLATE "C"))
          FROM queen.message_trace_names n WHERE n.trace_id = t.id),
       t.transaction_id, t.worker_id
  FROM (SELECT x.*
          FROM queen.message_trace_names n
          JOIN queen.message_traces x ON x.id = n.trace_id
         WHERE n.trace_name = $1::text
         ORDER BY x.created_at, x.id
         LIMIT $2::bigint OFFSET $3::bigint) t
  LEFT JOIN queen.partitions p ON p.id = t.partition_id
  LEFT JOIN queen.queues q ON q.id = p.queue_id
  LEFT JOIN queen.messages m ON m.partition_id = t.partition_id AND m.transaction_id = t.transaction_id
 ORDER BY t.created_at, t.id;
