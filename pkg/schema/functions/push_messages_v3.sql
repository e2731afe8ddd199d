-- signature: queen.push_messages_v3(jsonb, boolean, boolean)
-- The push for users of SQL. items is an array of objects with the keys queue,
-- partition, transactionId, payload, producerSub, traceId, messageId,
-- is_encrypted, namespace and task. The answer is an object: items has one element per item, in
-- order; partition_updates one per partition that got messages. The two booleans
-- are taken because callers pass them; a transactionId is unique whatever they say.
--
-- It keeps the rules of the HTTP push: heads are locked in the order of
-- their ids before anything is stamped, a stamp lies beyond all earlier ones of
-- the partition, numbers have no gaps. Rows of one call are stamped a microsecond
-- apart, so their order is the items' order whatever ids are given.
CREATE OR REPLACE FUNCTION queen.push_messages_v3(items jsonb, check_duplicates boolean DEFAULT true, check_capacity boolean DEFAULT true) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $queend$
-- queend
DECLARE
    in_queue     text[];
    in_partition text[];
    in_namespace text[];
    in_task      text[];
    in_txn       text[];
    in_payload   jsonb[];
    in_trace     uuid[];
    in_sub       text[];
    in_encrypted boolean[];
    in_id        uuid[];
    at_partition uuid[];    -- where each item goes
    winner       uuid[];    -- the message that has an item's transactionId already
    heads        uuid[];
    wanted       bigint;
    locked       bigint;
    stamp        timestamptz;
    new_place    bigint[];  -- the items that are stored, and what they get
    new_id       uuid[];
    new_at       timestamptz[];
    new_seq      bigint[];
    answer       jsonb;
    updates      jsonb;
BEGIN
    SELECT array_agg(i.item ->> 'queue' ORDER BY place),
           array_agg(coalesce(i.item ->> 'partition', 'Default') ORDER BY place),
           array_agg(nullif(i.item ->> 'namespace', '') ORDER BY place),
           array_agg(nullif(i.item ->> 'task', '') ORDER BY place),
           array_agg(coalesce(nullif(i.item ->> 'transactionId', ''), gen_random_uuid()::text) ORDER BY place),
           array_agg(coalesce(i.item -> 'payload', 'null') ORDER BY place),
           array_agg(nullif(i.item ->> 'traceId', '')::uuid ORDER BY place),
           array_agg(nullif(i.item ->> 'producerSub', '') ORDER BY place),
           array_agg(coalesce((i.item ->> 'is_encrypted')::boolean, false) ORDER BY place),
           array_agg(nullif(i.item ->> 'messageId', '')::uuid ORDER BY place)
      INTO in_queue, in_partition, in_namespace, in_task, in_txn, in_payload, in_trace, in_sub, in_encrypted, in_id
      FROM jsonb_array_elements(items) WITH ORDINALITY i (item, place);
    IF in_queue IS NULL THEN
        RETURN jsonb_build_object('items', '[]'::jsonb, 'partition_updates', '[]'::jsonb);
    END IF;
    IF array_position(in_queue, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'Queue must be a string' USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('Item %s has no queue.', array_position(in_queue, NULL) - 1);
    END IF;
    SELECT count(DISTINCT (q, p)) INTO wanted FROM unnest(in_queue, in_partition) u (q, p);

    -- Make what is missing, in one order, and lock the heads. A queue deleted in
    -- between takes heads away: then once more.
    FOR attempt IN 1 .. 10 LOOP
        INSERT INTO queen.queues (name, namespace, task)
        SELECT DISTINCT ON (u.q COLLATE "C") u.q, coalesce(u.ns, split_part(u.q, '.', 1)), coalesce(u.task, split_part(u.q, '.', 2))
          FROM unnest(in_queue, in_namespace, in_task) WITH ORDINALITY u (q, ns, task, place)
         WHERE NOT EXISTS (SELECT FROM queen.queues e WHERE e.name = u.q)
         ORDER BY u.q COLLATE "C", u.place
        ON CONFLICT (name) DO NOTHING;

        INSERT INTO queen.partitions (queue_id, name)
        SELECT DISTINCT ON (u.q COLLATE "C", u.p COLLATE "C") q.id, u.p
          FROM unnest(in_queue, in_partition) u (q, p) JOIN queen.queues q ON q.name = u.q
         WHERE NOT EXISTS (SELECT FROM queen.partitions e WHERE e.queue_id = q.id AND e.name = u.p)
         ORDER BY u.q COLLATE "C", u.p COLLATE "C"
        ON CONFLICT (queue_id, name) DO NOTHING;

        SELECT array_agg(p.id ORDER BY u.place), array_agg(DISTINCT p.id) INTO at_partition, heads
          FROM unnest(in_queue, in_partition) WITH ORDINALITY u (q, p, place)
          JOIN queen.queues q ON q.name = u.q JOIN queen.partitions p ON p.queue_id = q.id AND p.name = u.p;

        -- A partition that has messages and no head is one that a take-over has
        -- not come to: it begins after its newest message, its count stays open.
        INSERT INTO queen.partition_lookup (queue_name, partition_id, last_message_id, last_message_created_at, seq)
        SELECT q.name, p.id, coalesce(m.id, '00000000-0000-0000-0000-000000000000'), coalesce(m.created_at, '-infinity'),
               CASE WHEN m.id IS NULL THEN 0 END
          FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id
          LEFT JOIN LATERAL (SELECT o.id, o.created_at FROM queen.messages o
                              WHERE o.partition_id = p.id ORDER BY o.created_at DESC, o.id DESC LIMIT 1) m ON true
         WHERE p.id = ANY (heads) AND NOT EXISTS (SELECT FROM queen.partition_lookup e WHERE e.partition_id = p.id)
         ORDER BY p.id
        ON CONFLICT DO NOTHING;

        SELECT count(*) INTO locked
          FROM (SELECT FROM queen.partition_lookup l WHERE l.partition_id = ANY (heads) ORDER BY l.partition_id FOR NO KEY UPDATE) held;
        EXIT WHEN locked = wanted;
    END LOOP;
    IF locked <> wanted THEN
        RAISE EXCEPTION 'the queues of this push are being deleted' USING ERRCODE = 'serialization_failure';
    END IF;

    -- From here on nobody else writes into these partitions, and every statement
    -- sees what their last writers committed. EXECUTE: planned anew each time; a
    -- plan kept from when the table was small would scan the partition.
    EXECUTE 'SELECT array_agg(m.id ORDER BY u.place) FROM unnest($1, $2) WITH ORDINALITY u (p, txn, place)
               LEFT JOIN queen.messages m ON m.partition_id = u.p AND m.transaction_id = u.txn'
       INTO winner USING at_partition, in_txn;

    stamp := clock_timestamp();
    SELECT array_agg(n.place ORDER BY n.place), array_agg(coalesce(in_id[n.place], queen.uuid_v7(n.at)) ORDER BY n.place),
           array_agg(n.at ORDER BY n.place), array_agg(n.seq ORDER BY n.place)
      INTO new_place, new_id, new_at, new_seq
      FROM (SELECT f.place, greatest(stamp, l.last_message_created_at + interval '1 microsecond') + (f.k - 1) * interval '1 microsecond' AS at, l.seq + f.k AS seq
              FROM (SELECT o.place, o.p, row_number() OVER (PARTITION BY o.p ORDER BY o.place) AS k
                      FROM (SELECT min(u.place) AS place, u.p FROM unnest(at_partition, in_txn, winner) WITH ORDINALITY u (p, txn, won, place)
                             WHERE u.won IS NULL GROUP BY u.p, u.txn) o) f
              JOIN queen.partition_lookup l ON l.partition_id = f.p) n;

    INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub, seq)
    SELECT n.id, in_txn[n.place], in_trace[n.place], at_partition[n.place], in_payload[n.place], n.at, in_encrypted[n.place], in_sub[n.place], n.seq
      FROM unnest(new_place, new_id, new_at, new_seq) n (place, id, at, seq) ORDER BY n.place;

    UPDATE queen.partition_lookup l
       SET seq = l.seq + g.n, last_message_id = g.id, last_message_created_at = g.at, updated_at = stamp
      FROM (SELECT DISTINCT ON (at_partition[n.place]) at_partition[n.place] AS p, n.id, n.at, count(*) OVER (PARTITION BY at_partition[n.place]) AS n
              FROM unnest(new_place, new_id, new_at) n (place, id, at) ORDER BY at_partition[n.place], n.place DESC) g
     WHERE l.partition_id = g.p;

    -- queend's processes hear of it before they say that a queue is empty.
    INSERT INTO queen.queend_changes (queue_name, partition_id, partition_name)
    SELECT DISTINCT in_queue[n.place], at_partition[n.place], in_partition[n.place] FROM unnest(new_place) n (place);

    SELECT jsonb_agg(
               CASE WHEN n.place IS NOT NULL THEN
                   jsonb_build_object('index', u.place - 1, 'transaction_id', u.txn, 'message_id', s.id, 'partition_id', u.p, 'status', 'queued', 'trace_id', in_trace[u.place])
               ELSE
                   jsonb_build_object('index', u.place - 1, 'transaction_id', u.txn, 'message_id', coalesce(u.won, s.id), 'status', 'duplicate')
               END ORDER BY u.place)
      INTO answer
      FROM unnest(at_partition, in_txn, winner) WITH ORDINALITY u (p, txn, won, place)
      LEFT JOIN unnest(new_place) n (place) ON n.place = u.place
      LEFT JOIN (SELECT at_partition[n.place] AS p, in_txn[n.place] AS txn, n.id FROM unnest(new_place, new_id) n (place, id)) s
             ON s.p = u.p AND s.txn = u.txn;

    SELECT coalesce(jsonb_agg(jsonb_build_object('queue_name', l.queue_name, 'partition_id', l.partition_id,
               'last_message_id', l.last_message_id, 'last_message_created_at', l.last_message_created_at) ORDER BY l.partition_id), '[]')
      INTO updates
      FROM queen.partition_lookup l
     WHERE l.partition_id IN (SELECT at_partition[n] FROM unnest(new_place) n);

    RETURN jsonb_build_object('items', answer, 'partition_updates', updates);
END
$queend$;
