-- watch: a sign of life of this process.
-- $1 uuid process, $2 text worker
INSERT INTO queen.queend_processes (id, worker) VALUES ($1::uuid, $2::text)
    ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp();
