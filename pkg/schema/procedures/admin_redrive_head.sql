-- redrive: moves the head, as push_insert does.
-- $1 uuid partition, $2 timestamptz when, $3 int4 messages, $4 uuid the last one's id
UPDATE queen.partition_lookup
   SET seq = seq + $3::integer, last_message_id = $4::uuid, last_message_created_at = $2::timestamptz, updated_at = $2::timestamptz
 WHERE partition_id = $1::uuid;
