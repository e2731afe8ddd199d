-- maintain, counts 4 of 5: numbers beyond the tail that no message has become holes. Needs
-- no lock: a number that was given and is missing stays so.
-- $1 uuid[] partitions, $2 int8[] their tails, $3 int4 holes at most
INSERT INTO queen.message_holes (partition_id, seq)
SELECT g.partition_id, s.n
  FROM (SELECT k.partition_id, k.n + 1 AS lo, coalesce(lead(k.n) OVER (PARTITION BY k.partition_id ORDER BY k.n), k.head + 1) - 1 AS hi
          FROM (SELECT l.partition_id, l.seq AS head, u.tail AS n
                  FROM unnest($1::uuid[], $2::bigint[]) u (part, tail)
                  JOIN queen.partition_lookup l ON l.partition_id = u.part
                 WHERE u.tail <= l.seq
                 UNION ALL
                SELECT l.partition_id, l.seq, m.seq
                  FROM unnest($1::uuid[], $2::bigint[]) u (part, tail)
                  JOIN queen.partition_lookup l ON l.partition_id = u.part
                  JOIN queen.messages m ON m.partition_id = u.part
                 WHERE m.seq > u.tail AND m.seq <= l.seq
                 UNION ALL
                SELECT l.partition_id, l.seq, h.seq
                  FROM unnest($1::uuid[], $2::bigint[]) u (part, tail)
                  JOIN queen.partition_lookup l ON l.partition_id = u.part
                  JOIN queen.message_holes h ON h.partition_id = u.part
                 WHERE h.seq > u.tail AND h.seq <= l.seq) k) g
 CROSS JOIN LATERAL generate_series(g.lo, g.hi) s (n)
 LIMIT $3::int
    ON CONFLICT DO NOTHING;
