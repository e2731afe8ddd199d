-- bury 3 of 4: the group's dead letter, with a copy of the message, unless it has one.
-- $1 uuid partition, $2 text transaction, $3 text group, $4 text error
INSERT INTO queen.dead_letter_queue (id, message_id, partition_id, consumer_group, error_message, retry_count,
                                     original_created_at, failed_at, transaction_id, trace_id, payload, is_encrypted, producer_sub)
SELECT gen_random_uuid(), m.id, m.partition_id, $3::text, $4::text, coalesce(c.batch_retry_count, 0),
       m.created_at, clock_timestamp(), m.transaction_id, m.trace_id, m.payload::text::json, coalesce(m.is_encrypted, false), m.producer_sub
  FROM queen.messages m
  LEFT JOIN queen.partition_consumers c ON c.partition_id = m.partition_id AND c.consumer_group = $3::text
 WHERE m.partition_id = $1::uuid AND m.transaction_id = $2::text
   AND NOT EXISTS (SELECT FROM queen.dead_letter_queue d
                    WHERE d.partition_id = m.partition_id AND d.message_id = m.id AND coalesce(d.consumer_group, '__QUEUE_MODE__') = $3::text);
