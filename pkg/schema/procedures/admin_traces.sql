-- traces: what was said about a message, oldest first.
-- $1 uuid partition, $2 text transaction
SELECT t.consumer_group, to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), t.data, t.event_type, t.id,
       (SELECT coalesce(array_to_json(array_agg(n.trace_name::text ORDER BY n.trace_name COLLATE "C")), '[]')
          FROM queen.message_trace_names n WHERE n.trace_id = t.id), t.worker_id
  FROM queen.message_traces t
 WHERE t.partition_id = $1::uuid AND t.transaction_id = $2::text
 ORDER BY t.created_at, t.id
 LIMIT 1000;
