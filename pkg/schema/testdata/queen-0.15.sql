-- A database as Queen MQ 0.15 lays it out, made from what is known of it: tables,
-- column types, defaults, keys, indexes, foreign keys, the CHECK on cursors, and
-- the triggers that count partitions. None of it is Queen's own text. Names of
-- keys are PostgreSQL's defaults or made up: nothing may depend on them.
--
-- The rows are the hard cases of a take-over: messages stored out of order, many
-- with one time, heads that are missing, late or point at deleted messages,
-- cursors everywhere, live leases, dead letters, traces.
CREATE SCHEMA queen;

CREATE TABLE queen.queues (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) UNIQUE NOT NULL,
    namespace varchar(255),
    task varchar(255),
    priority int DEFAULT 0,
    lease_time int DEFAULT 300,
    retry_limit int DEFAULT 3,
    retry_delay int DEFAULT 1000,
    ttl int DEFAULT 3600,
    dead_letter_queue boolean DEFAULT false,
    dlq_after_max_retries boolean DEFAULT false,
    delayed_processing int DEFAULT 0,
    window_buffer int DEFAULT 0,
    retention_seconds int DEFAULT 0,
    completed_retention_seconds int DEFAULT 0,
    retention_enabled boolean DEFAULT false,
    encryption_enabled boolean DEFAULT false,
    max_wait_time_seconds int DEFAULT 0,
    max_queue_size int DEFAULT 0,
    created_at timestamptz DEFAULT now()
);
CREATE INDEX q_name ON queen.queues (name);

CREATE TABLE queen.partitions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    queue_id uuid REFERENCES queen.queues ON DELETE CASCADE,
    name varchar(255) NOT NULL DEFAULT 'Default',
    created_at timestamptz DEFAULT now(),
    last_activity timestamptz DEFAULT now(),
    UNIQUE (queue_id, name)
);

CREATE TABLE queen.messages (
    id uuid PRIMARY KEY,
    transaction_id varchar(255) NOT NULL,
    trace_id uuid,
    partition_id uuid REFERENCES queen.partitions ON DELETE CASCADE,
    payload jsonb NOT NULL,
    created_at timestamptz DEFAULT now(),
    is_encrypted boolean DEFAULT false,
    producer_sub text
);
CREATE UNIQUE INDEX m_by_transaction ON queen.messages (partition_id, transaction_id);
CREATE INDEX m_by_time ON queen.messages (partition_id, created_at, id);

CREATE TABLE queen.partition_consumers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    partition_id uuid REFERENCES queen.partitions ON DELETE CASCADE,
    consumer_group varchar(255) NOT NULL DEFAULT '__QUEUE_MODE__',
    last_consumed_id uuid DEFAULT '00000000-0000-0000-0000-000000000000',
    last_consumed_created_at timestamptz,
    total_messages_consumed bigint DEFAULT 0,
    total_batches_consumed bigint DEFAULT 0,
    last_consumed_at timestamptz,
    lease_expires_at timestamptz,
    lease_acquired_at timestamptz,
    message_batch jsonb,
    batch_size int DEFAULT 0,
    acked_count int DEFAULT 0,
    worker_id varchar(255),
    pending_estimate bigint DEFAULT 0,
    last_stats_update timestamptz,
    batch_retry_count int DEFAULT 0,
    created_at timestamptz DEFAULT now(),
    UNIQUE (partition_id, consumer_group),
    CONSTRAINT cursor_is_whole CHECK (
        (last_consumed_id = '00000000-0000-0000-0000-000000000000' AND last_consumed_created_at IS NULL)
        OR (last_consumed_id <> '00000000-0000-0000-0000-000000000000' AND last_consumed_created_at IS NOT NULL))
) WITH (fillfactor = 50);
CREATE INDEX pc_by_worker ON queen.partition_consumers (worker_id) WHERE worker_id IS NOT NULL;

CREATE TABLE queen.partition_lookup (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    queue_name varchar(255) NOT NULL REFERENCES queen.queues (name) ON DELETE CASCADE,
    partition_id uuid NOT NULL REFERENCES queen.partitions ON DELETE CASCADE,
    last_message_id uuid NOT NULL,
    last_message_created_at timestamptz NOT NULL,
    updated_at timestamptz DEFAULT now(),
    UNIQUE (queue_name, partition_id)
);
CREATE INDEX pl_by_partition ON queen.partition_lookup (partition_id);

CREATE TABLE queen.consumer_groups_metadata (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    consumer_group varchar(255) NOT NULL,
    queue_name varchar(255) NOT NULL DEFAULT '',
    partition_name varchar(255) NOT NULL DEFAULT '',
    namespace varchar(255) NOT NULL DEFAULT '',
    task varchar(255) NOT NULL DEFAULT '',
    subscription_mode varchar(50) NOT NULL,
    subscription_timestamp timestamptz NOT NULL,
    created_at timestamptz DEFAULT now(),
    UNIQUE (consumer_group, queue_name, partition_name, namespace, task)
);

CREATE TABLE queen.consumer_watermarks (
    queue_name varchar(255) NOT NULL,
    consumer_group varchar(255) NOT NULL,
    last_empty_scan_at timestamptz DEFAULT 'epoch',
    updated_at timestamptz DEFAULT now(),
    PRIMARY KEY (queue_name, consumer_group)
);

CREATE TABLE queen.dead_letter_queue (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    message_id uuid REFERENCES queen.messages ON DELETE CASCADE,
    partition_id uuid,
    consumer_group varchar(255),
    error_message text,
    retry_count int DEFAULT 0,
    original_created_at timestamptz,
    failed_at timestamptz DEFAULT now()
);
CREATE INDEX ON queen.dead_letter_queue (partition_id);
CREATE INDEX ON queen.dead_letter_queue (consumer_group);
CREATE INDEX ON queen.dead_letter_queue (failed_at);
CREATE INDEX ON queen.dead_letter_queue (message_id, consumer_group);

CREATE TABLE queen.messages_consumed (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    partition_id uuid,
    consumer_group varchar(255),
    messages_completed int DEFAULT 0,
    messages_failed int DEFAULT 0,
    acked_at timestamptz DEFAULT now()
);
CREATE INDEX ON queen.messages_consumed (acked_at);
CREATE INDEX ON queen.messages_consumed (partition_id);
CREATE INDEX ON queen.messages_consumed (consumer_group);
CREATE INDEX ON queen.messages_consumed (partition_id, acked_at);

CREATE TABLE queen.retention_history (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    partition_id uuid,
    messages_deleted int DEFAULT 0,
    retention_type varchar(50),
    executed_at timestamptz DEFAULT now()
);

CREATE TABLE queen.system_state (
    key text PRIMARY KEY,
    value jsonb NOT NULL,
    updated_at timestamptz DEFAULT now()
);

CREATE TABLE queen.message_traces (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    message_id uuid REFERENCES queen.messages ON DELETE CASCADE,
    partition_id uuid,
    transaction_id varchar(255),
    consumer_group varchar(255),
    event_type varchar(100) DEFAULT 'info',
    data jsonb,
    worker_id varchar(255),
    created_at timestamptz DEFAULT now()
);
CREATE TABLE queen.message_trace_names (
    trace_id uuid REFERENCES queen.message_traces ON DELETE CASCADE,
    trace_name varchar(255),
    PRIMARY KEY (trace_id, trace_name)
);

-- How many partitions came and went in a minute.
CREATE TABLE queen.queue_lag_metrics (
    queue_name varchar(255) NOT NULL,
    bucket_time timestamptz NOT NULL,
    partitions_created int DEFAULT 0,
    partitions_deleted int DEFAULT 0,
    PRIMARY KEY (queue_name, bucket_time)
);
CREATE FUNCTION queen.partition_came() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO queen.queue_lag_metrics (queue_name, bucket_time, partitions_created)
    SELECT q.name, date_trunc('minute', now()), 1 FROM queen.queues q WHERE q.id = NEW.queue_id
    ON CONFLICT (queue_name, bucket_time) DO UPDATE SET partitions_created = queue_lag_metrics.partitions_created + 1;
    RETURN NULL;
END $$;
CREATE FUNCTION queen.partition_went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO queen.queue_lag_metrics (queue_name, bucket_time, partitions_deleted)
    SELECT q.name, date_trunc('minute', now()), 1 FROM queen.queues q WHERE q.id = OLD.queue_id
    ON CONFLICT (queue_name, bucket_time) DO UPDATE SET partitions_deleted = queue_lag_metrics.partitions_deleted + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER count_new AFTER INSERT ON queen.partitions FOR EACH ROW EXECUTE FUNCTION queen.partition_came();
CREATE TRIGGER count_gone AFTER DELETE ON queen.partitions FOR EACH ROW EXECUTE FUNCTION queen.partition_went();

-- What users call, with names of arguments and a result that are not ours.
CREATE FUNCTION queen.push_messages_v2(batch jsonb, a boolean DEFAULT true, b boolean DEFAULT true) RETURNS jsonb
LANGUAGE sql AS $$ SELECT '[]'::jsonb $$;
CREATE FUNCTION queen.push_messages_v3(batch jsonb, a boolean DEFAULT true, b boolean DEFAULT true) RETURNS json
LANGUAGE sql AS $$ SELECT '{}'::json $$;
CREATE FUNCTION queen.pop_specific_batch(batch jsonb) RETURNS jsonb
LANGUAGE sql AS $$ SELECT '[]'::jsonb $$;

-- Ids are made from names, so that a row can be found again.
CREATE OR REPLACE FUNCTION pg_temp.id(name text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT md5(name)::uuid $$;

INSERT INTO queen.queues (id, name, namespace, task, lease_time, retry_limit, encryption_enabled, created_at)
SELECT pg_temp.id('queue ' || name), name, split_part(name, '.', 1), split_part(name, '.', 2), 30, 2, false, '2026-01-01Z'
  FROM unnest(ARRAY['orders.new', 'mail', '', 'empty']) name;

INSERT INTO queen.partitions (id, queue_id, name, created_at, last_activity)
SELECT pg_temp.id('partition ' || p), pg_temp.id('queue ' || q), p, '2026-01-01Z', '2026-01-02Z'
  FROM (VALUES ('orders.new', 'long'), ('orders.new', 'no head'), ('orders.new', 'late head'), ('orders.new', 'head of a deleted message'),
               ('mail', 'read to the end'), ('mail', 'read beyond the end'), ('mail', 'never read'), ('mail', 'emptied'),
               ('', 'Default'), ('empty', 'without a head'), ('empty', 'with a head')) v (q, p);
-- A queue with many partitions.
INSERT INTO queen.partitions (id, queue_id, name, created_at, last_activity)
SELECT pg_temp.id('partition ' || n), pg_temp.id('queue mail'), n::text, '2026-01-01Z', '2026-01-02Z' FROM generate_series(1, 15) n;

-- The place of a message in the table says nothing of its time, and five have
-- one time; their ids are no help either.
INSERT INTO queen.messages (id, transaction_id, trace_id, partition_id, payload, created_at, is_encrypted, producer_sub)
SELECT pg_temp.id('message ' || p || n), 'tx-' || n, CASE WHEN n % 10 = 0 THEN pg_temp.id('trace ' || n) END, pg_temp.id('partition ' || p),
       jsonb_build_object('n', n, 'text', repeat('x', n % 50)), timestamptz '2026-02-01Z' + (n / 5) * interval '1 second',
       n % 100 = 0, CASE WHEN n % 7 = 0 THEN 'alice' END
  FROM (VALUES ('long', 4500), ('no head', 40), ('late head', 40), ('head of a deleted message', 40), ('read to the end', 40),
               ('read beyond the end', 40), ('never read', 40), ('Default', 40)) v (p, total), generate_series(1, total) n
 ORDER BY md5(p || n);
INSERT INTO queen.messages (id, transaction_id, partition_id, payload, created_at)
SELECT pg_temp.id('message ' || p.name), 'tx', p.id, '{}', timestamptz '2026-02-02Z' FROM queen.partitions p WHERE p.name ~ '^[0-9]+$';

-- Heads: true for most, late by some messages, pointing at a message that is gone, missing.
INSERT INTO queen.partition_lookup (id, queue_name, partition_id, last_message_id, last_message_created_at, updated_at)
SELECT pg_temp.id('lookup ' || p.name), q.name, p.id, m.id, m.created_at, '2026-02-03Z'
  FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id
  CROSS JOIN LATERAL (SELECT m.id, m.created_at FROM queen.messages m WHERE m.partition_id = p.id
                       ORDER BY m.created_at DESC, m.id DESC OFFSET CASE p.name WHEN 'late head' THEN 17 ELSE 0 END LIMIT 1) m
 WHERE p.name NOT IN ('no head', 'head of a deleted message', '7', '77');
INSERT INTO queen.partition_lookup (id, queue_name, partition_id, last_message_id, last_message_created_at, updated_at)
SELECT pg_temp.id('lookup ' || p.name), q.name, p.id, pg_temp.id('gone'), '2026-02-20Z', '2026-02-20Z'
  FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id
 WHERE p.name IN ('head of a deleted message', 'emptied', 'with a head');

-- Cursors: after the tenth message, at the last, beyond it (it was deleted), never.
INSERT INTO queen.partition_consumers (id, partition_id, consumer_group, last_consumed_id, last_consumed_created_at, total_messages_consumed,
       lease_expires_at, worker_id, batch_size, acked_count, created_at)
SELECT pg_temp.id('cursor ' || p.name || g), p.id, g, m.id, m.created_at, 10, CASE WHEN leased THEN timestamptz '2126-01-01Z' END,
       CASE WHEN leased THEN pg_temp.id('lease')::text END, CASE WHEN leased THEN 5 ELSE 0 END, CASE WHEN leased THEN 2 ELSE 0 END, '2026-02-03Z'
  FROM queen.partitions p, (VALUES ('__QUEUE_MODE__', 9, false), ('billing', 3200, true), ('audit', 39, false)) v (g, skip, leased)
  CROSS JOIN LATERAL (SELECT m.id, m.created_at FROM queen.messages m WHERE m.partition_id = p.id
                       ORDER BY m.created_at, m.id OFFSET v.skip LIMIT 1) m
 WHERE p.name IN ('long', 'no head', 'late head', 'read to the end');
INSERT INTO queen.partition_consumers (id, partition_id, consumer_group, last_consumed_id, last_consumed_created_at, created_at)
SELECT pg_temp.id('cursor ' || p), pg_temp.id('partition ' || p), '__QUEUE_MODE__', pg_temp.id('gone'), '2026-02-19Z', '2026-02-03Z'
  FROM unnest(ARRAY['read beyond the end', 'emptied']) p;
INSERT INTO queen.partition_consumers (id, partition_id, consumer_group, created_at)
SELECT pg_temp.id('cursor never ' || p), pg_temp.id('partition ' || p), 'audit', '2026-02-03Z' FROM unnest(ARRAY['never read', 'without a head', '7']) p;

INSERT INTO queen.dead_letter_queue (id, message_id, partition_id, consumer_group, error_message, retry_count, original_created_at, failed_at)
SELECT pg_temp.id('dead ' || m.id), m.id, m.partition_id, '__QUEUE_MODE__', 'it failed', 2, m.created_at, '2026-02-04Z'
  FROM queen.messages m WHERE m.transaction_id IN ('tx-1', 'tx-2', 'tx-100');
INSERT INTO queen.message_traces (id, message_id, partition_id, transaction_id, data, created_at)
SELECT pg_temp.id('trace row ' || m.id), m.id, m.partition_id, m.transaction_id, '{"text": "hi"}', '2026-02-04Z' FROM queen.messages m WHERE m.transaction_id = 'tx-3';
INSERT INTO queen.message_trace_names SELECT id, 'name' FROM queen.message_traces;
INSERT INTO queen.consumer_groups_metadata (id, consumer_group, queue_name, subscription_mode, subscription_timestamp, created_at)
VALUES (pg_temp.id('meta 1'), 'audit', 'mail', 'new', '2026-02-01Z', '2026-02-01Z'), (pg_temp.id('meta 2'), 'audit', 'long gone', 'timestamp', '2026-01-01Z', '2026-02-01Z');
INSERT INTO queen.consumer_watermarks VALUES ('mail', 'audit', '2026-02-05Z', '2026-02-05Z');
INSERT INTO queen.messages_consumed (id, partition_id, consumer_group, messages_completed, acked_at)
SELECT pg_temp.id('consumed ' || n), pg_temp.id('partition long'), '__QUEUE_MODE__', 1, '2026-02-05Z' FROM generate_series(1, 20) n;
INSERT INTO queen.retention_history (id, partition_id, messages_deleted, retention_type, executed_at) VALUES (pg_temp.id('history'), pg_temp.id('partition emptied'), 40, 'completed_retention', '2026-02-05Z');
INSERT INTO queen.system_state VALUES ('maintenance_mode', '{"enabled": false}', '2026-02-05Z');
UPDATE queen.queue_lag_metrics SET bucket_time = '2026-01-01Z';
