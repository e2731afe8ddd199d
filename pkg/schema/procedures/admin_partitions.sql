-- partitions, of a queue or of all, by name; last_activity is when the last message came.
-- $1 text queue (null: all), $2 int4 limit, $3 int4 offset
SELECT to_char(p.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), p.id,
       CASE WHEN h.last_message_id <> '00000000-0000-0000-0000-000000000000'
            THEN to_char(h.last_message_created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END, p.name, q.name
  FROM queen.queues q
  JOIN queen.partitions p ON p.queue_id = q.id
  LEFT JOIN queen.partition_lookup h ON h.partition_id = p.id
 WHERE $1::text IS NULL OR q.name = $1::text
 ORDER BY q.name COLLATE "C", p.name COLLATE "C"
 LIMIT $2::bigint OFFSET $3::bigint;
