-- lease extend: gives live leases more time, never less, all partitions of a lease at once.
-- Lease ids of ours say in which partitions they may be; ids that do not are for
-- lease_extend_scan. Rows are locked in one global order. A row that was changed while its
-- lock was waited for is not found where it was: then the lease lives and has no new end,
-- and is to be extended again.
-- Returned: for each row that has the lease whether it lives, and for each that was
-- extended its new end.
-- $1 uuid[] first and $2 uuid[] last partition it may be in, $3 text[] lease, $4 int4[] seconds
WITH held AS MATERIALIZED (
    SELECT u.o, u.seconds, c.tid, c.live
      FROM (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::int4[]) WITH ORDINALITY a (low, high, lease, seconds, o) ORDER BY a.low) u
     CROSS JOIN LATERAL (
            SELECT x.ctid AS tid, coalesce(x.lease_expires_at > clock_timestamp(), false) AS live
              FROM queen.partition_consumers x
             WHERE x.partition_id BETWEEN u.low AND u.high AND x.worker_id = u.lease
               FOR NO KEY UPDATE) c),
longer AS (
    UPDATE queen.partition_consumers c
       SET lease_expires_at = greatest(c.lease_expires_at, clock_timestamp() + u.seconds * interval '1 second')
      FROM held u
     WHERE c.ctid = u.tid AND u.live
    RETURNING u.o, c.lease_expires_at AS ends)
SELECT o, live, NULL FROM held
 UNION ALL
SELECT o, true, ends FROM longer;
