-- pop, before a claim that found no cursor: gives the groups one in these partitions. One
-- that is gone gets none. One global order, so that two batches cannot wait for each
-- other.
-- $1 uuid[] partitions, $2 text[] groups
INSERT INTO queen.partition_consumers (partition_id, consumer_group)
SELECT DISTINCT p.id, u.grp
  FROM unnest((SELECT $1::uuid[]), $2::text[]) u (part, grp)
  JOIN queen.partitions p ON p.id = u.part
 ORDER BY p.id, u.grp
    ON CONFLICT DO NOTHING;
