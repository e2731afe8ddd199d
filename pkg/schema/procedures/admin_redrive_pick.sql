-- redrive: the next messages whose dead letters match, by partition and id.
-- $1 text queue, $2 text partition, $3 text group, $4 timestamptz from, $5 timestamptz to (each
-- null: any), $6 uuid, $7 uuid the last partition and message so far, $8 int4 limit
SELECT DISTINCT l.partition_id, l.message_id
  FROM queen.dead_letter_queue l
  JOIN queen.partitions p ON p.id = l.partition_id
  JOIN queen.queues q ON q.id = p.queue_id
 WHERE ($1::text IS NULL OR q.name = $1::text)
   AND ($2::text IS NULL OR p.name = $2::text)
   AND ($3::text IS NULL OR coalesce(l.consumer_group, '__QUEUE_MODE__') = $3::text)
   AND ($4::timestamptz IS NULL OR l.failed_at >= $4::timestamptz)
   AND ($5::timestamptz IS NULL OR l.failed_at <= $5::timestamptz)
   AND (l.partition_id, l.message_id) > ($6::uuid, $7::uuid)
 ORDER BY l.partition_id, l.message_id
 LIMIT $8::bigint;
