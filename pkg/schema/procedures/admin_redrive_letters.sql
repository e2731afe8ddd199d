-- redrive: the newest dead letter of each transaction that has a copy of its message.
-- $1 uuid partition, $2 text[] transactions
SELECT DISTINCT ON (transaction_id)
       transaction_id, message_id, to_char(original_created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), id
  FROM queen.dead_letter_queue
 WHERE partition_id = $1::uuid AND transaction_id = ANY ($2::text[]) AND payload IS NOT NULL
 ORDER BY transaction_id, failed_at DESC, id;
