-- pop: looks at the partitions that each request tries, in its order, leases those
-- that have something for it (or, with auto, moves the cursor at once), and reads their
-- messages: at most `want` over all partitions of a request, and of those at most
-- `partitions`. The answer is in order of the tries. For each try: what it is (place -2),
-- what was found if its cursor is free (place -1), that it was claimed (place 0), and the
-- messages that were taken there (place 1, 2, … within the request). The later row's
-- outcome is the right one. What does not belong to a row is null:
-- try, place, outcome, wait, more, retries (place 0: how many bytes the messages there are), id of the partition or the message, name of the
-- queue or the transaction, name of the partition or the producer, created_at, trace, payload.
--
-- Outcomes: 0 not tried, others before it were enough · 1 claimed · 2 drained · 3 leased
-- · 4 not due yet · 5 its cursor is locked, or was taken this moment · 6 no such partition
-- · 7 the group has no cursor there · 8 an earlier try (named by wait) is for the same
-- cursor · 9 its window is open · 10 the group is new, wants to begin elsewhere than at
-- the beginning, and it is not written down where · 11 there is something, and what others
-- before it take is enough for one statement.
-- wait: microseconds; with 1 until the lease ends, with 3, 4 and 9 until it is worth while to
-- look again; with 8 so many seconds as the place of the earlier try.
--
-- Only partition_consumers is locked, and rows that others hold are left out, so that
-- nobody waits for anybody, in whatever order. What is locked is there, so that the
-- INSERTs find it and update it: by its key, for which they ask no planner, and in the
-- version that was locked, which this statement did not see when it began. Messages
-- are found by their order alone; nothing else has to know of them. (SELECT $1) keeps the planner from looking into the arrays; OFFSET 0 has it
-- look up each row by its key.
--
-- A group's cursor that is null stands at the beginning, or for others than the
-- queue's own consumers where consumer_groups_metadata says; it is moved there when
-- nothing is behind, and with a lease: what the lease holds is what lies between the two. The number of a drained cursor becomes the head's: what is
-- missing was deleted.
--
-- It comes after pop_plan, and joins nothing that a nested loop with a key does not do.
--
-- Bytes: a request takes no more than its share, and all together no more than $12; each in
-- its order, and one message whatever its size, of each request and of the whole. What is
-- beyond its share by what it takes in the table (compressed) is not read at all, nor is
-- what is beyond twice $12; there a request's first message, which no share bounds, is taken
-- for four times that, and no more than 8 that are large are looked at. The others are
-- measured by themselves, which is as much work as to deliver them. A request that gets nothing of
-- $12 takes no lease.
--
-- To look at a message costs more than to find it, so what decides has one row for each try:
-- what its partition has, as arrays (found), and how many of these messages, the first ones,
-- are left when the request's want and its share by compressed size (wanted), twice $12
-- (near), its share (own) and $12 (taken) are looked at: part is their number and their
-- bytes. Each of these is a sum of positive numbers, so what it leaves out is the end, of
-- the request or of all. Messages are added up one by one only where that has begun. The
-- try with before = 0 is the first of its request. A message more than wanted is looked at,
-- to know whether more is there.
-- j and x are rows in one column, since a column costs something at each step; OFFSET 0
-- has each step done once, and in the order that is there. The messages' other columns are
-- read last, try by try in their order: nothing is sorted with a payload in it, and the
-- order of the answer is that of a nested loop over what was sorted. until keeps the index
-- from being read further than that.
--
-- per try: $1 int4[] request, $2 uuid[] partition, or null and by name: $3 text[] queue, $4 text[] partition,
-- $5 text[] group, $6 int4[] want, $7 int4[] partitions, $8 bool[] auto, $9 text[] lease,
-- $10 bool[] wants to begin elsewhere, $11 bigint[] share: bytes of the request's messages at most;
-- $12 bigint bytes of all requests' messages at most
WITH t AS MATERIALIZED (
    SELECT u.o, u.request, u.grp, u.want, u.partitions, u.auto, u.elsewhere, u.share, c.ts, p.id, p.name, p.queue_name, p.namespace, p.task,
           p.lease_time, p.delay, p.win, p.max_wait,
           CASE WHEN u.partitions = 1 THEN left(u.lease, 28) || left(p.id::text, 8) ELSE u.lease END AS lease_id,
           min(u.o) OVER (PARTITION BY p.id, u.grp) AS first
      FROM (SELECT clock_timestamp() AS ts OFFSET 0) c
     CROSS JOIN unnest((SELECT $1::int4[]), $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int4[], $7::int4[], $8::bool[], $9::text[], $10::bool[], $11::bigint[])
           WITH ORDINALITY u (request, part, queue, name, grp, want, partitions, auto, lease, elsewhere, share, o)
      LEFT JOIN LATERAL (
           SELECT p.id, p.name, q.name AS queue_name, q.namespace, q.task,
                  make_interval(secs => CASE WHEN q.lease_time > 0 THEN q.lease_time ELSE 60 END) AS lease_time,
                  make_interval(secs => greatest(coalesce(q.delayed_processing, 0), 0)) AS delay,
                  CASE WHEN q.window_buffer > 0 THEN make_interval(secs => q.window_buffer) END AS win,
                  CASE WHEN q.max_wait_time_seconds > 0 THEN make_interval(secs => q.max_wait_time_seconds) END AS max_wait
             FROM queen.partitions p
            CROSS JOIN LATERAL (SELECT q.* FROM queen.queues q WHERE q.id = p.queue_id OFFSET 0) q
            WHERE p.id = coalesce(u.part, (SELECT n.id
                                             FROM queen.partitions n
                                            WHERE n.queue_id = (SELECT f.id FROM queen.queues f WHERE f.name = u.queue) AND n.name = u.name))
           OFFSET 0) p ON true),
free AS MATERIALIZED (
    SELECT t.o, t.request, t.grp, t.want, t.partitions, t.auto, t.elsewhere, t.share, t.ts, t.id, t.lease_id, t.lease_time, t.delay, t.win, t.max_wait,
           k.*, CASE WHEN k.cursor_at IS NULL AND t.grp <> '__QUEUE_MODE__' THEN
                coalesce((SELECT g.subscription_timestamp
                            FROM queen.consumer_groups_metadata g
                           WHERE g.consumer_group = t.grp AND g.queue_name = t.queue_name AND g.partition_name = t.name
                             AND (g.queue_name <> '' OR g.namespace = '' AND g.task = '')
                           ORDER BY g.subscription_timestamp
                           LIMIT 1),
                         (SELECT g.subscription_timestamp
                            FROM queen.consumer_groups_metadata g
                           WHERE g.consumer_group = t.grp AND g.queue_name = t.queue_name AND g.partition_name = ''
                             AND (g.queue_name <> '' OR g.namespace = '' AND g.task = '')
                           ORDER BY g.subscription_timestamp
                           LIMIT 1),
                         (SELECT g.subscription_timestamp
                            FROM queen.consumer_groups_metadata g
                           WHERE g.consumer_group = t.grp AND g.queue_name = ''
                             AND (g.partition_name = '' AND (g.namespace <> '' OR g.task <> '')
                                  AND g.namespace IN ('', t.namespace) AND g.task IN ('', t.task)
                                  OR g.partition_name = '*' AND g.namespace = '*' AND g.task = '*')
                           ORDER BY g.subscription_timestamp
                           LIMIT 1)) END AS start
      FROM t
     CROSS JOIN LATERAL (
           SELECT k.last_consumed_created_at AS cursor_at, k.last_consumed_id AS cursor_id, k.last_seq,
                  coalesce(k.batch_retry_count, 0) AS retries
             FROM queen.partition_consumers k
            WHERE k.partition_id = t.id AND k.consumer_group = t.grp
              AND (k.lease_expires_at IS NULL OR k.lease_expires_at <= t.ts OR k.worker_id = t.lease_id)
              FOR NO KEY UPDATE SKIP LOCKED) k
     WHERE t.first = t.o),
judged AS MATERIALIZED (
    SELECT v.*, row_number() OVER (PARTITION BY v.request, v.verdict ORDER BY v.o) AS rank
      FROM (SELECT f.*, b.after_at, b.after_id,
                   CASE WHEN f.elsewhere AND f.cursor_at IS NULL AND f.start IS NULL AND f.grp <> '__QUEUE_MODE__' THEN 10
                        WHEN h.created_at IS NULL THEN 2
                        WHEN n.created_at + f.win > f.ts THEN 9
                        WHEN h.created_at + f.delay > f.ts THEN 4
                        ELSE 1 END AS verdict,
                   CASE WHEN n.created_at + f.win > f.ts THEN n.created_at + f.win ELSE h.created_at + f.delay END - f.ts AS wait
              FROM free f
             CROSS JOIN LATERAL (
                   SELECT coalesce(greatest(f.cursor_at, f.start, f.ts - f.max_wait), '-infinity') AS after_at,
                          CASE WHEN f.cursor_at >= greatest(f.cursor_at, f.start, f.ts - f.max_wait)
                               THEN f.cursor_id ELSE '00000000-0000-0000-0000-000000000000' END AS after_id
                   OFFSET 0) b
              LEFT JOIN LATERAL (
                   SELECT m.created_at
                     FROM queen.messages m
                    WHERE m.partition_id = f.id AND (m.created_at, m.id) > (b.after_at, b.after_id)
                    ORDER BY m.created_at, m.id
                    LIMIT 1) h ON true
              LEFT JOIN LATERAL (
                   SELECT m.created_at
                     FROM queen.messages m
                    WHERE m.partition_id = f.id AND f.win IS NOT NULL
                    ORDER BY m.created_at DESC, m.id DESC
                    LIMIT 1) n ON true) v),
found AS (
    SELECT j.request, j.o, j.want, j.share, j, x, x.n, x.due, x.size
      FROM (SELECT request, o, want, share, id, grp, auto, lease_id, lease_time, ts, delay, after_at, after_id,
                   CASE WHEN cursor_at IS NULL AND NOT auto THEN start END AS begins
              FROM judged
             WHERE verdict = 1 AND rank <= partitions
             ORDER BY request, o OFFSET 0) j
     CROSS JOIN LATERAL (
           SELECT count(*) AS n, count(*) FILTER (WHERE m.created_at + j.delay <= j.ts) AS due, sum(m.size) AS size, max(m.size) AS largest,
                  array_agg(m.size) AS sizes, array_agg(m.created_at) AS ats, array_agg(m.id) AS ids, array_agg(m.seq) AS seqs
             FROM (SELECT m.created_at, m.id, m.seq, pg_column_size(m.payload) AS size
                     FROM queen.messages m
                    WHERE m.partition_id = j.id AND (m.created_at, m.id) > (j.after_at, j.after_id)
                    ORDER BY m.created_at, m.id
                    LIMIT j.want + 1) m
           OFFSET 0) x),
wanted AS (
    SELECT c.request, c.o, c.share, c.j, c.x, c.before,
           CASE WHEN c.rough <= c.share AND c.most >= c.n - 1
                THEN ARRAY[c.most, c.size - CASE WHEN c.most < c.n THEN (c.x).sizes[c.n] ELSE 0 END]
                ELSE (SELECT ARRAY[count(*), coalesce(sum(f.size), 0)]
                        FROM (SELECT u.i, u.size, sum(512 + u.size) OVER (ORDER BY u.i ROWS UNBOUNDED PRECEDING) AS rough
                                FROM unnest((c.x).sizes) WITH ORDINALITY u (size, i)) f
                       WHERE f.i <= c.most
                         AND (c.rough - 512 * c.n - c.size + f.rough <= c.share OR c.before = 0 AND f.i = 1)) END AS part
      FROM (SELECT b.*, least(b.due, b.want - b.before) AS most
              FROM (SELECT f.*, (sum(f.due) OVER w)::bigint - f.due AS before, (sum(512 * f.n + f.size) OVER w)::bigint AS rough
                      FROM found f
                    WINDOW w AS (PARTITION BY f.request ORDER BY f.o ROWS UNBOUNDED PRECEDING)) b) c
     ORDER BY c.request, c.o OFFSET 0),
near AS (
    SELECT d.request, d.o, d.share, d.j, d.x, d.before, d.part,
           CASE WHEN d.weights <= 2 * $12::bigint AND d.large <= 8 THEN d.part[1]
                ELSE (SELECT count(*)
                        FROM (SELECT u.i, sum(CASE WHEN u.i = 1 AND d.before = 0 THEN 4 * u.size ELSE u.size END)
                                          OVER (ORDER BY u.i ROWS UNBOUNDED PRECEDING) AS weights
                                FROM unnest((d.x).sizes) WITH ORDINALITY u (size, i)) f
                       WHERE f.i <= d.part[1]
                         AND (d.weights - d.weight + f.weights <= 2 * $12::bigint AND d.large <= 8 OR d.weights = d.weight AND f.i = 1)) END AS near
      FROM (SELECT c.*, (sum(c.weight) OVER w)::bigint AS weights, count(*) FILTER (WHERE c.before = 0 AND (c.x).sizes[1] > 16000) OVER w AS large
              FROM (SELECT r.*, r.part[2] + CASE WHEN r.before = 0 THEN 3 * (r.x).sizes[1] ELSE 0 END AS weight
                      FROM wanted r
                     WHERE r.part[1] > 0) c
            WINDOW w AS (ORDER BY c.request, c.o ROWS UNBOUNDED PRECEDING)) d
     ORDER BY d.request, d.o OFFSET 0),
own AS (
    SELECT d.request, d.o, d.j, d.x, d.before, d.owns,
           CASE WHEN d.bytes <= d.share THEN ARRAY[d.near, d.own]
                ELSE (SELECT ARRAY[count(*), coalesce(max(f.bytes), 0)]
                        FROM (SELECT u.i, sum(512 + u.own) OVER (ORDER BY u.i ROWS UNBOUNDED PRECEDING) AS bytes
                                FROM unnest(d.owns) WITH ORDINALITY u (own, i)) f
                       WHERE f.i <= d.near
                         AND (d.bytes - d.own + f.bytes <= d.share OR d.before = 0 AND f.i = 1)) END AS part
      FROM (SELECT c.*, (sum(c.own) OVER (PARTITION BY c.request ORDER BY c.o ROWS UNBOUNDED PRECEDING))::bigint AS bytes
              FROM (SELECT n.request, n.o, n.share, n.j, n.x, n.before, n.near, coalesce(y.owns, (n.x).sizes) AS owns,
                           512 * n.near + coalesce(y.own, CASE WHEN n.near > 0 THEN n.part[2] ELSE 0 END) AS own
                      FROM near n
                     CROSS JOIN LATERAL (
                           SELECT array_agg(m.own) AS owns, sum(m.own) AS own
                             FROM (SELECT CASE WHEN pg_column_size(m.payload) < 200 THEN pg_column_size(m.payload) ELSE octet_length(m.payload::text) END AS own
                                     FROM queen.messages m
                                    WHERE m.partition_id = (n.j).id AND (m.created_at, m.id) > ((n.j).after_at, (n.j).after_id)
                                      AND m.created_at <= (n.x).ats[n.near]
                                    ORDER BY m.created_at, m.id
                                    LIMIT CASE WHEN (n.x).largest < 200 AND n.near = n.part[1] THEN 0 ELSE n.near END) m
                           OFFSET 0) y
                     ORDER BY n.request, n.o OFFSET 0) c) d
     ORDER BY d.request, d.o OFFSET 0),
taken AS MATERIALIZED (
    SELECT e.o, e.j, e.x, e.before, e.part[1] AS n, e.part[2] AS bytes
      FROM (SELECT d.o, d.j, d.x, d.before,
                   CASE WHEN d.total <= $12::bigint THEN d.part
                        ELSE (SELECT ARRAY[count(*), coalesce(max(f.total), 0)]
                                FROM (SELECT u.i, sum(512 + u.own) OVER (ORDER BY u.i ROWS UNBOUNDED PRECEDING) AS total
                                        FROM unnest(d.owns) WITH ORDINALITY u (own, i)) f
                               WHERE f.i <= d.part[1]
                                 AND (d.total - d.part[2] + f.total <= $12::bigint OR d.total = d.part[2] AND f.i = 1)) END AS part
              FROM (SELECT c.*, (sum(c.part[2]) OVER (ORDER BY c.request, c.o ROWS UNBOUNDED PRECEDING))::bigint AS total
                      FROM own c) d
            OFFSET 0) e),
ends AS MATERIALIZED (
    SELECT e.o, (e.j).id AS partition_id, (e.j).grp, (e.j).auto, (e.j).lease_id, (e.j).lease_time, (e.j).ts, (e.j).after_at, (e.j).after_id, (e.j).begins,
           (e.x).ats[e.n] AS created_at, (e.x).ids[e.n] AS id, (e.x).seqs[e.n] AS seq, e.before, e.n, e.bytes, (e.x).n > e.n AS followed
      FROM taken e
     WHERE e.n > 0),
claimed AS (
    INSERT INTO queen.partition_consumers AS q
           (partition_id, consumer_group, worker_id, lease_expires_at, lease_acquired_at, lease_end_created_at, lease_end_id, lease_end_seq,
            batch_size, last_consumed_created_at, last_consumed_id, last_seq, last_consumed_at, total_messages_consumed, total_batches_consumed)
    SELECT e.partition_id, e.grp, CASE WHEN NOT e.auto THEN e.lease_id END,
           CASE WHEN NOT e.auto THEN e.ts + e.lease_time END, CASE WHEN NOT e.auto THEN e.ts END,
           CASE WHEN NOT e.auto THEN e.created_at END, CASE WHEN NOT e.auto THEN e.id END, CASE WHEN NOT e.auto THEN e.seq END,
           CASE WHEN e.auto THEN 0 ELSE e.n END, CASE WHEN e.auto THEN e.created_at ELSE z.created_at END,
           coalesce(CASE WHEN e.auto THEN e.id ELSE z.id END, '00000000-0000-0000-0000-000000000000'),
           coalesce(CASE WHEN e.auto THEN e.seq ELSE z.seq END, 0), e.ts, CASE WHEN e.auto THEN e.n END, CASE WHEN e.auto THEN 1 END
      FROM ends e
      LEFT JOIN LATERAL (
           SELECT m.created_at, m.id, m.seq
             FROM queen.messages m
            WHERE m.partition_id = e.partition_id AND m.created_at < e.begins
            ORDER BY m.created_at DESC, m.id DESC
            LIMIT 1) z ON true
        ON CONFLICT (partition_id, consumer_group) DO UPDATE
       SET worker_id = excluded.worker_id, lease_expires_at = excluded.lease_expires_at, lease_acquired_at = excluded.lease_acquired_at,
           lease_end_created_at = excluded.lease_end_created_at, lease_end_id = excluded.lease_end_id, lease_end_seq = excluded.lease_end_seq,
           batch_size = excluded.batch_size, acked_count = 0,
           batch_retry_count = CASE WHEN excluded.worker_id IS NULL THEN 0 ELSE q.batch_retry_count END,
           last_consumed_created_at = CASE WHEN excluded.worker_id IS NULL THEN excluded.last_consumed_created_at ELSE coalesce(q.last_consumed_created_at, excluded.last_consumed_created_at) END,
           last_consumed_id = CASE WHEN excluded.worker_id IS NULL OR q.last_consumed_created_at IS NULL THEN excluded.last_consumed_id ELSE q.last_consumed_id END,
           last_seq = CASE WHEN excluded.worker_id IS NULL OR q.last_consumed_created_at IS NULL THEN greatest(q.last_seq, excluded.last_seq) ELSE q.last_seq END,
           last_consumed_at = CASE WHEN excluded.worker_id IS NULL THEN excluded.last_consumed_at ELSE q.last_consumed_at END,
           total_messages_consumed = coalesce(q.total_messages_consumed, 0) + coalesce(excluded.total_messages_consumed, 0),
           total_batches_consumed = coalesce(q.total_batches_consumed, 0) + coalesce(excluded.total_batches_consumed, 0)),
moved AS (
    INSERT INTO queen.partition_consumers AS q (partition_id, consumer_group, last_consumed_created_at, last_consumed_id, last_seq)
    SELECT j.id, j.grp, coalesce(j.cursor_at, z.created_at), CASE WHEN j.cursor_at IS NULL THEN z.id ELSE j.cursor_id END,
           greatest(j.last_seq, l.seq, z.seq)
      FROM judged j
      LEFT JOIN LATERAL (SELECT h.seq FROM queen.partition_lookup h WHERE h.partition_id = j.id OFFSET 0) l ON true
      LEFT JOIN LATERAL (
           SELECT m.created_at, m.id, m.seq
             FROM queen.messages m
            WHERE m.partition_id = j.id AND j.cursor_at IS NULL AND j.start IS NOT NULL AND m.created_at < j.start
            ORDER BY m.created_at DESC, m.id DESC
            LIMIT 1) z ON true
     WHERE j.verdict = 2 AND j.max_wait IS NULL
       AND (j.cursor_at IS NOT NULL AND j.last_seq < l.seq OR z.created_at IS NOT NULL)
        ON CONFLICT (partition_id, consumer_group) DO UPDATE
       SET last_consumed_created_at = excluded.last_consumed_created_at, last_consumed_id = excluded.last_consumed_id, last_seq = excluded.last_seq),
answer AS (
    SELECT e.o AS try, e.before + 1 AS place, NULL::bigint AS outcome, NULL::interval AS wait, NULL::boolean AS more, NULL::bigint AS retries,
           NULL::uuid AS id, NULL::text AS name, NULL::text AS other, e.partition_id, e.after_at, e.after_id, e.created_at AS until, e.n
      FROM ends e
    UNION ALL
    SELECT t.o, -2,
           CASE WHEN t.id IS NULL THEN 6 WHEN t.first <> t.o THEN 8 WHEN t.o IN (SELECT o FROM free) THEN 0
                WHEN k.partition_id IS NULL THEN 7 WHEN k.lease_expires_at > t.ts THEN 3 ELSE 5 END,
           CASE WHEN t.first <> t.o THEN make_interval(secs => t.first) ELSE k.lease_expires_at - t.ts END,
           NULL, NULL, t.id, t.queue_name, t.name, NULL, NULL, NULL, NULL, NULL
      FROM t
      LEFT JOIN LATERAL (
           SELECT k.partition_id, k.lease_expires_at
             FROM queen.partition_consumers k
            WHERE k.partition_id = t.id AND k.consumer_group = t.grp AND t.first = t.o AND t.o NOT IN (SELECT o FROM free)
           OFFSET 0) k ON true
    UNION ALL
    SELECT j.o, -1, CASE WHEN j.verdict <> 1 THEN j.verdict WHEN j.o IN (SELECT o FROM taken WHERE before = 0 AND n = 0) THEN 11 ELSE 0 END, j.wait, NULL, j.retries, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
      FROM judged j
    UNION ALL
    SELECT e.o, 0, 1, e.lease_time, e.followed, e.bytes, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
      FROM ends e)
SELECT a.try, a.place + coalesce(m.nth - 1, 0), a.outcome, (1000000 * extract(epoch FROM a.wait))::bigint, a.more, a.retries,
       coalesce(m.id, a.id), coalesce(m.transaction_id, a.name), coalesce(m.producer_sub, a.other), m.created_at, m.trace_id, m.payload::text
  FROM (SELECT * FROM answer ORDER BY try, place OFFSET 0) a
  LEFT JOIN LATERAL (
       SELECT m.*, row_number() OVER (ORDER BY m.created_at, m.id) AS nth
         FROM (SELECT m.id, m.transaction_id, m.producer_sub, m.created_at, m.trace_id, m.payload
                 FROM queen.messages m
                WHERE m.partition_id = a.partition_id AND (m.created_at, m.id) > (a.after_at, a.after_id) AND m.created_at <= a.until
                ORDER BY m.created_at, m.id
                LIMIT a.n) m
       OFFSET 0) m ON true;
