-- maintain, reconcile 2 of 6: heads for partitions that were made by hand. They begin at
-- zero, so that what is in them is found beyond and gets its numbers.
-- $1 uuid[] partitions
INSERT INTO queen.partition_lookup (queue_name, partition_id, last_message_id, last_message_created_at, seq)
SELECT q.name, p.id, '00000000-0000-0000-0000-000000000000', '-infinity', 0
  FROM queen.partitions p
  JOIN queen.queues q ON q.id = p.queue_id
 WHERE p.id = ANY ($1::uuid[])
 ORDER BY p.id
    ON CONFLICT DO NOTHING;
