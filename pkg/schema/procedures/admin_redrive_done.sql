-- redrive: the dead letters of the messages that are put back go, those of all groups.
-- $1 uuid partition, $2 text[] transactions, $3 uuid[] messages
DELETE FROM queen.dead_letter_queue
 WHERE partition_id = $1::uuid AND (transaction_id = ANY ($2::text[]) OR message_id = ANY ($3::uuid[]));
