-- check: a slice of partitions with their queues, heads and newest messages. A message
-- without a number that is younger than a minute was inserted by hand and is found soon.
-- $1 uuid the partition before the slice, $2 int4 partitions in a slice
WITH slice AS MATERIALIZED (
    SELECT p.id, p.queue_id, p.name
      FROM queen.partitions p
     WHERE p.id > $1::uuid
     ORDER BY p.id
     LIMIT $2::int)
SELECT s.id, q.name, s.name, l.queue_name,
       l.last_message_created_at, l.last_message_id, l.seq, l.tail_seq,
       m.created_at, m.id, coalesce(m.seq IS NULL AND m.created_at > now() - interval '1 minute', false)
  FROM slice s
  LEFT JOIN queen.queues q ON q.id = s.queue_id
  LEFT JOIN queen.partition_lookup l ON l.partition_id = s.id
  LEFT JOIN LATERAL (SELECT o.created_at, o.id, o.seq
                       FROM queen.messages o
                      WHERE o.partition_id = s.id
                      ORDER BY o.created_at DESC, o.id DESC
                      LIMIT 1) m ON true
 ORDER BY s.id;
