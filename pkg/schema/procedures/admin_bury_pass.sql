-- bury 4 of 4: the group's cursor passes the message, which is the next one; a lease that
-- delivered nothing after it ends.
-- $1 uuid partition, $2 text transaction, $3 text group
UPDATE queen.partition_consumers c
   SET last_consumed_id = m.id, last_consumed_created_at = m.created_at, last_seq = coalesce(m.seq, c.last_seq + 1),
       lease_expires_at = CASE WHEN m.lease THEN NULL ELSE c.lease_expires_at END,
       lease_acquired_at = CASE WHEN m.lease THEN NULL ELSE c.lease_acquired_at END,
       worker_id = CASE WHEN m.lease THEN NULL ELSE c.worker_id END,
       lease_end_created_at = CASE WHEN m.lease THEN NULL ELSE c.lease_end_created_at END,
       lease_end_id = CASE WHEN m.lease THEN NULL ELSE c.lease_end_id END,
       lease_end_seq = CASE WHEN m.lease THEN NULL ELSE c.lease_end_seq END,
       batch_size = CASE WHEN m.lease THEN 0 ELSE c.batch_size END,
       acked_count = CASE WHEN m.lease THEN 0 ELSE c.acked_count END,
       batch_retry_count = 0
  FROM (SELECT n.id, n.created_at, n.seq, (l.lease_end_created_at, l.lease_end_id) <= (n.created_at, n.id) AS lease
          FROM queen.messages n
          JOIN queen.partition_consumers l ON l.partition_id = n.partition_id AND l.consumer_group = $3::text
         WHERE n.partition_id = $1::uuid AND n.transaction_id = $2::text) m
 WHERE c.partition_id = $1::uuid AND c.consumer_group = $3::text;
