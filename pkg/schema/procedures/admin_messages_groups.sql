-- messages list: who reads the partitions that the list is of: whether the implicit
-- group does, and how many others.
-- $1 text queue, $2 text partition, $3 text namespace, $4 text task (each null: any)
SELECT coalesce(bool_or(c.consumer_group = '__QUEUE_MODE__'), false),
       count(DISTINCT c.consumer_group) FILTER (WHERE c.consumer_group <> '__QUEUE_MODE__')
  FROM queen.queues q
  JOIN queen.partitions p ON p.queue_id = q.id
  JOIN queen.partition_consumers c ON c.partition_id = p.id
 WHERE ($1::text IS NULL OR q.name = $1::text)
   AND ($2::text IS NULL OR p.name = $2::text)
   AND ($3::text IS NULL OR q.namespace = $3::text)
   AND ($4::text IS NULL OR q.task = $4::text);
