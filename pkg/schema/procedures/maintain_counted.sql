-- maintain, counts 1 of 5: of the next heads those whose numbers do not say how many
-- messages there are, because somebody deleted some by SQL. As many heads as promise so
-- many messages are answered, so that the next slice can begin after the last; those that
-- a take-over has not numbered yet, and very long ones, are left alone.
-- $1 uuid the partition before the slice, $2 int4 heads in a slice, $3 int8 messages in a
-- slice, $4 int8 messages of one partition at most
WITH slice AS MATERIALIZED (
    SELECT x.*
      FROM (SELECT l.*, sum(l.n) OVER (ORDER BY l.partition_id) - l.n AS ahead
              FROM (SELECT h.partition_id, h.seq, h.tail_seq, h.last_message_created_at AS at, h.last_message_id AS id,
                           coalesce(h.seq - h.tail_seq, 0) AS n
                      FROM queen.partition_lookup h
                     WHERE h.partition_id > $1::uuid
                     ORDER BY h.partition_id
                     LIMIT $2::int) l) x
     WHERE x.ahead < $3::bigint)
SELECT s.partition_id,
       CASE WHEN s.n NOT BETWEEN 1 AND $4::bigint OR EXISTS (SELECT FROM queen.unnumbered u WHERE u.partition_id = s.partition_id) THEN false
            ELSE s.n <> (SELECT count(*) FROM queen.message_holes o
                          WHERE o.partition_id = s.partition_id AND o.seq > s.tail_seq AND o.seq <= s.seq)
                      + (SELECT count(*) FROM queen.messages m
                          WHERE m.partition_id = s.partition_id AND (m.created_at, m.id) <= (s.at, s.id))
       END
  FROM slice s
 ORDER BY s.partition_id;
