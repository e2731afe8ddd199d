-- push 2 of 2: moves the heads, which push_lock has locked, and stores the messages.
-- Rows of one partition share created_at, which is later than all that was committed
-- there before; their ids say the order among them. A message whose partition is gone,
-- or whose queue's encryption is not what the sender assumed, gets a null id and so
-- fails the whole transaction. (SELECT $1) keeps the planner from looking into the
-- arrays, as in push_lock; unnest in a select list goes through all arrays in step and
-- keeps none of them in a temporary store.
-- This is push_insert for a server that has a key and so must know what is encrypted.
-- This is push_insert_sealed for a database whose payload column is jsonb.
-- $1 uuid[] partitions, $2 int4[] messages in each, $3 uuid[] last id in each,
-- per message: $4 uuid[] partition, $5 int4[] rank in it, $6 uuid[] id, $7 text[]
-- transaction, $8 uuid[] trace, $9 text[] payload, $10 bool[] encrypted, $11 text[] producer,
-- $12 text[] queues, $13 bool[] assumed to be encrypted
WITH l AS (
    UPDATE queen.partition_lookup h
       SET seq = h.seq + g.n, last_message_id = g.last,
           last_message_created_at = greatest(g.now, h.last_message_created_at + interval '1 microsecond'),
           updated_at = greatest(g.now, h.last_message_created_at + interval '1 microsecond')
      FROM (SELECT unnest((SELECT $1::uuid[])) AS part, unnest($2::int4[]) AS n, unnest($3::uuid[]) AS last,
                   clock_timestamp() AS now) g
     WHERE h.partition_id = g.part
    RETURNING h.partition_id, h.seq - g.n AS seq, h.last_message_created_at AS ts),
switched AS MATERIALIZED (
    SELECT bool_or(coalesce(q.encryption_enabled, false) <> e.assumed) AS yes
      FROM unnest((SELECT $12::text[]), $13::bool[]) e (name, assumed)
      JOIN queen.queues q ON q.name = e.name)
INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub, seq)
SELECT CASE WHEN l.partition_id IS NULL OR (SELECT yes FROM switched) THEN NULL ELSE u.id END,
       u.txn, u.trace, l.partition_id, u.payload::jsonb, l.ts, u.sealed, u.producer, l.seq + u.k
  FROM (SELECT unnest((SELECT $4::uuid[])) AS part, unnest($5::int4[]) AS k, unnest($6::uuid[]) AS id,
               unnest($7::text[]) AS txn, unnest($8::uuid[]) AS trace, unnest($9::text[]) AS payload,
               unnest($10::bool[]) AS sealed, unnest($11::text[]) AS producer) u
  LEFT JOIN l ON l.partition_id = u.part;
