-- push 2 of 2: stores the messages and moves the heads, which push_lock has locked.
-- Rows of one partition share created_at, which is later than all that was committed
-- there before; their ids say the order among them. A message whose partition is gone,
-- or whose queue's encryption is not what the sender assumed, gets a null id and so
-- fails the whole transaction. Nothing but the lock's holder moves a head, so that its
-- ctid can be trusted. (SELECT $1) keeps the planner from looking into the arrays, as
-- in push_lock.
-- $1 uuid[] partitions, $2 int4[] messages in each, $3 uuid[] last id in each,
-- $4 text[] queues, $5 bool[] assumed to be encrypted,
-- per message: $6 uuid[] partition, $7 int4[] rank in it, $8 uuid[] id, $9 text[]
-- transaction, $10 uuid[] trace, $11 text[] payload, $12 bool[] encrypted, $13 text[] producer
WITH l AS MATERIALIZED (
    SELECT h.ctid AS tid, h.partition_id, h.seq,
           greatest(clock_timestamp(), h.last_message_created_at + interval '1 microsecond') AS ts
      FROM queen.partition_lookup h
     WHERE h.partition_id = ANY ((SELECT $1::uuid[])::uuid[])),
switched AS MATERIALIZED (
    SELECT bool_or(coalesce(q.encryption_enabled, false) <> e.assumed) AS yes
      FROM unnest((SELECT $4::text[]), $5::bool[]) e (name, assumed)
      JOIN queen.queues q ON q.name = e.name),
stored AS (
    INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub, seq)
    SELECT CASE WHEN l.partition_id IS NULL OR (SELECT yes FROM switched) THEN NULL ELSE u.id END,
           u.txn, u.trace, l.partition_id, u.payload::json, l.ts, u.sealed, u.producer, l.seq + u.k
      FROM unnest((SELECT $6::uuid[]), $7::int4[], $8::uuid[], $9::text[], $10::uuid[], $11::text[], $12::bool[], $13::text[])
           u (part, k, id, txn, trace, payload, sealed, producer)
      LEFT JOIN l ON l.partition_id = u.part)
UPDATE queen.partition_lookup q
   SET seq = l.seq + g.n, last_message_id = g.last, last_message_created_at = l.ts, updated_at = l.ts
  FROM l
  JOIN unnest((SELECT $1::uuid[]), $2::int4[], $3::uuid[]) g (part, n, last) ON g.part = l.partition_id
 WHERE q.ctid = l.tid;
