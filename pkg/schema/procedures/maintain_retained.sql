-- maintain, metrics: rows of retention_history that are too old.
-- $1 timestamptz cutoff, $2 int4 rows at most
DELETE FROM queen.retention_history
 WHERE ctid = ANY (ARRAY (SELECT h.ctid FROM queen.retention_history h WHERE h.executed_at < $1::timestamptz LIMIT $2::int));
