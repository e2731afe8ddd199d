-- push, resolve 2 of 4: makes the partitions that are not there.
-- $1 text[] queues, $2 text[] partitions
INSERT INTO queen.partitions (id, queue_id, name)
SELECT gen_random_uuid(), q.id, u.part
  FROM unnest($1::text[], $2::text[]) u (queue, part)
  JOIN queen.queues q ON q.name = u.queue
 ORDER BY u.queue COLLATE "C", u.part COLLATE "C"
    ON CONFLICT DO NOTHING;
