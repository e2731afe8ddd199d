-- message detail: who reads its partition, whether each is past it, and until when each
-- holds the partition; the implicit group first.
-- $1 uuid partition, $2 text transaction
SELECT c.consumer_group,
       coalesce((m.created_at, m.id) <= (c.last_consumed_created_at, c.last_consumed_id), false),
       CASE WHEN c.lease_expires_at > clock_timestamp()
            THEN to_char(c.lease_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END
  FROM queen.messages m
  JOIN queen.partition_consumers c ON c.partition_id = m.partition_id
 WHERE m.partition_id = $1::uuid AND m.transaction_id = $2::text
 ORDER BY c.consumer_group <> '__QUEUE_MODE__', c.consumer_group COLLATE "C";
