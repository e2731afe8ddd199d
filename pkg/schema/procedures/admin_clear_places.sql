-- clear: the last message of each partition of a queue, up to which it is taken out; null
-- where there has never been one. No row: there is no such queue; one without a partition:
-- there is none to be cleared in it.
-- $1 text queue, $2 text partition (null: all)
SELECT p.id, CASE WHEN h.last_message_id <> '00000000-0000-0000-0000-000000000000' THEN h.last_message_created_at END, h.last_message_id
  FROM queen.queues q
  LEFT JOIN queen.partitions p ON p.queue_id = q.id AND ($2::text IS NULL OR p.name = $2::text)
  LEFT JOIN queen.partition_lookup h ON h.partition_id = p.id
 WHERE q.name = $1::text
 ORDER BY p.id;
