-- maintain, metrics: rows of messages_consumed that are too old.
-- $1 timestamptz cutoff, $2 int4 rows at most
DELETE FROM queen.messages_consumed
 WHERE ctid = ANY (ARRAY (SELECT c.ctid FROM queen.messages_consumed c WHERE c.acked_at < $1::timestamptz LIMIT $2::int));
