-- message delete and bury, before the message goes: where it is the last one that a lease
-- delivered, the one before it is the last one now. If there is none, the lease ends: its
-- holder would never get the cursor to an end that is gone. What was counted as retries may
-- have been the message's doing, if it was delivered with the others or is the next one: then
-- it is forgotten. An ack that has read the lease as it was must not take it for unchanged:
-- its time is another by a microsecond. Returns the queue for each such row.
-- $1 uuid partition, $2 text transaction
UPDATE queen.partition_consumers c
   SET lease_end_created_at = x.created_at, lease_end_id = x.id, lease_end_seq = x.seq,
       lease_expires_at = CASE WHEN NOT x.ends THEN c.lease_expires_at + interval '1 microsecond' END,
       lease_acquired_at = CASE WHEN NOT x.ends THEN c.lease_acquired_at END,
       worker_id = CASE WHEN NOT x.ends THEN c.worker_id END,
       batch_size = CASE WHEN NOT x.ends THEN c.batch_size ELSE 0 END,
       acked_count = CASE WHEN NOT x.ends THEN c.acked_count ELSE 0 END,
       batch_retry_count = CASE WHEN x.retried THEN 0 ELSE c.batch_retry_count END
  FROM (SELECT l.consumer_group, l.last AND before.id IS NULL AS ends, l.retried,
               CASE WHEN l.last THEN before.created_at ELSE l.lease_end_created_at END AS created_at,
               CASE WHEN l.last THEN before.id ELSE l.lease_end_id END AS id,
               CASE WHEN l.last THEN before.seq ELSE l.lease_end_seq END AS seq
          FROM queen.messages m
         CROSS JOIN LATERAL (
                SELECT k.*, coalesce((k.lease_end_created_at, k.lease_end_id) = (m.created_at, m.id), false) AS last,
                       k.batch_retry_count > 0 AND ((m.created_at, m.id) <= (k.last_consumed_created_at, k.last_consumed_id)) IS NOT TRUE
                       AND CASE WHEN k.lease_expires_at > clock_timestamp() AND k.lease_end_id IS NOT NULL
                                THEN (m.created_at, m.id) <= (k.lease_end_created_at, k.lease_end_id)
                                ELSE NOT EXISTS (SELECT FROM queen.messages n
                                                  WHERE n.partition_id = $1::uuid AND (n.created_at, n.id) < (m.created_at, m.id)
                                                    AND (n.created_at, n.id) > (coalesce(k.last_consumed_created_at, '-infinity'), k.last_consumed_id)) END AS retried
                  FROM queen.partition_consumers k
                 WHERE k.partition_id = $1::uuid
                   AND (k.batch_retry_count > 0 OR (k.lease_end_created_at, k.lease_end_id) = (m.created_at, m.id))
                 ORDER BY k.consumer_group COLLATE "C"
                   FOR NO KEY UPDATE) l
          LEFT JOIN LATERAL (
                SELECT n.created_at, n.id, n.seq
                  FROM queen.messages n
                 WHERE n.partition_id = $1::uuid AND (n.created_at, n.id) < (m.created_at, m.id)
                   AND (n.created_at, n.id) > (coalesce(l.last_consumed_created_at, '-infinity'), l.last_consumed_id)
                 ORDER BY n.created_at DESC, n.id DESC
                 LIMIT 1) before ON true
         WHERE m.partition_id = $1::uuid AND m.transaction_id = $2::text AND (l.last OR l.retried)) x
 WHERE c.partition_id = $1::uuid AND c.consumer_group = x.consumer_group
RETURNING (SELECT h.queue_name FROM queen.partition_lookup h WHERE h.partition_id = $1::uuid);
