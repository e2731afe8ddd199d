-- seek of a partition in which nothing was moved: where its head stands. No row: there is no
-- such partition.
-- $1 text queue, $2 text partition
SELECT CASE WHEN h.last_message_id <> '00000000-0000-0000-0000-000000000000'
            THEN to_char(h.last_message_created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END
  FROM queen.queues q
  JOIN queen.partitions p ON p.queue_id = q.id
  LEFT JOIN queen.partition_lookup h ON h.partition_id = p.id
 WHERE q.name = $1::text AND p.name = $2::text;
