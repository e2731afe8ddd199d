-- trace: keeps what a consumer says about a message, if it is there.
-- $1 uuid partition, $2 text transaction, $3 jsonb data, $4 text group, $5 text kind, $6 text worker, $7 text[] names
WITH told AS (
    INSERT INTO queen.message_traces (message_id, partition_id, transaction_id, consumer_group, event_type, data, worker_id, created_at)
    SELECT m.id, m.partition_id, m.transaction_id, $4::text, $5::text, $3::jsonb, $6::text, clock_timestamp()
      FROM queen.messages m
     WHERE m.partition_id = $1::uuid AND m.transaction_id = $2::text
    RETURNING id),
named AS (
    INSERT INTO queen.message_trace_names (trace_id, trace_name)
    SELECT DISTINCT told.id, n.name FROM told CROSS JOIN unnest($7::text[]) n (name))
SELECT id FROM told;
