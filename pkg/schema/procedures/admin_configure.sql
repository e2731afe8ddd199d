-- configure: makes a queue, or replaces all of its configuration. Every option is
-- given. The columns after task are in the order of the options' names.
-- $1 text name, $2 text namespace, $3 text task, then $4 … $18 the options in the order of their
-- names: completedRetentionSeconds, deadLetterQueue, delayedProcessing,
-- dlqAfterMaxRetries, encryptionEnabled, leaseTime, maxSize, maxWaitTimeSeconds,
-- priority, retentionEnabled, retentionSeconds, retryDelay, retryLimit, ttl, windowBuffer
INSERT INTO queen.queues AS q (
    id, name, namespace, task,
    completed_retention_seconds, dead_letter_queue, delayed_processing, dlq_after_max_retries,
    encryption_enabled, lease_time, max_queue_size, max_wait_time_seconds, priority,
    retention_enabled, retention_seconds, retry_delay, retry_limit, ttl, window_buffer)
VALUES (
    gen_random_uuid(), $1::text, $2::text, $3::text,
    $4::integer, $5::boolean, $6::integer, $7::boolean,
    $8::boolean, $9::integer, $10::integer, $11::integer, $12::integer,
    $13::boolean, $14::integer, $15::integer, $16::integer, $17::integer, $18::integer)
    ON CONFLICT (name) DO UPDATE
   SET namespace = excluded.namespace, task = excluded.task,
       completed_retention_seconds = excluded.completed_retention_seconds, dead_letter_queue = excluded.dead_letter_queue,
       delayed_processing = excluded.delayed_processing, dlq_after_max_retries = excluded.dlq_after_max_retries,
       encryption_enabled = excluded.encryption_enabled, lease_time = excluded.lease_time,
       max_queue_size = excluded.max_queue_size, max_wait_time_seconds = excluded.max_wait_time_seconds,
       priority = excluded.priority, retention_enabled = excluded.retention_enabled,
       retention_seconds = excluded.retention_seconds, retry_delay = excluded.retry_delay,
       retry_limit = excluded.retry_limit, ttl = excluded.ttl, window_buffer = excluded.window_buffer
RETURNING q.id, q.namespace, q.task,
       q.completed_retention_seconds, q.dead_letter_queue, q.delayed_processing, q.dlq_after_max_retries,
       q.encryption_enabled, q.lease_time, q.max_queue_size, q.max_wait_time_seconds, q.priority,
       q.retention_enabled, q.retention_seconds, q.retry_delay, q.retry_limit, q.ttl, q.window_buffer;
