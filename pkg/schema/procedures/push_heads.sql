-- push, resolve 3 of 4: makes the heads that are not there. A partition that Queen
-- filled and gave no head begins after its newest message, and its messages are not
-- counted yet (seq is null).
-- $1 text[] queues, $2 text[] partitions
INSERT INTO queen.partition_lookup (queue_name, partition_id, last_message_id, last_message_created_at, seq)
SELECT q.name, p.id,
       coalesce(m.id, '00000000-0000-0000-0000-000000000000'),
       coalesce(m.created_at, '-infinity'),
       CASE WHEN m.id IS NULL THEN 0 END
  FROM unnest($1::text[], $2::text[]) u (queue, part)
  JOIN queen.queues q ON q.name = u.queue
  JOIN queen.partitions p ON p.queue_id = q.id AND p.name = u.part
  LEFT JOIN LATERAL (SELECT n.id, n.created_at
                       FROM queen.messages n
                      WHERE n.partition_id = p.id
                      ORDER BY n.created_at DESC, n.id DESC
                      LIMIT 1) m ON true
 WHERE NOT EXISTS (SELECT FROM queen.partition_lookup h WHERE h.partition_id = p.id)
 ORDER BY p.id
    ON CONFLICT DO NOTHING;
