-- push, before 1 of 2 where another push is in flight on the same connection: fails (22012)
-- unless a message of that one is stored, and all of this one's transaction with it.
-- $1 uuid partition, $2 text transaction, $3 uuid id of that message
SELECT 1 / count(*) FROM queen.messages WHERE partition_id = $1 AND transaction_id = $2 AND id = $3;
