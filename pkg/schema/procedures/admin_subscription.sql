-- subscription: changes where a group begins, wherever that is stored. The first row is
-- the timestamp and how many were changed; the others are the queues, null: many.
-- $1 text group, $2 timestamptz
WITH changed AS (
    UPDATE queen.consumer_groups_metadata
       SET subscription_timestamp = $2::timestamptz
     WHERE consumer_group = $1::text
    RETURNING CASE WHEN namespace = '' AND task = '' THEN queue_name END AS queue_name),
marks AS (
    DELETE FROM queen.consumer_watermarks WHERE consumer_group = $1::text)
SELECT a, b
  FROM (SELECT 0 AS o, to_char($2::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS a, (SELECT count(*) FROM changed)::text AS b
        UNION ALL
        SELECT DISTINCT 1, queue_name::text, '' FROM changed) x
 ORDER BY o, a COLLATE "C";
