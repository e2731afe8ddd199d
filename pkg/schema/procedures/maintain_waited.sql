-- maintain, eviction 1 of 6: of the next partitions whose queue lets messages wait for a
-- time only, those that have older ones which some group has not consumed. The cursor
-- that is farthest behind is where these begin; without groups, or with one that has
-- not begun, that is the beginning.
-- $1 timestamptz now, $2 text and $3 uuid the queue and partition before the slice,
-- $4 int4 partitions in a slice
WITH slice AS MATERIALIZED (
    SELECT q.name, l.partition_id, $1::timestamptz - q.max_wait_time_seconds * interval '1 second' AS cutoff
      FROM (SELECT name, max_wait_time_seconds
              FROM queen.queues
             WHERE max_wait_time_seconds > 0 AND name >= $2::text
             ORDER BY name) q
     CROSS JOIN LATERAL (SELECT h.partition_id
                           FROM queen.partition_lookup h
                          WHERE h.queue_name = q.name AND (q.name > $2::text OR h.partition_id > $3::uuid)
                          ORDER BY h.partition_id
                          LIMIT $4::int) l
     ORDER BY q.name, l.partition_id
     LIMIT $4::int),
behind AS MATERIALIZED (
    SELECT s.name, s.partition_id, s.cutoff,
           coalesce(c.at, '-infinity') AS at, coalesce(c.id, '00000000-0000-0000-0000-000000000000') AS id
      FROM slice s
      LEFT JOIN LATERAL (SELECT g.last_consumed_created_at AS at, g.last_consumed_id AS id
                           FROM queen.partition_consumers g
                          WHERE g.partition_id = s.partition_id
                          ORDER BY g.last_consumed_created_at NULLS FIRST, g.last_consumed_id
                          LIMIT 1) c ON true)
SELECT b.name, b.partition_id, b.cutoff, b.at, b.id,
       'infinity'::timestamptz, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid,
       coalesce((SELECT m.created_at
                   FROM queen.messages m
                  WHERE m.partition_id = b.partition_id AND (m.created_at, m.id) > (b.at, b.id)
                  ORDER BY m.created_at, m.id
                  LIMIT 1) < b.cutoff, false)
  FROM behind b
 ORDER BY b.name, b.partition_id;
