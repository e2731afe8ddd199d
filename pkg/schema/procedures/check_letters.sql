-- check: a slice of dead letters, and whether the message of each can be read: from its
-- copy or, where a take-over has made none yet, from the message.
-- $1 uuid and $2 uuid partition and id before the slice, $3 int4 rows in a slice
WITH slice AS MATERIALIZED (
    SELECT d.partition_id, d.id, d.message_id, d.consumer_group, d.original_created_at, d.payload IS NOT NULL AS kept
      FROM queen.dead_letter_queue d
     WHERE (d.partition_id, d.id) > ($1::uuid, $2::uuid)
     ORDER BY d.partition_id, d.id
     LIMIT $3::int)
SELECT s.partition_id, s.id, q.name, p.name, coalesce(s.consumer_group, ''), s.message_id,
       CASE WHEN s.kept THEN true
            WHEN EXISTS (SELECT FROM queen.messages m WHERE m.partition_id = s.partition_id AND m.created_at = s.original_created_at AND m.id = s.message_id) THEN true
            ELSE EXISTS (SELECT FROM queen.messages m WHERE m.partition_id = s.partition_id AND m.id = s.message_id)
       END
  FROM slice s
  LEFT JOIN queen.partitions p ON p.id = s.partition_id
  LEFT JOIN queen.queues q ON q.id = p.queue_id
 ORDER BY s.partition_id, s.id;
