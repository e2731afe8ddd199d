-- push, resolve 4 of 4: where the partitions are. One that was deleted meanwhile is
-- left out.
-- $1 text[] queues, $2 text[] partitions
SELECT u.o, p.id, coalesce(q.encryption_enabled, false)
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY u (queue, part, o)
  JOIN queen.queues q ON q.name = u.queue
  JOIN queen.partitions p ON p.queue_id = q.id AND p.name = u.part
  JOIN queen.partition_lookup h ON h.partition_id = p.id;
