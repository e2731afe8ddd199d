-- lease extend of ids that do not say in which partitions they are: Queen's, those of SQL, and
-- ours that hold several partitions. All else is as in lease_extend; without an index on
-- worker_id, which would make every claim and ack rewrite all indexes, it reads the table.
-- $1 text[] lease, $2 int4[] seconds
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::int4[]) WITH ORDINALITY u (lease, seconds, o)),
held AS MATERIALIZED (
    SELECT u.o, c.partition_id, c.consumer_group
      FROM u
      JOIN queen.partition_consumers c ON c.worker_id = u.lease
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
