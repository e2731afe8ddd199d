-- clear: whether messages are left that are not beyond their partition's place.
-- $1 uuid[] partitions, $2 timestamptz[] and $3 uuid[] places
SELECT EXISTS (SELECT
                 FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) p (id, high_at, high_id)
                CROSS JOIN LATERAL (SELECT 1 FROM queen.messages o
                                     WHERE o.partition_id = p.id AND (o.created_at, o.id) <= (p.high_at, p.high_id)
                                     LIMIT 1) m);
