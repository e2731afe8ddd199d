-- check, only where no unique index forbids it: transactions that have several messages
-- in one of these partitions.
-- $1 uuid[] partitions, $2 int4 rows at most
SELECT m.partition_id, m.transaction_id, count(*)
  FROM queen.messages m
 WHERE m.partition_id = ANY ($1::uuid[])
 GROUP BY m.partition_id, m.transaction_id
HAVING count(*) > 1
 LIMIT $2::int;
