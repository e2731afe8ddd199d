-- ack, read 1 of 2: where the messages stand in their partitions' order. Always planned
-- anew, and one probe of the unique key per element whatever the planner thinks of the
-- table: a plan kept from when messages was small may read a whole partition for each.
-- $1 uuid[] partitions, $2 text[] transactions
SELECT u.o, m.created_at, m.id, m.seq
  FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY u (part, txn, o)
 CROSS JOIN LATERAL (SELECT n.created_at, n.id, n.seq
                       FROM queen.messages n
                      WHERE n.partition_id = u.part AND n.transaction_id = u.txn
                      LIMIT 1) m;
