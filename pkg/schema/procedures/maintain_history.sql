-- maintain, retention 5 of 6: what was deleted, for those who wonder.
-- $1 uuid[] partitions, $2 int4[] messages, $3 text which rule
INSERT INTO queen.retention_history (partition_id, messages_deleted, retention_type)
SELECT u.part, u.n, $3::text
  FROM unnest($1::uuid[], $2::int[]) u (part, n);
