-- maintain, retention 2 of 6: deletes the oldest messages of each partition that are
-- older than its cutoff and between its two places, partition by partition in the
-- order given, until there are enough. The answer says per partition what went, for its
-- tail or its holes. The join can only be a loop over the partitions, since its inner
-- side has a LIMIT and depends on the outer one; so what is left of the last partition is
-- newer than what went. A row that was rewritten meanwhile is missed by its ctid and found by
-- the next slice; one that was moved to the end of its partition meanwhile is not too old
-- any more, which the last condition says of the row as it is then. Dead letters are not
-- touched: they have their own copy.
-- $1 uuid[] partitions, $2 timestamptz[] cutoffs, $3 timestamptz[] and $4 uuid[] after,
-- $5 timestamptz[] and $6 uuid[] up to, $7 int4 messages at most
WITH due AS MATERIALIZED (
    SELECT m.tid
      FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::uuid[], $5::timestamptz[], $6::uuid[])
           p (id, cutoff, low_at, low_id, high_at, high_id)
     CROSS JOIN LATERAL (SELECT o.ctid AS tid
                           FROM queen.messages o
                          WHERE o.partition_id = p.id AND o.created_at < p.cutoff
                            AND (o.created_at, o.id) > (p.low_at, p.low_id)
                            AND (o.created_at, o.id) <= (p.high_at, p.high_id)
                          ORDER BY o.created_at, o.id
                          LIMIT $7::int) m
     LIMIT $7::int),
gone AS (
    DELETE FROM queen.messages
     WHERE ctid = ANY (ARRAY (SELECT tid FROM due))
       AND created_at < (SELECT max(c) FROM unnest($2::timestamptz[]) c)
    RETURNING partition_id, created_at, id, seq)
SELECT partition_id, count(*), max(seq),
       (array_agg(created_at ORDER BY created_at, id))[1], (array_agg(id ORDER BY created_at, id))[1],
       (array_agg(created_at ORDER BY created_at DESC, id DESC))[1], (array_agg(id ORDER BY created_at DESC, id DESC))[1],
       array_agg(seq ORDER BY seq) FILTER (WHERE seq IS NOT NULL)
  FROM gone
 GROUP BY partition_id
 ORDER BY partition_id;
