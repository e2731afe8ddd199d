-- bury 2 of 4: the message's queue, whether the group is past it, whether it is the very
-- next one that the group would read, and whether another group still has to read it. A
-- group that never consumed may begin later than at the first message: it has no next one.
-- One that is known in the queue and has not come to this partition still has to.
-- $1 uuid partition, $2 text transaction, $3 text group
SELECT h.queue_name,
       coalesce((m.created_at, m.id) <= (c.last_consumed_created_at, c.last_consumed_id), false),
       c.partition_id IS NOT NULL
           AND (c.last_consumed_created_at IS NOT NULL OR c.consumer_group = '__QUEUE_MODE__')
           AND NOT EXISTS (SELECT FROM queen.messages n
                            WHERE n.partition_id = $1::uuid AND (n.created_at, n.id) < (m.created_at, m.id)
                              AND (c.last_consumed_created_at IS NULL OR (n.created_at, n.id) > (c.last_consumed_created_at, c.last_consumed_id))),
       EXISTS (SELECT FROM queen.partition_consumers o
                WHERE o.partition_id = $1::uuid AND o.consumer_group <> $3::text
                  AND ((m.created_at, m.id) <= (o.last_consumed_created_at, o.last_consumed_id)) IS NOT TRUE)
           OR EXISTS (SELECT FROM (SELECT o.consumer_group
                                     FROM queen.partitions here
                                     JOIN queen.partitions p ON p.queue_id = here.queue_id
                                     JOIN queen.partition_consumers o ON o.partition_id = p.id
                                    WHERE here.id = $1::uuid
                                    UNION
                                   SELECT g.consumer_group
                                     FROM queen.consumer_groups_metadata g
                                     JOIN queen.queues q ON q.name = h.queue_name
                                    WHERE g.queue_name = q.name
                                       OR g.queue_name = '' AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task)
                                       OR g.queue_name = '' AND g.partition_name = '*' AND g.namespace = '*' AND g.task = '*') known
                       WHERE known.consumer_group <> $3::text
                         AND NOT EXISTS (SELECT FROM queen.partition_consumers o
                                          WHERE o.partition_id = $1::uuid AND o.consumer_group = known.consumer_group))
  FROM queen.messages m
  JOIN queen.partition_lookup h ON h.partition_id = m.partition_id
  LEFT JOIN queen.partition_consumers c ON c.partition_id = m.partition_id AND c.consumer_group = $3::text
 WHERE m.partition_id = $1::uuid AND m.transaction_id = $2::text
   FOR UPDATE OF m;
