-- The rows that Queen wrote get what ours have: every partition a head that is
-- true, every message a number, every cursor the number that it stands at, every
-- dead letter its copy. These steps run when the functions of ours are installed,
-- and all of them again when Queen is found to have been back in between.
--
-- A batched step is run again and again, each time in a transaction of its own,
-- and speaks with whoever runs it by four settings that live as long as the
-- transaction: queend.position (read: where the last batch ended, at first
-- empty; set: where the next one begins), queend.work (read: about how many rows
-- a batch may write), queend.rows (set: how many rows this batch worked on) and
-- queend.done (set to true by the last one).
--
-- Counts are true before queend serves, so lag is exact from then on. Numbering a
-- hundred million messages takes hours, and serving does not wait for it.
--
-- Order: a batch takes the heads that it works under in the order of their ids,
-- as pushes do.
-- rows:

-- step: every partition has a head
-- needs: INSERT on table queen.partition_lookup and SELECT on queen.partitions and queen.queues
-- batched:
DO $queend$
DECLARE
    work  constant integer := current_setting('queend.work');
    place text := current_setting('queend.position');
    seen  uuid[];
    n     bigint;
BEGIN
    SELECT array_agg(id ORDER BY id) INTO seen
      FROM (SELECT id FROM queen.partitions WHERE place = '' OR id > nullif(place, '')::uuid ORDER BY id LIMIT work) p;
    INSERT INTO queen.partition_lookup (queue_name, partition_id, last_message_id, last_message_created_at, updated_at, seq)
    SELECT q.name, p.id, '00000000-0000-0000-0000-000000000000', '-infinity', clock_timestamp(), NULL
      FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id
     WHERE p.id = ANY (seen) AND NOT EXISTS (SELECT FROM queen.partition_lookup l WHERE l.partition_id = p.id)
     ORDER BY p.id
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM set_config('queend.rows', n::text, true);
    IF seen IS NULL THEN
        PERFORM set_config('queend.done', 'true', true);
    ELSE
        PERFORM set_config('queend.position', seen[cardinality(seen)]::text, true);
    END IF;
END
$queend$;

-- step: heads, counts and cursors are true
-- needs: SELECT on table queen.messages and UPDATE on queen.partition_lookup and queen.partition_consumers
-- batched:
-- Under the head's lock no push is in flight in the partition, and a statement
-- after it sees all that were. A partition that Queen shortened goes on with the
-- number its oldest message has. A cursor may stand beyond the newest message
-- when that was deleted: then the head stands there too, since the next stamp
-- must lie beyond both. Counting a message is much cheaper than writing a row.
DO $queend$
DECLARE
    work    constant integer := current_setting('queend.work');
    place   text := current_setting('queend.position');
    ids     uuid[];
    p       uuid;
    oldest  record;
    newest  record;
    read    record;
    base    bigint;
    n       bigint;
    total   bigint := 0;
    counted bigint := 0;
BEGIN
    SELECT array_agg(partition_id ORDER BY partition_id) INTO ids
      FROM (SELECT partition_id FROM queen.partition_lookup
             WHERE seq IS NULL AND (place = '' OR partition_id > nullif(place, '')::uuid)
             ORDER BY partition_id LIMIT work / 10 FOR NO KEY UPDATE) l;
    FOREACH p IN ARRAY coalesce(ids, '{}') LOOP
        SELECT m.created_at, m.id, m.seq INTO oldest FROM queen.messages m
         WHERE m.partition_id = p ORDER BY m.created_at, m.id LIMIT 1;
        SELECT m.created_at, m.id INTO newest FROM queen.messages m
         WHERE m.partition_id = p ORDER BY m.created_at DESC, m.id DESC LIMIT 1;
        SELECT c.last_consumed_created_at AS created_at, c.last_consumed_id AS id INTO read FROM queen.partition_consumers c
         WHERE c.partition_id = p AND c.last_consumed_created_at IS NOT NULL
         ORDER BY c.last_consumed_created_at DESC, c.last_consumed_id DESC LIMIT 1;
        SELECT count(*) INTO n FROM queen.messages m WHERE m.partition_id = p;
        base := coalesce(oldest.seq - 1, 0);
        DELETE FROM queen.message_holes WHERE partition_id = p;
        DELETE FROM queen.unnumbered WHERE partition_id = p;
        IF n > 0 THEN
            INSERT INTO queen.unnumbered (partition_id, before_created_at, before_id, seq, base_seq)
            VALUES (p, newest.created_at + interval '1 microsecond', '00000000-0000-0000-0000-000000000000', base + n, base);
        END IF;
        IF newest.created_at IS NULL OR (read.created_at, read.id) > (newest.created_at, newest.id) THEN
            newest := read;
        END IF;
        UPDATE queen.partition_lookup
           SET seq = base + n, tail_seq = base, updated_at = clock_timestamp(),
               last_message_created_at = coalesce(newest.created_at, '-infinity'),
               last_message_id = coalesce(newest.id, '00000000-0000-0000-0000-000000000000')
         WHERE partition_id = p;
        UPDATE queen.partition_consumers c
           SET last_seq = base + (SELECT count(*) FROM queen.messages m
                                   WHERE m.partition_id = p AND (m.created_at, m.id) <= (c.last_consumed_created_at, c.last_consumed_id))
         WHERE c.partition_id = p;
        total := total + 1;
        counted := counted + n;
        EXIT WHEN counted > 50 * work;
    END LOOP;
    PERFORM set_config('queend.rows', total::text, true);
    IF ids IS NOT NULL THEN
        PERFORM set_config('queend.position', p::text, true);
    ELSIF EXISTS (SELECT FROM queen.partition_lookup WHERE seq IS NULL) THEN
        PERFORM set_config('queend.position', '', true);
    ELSE
        PERFORM set_config('queend.done', 'true', true);
    END IF;
END
$queend$;

-- step: every message has a number
-- later:
-- needs: UPDATE on table queen.messages and queen.partition_lookup
-- batched:
-- From the newest to the oldest: what retention takes away at the old end
-- meanwhile leaves the numbers right, and the tail is where the numbering ends.
-- A batch is of one partition or of many.
DO $queend$
DECLARE
    w     record;
    r     record;
    total bigint := 0;
    work  constant integer := current_setting('queend.work');
BEGIN
    FOR w IN
        SELECT * FROM (
            SELECT u.*, sum(greatest(least(u.seq - u.base_seq, work), 1)) OVER (ORDER BY u.partition_id) - greatest(least(u.seq - u.base_seq, work), 1) AS ahead
              FROM (SELECT * FROM queen.unnumbered ORDER BY partition_id LIMIT 500) u) x
         WHERE x.ahead < work ORDER BY x.partition_id
    LOOP
        PERFORM FROM queen.partition_lookup WHERE partition_id = w.partition_id FOR NO KEY UPDATE;
        WITH slice AS MATERIALIZED (
            SELECT m.ctid AS tid, m.created_at, m.id, w.seq + 1 - row_number() OVER (ORDER BY m.created_at DESC, m.id DESC) AS n
              FROM (SELECT ctid, created_at, id FROM queen.messages
                     WHERE partition_id = w.partition_id AND (created_at, id) < (w.before_created_at, w.before_id)
                     ORDER BY created_at DESC, id DESC LIMIT work) m),
        written AS (
            UPDATE queen.messages q SET seq = slice.n FROM slice WHERE q.ctid = slice.tid AND q.seq IS DISTINCT FROM slice.n)
        SELECT count(*) AS rows, coalesce(min(n), w.seq + 1) AS n,
               (array_agg(created_at ORDER BY n))[1] AS created_at, (array_agg(id ORDER BY n))[1] AS id
          INTO r FROM slice;
        total := total + r.rows;
        IF r.rows < work THEN
            UPDATE queen.partition_lookup SET tail_seq = r.n - 1 WHERE partition_id = w.partition_id AND tail_seq < r.n - 1;
            DELETE FROM queen.unnumbered WHERE partition_id = w.partition_id;
        ELSE
            UPDATE queen.unnumbered SET before_created_at = r.created_at, before_id = r.id, seq = r.n - 1 WHERE partition_id = w.partition_id;
        END IF;
    END LOOP;
    PERFORM set_config('queend.rows', total::text, true);
    PERFORM set_config('queend.done', (NOT EXISTS (SELECT FROM queen.unnumbered))::text, true);
END
$queend$;

-- step: every dead letter has a copy of its message
-- later:
-- needs: UPDATE on table queen.dead_letter_queue and SELECT on queen.messages
-- batched:
DO $queend$
DECLARE
    work  constant integer := current_setting('queend.work');
    place text := current_setting('queend.position');
    seen  uuid[];
    n     bigint;
BEGIN
    SELECT array_agg(id ORDER BY id) INTO seen
      FROM (SELECT id FROM queen.dead_letter_queue WHERE place = '' OR id > nullif(place, '')::uuid ORDER BY id LIMIT work) d;
    UPDATE queen.dead_letter_queue d
       SET transaction_id = m.transaction_id, trace_id = m.trace_id, payload = m.payload,
           is_encrypted = coalesce(m.is_encrypted, false), producer_sub = m.producer_sub
      FROM queen.messages m
     WHERE d.id = ANY (seen) AND d.transaction_id IS NULL AND m.partition_id = d.partition_id AND m.id = d.message_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM set_config('queend.rows', n::text, true);
    IF seen IS NULL THEN
        PERFORM set_config('queend.done', 'true', true);
    ELSE
        PERFORM set_config('queend.position', seen[cardinality(seen)]::text, true);
    END IF;
END
$queend$;

-- step: dead letters outlive their message
-- later:
-- needs: ownership of table queen.dead_letter_queue
-- when: SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = to_regclass('queen.dead_letter_queue') AND confrelid = to_regclass('queen.messages'))
-- The one thing of Queen's that is dropped: the foreign key by which retention
-- deletes a dead letter with its message, unseen. Queen works without it.
DO $queend$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT conname FROM pg_constraint
              WHERE contype = 'f' AND conrelid = 'queen.dead_letter_queue'::regclass AND confrelid = 'queen.messages'::regclass
    LOOP
        EXECUTE format('ALTER TABLE queen.dead_letter_queue DROP CONSTRAINT %I', c.conname);
        RAISE NOTICE 'queend: constraint % was dropped: a dead letter keeps its own copy now and outlives its message', c.conname;
    END LOOP;
END
$queend$;

-- step: dead letters without a partition are found
-- later:
-- needs: ownership of table queen.dead_letter_queue
-- when: SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND NOT convalidated AND conrelid = to_regclass('queen.dead_letter_queue') AND confrelid = to_regclass('queen.partitions'))
-- Queen has no such key, so rows may be left whose partition is gone. They are
-- nobody's any more, but not ours to delete: the key stays unvalidated then, which
-- changes nothing for the others.
DO $queend$
DECLARE
    c record;
BEGIN
    IF EXISTS (SELECT FROM queen.dead_letter_queue d WHERE d.partition_id IS NOT NULL
                 AND NOT EXISTS (SELECT FROM queen.partitions p WHERE p.id = d.partition_id)) THEN
        RAISE NOTICE 'queend: dead_letter_queue has rows whose partition is gone; they stay';
        RETURN;
    END IF;
    FOR c IN SELECT conname FROM pg_constraint
              WHERE contype = 'f' AND NOT convalidated AND conrelid = 'queen.dead_letter_queue'::regclass AND confrelid = 'queen.partitions'::regclass
    LOOP
        EXECUTE format('ALTER TABLE queen.dead_letter_queue VALIDATE CONSTRAINT %I', c.conname);
    END LOOP;
END
$queend$;
