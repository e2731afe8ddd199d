-- seek to a time, 1 of 2: where the group is stored to begin in this queue is that time
-- too, or a cursor that is put before the first message would begin there instead. What
-- is known of an empty queue is known no more. Returns the time.
-- $1 text group, $2 text queue, $3 timestamptz
WITH stored AS (
    UPDATE queen.consumer_groups_metadata
       SET subscription_timestamp = $3::timestamptz
     WHERE consumer_group = $1::text AND queue_name = $2::text),
marks AS (
    DELETE FROM queen.consumer_watermarks WHERE consumer_group = $1::text AND queue_name = $2::text)
SELECT to_char($3::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
