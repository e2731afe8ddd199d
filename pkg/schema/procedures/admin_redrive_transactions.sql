-- redrive: the transactions of dead messages; those that are dead no more, or have no
-- copy, are left out.
-- $1 uuid partition, $2 uuid[] messages
SELECT DISTINCT transaction_id
  FROM queen.dead_letter_queue
 WHERE partition_id = $1::uuid AND message_id = ANY ($2::uuid[]) AND transaction_id IS NOT NULL;
