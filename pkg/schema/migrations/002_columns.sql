-- What Queen's tables lack. Adding a column with a constant default (or none)
-- rewrites no table; each statement holds its lock for a moment and is asked
-- for in short slices. Older Queens lack more than 0.15 does, so each table is
-- given all of its later columns.
--
-- Nothing of Queen's is renamed or dropped, so Queen runs on these tables as
-- before: every column added has a default or may be null.

-- step: queues have every option
-- needs: ownership of table queen.queues
-- unless columns: queues namespace task priority lease_time retry_limit retry_delay ttl dead_letter_queue dlq_after_max_retries delayed_processing window_buffer retention_seconds completed_retention_seconds retention_enabled encryption_enabled max_wait_time_seconds max_queue_size created_at
ALTER TABLE queen.queues
    ADD COLUMN IF NOT EXISTS namespace                   varchar(255),
    ADD COLUMN IF NOT EXISTS task                        varchar(255),
    ADD COLUMN IF NOT EXISTS priority                    integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS lease_time                  integer DEFAULT 300,
    ADD COLUMN IF NOT EXISTS retry_limit                 integer DEFAULT 3,
    ADD COLUMN IF NOT EXISTS retry_delay                 integer DEFAULT 1000,
    ADD COLUMN IF NOT EXISTS ttl                         integer DEFAULT 3600,
    ADD COLUMN IF NOT EXISTS dead_letter_queue           boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS dlq_after_max_retries       boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS delayed_processing          integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS window_buffer               integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS retention_seconds           integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS completed_retention_seconds integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS retention_enabled           boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS encryption_enabled          boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS max_wait_time_seconds       integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS max_queue_size              integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS created_at                  timestamptz DEFAULT now();

-- step: partitions know their last activity
-- needs: ownership of table queen.partitions
-- unless columns: partitions created_at last_activity
ALTER TABLE queen.partitions
    ADD COLUMN IF NOT EXISTS created_at    timestamptz DEFAULT now(),
    ADD COLUMN IF NOT EXISTS last_activity timestamptz DEFAULT now();

-- step: messages have a number
-- needs: ownership of table queen.messages
-- unless columns: messages trace_id is_encrypted producer_sub seq
ALTER TABLE queen.messages
    ADD COLUMN IF NOT EXISTS trace_id     uuid,
    ADD COLUMN IF NOT EXISTS is_encrypted boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS producer_sub text,
    ADD COLUMN IF NOT EXISTS seq          bigint;

-- step: heads of partitions have a count
-- needs: ownership of table queen.partition_lookup
-- unless columns: partition_lookup updated_at seq tail_seq
-- The rows that are there get null: not counted yet. A push leaves null then, for
-- its messages too, and the count finds them. Later rows begin with 0.
ALTER TABLE queen.partition_lookup
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS seq        bigint,
    ADD COLUMN IF NOT EXISTS tail_seq   bigint NOT NULL DEFAULT 0;
ALTER TABLE queen.partition_lookup
    ALTER COLUMN seq SET DEFAULT 0,
    ALTER COLUMN last_message_id SET DEFAULT '00000000-0000-0000-0000-000000000000',
    ALTER COLUMN last_message_created_at SET DEFAULT '-infinity';

-- step: heads of partitions have room for updates in place
-- needs: ownership of table queen.partition_lookup
-- when: SELECT NOT coalesce(reloptions @> '{fillfactor=50}', false) FROM pg_class WHERE oid = to_regclass('queen.partition_lookup')
-- For pages to come; the old ones get room by the first updates.
ALTER TABLE queen.partition_lookup SET (fillfactor = 50);

-- step: cursors have a number
-- needs: ownership of table queen.partition_consumers
-- unless columns: partition_consumers total_messages_consumed total_batches_consumed last_consumed_at lease_expires_at lease_acquired_at message_batch batch_size acked_count worker_id pending_estimate last_stats_update batch_retry_count created_at last_seq
ALTER TABLE queen.partition_consumers
    ADD COLUMN IF NOT EXISTS total_messages_consumed bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS total_batches_consumed  bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS last_consumed_at        timestamptz,
    ADD COLUMN IF NOT EXISTS lease_expires_at        timestamptz,
    ADD COLUMN IF NOT EXISTS lease_acquired_at       timestamptz,
    ADD COLUMN IF NOT EXISTS message_batch           jsonb,
    ADD COLUMN IF NOT EXISTS batch_size              integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS acked_count             integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS worker_id               varchar(255),
    ADD COLUMN IF NOT EXISTS pending_estimate        bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS last_stats_update       timestamptz,
    ADD COLUMN IF NOT EXISTS batch_retry_count       integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS created_at              timestamptz DEFAULT now(),
    ADD COLUMN IF NOT EXISTS last_seq                bigint NOT NULL DEFAULT 0;

-- step: dead letters have room for a copy of their message
-- needs: ownership of table queen.dead_letter_queue
-- unless columns: dead_letter_queue transaction_id trace_id payload is_encrypted producer_sub
ALTER TABLE queen.dead_letter_queue
    ADD COLUMN IF NOT EXISTS transaction_id varchar(255),
    ADD COLUMN IF NOT EXISTS trace_id       uuid,
    ADD COLUMN IF NOT EXISTS payload        json,
    ADD COLUMN IF NOT EXISTS is_encrypted   boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS producer_sub   text;

-- step: dead letters go with their partition
-- needs: ownership of table queen.dead_letter_queue and REFERENCES on queen.partitions
-- when: SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = to_regclass('queen.dead_letter_queue') AND confrelid = to_regclass('queen.partitions'))
-- Until now they went with their message. Not validated here: that reads the table.
ALTER TABLE queen.dead_letter_queue
    ADD CONSTRAINT dead_letter_queue_partition_fkey
    FOREIGN KEY (partition_id) REFERENCES queen.partitions (id) ON DELETE CASCADE NOT VALID;

-- step: triggers on messages do not keep heads any more
-- needs: ownership of table queen.messages
-- when: SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = to_regclass('queen.messages') AND NOT t.tgisinternal AND p.prosrc LIKE '%partition_lookup%')
-- Queen before 0.14 kept partition_lookup by a trigger on messages, and later
-- releases drop it themselves. It would write the row that a push has locked
-- and is about to write, a second time.
DO $queend$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT g.tgname FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
              WHERE g.tgrelid = 'queen.messages'::regclass AND NOT g.tgisinternal AND p.prosrc LIKE '%partition_lookup%'
    LOOP
        EXECUTE format('DROP TRIGGER %I ON queen.messages', t.tgname);
        RAISE NOTICE 'queend: trigger % on queen.messages was dropped: the push keeps partition_lookup itself', t.tgname;
    END LOOP;
END
$queend$;

-- step: other triggers are named
-- when: SELECT EXISTS (SELECT FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'queen'::regnamespace AND relname IN ('queues', 'partitions', 'messages', 'partition_lookup', 'partition_consumers')))
-- They stay: what they count, Queen's views may still read. They cost their time
-- in every push that makes a partition, and rows that they update are locked
-- until it commits; so partitions are made in the order of their queues.
DO $queend$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT g.tgname, g.tgrelid::regclass AS tbl, g.tgfoid::regproc AS fn FROM pg_trigger g
              WHERE NOT g.tgisinternal AND g.tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'queen'::regnamespace
                AND relname IN ('queues', 'partitions', 'messages', 'partition_lookup', 'partition_consumers'))
              ORDER BY 2, 1
    LOOP
        RAISE NOTICE 'queend: trigger % on % (function %) stays as it is', t.tgname, t.tbl, t.fn;
    END LOOP;
END
$queend$;
