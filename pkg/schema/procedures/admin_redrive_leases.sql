-- redrive: ends the leases of groups that may hold a message which moves. What was counted
-- as retries may have been its doing, if it was delivered with the others or is the next one:
-- then it is forgotten.
-- $1 uuid partition, $2 text[] transactions
UPDATE queen.partition_consumers c
   SET lease_expires_at = CASE WHEN NOT x.live THEN c.lease_expires_at END, lease_acquired_at = CASE WHEN NOT x.live THEN c.lease_acquired_at END,
       worker_id = CASE WHEN NOT x.live THEN c.worker_id END,
       lease_end_created_at = CASE WHEN NOT x.live THEN c.lease_end_created_at END, lease_end_id = CASE WHEN NOT x.live THEN c.lease_end_id END,
       lease_end_seq = CASE WHEN NOT x.live THEN c.lease_end_seq END,
       batch_size = CASE WHEN x.live THEN 0 ELSE c.batch_size END, acked_count = CASE WHEN x.live THEN 0 ELSE c.acked_count END,
       batch_retry_count = CASE WHEN x.retried THEN 0 ELSE c.batch_retry_count END
  FROM (SELECT l.consumer_group, l.live,
               bool_or(CASE WHEN l.live AND l.lease_end_id IS NOT NULL THEN (m.created_at, m.id) <= (l.lease_end_created_at, l.lease_end_id)
                            ELSE NOT EXISTS (SELECT FROM queen.messages n
                                              WHERE n.partition_id = $1::uuid AND (n.created_at, n.id) < (m.created_at, m.id)
                                                AND (n.created_at, n.id) > (coalesce(l.last_consumed_created_at, '-infinity'), l.last_consumed_id)) END) AS retried
          FROM (SELECT k.*, coalesce(k.lease_expires_at > clock_timestamp(), false) AS live
                  FROM queen.partition_consumers k
                 WHERE k.partition_id = $1::uuid AND (k.lease_expires_at > clock_timestamp() OR k.batch_retry_count > 0)
                 ORDER BY k.consumer_group COLLATE "C"
                   FOR NO KEY UPDATE) l
          JOIN queen.messages m ON m.partition_id = $1::uuid AND m.transaction_id = ANY ($2::text[])
           AND ((m.created_at, m.id) <= (l.last_consumed_created_at, l.last_consumed_id)) IS NOT TRUE
         GROUP BY l.consumer_group, l.live) x
 WHERE c.partition_id = $1::uuid AND c.consumer_group = x.consumer_group AND (x.live OR x.retried);
