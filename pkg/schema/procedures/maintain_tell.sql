-- maintain, reconcile 6 of 6: tells every process which heads moved, as queen.push_messages_v3
-- does.
-- $1 uuid[] partitions
INSERT INTO queen.queend_changes (queue_name, partition_id, partition_name)
SELECT q.name, p.id, p.name
  FROM queen.partitions p
  JOIN queen.queues q ON q.id = p.queue_id
 WHERE p.id = ANY ($1::uuid[]);
