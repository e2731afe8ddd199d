-- ack, read 1 of 2, where each group is likely to acknowledge what it was given last and all of
-- it: that many messages behind its cursor, with their transactions. Next to each
-- other as they are, they cost a fraction of what ack_messages does for them. If some of
-- what is sought is not among them, ack_messages is asked.
-- $1 uuid[] partitions, $2 text[] groups, $3 int4[] messages
SELECT u.o, m.created_at, m.id, m.seq, m.transaction_id
  FROM unnest($1::uuid[], $2::text[], $3::int4[]) WITH ORDINALITY u (part, grp, n, o)
 CROSS JOIN LATERAL (SELECT coalesce(x.last_consumed_created_at, '-infinity') AS at,
                            coalesce(x.last_consumed_id, '00000000-0000-0000-0000-000000000000') AS id
                       FROM queen.partition_consumers x
                      WHERE x.partition_id = u.part AND x.consumer_group = u.grp
                     OFFSET 0) c
 CROSS JOIN LATERAL (SELECT n.created_at, n.id, n.seq, n.transaction_id
                       FROM queen.messages n
                      WHERE n.partition_id = u.part AND (n.created_at, n.id) > (c.at, c.id)
                      ORDER BY n.created_at, n.id
                      LIMIT u.n) m;
