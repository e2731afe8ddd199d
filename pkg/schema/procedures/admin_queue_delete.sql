-- queue delete 4 of 4: the queue goes, and by its foreign keys partitions, heads,
-- cursors, holes, dead letters and traces. Where groups begin
-- (consumer_groups_metadata) stays. The number of queues deleted is returned.
-- $1 text queue
WITH marks AS (
    DELETE FROM queen.consumer_watermarks WHERE queue_name = $1::text),
gone AS (
    DELETE FROM queen.queues WHERE name = $1::text RETURNING 1)
SELECT count(*) FROM gone;
