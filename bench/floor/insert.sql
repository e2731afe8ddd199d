-- The floor's way by unnest: the rows of one batch, and nothing else. No head is locked
-- or moved; the numbers are the client's, created_at is the transaction's begin. The
-- arrays are binary. (SELECT $1) keeps the planner from looking into the arrays, as in
-- the statements of the push: or it would plan anew each time.
-- $1 uuid[] id, $2 text[] transaction, $3 uuid[] partition, $4 json[] payload, $5 int8[] number
INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub, seq)
SELECT u.id, u.txn, NULL, u.part, u.payload, now(), false, NULL, u.seq
  FROM unnest((SELECT $1::uuid[]), (SELECT $2::text[]), (SELECT $3::uuid[]), (SELECT $4::json[]), (SELECT $5::int8[])) u (id, txn, part, payload, seq)
