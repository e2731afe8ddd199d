-- queue delete 3 of 4: the partitions that go; a statement of its own, so that it sees
-- those that were committed while the lock was waited for.
-- $1 text queue
SELECT p.id
  FROM queen.queues q
  JOIN queen.partitions p ON p.queue_id = q.id
 WHERE q.name = $1::text
 ORDER BY p.id;
