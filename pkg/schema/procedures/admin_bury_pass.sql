-- bury 4 of 4: the group's cursor passes the message, which is the next one.
-- $1 uuid partition, $2 text transaction, $3 text group
UPDATE queen.partition_consumers c
   SET last_consumed_id = m.id, last_consumed_created_at = m.created_at, last_seq = coalesce(m.seq, c.last_seq + 1),
       batch_retry_count = 0
  FROM queen.messages m
 WHERE c.partition_id = $1::uuid AND c.consumer_group = $3::text
   AND m.partition_id = $1::uuid AND m.transaction_id = $2::text;
