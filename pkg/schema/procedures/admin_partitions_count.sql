-- partitions: how many a queue has, or all have.
-- $1 text queue (null: all)
SELECT count(*)
  FROM queen.queues q
  JOIN queen.partitions p ON p.queue_id = q.id
 WHERE $1::text IS NULL OR q.name = $1::text;
