-- maintain, reconcile 5 of 6: whoever popped such messages before they had numbers has a
-- cursor beyond the old head; its number follows, unless the cursor moves this moment.
-- $1 uuid[] partitions, $2 timestamptz[] and $3 uuid[] where their heads stood
UPDATE queen.partition_consumers c
   SET last_seq = greatest(c.last_seq, x.seq)
  FROM (SELECT g.partition_id, g.consumer_group, g.last_consumed_created_at AS at, g.last_consumed_id AS id, m.seq
          FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) u (part, at, id)
          JOIN queen.partition_consumers g ON g.partition_id = u.part
           AND (g.last_consumed_created_at, g.last_consumed_id) > (u.at, u.id)
         CROSS JOIN LATERAL (SELECT o.seq
                               FROM queen.messages o
                              WHERE o.partition_id = g.partition_id
                                AND (o.created_at, o.id) <= (g.last_consumed_created_at, g.last_consumed_id)
                              ORDER BY o.created_at DESC, o.id DESC
                              LIMIT 1) m) x
 WHERE c.partition_id = x.partition_id AND c.consumer_group = x.consumer_group AND x.seq > c.last_seq
   AND (c.last_consumed_created_at, c.last_consumed_id) = (x.at, x.id);
