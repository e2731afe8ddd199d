-- redrive: the dead letters of the messages that are put back go, those of all groups. One of
-- another message of the same transaction stays: it may hold the only copy.
-- $1 uuid partition, $2 uuid[] messages
DELETE FROM queen.dead_letter_queue
 WHERE partition_id = $1::uuid AND message_id = ANY ($2::uuid[]);
