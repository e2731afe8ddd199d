-- redrive: the messages of these transactions that are there, kept from retention. Always
-- planned anew: a plan from when messages was small may read the whole partition.
-- $1 uuid partition, $2 text[] transactions
SELECT m.transaction_id, m.id, to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
  FROM queen.messages m
 WHERE m.partition_id = $1::uuid AND m.transaction_id = ANY ($2::text[])
   FOR UPDATE;
