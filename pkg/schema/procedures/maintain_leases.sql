-- maintain, retention, after each delete: leases of which no message is left end, since
-- nobody can acknowledge what is gone; of others some are left, and an ack sees which is
-- the last. Who waits for the partition is told. A lease that changed while its lock was
-- waited for is left alone: then somebody works with it. Each LATERAL is a probe of a key.
-- $1 uuid[] partitions
WITH held AS MATERIALIZED (
    SELECT c.*
      FROM unnest($1::uuid[]) u (part)
     CROSS JOIN LATERAL (
           SELECT x.partition_id, x.consumer_group, x.worker_id, x.lease_end_created_at AS end_at, x.lease_end_id AS end_id,
                  x.last_consumed_created_at AS at, x.last_consumed_id AS id
             FROM queen.partition_consumers x
            WHERE x.partition_id = u.part AND x.lease_expires_at > clock_timestamp() AND x.lease_end_id IS NOT NULL
           OFFSET 0) c
     WHERE NOT EXISTS (SELECT FROM queen.messages m
                        WHERE m.partition_id = u.part AND (m.created_at, m.id) <= (c.end_at, c.end_id)
                          AND (m.created_at, m.id) > (coalesce(c.at, '-infinity'), coalesce(c.id, '00000000-0000-0000-0000-000000000000')))
     ORDER BY c.partition_id, c.consumer_group),
ended AS (
    UPDATE queen.partition_consumers k
       SET lease_expires_at = NULL, lease_acquired_at = NULL, worker_id = NULL, batch_size = 0, acked_count = 0,
           lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL
      FROM held h
     WHERE k.partition_id = h.partition_id AND k.consumer_group = h.consumer_group
       AND k.worker_id IS NOT DISTINCT FROM h.worker_id AND (k.lease_end_created_at, k.lease_end_id) = (h.end_at, h.end_id)
       AND (k.last_consumed_created_at, k.last_consumed_id) IS NOT DISTINCT FROM (h.at, h.id)
    RETURNING k.partition_id, k.consumer_group)
INSERT INTO queen.queend_changes (queue_name, partition_id, partition_name, consumer_group)
SELECT q.name, p.id, p.name, e.consumer_group
  FROM ended e
  JOIN queen.partitions p ON p.id = e.partition_id
  JOIN queen.queues q ON q.id = p.queue_id;
