-- maintain, eviction 4 of 6: numbers that no message has any more. The partition may be
-- deleted at the same time: its row is held until the commit.
-- $1 uuid[] partitions, $2 int8[] numbers
WITH there AS MATERIALIZED (
    SELECT p.id
      FROM queen.partitions p
     WHERE p.id = ANY ($1::uuid[])
     ORDER BY p.id
       FOR KEY SHARE)
INSERT INTO queen.message_holes (partition_id, seq)
SELECT u.part, u.seq
  FROM unnest($1::uuid[], $2::bigint[]) u (part, seq)
  JOIN there t ON t.id = u.part
    ON CONFLICT DO NOTHING;
