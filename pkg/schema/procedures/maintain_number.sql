-- maintain, reconcile 4 of 6: the messages beyond each locked head get the numbers after
-- it, and the head moves to the last of them. A head that is not counted yet (seq is
-- null) moves, and the count comes later. The answer says where each head stood.
-- $1 uuid[] partitions, $2 int4 messages at most in each
WITH late AS MATERIALIZED (
    SELECT l.partition_id, m.tid, m.created_at, m.id, l.last_message_created_at AS old_at, l.last_message_id AS old_id,
           l.seq + row_number() OVER (PARTITION BY l.partition_id ORDER BY m.created_at, m.id) AS n
      FROM queen.partition_lookup l
     CROSS JOIN LATERAL (SELECT o.ctid AS tid, o.created_at, o.id
                           FROM queen.messages o
                          WHERE o.partition_id = l.partition_id
                            AND (o.created_at, o.id) > (l.last_message_created_at, l.last_message_id)
                          ORDER BY o.created_at, o.id
                          LIMIT $2::int) m
     WHERE l.partition_id = ANY ($1::uuid[])),
numbered AS (
    UPDATE queen.messages q
       SET seq = late.n
      FROM late
     WHERE q.ctid = late.tid),
newest AS (
    SELECT DISTINCT ON (late.partition_id) late.*, count(*) OVER (PARTITION BY late.partition_id) AS k
      FROM late
     ORDER BY late.partition_id, late.created_at DESC, late.id DESC)
UPDATE queen.partition_lookup l
   SET seq = newest.n, last_message_created_at = newest.created_at, last_message_id = newest.id, updated_at = clock_timestamp()
  FROM newest
 WHERE l.partition_id = newest.partition_id
RETURNING l.queue_name, l.partition_id, newest.k, newest.old_at, newest.old_id;
