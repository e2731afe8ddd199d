-- maintain, sweep 1 of 2: jumps through the index from one partition of messages to the
-- next, without reading what is between, and finds those that are not there any more.
-- It answers the last one visited, how many there were, and what it found.
-- $1 uuid the partition before the slice, $2 int4 partitions in a slice
WITH RECURSIVE jump (part, n) AS (
    SELECT (SELECT m.partition_id
              FROM queen.messages m
             WHERE m.partition_id > $1::uuid
             ORDER BY m.partition_id
             LIMIT 1), 1
     UNION ALL
    SELECT (SELECT m.partition_id
              FROM queen.messages m
             WHERE m.partition_id > j.part
             ORDER BY m.partition_id
             LIMIT 1), j.n + 1
      FROM jump j
     WHERE j.part IS NOT NULL AND j.n < $2::int)
SELECT (array_agg(j.part ORDER BY j.part DESC) FILTER (WHERE j.part IS NOT NULL))[1],
       count(j.part),
       array_agg(j.part ORDER BY j.part) FILTER (WHERE j.part IS NOT NULL AND p.id IS NULL)
  FROM jump j
  LEFT JOIN queen.partitions p ON p.id = j.part;
