-- message delete and bury, before the message goes: where it is the last one that a lease
-- delivered, the one before it is the last one now. If there is none, the lease ends: its
-- holder would never get the cursor to an end that is gone. Returns the queue for each such
-- lease.
-- $1 uuid partition, $2 text transaction
UPDATE queen.partition_consumers c
   SET lease_end_created_at = x.created_at, lease_end_id = x.id, lease_end_seq = x.seq,
       lease_expires_at = CASE WHEN x.id IS NOT NULL THEN c.lease_expires_at END,
       lease_acquired_at = CASE WHEN x.id IS NOT NULL THEN c.lease_acquired_at END,
       worker_id = CASE WHEN x.id IS NOT NULL THEN c.worker_id END,
       batch_size = CASE WHEN x.id IS NOT NULL THEN c.batch_size ELSE 0 END,
       acked_count = CASE WHEN x.id IS NOT NULL THEN c.acked_count ELSE 0 END
  FROM (SELECT l.consumer_group, before.created_at, before.id, before.seq
          FROM queen.messages m
          JOIN queen.partition_consumers l
            ON l.partition_id = $1::uuid AND l.lease_end_created_at = m.created_at AND l.lease_end_id = m.id
          LEFT JOIN LATERAL (
                SELECT n.created_at, n.id, n.seq
                  FROM queen.messages n
                 WHERE n.partition_id = $1::uuid AND (n.created_at, n.id) < (m.created_at, m.id)
                   AND (n.created_at, n.id) > (coalesce(l.last_consumed_created_at, '-infinity'), l.last_consumed_id)
                 ORDER BY n.created_at DESC, n.id DESC
                 LIMIT 1) before ON true
         WHERE m.partition_id = $1::uuid AND m.transaction_id = $2::text
         ORDER BY l.consumer_group
           FOR UPDATE OF l) x
 WHERE c.partition_id = $1::uuid AND c.consumer_group = x.consumer_group
RETURNING (SELECT h.queue_name FROM queen.partition_lookup h WHERE h.partition_id = $1::uuid);
