-- group delete: the group's cursors and leases go, and its watermarks. Returns how many
-- cursors, by queue.
-- $1 text group, $2 text queue (null: all)
WITH marks AS (
    DELETE FROM queen.consumer_watermarks
     WHERE consumer_group = $1::text AND ($2::text IS NULL OR queue_name = $2::text)),
gone AS (
    DELETE FROM queen.partition_consumers c
     USING queen.partitions p, queen.queues q
     WHERE p.id = c.partition_id AND q.id = p.queue_id
       AND c.consumer_group = $1::text AND ($2::text IS NULL OR q.name = $2::text)
    RETURNING q.name)
SELECT name, count(*) FROM gone GROUP BY name ORDER BY name COLLATE "C";
