-- redrive: when the messages are put back, by the rule of push_insert, and into which
-- queue. The head is locked.
-- $1 uuid partition
SELECT greatest(clock_timestamp(), last_message_created_at + interval '1 microsecond'), queue_name
  FROM queen.partition_lookup
 WHERE partition_id = $1::uuid;
