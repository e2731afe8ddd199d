-- pop, after a claim whose request has ended meanwhile: gives the leases back. Whoever
-- else holds the cursor now keeps it. Rows are locked in one global order.
-- $1 uuid[] partitions, $2 text[] groups, $3 text[] leases
WITH held AS MATERIALIZED (
    SELECT k.partition_id, k.consumer_group
      FROM unnest((SELECT $1::uuid[]), $2::text[], $3::text[]) u (part, grp, lease)
      JOIN queen.partition_consumers k ON k.partition_id = u.part AND k.consumer_group = u.grp AND k.worker_id = u.lease
     ORDER BY k.partition_id, k.consumer_group
       FOR NO KEY UPDATE OF k)
UPDATE queen.partition_consumers q
   SET worker_id = NULL, lease_expires_at = NULL, lease_acquired_at = NULL, batch_size = 0, acked_count = 0,
       lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL
  FROM held
 WHERE q.partition_id = held.partition_id AND q.consumer_group = held.consumer_group;
