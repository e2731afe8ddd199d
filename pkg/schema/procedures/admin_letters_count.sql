-- dead letters: how many there are.
-- $1 text queue, $2 text partition, $3 text group, $4 timestamptz from, $5 timestamptz to (each null: any)
SELECT count(*)
  FROM queen.dead_letter_queue l
  JOIN queen.partitions p ON p.id = l.partition_id
  JOIN queen.queues q ON q.id = p.queue_id
 WHERE ($1::text IS NULL OR q.name = $1::text)
   AND ($2::text IS NULL OR p.name = $2::text)
   AND ($3::text IS NULL OR coalesce(l.consumer_group, '__QUEUE_MODE__') = $3::text)
   AND ($4::timestamptz IS NULL OR l.failed_at >= $4::timestamptz)
   AND ($5::timestamptz IS NULL OR l.failed_at <= $5::timestamptz);
