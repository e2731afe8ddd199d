-- groups: locks the cursors of a group, in one global order.
-- $1 text group, $2 text queue (null: all)
WITH held AS MATERIALIZED (
    SELECT 1
      FROM queen.partition_consumers c
      JOIN queen.partitions p ON p.id = c.partition_id
      JOIN queen.queues q ON q.id = p.queue_id
     WHERE c.consumer_group = $1::text AND ($2::text IS NULL OR q.name = $2::text)
     ORDER BY c.partition_id
       FOR UPDATE OF c)
SELECT count(*) FROM held;
