-- maintain, retention, after each delete: leases of which no message is left end, since
-- nobody can acknowledge what is gone; of others some are left, and an ack sees which is
-- the last. Who waits for the partition is told. What was counted as retries may have been
-- the doing of what went, and is forgotten by groups that had not passed it, unless they have
-- a lease of which some are left. One that does not say where it ends, as Queen's do not, has
-- some left while there is any message that its group has not read. A row that
-- changed while its lock was waited for is left alone: then somebody works with it. Each
-- LATERAL is a probe of a key.
-- $1 uuid[] partitions, $2 timestamptz[] and $3 uuid[] the last message that went in each
WITH held AS MATERIALIZED (
    SELECT c.*, l.id IS NULL AND c.leased AS ends, c.retries > 0 AND c.ahead AND (l.id IS NULL OR NOT c.leased) AS retried
      FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) u (part, gone_at, gone_id)
     CROSS JOIN LATERAL (
           SELECT x.partition_id, x.consumer_group, x.worker_id, x.lease_end_created_at AS end_at, x.lease_end_id AS end_id,
                  x.last_consumed_created_at AS at, x.last_consumed_id AS id, x.batch_retry_count AS retries,
                  coalesce(x.lease_expires_at > clock_timestamp() AND (x.lease_end_id IS NOT NULL OR x.worker_id IS NOT NULL), false) AS leased,
                  ((u.gone_at, u.gone_id) <= (x.last_consumed_created_at, x.last_consumed_id)) IS NOT TRUE AS ahead
             FROM queen.partition_consumers x
            WHERE x.partition_id = u.part AND (x.lease_expires_at > clock_timestamp() OR x.batch_retry_count > 0)
           OFFSET 0) c
      LEFT JOIN LATERAL (
           SELECT m.id
             FROM queen.messages m
            WHERE m.partition_id = u.part AND (m.created_at, m.id) <= (coalesce(c.end_at, 'infinity'), coalesce(c.end_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
              AND (m.created_at, m.id) > (coalesce(c.at, '-infinity'), coalesce(c.id, '00000000-0000-0000-0000-000000000000'))
            ORDER BY m.created_at, m.id
            LIMIT 1) l ON true
     WHERE l.id IS NULL AND c.leased OR c.retries > 0 AND c.ahead AND NOT c.leased
     ORDER BY c.partition_id, c.consumer_group COLLATE "C"),
ended AS (
    UPDATE queen.partition_consumers k
       SET lease_expires_at = CASE WHEN NOT h.ends THEN k.lease_expires_at END, lease_acquired_at = CASE WHEN NOT h.ends THEN k.lease_acquired_at END,
           worker_id = CASE WHEN NOT h.ends THEN k.worker_id END,
           batch_size = CASE WHEN h.ends THEN 0 ELSE k.batch_size END, acked_count = CASE WHEN h.ends THEN 0 ELSE k.acked_count END,
           lease_end_created_at = CASE WHEN NOT h.ends THEN k.lease_end_created_at END, lease_end_id = CASE WHEN NOT h.ends THEN k.lease_end_id END,
           lease_end_seq = CASE WHEN NOT h.ends THEN k.lease_end_seq END,
           batch_retry_count = CASE WHEN h.retried THEN 0 ELSE k.batch_retry_count END
      FROM held h
     WHERE k.partition_id = h.partition_id AND k.consumer_group = h.consumer_group
       AND k.worker_id IS NOT DISTINCT FROM h.worker_id AND (k.lease_end_created_at, k.lease_end_id) IS NOT DISTINCT FROM (h.end_at, h.end_id)
       AND (k.last_consumed_created_at, k.last_consumed_id) IS NOT DISTINCT FROM (h.at, h.id) AND k.batch_retry_count IS NOT DISTINCT FROM h.retries
    RETURNING k.partition_id, k.consumer_group, h.ends)
INSERT INTO queen.queend_changes (queue_name, partition_id, partition_name, consumer_group)
SELECT q.name, p.id, p.name, e.consumer_group
  FROM ended e
  JOIN queen.partitions p ON p.id = e.partition_id
  JOIN queen.queues q ON q.id = p.queue_id
 WHERE e.ends;
