-- check: a slice of cursors with their leases, their partitions' heads, and the numbers of
-- the messages right before and right after them. A cursor is beyond the head when it is
-- beyond all messages too: else it is the head that is behind. Of a lease that has not run
-- out: whether its last message is beyond the head in the same way, and how many messages
-- are there that it may still deliver: 1 for some, if it says which is its last; else they
-- are counted up to as many as it delivered.
-- $1 uuid and $2 text partition and group before the slice, $3 int4 cursors in a slice
WITH slice AS MATERIALIZED (
    SELECT c.partition_id, c.consumer_group, c.last_consumed_created_at AS at, c.last_consumed_id AS id, c.last_seq,
           c.lease_expires_at, c.worker_id, c.batch_size, c.acked_count, c.lease_end_created_at AS end_at, c.lease_end_id AS end_id
      FROM queen.partition_consumers c
     WHERE (c.partition_id, c.consumer_group) > ($1::uuid, $2::text)
     ORDER BY c.partition_id, c.consumer_group
     LIMIT $3::int)
SELECT s.partition_id, s.consumer_group, q.name, p.name, p.id IS NOT NULL,
       s.last_seq, l.seq,
       coalesce((s.at, s.id) > (l.last_message_created_at, l.last_message_id), false)
       AND NOT EXISTS (SELECT FROM queen.messages m WHERE m.partition_id = s.partition_id AND (m.created_at, m.id) >= (s.at, s.id)),
       s.lease_expires_at IS NOT NULL, s.worker_id IS NOT NULL,
       coalesce(s.batch_size, 0), coalesce(s.acked_count, 0),
       b.seq, a.seq,
       s.lease_expires_at > now() AND s.worker_id IS NOT NULL, s.end_id IS NOT NULL,
       coalesce((s.end_at, s.end_id) > (l.last_message_created_at, l.last_message_id), false)
       AND NOT EXISTS (SELECT FROM queen.messages m WHERE m.partition_id = s.partition_id AND (m.created_at, m.id) >= (s.end_at, s.end_id)),
       r.n
  FROM slice s
  LEFT JOIN queen.partitions p ON p.id = s.partition_id
  LEFT JOIN queen.queues q ON q.id = p.queue_id
  LEFT JOIN queen.partition_lookup l ON l.partition_id = s.partition_id
  LEFT JOIN LATERAL (SELECT m.seq
                       FROM queen.messages m
                      WHERE m.partition_id = s.partition_id AND (m.created_at, m.id) <= (s.at, s.id)
                      ORDER BY m.created_at DESC, m.id DESC
                      LIMIT 1) b ON true
  LEFT JOIN LATERAL (SELECT m.seq
                       FROM queen.messages m
                      WHERE m.partition_id = s.partition_id AND (m.created_at, m.id) > (coalesce(s.at, '-infinity'), s.id)
                      ORDER BY m.created_at, m.id
                      LIMIT 1) a ON true
 CROSS JOIN LATERAL (SELECT count(*) AS n
                       FROM (SELECT FROM queen.messages m
                              WHERE s.lease_expires_at > now()
                                AND m.partition_id = s.partition_id AND (m.created_at, m.id) > (coalesce(s.at, '-infinity'), s.id)
                                AND (m.created_at, m.id) <= (coalesce(s.end_at, 'infinity'), coalesce(s.end_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
                              ORDER BY m.created_at, m.id
                              LIMIT CASE WHEN s.end_id IS NOT NULL THEN 1 ELSE least(greatest(s.batch_size, 1), 100000) END) x) r
 ORDER BY s.partition_id, s.consumer_group;
