-- What one queend tells the others, and what users of SQL tell all of them. Both tables
-- are small and short-lived; nothing is lost with them but a second.

-- step: processes and changes are told
-- needs: the right CREATE on schema queen
CREATE TABLE IF NOT EXISTS queen.queend_processes (
    id         uuid PRIMARY KEY,
    worker     varchar(255),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Partitions that got messages, or were given back, by somebody (process: null for a
-- user of SQL). tx says which readers cannot have seen the row before: ids or times
-- would not, since transactions commit in another order than they begin.
CREATE TABLE IF NOT EXISTS queen.queend_changes (
    tx             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    process        uuid,
    queue_name     varchar(255) NOT NULL,
    partition_id   uuid NOT NULL,
    partition_name varchar(255),
    consumer_group varchar(255)
);
CREATE INDEX IF NOT EXISTS queend_changes_tx_idx ON queen.queend_changes (tx);
