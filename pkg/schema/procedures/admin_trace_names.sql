-- the names that traces have, those that were seen last first: how many traces have it, and of
-- how many messages.
-- $1 int4 limit, $2 int4 offset
SELECT to_char(max(t.created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       count(DISTINCT (t.partition_id, t.transaction_id)), count(*), n.trace_name
  FROM queen.message_trace_names n
  JOIN queen.message_traces t ON t.id = n.trace_id
 GROUP BY n.trace_name
 ORDER BY max(t.created_at) DESC, n.trace_name COLLATE "C"
 LIMIT $1::bigint OFFSET $2::bigint;
