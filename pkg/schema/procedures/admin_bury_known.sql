-- bury, when there is no such message: whether the group has buried it before.
-- $1 uuid partition, $2 text transaction, $3 text group
SELECT id
  FROM queen.dead_letter_queue
 WHERE partition_id = $1::uuid AND transaction_id = $2::text AND coalesce(consumer_group, '__QUEUE_MODE__') = $3::text
 LIMIT 1;
