-- transaction: the group rows that its acks need and that were not there. One that is
-- there by now is left as it is, and transaction_write finds that it was not read. In one
-- order, so that two transactions cannot wait for each other.
-- $1 uuid[] partitions, $2 text[] groups
INSERT INTO queen.partition_consumers (partition_id, consumer_group)
SELECT u.part, u.grp
  FROM unnest($1::uuid[], $2::text[]) u (part, grp)
 ORDER BY u.part, u.grp COLLATE "C"
    ON CONFLICT DO NOTHING;
