-- watch: where a new group begins in a queue, unless that is known already.
-- $1 text queue, $2 text group, $3 text mode, $4 timestamptz from (null: now)
INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, subscription_mode, subscription_timestamp)
SELECT $2::text, $1::text, $3::text, coalesce($4::timestamptz, clock_timestamp())
 WHERE NOT EXISTS (SELECT FROM queen.consumer_groups_metadata m
                    WHERE m.consumer_group = $2::text AND m.queue_name = $1::text
                      AND m.partition_name = '' AND m.namespace = '' AND m.task = '')
    ON CONFLICT DO NOTHING;
