-- The tables as a fresh database gets them. The names, columns and defaults are
-- those of Queen MQ 0.12-0.16, so that Queen's clients find what they ask for
-- and a database can be taken over in place; on such a database every CREATE of
-- this file finds its table there and does nothing.
--
-- What is ours: the numbers (messages.seq, partition_lookup.seq and tail_seq,
-- partition_consumers.last_seq) that make lag exact without counting, the holes
-- in them, and what a dead letter keeps of its message.
--
-- Keys of messages, cursors and dead letters begin with partition_id and every
-- unique key of theirs contains it: a partition's rows can live on one node.

-- step: the schema's tables
-- needs: the right CREATE on schema queen
CREATE TABLE IF NOT EXISTS queen.queues (
    id                          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name                        varchar(255) NOT NULL UNIQUE,
    namespace                   varchar(255),
    task                        varchar(255),
    priority                    integer DEFAULT 0,
    lease_time                  integer DEFAULT 300,
    retry_limit                 integer DEFAULT 3,
    retry_delay                 integer DEFAULT 1000,
    ttl                         integer DEFAULT 3600,
    dead_letter_queue           boolean DEFAULT false,
    dlq_after_max_retries       boolean DEFAULT false,
    delayed_processing          integer DEFAULT 0,
    window_buffer               integer DEFAULT 0,
    retention_seconds           integer DEFAULT 0,
    completed_retention_seconds integer DEFAULT 0,
    retention_enabled           boolean DEFAULT false,
    encryption_enabled          boolean DEFAULT false,
    max_wait_time_seconds       integer DEFAULT 0,
    max_queue_size              integer DEFAULT 0,
    created_at                  timestamptz DEFAULT now()
);

CREATE TABLE IF NOT EXISTS queen.partitions (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    queue_id      uuid NOT NULL REFERENCES queen.queues (id) ON DELETE CASCADE,
    name          varchar(255) NOT NULL DEFAULT 'Default',
    created_at    timestamptz DEFAULT now(),
    last_activity timestamptz DEFAULT now(),
    UNIQUE (queue_id, name)
);

-- The log. No primary key on id and no foreign key: the push locks the
-- partition's row of partition_lookup instead, and the rows of a partition that
-- is gone are unreachable at once and swept later. payload is json, not jsonb:
-- what is popped is what was sent, byte for byte.
CREATE TABLE IF NOT EXISTS queen.messages (
    id             uuid NOT NULL DEFAULT gen_random_uuid(),
    transaction_id varchar(255) NOT NULL,
    trace_id       uuid,
    partition_id   uuid NOT NULL,
    payload        json NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    is_encrypted   boolean NOT NULL DEFAULT false,
    producer_sub   text,
    seq            bigint,
    CONSTRAINT messages_transaction_key UNIQUE (partition_id, transaction_id),
    CONSTRAINT messages_order_key UNIQUE (partition_id, created_at, id)
);

-- The head of each partition: its newest message, the number it has (seq) and
-- the number of the newest message that retention removed (tail_seq). A push
-- locks this row, so no index may hold a column that a push changes: updates
-- stay heap-only, and the room for them is left free. seq is null only in a
-- database that is being taken over: messages not counted yet.
CREATE TABLE IF NOT EXISTS queen.partition_lookup (
    id                      uuid NOT NULL DEFAULT gen_random_uuid(),
    queue_name              varchar(255) NOT NULL REFERENCES queen.queues (name) ON DELETE CASCADE,
    partition_id            uuid PRIMARY KEY REFERENCES queen.partitions (id) ON DELETE CASCADE,
    last_message_id         uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    last_message_created_at timestamptz NOT NULL DEFAULT '-infinity',
    updated_at              timestamptz NOT NULL DEFAULT now(),
    seq                     bigint DEFAULT 0,
    tail_seq                bigint NOT NULL DEFAULT 0,
    UNIQUE (queue_name, partition_id)
) WITH (fillfactor = 50);

-- Cursor and lease of each (partition, group). No index on worker_id: it would
-- make every claim and every ack rewrite all indexes.
CREATE TABLE IF NOT EXISTS queen.partition_consumers (
    id                       uuid NOT NULL DEFAULT gen_random_uuid(),
    partition_id             uuid NOT NULL REFERENCES queen.partitions (id) ON DELETE CASCADE,
    consumer_group           varchar(255) NOT NULL DEFAULT '__QUEUE_MODE__',
    last_consumed_id         uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    last_consumed_created_at timestamptz,
    total_messages_consumed  bigint DEFAULT 0,
    total_batches_consumed   bigint DEFAULT 0,
    last_consumed_at         timestamptz,
    lease_expires_at         timestamptz,
    lease_acquired_at        timestamptz,
    message_batch            jsonb,
    batch_size               integer DEFAULT 0,
    acked_count              integer DEFAULT 0,
    worker_id                varchar(255),
    pending_estimate         bigint DEFAULT 0,
    last_stats_update        timestamptz,
    batch_retry_count        integer DEFAULT 0,
    created_at               timestamptz DEFAULT now(),
    last_seq                 bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (partition_id, consumer_group),
    CONSTRAINT partition_consumers_cursor_check CHECK (
        (last_consumed_id = '00000000-0000-0000-0000-000000000000') = (last_consumed_created_at IS NULL))
) WITH (fillfactor = 50);

-- Numbers of messages that were deleted one by one; prefixes are in tail_seq.
CREATE TABLE IF NOT EXISTS queen.message_holes (
    partition_id uuid NOT NULL REFERENCES queen.partitions (id) ON DELETE CASCADE,
    seq          bigint NOT NULL,
    PRIMARY KEY (partition_id, seq)
);

-- Where a group begins in a queue that it never read. It has no foreign key: it
-- survives its queue.
CREATE TABLE IF NOT EXISTS queen.consumer_groups_metadata (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    consumer_group         varchar(255) NOT NULL,
    queue_name             varchar(255) NOT NULL DEFAULT '',
    partition_name         varchar(255) NOT NULL DEFAULT '',
    namespace              varchar(255) NOT NULL DEFAULT '',
    task                   varchar(255) NOT NULL DEFAULT '',
    subscription_mode      varchar(20) NOT NULL,
    subscription_timestamp timestamptz NOT NULL,
    created_at             timestamptz DEFAULT now(),
    UNIQUE (consumer_group, queue_name, partition_name, namespace, task)
);

CREATE TABLE IF NOT EXISTS queen.consumer_watermarks (
    queue_name         varchar(255) NOT NULL,
    consumer_group     varchar(255) NOT NULL,
    last_empty_scan_at timestamptz NOT NULL DEFAULT 'epoch',
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue_name, consumer_group)
);

-- A dead letter keeps its own copy of the message and outlives it.
CREATE TABLE IF NOT EXISTS queen.dead_letter_queue (
    id                  uuid NOT NULL DEFAULT gen_random_uuid(),
    message_id          uuid NOT NULL,
    partition_id        uuid NOT NULL REFERENCES queen.partitions (id) ON DELETE CASCADE,
    consumer_group      varchar(255),
    error_message       text,
    retry_count         integer DEFAULT 0,
    original_created_at timestamptz,
    failed_at           timestamptz DEFAULT now(),
    transaction_id      varchar(255),
    trace_id            uuid,
    payload             json,
    is_encrypted        boolean NOT NULL DEFAULT false,
    producer_sub        text,
    PRIMARY KEY (partition_id, id)
);

CREATE TABLE IF NOT EXISTS queen.messages_consumed (
    id                 uuid NOT NULL DEFAULT gen_random_uuid(),
    partition_id       uuid,
    consumer_group     varchar(255) NOT NULL DEFAULT '__QUEUE_MODE__',
    messages_completed integer NOT NULL DEFAULT 0,
    messages_failed    integer NOT NULL DEFAULT 0,
    acked_at           timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS queen.retention_history (
    id               uuid NOT NULL DEFAULT gen_random_uuid(),
    partition_id     uuid,
    messages_deleted integer NOT NULL DEFAULT 0,
    retention_type   varchar(50),
    executed_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS queen.system_state (
    key        text PRIMARY KEY,
    value      jsonb NOT NULL,
    updated_at timestamptz DEFAULT now()
);

CREATE TABLE IF NOT EXISTS queen.message_traces (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    message_id     uuid,
    partition_id   uuid NOT NULL REFERENCES queen.partitions (id) ON DELETE CASCADE,
    transaction_id varchar(255) NOT NULL,
    consumer_group varchar(255),
    event_type     varchar(100) DEFAULT 'info',
    data           jsonb NOT NULL,
    worker_id      varchar(255),
    created_at     timestamptz DEFAULT now()
);

CREATE TABLE IF NOT EXISTS queen.message_trace_names (
    trace_id   uuid NOT NULL REFERENCES queen.message_traces (id) ON DELETE CASCADE,
    trace_name varchar(255) NOT NULL,
    PRIMARY KEY (trace_id, trace_name)
);

-- What a take-over still has to do (empty otherwise): in this partition the
-- messages before (before_created_at, before_id) may lack their number. The
-- newest of them gets seq, the next older one seq - 1, and so on; the oldest is
-- expected at base_seq + 1.
CREATE TABLE IF NOT EXISTS queen.unnumbered (
    partition_id      uuid PRIMARY KEY REFERENCES queen.partitions (id) ON DELETE CASCADE,
    before_created_at timestamptz NOT NULL,
    before_id         uuid NOT NULL,
    seq               bigint NOT NULL,
    base_seq          bigint NOT NULL
);

-- step: indexes for what is read now and then
-- needs: ownership of the tables in schema queen
-- fresh:
-- Queen's own tables have indexes for this, under other names.
CREATE INDEX dead_letter_queue_message_idx
    ON queen.dead_letter_queue (partition_id, message_id, consumer_group);
CREATE INDEX dead_letter_queue_failed_at_idx
    ON queen.dead_letter_queue (failed_at);
CREATE INDEX messages_consumed_acked_at_idx ON queen.messages_consumed (acked_at);
CREATE INDEX retention_history_executed_at_idx ON queen.retention_history (executed_at);
CREATE INDEX message_traces_message_idx
    ON queen.message_traces (partition_id, transaction_id, created_at);
CREATE INDEX message_trace_names_name_idx ON queen.message_trace_names (trace_name);
