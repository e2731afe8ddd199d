-- seek to a time, 1 of 2: where the group is stored to begin in this queue is that time
-- too, or a cursor that is put before the first message would begin there instead; a group
-- that begins somewhere by the queue's namespace and task gets a beginning in the queue. It
-- is not in the future: what comes into new partitions until then was not sought past. What
-- is known of an empty queue is known no more. Returns the time.
-- $1 text group, $2 text queue, $3 timestamptz
WITH stored AS (
    UPDATE queen.consumer_groups_metadata
       SET subscription_timestamp = least($3::timestamptz, clock_timestamp())
     WHERE consumer_group = $1::text AND queue_name = $2::text AND namespace = '' AND task = ''),
made AS (
    INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, subscription_mode, subscription_timestamp)
    SELECT $1::text, q.name, 'timestamp', least($3::timestamptz, clock_timestamp())
      FROM queen.queues q
     WHERE q.name = $2::text
       AND EXISTS (SELECT FROM queen.consumer_groups_metadata g
                    WHERE g.consumer_group = $1::text AND g.queue_name = ''
                      AND (g.partition_name = '' AND (g.namespace <> '' OR g.task <> '')
                           AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task)
                           OR g.partition_name = '*' AND g.namespace = '*' AND g.task = '*'))
        ON CONFLICT DO NOTHING),
marks AS (
    DELETE FROM queen.consumer_watermarks WHERE consumer_group = $1::text AND queue_name = $2::text)
SELECT to_char($3::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
