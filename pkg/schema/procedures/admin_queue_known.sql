-- seek of which nothing came: whether there is such a queue. It may be one without partitions,
-- as idle ones are removed.
-- $1 text queue
SELECT id FROM queen.queues WHERE name = $1::text;
