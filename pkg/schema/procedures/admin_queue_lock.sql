-- queue delete 2 of 4: locks the queue. From here on nobody makes a partition of it.
-- $1 text queue
SELECT id FROM queen.queues WHERE name = $1::text FOR UPDATE;
