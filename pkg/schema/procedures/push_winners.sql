-- push, after a duplicate: the messages that have these transactions already. Always
-- planned anew: a plan kept from when messages was small may read a whole partition
-- for each row. Messages whose partition is gone (a queue was deleted by SQL) are about to
-- go too, and what is pushed again is new.
-- $1 uuid[] partitions, $2 text[] transactions
SELECT u.o, m.id
  FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY u (part, txn, o)
  JOIN queen.partitions p ON p.id = u.part
  JOIN queen.messages m ON m.partition_id = u.part AND m.transaction_id = u.txn;
