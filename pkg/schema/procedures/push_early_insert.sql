-- push, early, 2 of 3: stores the messages of a push while the one before it is not committed
-- yet, with the numbers that they have if that one, and nobody else, moves the heads: what
-- push_move makes sure of, and until then nobody sees them. Their time is when the transaction
-- began, which was after the messages had come. unnest, (SELECT $3) and empty arrays are as in
-- push_insert.
-- $1 uuid[] partitions, sorted, $2 bigint[] number of the last message in each before this push,
-- per message: $3 int4[] which of the partitions, from 1, $4 int4[] rank in it, $5 uuid[] id, $6 text[]
-- transaction, $7 uuid[] trace, $8 text[] payload, $9 bool[] encrypted, $10 text[] producer
INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub, seq)
SELECT u.id, u.txn, u.trace, ($1::uuid[])[u.h], u.payload::json, now(), u.sealed IS TRUE, u.producer, ($2::bigint[])[u.h] + u.k
  FROM (SELECT unnest((SELECT $3::int4[])) AS h, unnest($4::int4[]) AS k, unnest($5::uuid[]) AS id,
               unnest($6::text[]) AS txn, unnest($7::uuid[]) AS trace, unnest($8::text[]) AS payload,
               unnest($9::bool[]) AS sealed, unnest($10::text[]) AS producer) u;
