-- lease release of ids that do not say in which partitions they are; all else is as in
-- lease_release. It reads the table, as lease_extend_scan does.
-- $1 text[] lease
WITH held AS MATERIALIZED (
    SELECT u.*, c.partition_id, c.consumer_group
      FROM unnest($1::text[]) WITH ORDINALITY u (lease, o)
      JOIN queen.partition_consumers c ON c.worker_id = u.lease
     ORDER BY c.partition_id, c.consumer_group
       FOR NO KEY UPDATE OF c),
freed AS (
    UPDATE queen.partition_consumers c
       SET lease_expires_at = NULL, lease_acquired_at = NULL, worker_id = NULL, batch_size = 0, acked_count = 0,
           lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL
      FROM held u
     WHERE c.partition_id = u.partition_id AND c.consumer_group = u.consumer_group AND c.worker_id = u.lease
    RETURNING u.o, c.partition_id, c.consumer_group)
SELECT freed.o, q.name, freed.consumer_group, freed.partition_id
  FROM freed
  JOIN queen.partitions p ON p.id = freed.partition_id
  JOIN queen.queues q ON q.id = p.queue_id;
