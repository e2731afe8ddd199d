-- push: moves the heads and stores the messages. Either push_lock has locked the heads, or
-- push_plan has seen to the order in which they are locked here. A head that somebody else
-- moves meanwhile is waited for, and what is added to it is added to what it is then (manual,
-- "Read Committed Isolation Level"). Rows of one partition share created_at: the time when the
-- transaction began, or later than all that was committed there before;
-- their ids say the order among them. With a head that is not there,
-- all messages get a null id, which fails the whole transaction. (SELECT $1) keeps the planner
-- from looking into the arrays, as in push_lock; unnest in a select list goes through all
-- arrays in step and keeps none of them in a temporary store. What a message takes from its
-- head is in two arrays, which costs less than a join. $8, $10 and $11 may be empty: then no
-- message has that.
-- This is push_insert for a database whose payload column is jsonb.
-- $1 uuid[] partitions, sorted, $2 int4[] messages in each, $3 uuid[] last id in each,
-- per message: $4 int4[] which of the partitions, from 1, $5 int4[] rank in it, $6 uuid[] id, $7 text[]
-- transaction, $8 uuid[] trace, $9 text[] payload, $10 bool[] encrypted, $11 text[] producer
WITH l AS (
    UPDATE queen.partition_lookup h
       SET seq = h.seq + g.n, last_message_id = g.last,
           last_message_created_at = greatest(g.now, h.last_message_created_at + interval '1 microsecond'),
           updated_at = greatest(g.now, h.last_message_created_at + interval '1 microsecond')
      FROM (SELECT unnest((SELECT $1::uuid[])) AS part, unnest($2::int4[]) AS n, unnest($3::uuid[]) AS last,
                   now() AS now) g
     WHERE h.partition_id = g.part
    RETURNING h.partition_id, h.seq - g.n AS seq, h.last_message_created_at AS ts),
moved AS MATERIALIZED (
    SELECT count(*) = cardinality($1) AS whole,
           array_agg(seq ORDER BY partition_id) AS seq, array_agg(ts ORDER BY partition_id) AS ts
      FROM l)
INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub, seq)
SELECT CASE WHEN (SELECT whole FROM moved) THEN u.id END,
       u.txn, u.trace, ($1::uuid[])[u.h], u.payload::jsonb, ((SELECT ts FROM moved))[u.h], u.sealed IS TRUE, u.producer, ((SELECT seq FROM moved))[u.h] + u.k
  FROM (SELECT unnest((SELECT $4::int4[])) AS h, unnest($5::int4[]) AS k, unnest($6::uuid[]) AS id,
               unnest($7::text[]) AS txn, unnest($8::uuid[]) AS trace, unnest($9::text[]) AS payload,
               unnest($10::bool[]) AS sealed, unnest($11::text[]) AS producer) u;
