-- redrive: ends the leases of groups that may hold a message which moves. What was counted
-- as retries may have been its doing, and is forgotten.
-- $1 uuid partition, $2 text[] transactions
UPDATE queen.partition_consumers c
   SET lease_expires_at = NULL, lease_acquired_at = NULL, worker_id = NULL,
       lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL, batch_size = 0, acked_count = 0,
       batch_retry_count = 0
 WHERE c.partition_id = $1::uuid AND (c.lease_expires_at > clock_timestamp() OR c.batch_retry_count > 0)
   AND EXISTS (SELECT FROM queen.messages m
                WHERE m.partition_id = $1::uuid AND m.transaction_id = ANY ($2::text[])
                  AND ((m.created_at, m.id) <= (c.last_consumed_created_at, c.last_consumed_id)) IS NOT TRUE);
