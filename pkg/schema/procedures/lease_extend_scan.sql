-- lease extend of ids that do not say in which partitions they are: Queen's, those of SQL, and
-- ours that hold several partitions. All else is as in lease_extend; without an index on
-- worker_id, which would make every claim and ack rewrite all indexes, it reads the table.
-- $1 text[] lease, $2 int4[] seconds
WITH held AS MATERIALIZED (
    SELECT u.*, c.partition_id, c.consumer_group, coalesce(c.lease_expires_at > clock_timestamp(), false) AS live
      FROM unnest($1::text[], $2::int4[]) WITH ORDINALITY u (lease, seconds, o)
      JOIN queen.partition_consumers c ON c.worker_id = u.lease
     ORDER BY c.partition_id, c.consumer_group
       FOR NO KEY UPDATE OF c),
longer AS (
    UPDATE queen.partition_consumers c
       SET lease_expires_at = greatest(c.lease_expires_at, clock_timestamp() + u.seconds * interval '1 second')
      FROM held u
     WHERE c.partition_id = u.partition_id AND c.consumer_group = u.consumer_group
       AND c.worker_id = u.lease AND u.live
    RETURNING u.o, c.lease_expires_at AS ends)
SELECT o, live, NULL FROM held
 UNION ALL
SELECT o, true, ends FROM longer;
