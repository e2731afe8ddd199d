-- watch: a slice of a queue's partitions, in the order of their ids: those in which a
-- group has messages to come, the longest pending first, and for how many ms more they
-- are leased. OFFSET 0 keeps the planner from hashing all cursors there are. A group that
-- has read nothing of a partition begins where it is written down: for the partition, else for
-- the queue, else for queues of its namespace and task; of all that may be meant the earliest
-- counts here, the claim is exact. The last row (partition null) tells the last partition
-- looked at, if there are more.
-- $1 text queue, $2 text group, $3 uuid after, $4 int4 partitions
WITH slice AS MATERIALIZED (
    SELECT l.partition_id, l.last_message_created_at AS at, l.last_message_id AS id
      FROM queen.partition_lookup l
     WHERE l.queue_name = $1::text AND l.partition_id > $3::uuid
     ORDER BY l.partition_id
     LIMIT $4::int4),
start AS MATERIALIZED (
    SELECT CASE WHEN $2::text = '__QUEUE_MODE__' THEN '-infinity'
                ELSE least(min(m.subscription_timestamp) FILTER (WHERE m.partition_name <> '' AND m.rank = 1),
                           coalesce(min(m.subscription_timestamp) FILTER (WHERE m.partition_name = '' AND m.rank = 1),
                                    min(m.subscription_timestamp) FILTER (WHERE m.rank = 2), '-infinity')) END AS at
      FROM (SELECT g.partition_name, g.subscription_timestamp,
                   CASE WHEN g.queue_name = $1::text AND g.namespace = '' AND g.task = '' THEN 1
                        WHEN g.partition_name = '' AND (g.namespace <> '' OR g.task <> '') AND g.namespace IN ('', q.namespace) AND g.task IN ('', q.task) THEN 2
                        WHEN g.partition_name = '*' AND g.namespace = '*' AND g.task = '*' THEN 2 END AS rank
              FROM queen.consumer_groups_metadata g
              LEFT JOIN queen.queues q ON q.name = $1::text
             WHERE g.consumer_group = $2::text AND g.queue_name IN ($1::text, '')) m),
behind AS MATERIALIZED (
    SELECT s.partition_id, c.lease_expires_at, coalesce(c.at, (SELECT at FROM start)) AS at,
           coalesce(c.id, '00000000-0000-0000-0000-000000000000') AS id
      FROM slice s
      LEFT JOIN LATERAL (
        SELECT k.last_consumed_created_at AS at, k.last_consumed_id AS id, k.lease_expires_at
          FROM queen.partition_consumers k
         WHERE k.partition_id = s.partition_id AND k.consumer_group = $2::text
        OFFSET 0) c ON true
     WHERE CASE WHEN c.at IS NULL THEN s.at > '-infinity' AND s.at >= (SELECT at FROM start)
                ELSE (s.at, s.id) > (c.at, c.id) END)
SELECT partition_id, leased, last
  FROM (SELECT b.partition_id,
               CASE WHEN b.lease_expires_at > clock_timestamp() THEN (1000 * extract(epoch FROM b.lease_expires_at - clock_timestamp()))::bigint ELSE 0::bigint END AS leased,
               NULL::uuid AS last, greatest(f.created_at, b.lease_expires_at) AS since
          FROM behind b
         CROSS JOIN LATERAL (
               SELECT m.created_at
                 FROM queen.messages m
                WHERE m.partition_id = b.partition_id AND (m.created_at, m.id) > (b.at, b.id)
                ORDER BY m.created_at, m.id
                LIMIT 1) f
        UNION ALL
        SELECT NULL, NULL, (SELECT partition_id FROM slice ORDER BY partition_id DESC LIMIT 1), 'infinity'
         WHERE (SELECT count(*) FROM slice) = $4::int4) r
 ORDER BY since;
