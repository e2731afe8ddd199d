-- queue delete: some messages of some partitions go; how many is returned. Fewer than
-- $2: there are no more.
-- $1 uuid[] partitions, $2 int4 how many at most
WITH picked AS MATERIALIZED (
    SELECT m.tid
      FROM unnest((SELECT $1::uuid[])) u (id)
     CROSS JOIN LATERAL (SELECT n.ctid AS tid FROM queen.messages n WHERE n.partition_id = u.id LIMIT $2::integer) m
     LIMIT $2::integer),
gone AS (
    DELETE FROM queen.messages WHERE ctid = ANY (ARRAY(SELECT tid FROM picked)) RETURNING 1)
SELECT count(*) FROM gone;
