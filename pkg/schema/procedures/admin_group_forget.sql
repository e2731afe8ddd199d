-- group delete: where the group begins goes too; what it is told of a namespace stays while
-- it is forgotten in one queue. Returns the queues in which it began; null: in many.
-- $1 text group, $2 text queue (null: all)
WITH gone AS (
    DELETE FROM queen.consumer_groups_metadata
     WHERE consumer_group = $1::text AND ($2::text IS NULL OR queue_name = $2::text AND namespace = '' AND task = '')
    RETURNING queue_name, namespace, task)
SELECT DISTINCT CASE WHEN namespace = '' AND task = '' THEN queue_name::text END AS queue
  FROM gone
 ORDER BY queue;
