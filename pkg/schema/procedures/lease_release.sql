-- lease release: ends leases that nobody will use, as if their messages had not been
-- delivered: nothing is counted. Lease ids of ours say in which partitions they may be;
-- ids that do not are for lease_release_scan. Rows are locked in one global order. A
-- row that was changed while its lock was waited for is not found where it was and keeps
-- its lease until that runs out: somebody works with it.
-- $1 uuid[] first and $2 uuid[] last partition it may be in, $3 text[] lease
WITH held AS MATERIALIZED (
    SELECT u.o, c.tid
      FROM (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[]) WITH ORDINALITY a (low, high, lease, o) ORDER BY a.low) u
     CROSS JOIN LATERAL (
            SELECT x.ctid AS tid
              FROM queen.partition_consumers x
             WHERE x.partition_id BETWEEN u.low AND u.high AND x.worker_id = u.lease
               FOR NO KEY UPDATE) c),
freed AS (
    UPDATE queen.partition_consumers c
       SET lease_expires_at = NULL, lease_acquired_at = NULL, worker_id = NULL, batch_size = 0, acked_count = 0,
           lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL
      FROM held u
     WHERE c.ctid = u.tid
    RETURNING u.o, c.partition_id, c.consumer_group)
SELECT freed.o, q.name, freed.consumer_group, freed.partition_id
  FROM freed
 CROSS JOIN LATERAL (SELECT x.queue_id FROM queen.partitions x WHERE x.id = freed.partition_id OFFSET 0) p
 CROSS JOIN LATERAL (SELECT x.name FROM queen.queues x WHERE x.id = p.queue_id OFFSET 0) q;
