-- lease extend: gives live leases more time, never less, all partitions of a lease at once.
-- Lease ids of ours say in which partitions they may be; ids that do not are for
-- lease_extend_scan. Rows are locked in one global order. Returned per lease: whether it
-- is in any row, and the earliest end (null: it ran out).
-- $1 uuid[] first and $2 uuid[] last partition it may be in, $3 text[] lease, $4 int4[] seconds
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::int4[]) WITH ORDINALITY u (low, high, lease, seconds, o)),
held AS MATERIALIZED (
    SELECT u.o, c.partition_id, c.consumer_group
      FROM u
      JOIN queen.partition_consumers c ON c.partition_id BETWEEN u.low AND u.high AND c.worker_id = u.lease
     ORDER BY c.partition_id, c.consumer_group
       FOR NO KEY UPDATE OF c),
longer AS (
    UPDATE queen.partition_consumers c
       SET lease_expires_at = greatest(c.lease_expires_at, clock_timestamp() + u.seconds * interval '1 second')
      FROM held
      JOIN u USING (o)
     WHERE c.partition_id = held.partition_id AND c.consumer_group = held.consumer_group
       AND c.worker_id = u.lease AND c.lease_expires_at > clock_timestamp()
    RETURNING held.o, c.lease_expires_at AS ends)
SELECT u.o, EXISTS (SELECT FROM held WHERE held.o = u.o), (SELECT min(ends) FROM longer WHERE longer.o = u.o)
  FROM u;
