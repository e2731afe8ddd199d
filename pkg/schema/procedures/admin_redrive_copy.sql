-- redrive: gives the dead letters of a partition their copies, where Queen wrote them
-- and the migration has not come by. Mostly there are none.
-- $1 uuid partition
UPDATE queen.dead_letter_queue d
   SET transaction_id = m.transaction_id, trace_id = m.trace_id, payload = m.payload::text::json,
       is_encrypted = coalesce(m.is_encrypted, false), producer_sub = m.producer_sub
  FROM queen.messages m
 WHERE d.partition_id = $1::uuid AND d.transaction_id IS NULL
   AND m.partition_id = $1::uuid AND m.created_at = d.original_created_at AND m.id = d.message_id;
