-- maintain, sweep 2 of 2: deletes messages of partitions that are gone. Nobody can reach
-- them, and their partitions do not come back.
-- $1 uuid[] partitions, $2 int4 messages at most
DELETE FROM queen.messages
 WHERE ctid = ANY (ARRAY (
        SELECT m.tid
          FROM unnest($1::uuid[]) u (part)
         CROSS JOIN LATERAL (SELECT o.ctid AS tid FROM queen.messages o WHERE o.partition_id = u.part LIMIT $2::int) m
         WHERE NOT EXISTS (SELECT FROM queen.partitions p WHERE p.id = u.part)
         LIMIT $2::int));
