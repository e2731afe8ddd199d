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
-- INSERT finds it and updates it: by its key, for which it asks no planner, and in the
-- version that was locked, which this statement did not see when it began. It moves the
-- cursors of what was claimed, and with batch_size null those of what is drained. Messages
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
-- what its partition has, as arrays (found): times, ids, and in rough what the messages up
-- to each take together; and how many of these messages, the first ones, are left when the
-- request's want and its share by compressed size (wanted), twice $12 (near), its share
-- (own) and $12 (taken) are looked at. Each of these is a sum of positive numbers, of the
-- tries before (a window that ends one row before this; what is null counts nothing, and as
-- a float it is exact up to 2^53, and not a numeric) and of the first messages of this; so
-- what it leaves out is the end, of the request or of all, and width_bucket, which counts
-- how many of an ascending array are not above a limit, says how many are left. 1 for 0
-- there is the first message of a request or of the whole. A message more than wanted is
-- looked at, to know whether more is there.
--
-- A claim of one message costs what it takes to set up the plan: some 6 µs for each node of
-- it, whether it is needed or not, and 0.1 for each column of each. So j is a row in one
-- column, with what is asked for often and is never null in front; each thing is looked up
-- once, in an expression where that will do; a step's columns are in the order in which the
-- next one's window wants them (else there is a node to reorder them); and one INSERT does
-- for all. OFFSET 0 has each step done once, and ORDER BY tells the next one the order that
-- is there. A try that is alone in its request is judged by the messages that it would take,
-- the others by their first one (head_at), since of these there may be many.
--
-- The messages' other columns are read last, try by try in their order: nothing is sorted
-- with a payload in it. The order of the answer is that of a nested loop over what was
-- sorted, and in it that of the parts of UNION ALL; a window without ORDER BY numbers or adds up
-- what a LIMIT has put in order. created_at keeps the index from being read further than that.
--
-- per try, those of a request one after the other: $1 int4[] request, $2 uuid[] partition, or null and by name: $3 text[] queue, $4 text[] partition,
-- $5 text[] group, $6 int4[] want, $7 int4[] partitions, $8 bool[] auto, $9 text[] lease,
-- $10 bool[] wants to begin elsewhere, $11 bigint[] share: bytes of the request's messages at most;
-- $12 bigint bytes of all requests' messages at most
WITH free AS (
    SELECT t.o, t.request, t.grp, t.want, t.partitions, t.auto, t.elsewhere, t.share, t.ts, t.id, t.name, t.queue_name, t.lease_id, t.lease_time, t.delay, t.win, t.max_wait,
           t.first, t.alone, k.*,
           CASE WHEN k.cursor_at IS NULL AND k.retries IS NOT NULL AND t.grp <> '__QUEUE_MODE__' THEN (ARRAY(
                SELECT g.at
                  FROM (VALUES (1, t.queue_name, t.name), (2, t.queue_name, ''), (3, '', ''), (4, '', '*')) v (rank, queue, name)
                 CROSS JOIN LATERAL (
                       SELECT g.subscription_timestamp AS at
                         FROM queen.consumer_groups_metadata g
                        WHERE g.consumer_group = t.grp AND g.queue_name = v.queue AND g.partition_name = v.name
                          AND CASE v.rank WHEN 4 THEN g.namespace = '*' AND g.task = '*'
                                          WHEN 3 THEN (g.namespace <> '' OR g.task <> '') AND g.namespace IN ('', t.namespace) AND g.task IN ('', t.task)
                                          ELSE g.queue_name <> '' OR g.namespace = '' AND g.task = '' END
                       OFFSET 0) g
                 ORDER BY least(v.rank, 3), g.at))[1] END AS start
      FROM (SELECT u.o, u.request, u.grp, u.want, u.partitions, u.auto, u.elsewhere, u.share, (SELECT clock_timestamp()) AS ts, p.id, p.name, p.queue_name, p.namespace, p.task,
                   p.lease_time, p.delay, p.win, p.max_wait,
                   CASE WHEN u.partitions = 1 THEN left(u.lease, 28) || left(p.id::text, 8) ELSE u.lease END AS lease_id,
                   min(u.o) OVER (PARTITION BY p.id, u.grp) AS first,
                   u.partitions > 0 AND (u.request = ($1::int4[])[u.o::int - 1] OR u.request = ($1::int4[])[u.o::int + 1]) IS NOT TRUE AS alone
              FROM unnest((SELECT $1::int4[]), $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int4[], $7::int4[], $8::bool[], $9::text[], $10::bool[], $11::bigint[])
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
                   OFFSET 0) p ON true) t
      LEFT JOIN LATERAL (
           SELECT k.last_consumed_created_at AS cursor_at, k.last_consumed_id AS cursor_id, k.last_seq,
                  coalesce(k.batch_retry_count, 0) AS retries
             FROM queen.partition_consumers k
            WHERE k.partition_id = CASE WHEN t.first = t.o THEN t.id END AND k.consumer_group = t.grp
              AND (k.lease_expires_at IS NULL OR k.lease_expires_at <= t.ts OR k.worker_id = t.lease_id)
              FOR NO KEY UPDATE SKIP LOCKED) k ON true),
begun AS (
    SELECT f.o, f.request, f.first, f.ts, f.auto, f.alone, f.want, f.partitions, f.share, f.id,
           coalesce(greatest(f.cursor_at, f.start, f.ts - f.max_wait), '-infinity') AS after_at,
           CASE WHEN f.cursor_at >= greatest(f.cursor_at, f.start, f.ts - f.max_wait)
                THEN f.cursor_id ELSE '00000000-0000-0000-0000-000000000000' END AS after_id,
           f.elsewhere AND f.cursor_at IS NULL AND f.start IS NULL AND f.grp <> '__QUEUE_MODE__' AS lost,
           f.delay, f.lease_time, f.retries, f.last_seq, f.cursor_id, f.cursor_at, f.start, f.win, f.max_wait, f.grp, f.lease_id, f.queue_name, f.name
      FROM free f
     ORDER BY f.request, f.o OFFSET 0),
seen AS (
    SELECT b.*,
           CASE WHEN b.retries IS NOT NULL AND NOT b.alone THEN (
                SELECT m.created_at
                  FROM queen.messages m
                 WHERE m.partition_id = b.id AND (m.created_at, m.id) > (b.after_at, b.after_id)
                 ORDER BY m.created_at, m.id
                 LIMIT 1) END AS head_at,
           CASE WHEN b.retries IS NOT NULL AND b.win IS NOT NULL THEN (
                SELECT m.created_at + b.win
                  FROM queen.messages m
                 WHERE m.partition_id = b.id
                 ORDER BY m.created_at DESC, m.id DESC
                 LIMIT 1) END AS opens,
           CASE WHEN b.retries IS NULL AND b.first = b.o THEN (
                SELECT coalesce(k.lease_expires_at, '-infinity')
                  FROM queen.partition_consumers k
                 WHERE k.partition_id = b.id AND k.consumer_group = b.grp) END AS lease_end
      FROM begun b
     ORDER BY b.request, b.o OFFSET 0),
tried AS (
    SELECT s.*,
           CASE WHEN s.retries IS NULL THEN 0
                WHEN s.alone THEN CASE WHEN s.lost OR s.opens > s.ts THEN 1 ELSE s.want + 1 END
                WHEN NOT s.lost AND s.head_at + s.delay <= s.ts AND (s.opens > s.ts) IS NOT TRUE
                     AND count(*) FILTER (WHERE NOT s.lost AND s.head_at + s.delay <= s.ts AND (s.opens > s.ts) IS NOT TRUE) OVER w < s.partitions THEN s.want + 1
                ELSE 0 END AS look
      FROM seen s
    WINDOW w AS (PARTITION BY s.request ORDER BY s.o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
     ORDER BY s.request, s.o OFFSET 0),
found AS MATERIALIZED (
    SELECT j.request, j.o, j.share, j, coalesce(j.head_at, x.ats[1]) AS head_at, x.ats, x.ids, x.seqs, x.rough, x.largest,
           CASE WHEN j.look > 1 THEN width_bucket(j.ts - j.delay, x.ats) END AS due, j.want
      FROM tried j
     CROSS JOIN LATERAL (
           SELECT array_agg(m.rough) AS rough, max(m.size) AS largest, array_agg(m.created_at) AS ats, array_agg(m.id) AS ids, array_agg(m.seq) AS seqs
             FROM (SELECT m.created_at, m.id, m.seq, m.size, sum(512 + m.size) OVER (ROWS UNBOUNDED PRECEDING) AS rough
                     FROM (SELECT m.created_at, m.id, m.seq, pg_column_size(m.payload) AS size
                             FROM queen.messages m
                            WHERE m.partition_id = j.id AND (m.created_at, m.id) > (j.after_at, j.after_id)
                            ORDER BY m.created_at, m.id
                            LIMIT j.look) m) m
           OFFSET 0) x),
wanted AS (
    SELECT f.request, f.o, f.share, f.j, f.head_at, f.ats, f.ids, f.seqs, f.rough, f.largest,
           coalesce(sum(f.due) OVER w, 0) AS before,
           CASE WHEN f.due > 0
                THEN greatest(0, least(f.due, f.want - coalesce(sum(f.due) OVER w, 0),
                                       greatest(width_bucket(f.share - coalesce(sum(f.rough[cardinality(f.rough)]::float8) OVER w, 0)::bigint, f.rough),
                                                CASE WHEN sum(f.due) OVER w > 0 THEN 0 ELSE 1 END)))
                ELSE 0 END::int AS wanted
      FROM (SELECT * FROM found WHERE due > 0 ORDER BY request, o OFFSET 0) f
    WINDOW w AS (PARTITION BY f.request ORDER BY f.o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
     ORDER BY f.request, f.o OFFSET 0),
near AS (
    SELECT c.request, c.o, c.share, c.j, c.head_at, c.ats, c.ids, c.seqs, c.rough, c.largest, c.before, c.wanted,
           CASE WHEN c.wanted = 0 OR count(*) FILTER (WHERE c.wanted > 0 AND c.before = 0 AND c.rough[1] > 16512) OVER w
                                     + CASE WHEN c.before = 0 AND c.rough[1] > 16512 THEN 1 ELSE 0 END > 8 THEN 0
                WHEN coalesce(sum((c.rough[c.wanted] - 512 * c.wanted + CASE WHEN c.before = 0 THEN 3 * (c.rough[1] - 512) ELSE 0 END)::float8) OVER w, 0)
                     + c.rough[c.wanted] - 512 * c.wanted + CASE WHEN c.before = 0 THEN 3 * (c.rough[1] - 512) ELSE 0 END <= 2 * $12::bigint THEN c.wanted
                ELSE least(c.wanted, greatest(
                     width_bucket(2 * $12::bigint - CASE WHEN c.before = 0 THEN 3 * (c.rough[1] - 512) ELSE 0 END
                                  - coalesce(sum((c.rough[c.wanted] - 512 * c.wanted + CASE WHEN c.before = 0 THEN 3 * (c.rough[1] - 512) ELSE 0 END)::float8) OVER w, 0)::bigint,
                                  ARRAY(SELECT u.rough - 512 * u.i FROM unnest(c.rough) WITH ORDINALITY u (rough, i))),
                     CASE WHEN sum((c.rough[c.wanted] - 512 * c.wanted + CASE WHEN c.before = 0 THEN 3 * (c.rough[1] - 512) ELSE 0 END)::float8) OVER w > 0 THEN 0 ELSE 1 END)) END AS near
      FROM wanted c
    WINDOW w AS (ORDER BY c.request, c.o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
     ORDER BY c.request, c.o OFFSET 0),
measured AS (
    SELECT n.o, n.request, n.j, n.head_at, n.ats, n.ids, n.seqs, n.before, n.wanted, coalesce(y.bytes, n.rough) AS bytes, n.near, n.share
      FROM near n
     CROSS JOIN LATERAL (
           SELECT array_agg(m.bytes) AS bytes
             FROM (SELECT sum(512 + m.own) OVER (ROWS UNBOUNDED PRECEDING) AS bytes
                     FROM (SELECT CASE WHEN pg_column_size(m.payload) < 200 THEN pg_column_size(m.payload) ELSE octet_length(m.payload::text) END AS own
                             FROM queen.messages m
                            WHERE m.partition_id = (n.j).id AND (m.created_at, m.id) > ((n.j).after_at, (n.j).after_id) AND m.created_at <= n.ats[n.near]
                            ORDER BY m.created_at, m.id
                            LIMIT CASE WHEN n.largest < 200 THEN 0 ELSE n.near END) m) m
           OFFSET 0) y
     ORDER BY n.request, n.o OFFSET 0),
own AS (
    SELECT c.o, c.request, c.j, c.head_at, c.ats, c.ids, c.seqs, c.before, c.wanted, c.bytes,
           least(c.near, greatest(width_bucket(c.share - coalesce(sum(c.bytes[c.near]::float8) OVER w, 0)::bigint, c.bytes), CASE WHEN c.before > 0 THEN 0 ELSE 1 END)) AS own
      FROM measured c
    WINDOW w AS (PARTITION BY c.request ORDER BY c.o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
     ORDER BY c.request, c.o OFFSET 0),
taken AS (
    SELECT d.o, d.j, d.head_at, d.ats, d.ids, d.seqs, d.before, d.wanted, d.bytes,
           least(d.own, greatest(width_bucket($12::bigint - coalesce(sum(d.bytes[d.own]::float8) OVER w, 0)::bigint, d.bytes),
                                 CASE WHEN sum(d.bytes[d.own]::float8) OVER w > 0 THEN 0 ELSE 1 END)) AS n
      FROM own d
    WINDOW w AS (ORDER BY d.request, d.o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)),
tries AS MATERIALIZED (
    SELECT e.o, (e.j).first, (e.j).ts, (e.j).auto, (e.j).id AS partition_id, (e.j).after_at, (e.j).after_id, (e.j).lease_time, (e.j).retries, (e.j).last_seq,
           (e.j).cursor_id, (e.j).cursor_at, (e.j).start, (e.j).max_wait, (e.j).grp, (e.j).lease_id, (e.j).queue_name, (e.j).name, (e.j).lease_end,
           CASE WHEN (e.j).retries IS NULL THEN NULL
                WHEN (e.j).lost THEN 10
                WHEN e.head_at IS NULL THEN 2
                WHEN (e.j).opens > (e.j).ts THEN 9
                WHEN e.head_at + (e.j).delay > (e.j).ts THEN 4
                ELSE 1 END AS verdict,
           CASE WHEN (e.j).opens > (e.j).ts THEN (e.j).opens ELSE e.head_at + (e.j).delay END - (e.j).ts AS wait,
           CASE WHEN e.head_at IS NULL AND (e.j).retries IS NOT NULL THEN (SELECT h.seq FROM queen.partition_lookup h WHERE h.partition_id = (e.j).id) END AS head_seq,
           e.before, e.wanted, e.n, e.bytes[e.n] AS bytes, e.ats[e.n] AS created_at, e.ids[e.n] AS id, e.seqs[e.n] AS seq, cardinality(e.ats) > e.n AS followed
      FROM (SELECT d.o, d.j, d.head_at, d.ats, d.ids, d.seqs, d.before, d.wanted, d.bytes, d.n
              FROM taken d
             UNION ALL
            SELECT f.o, f.j, f.head_at, NULL::timestamptz[], NULL::uuid[], NULL::bigint[], 0::bigint, 0, NULL::bigint[], 0
              FROM found f
             WHERE (f.due > 0) IS NOT TRUE) e),
moved AS (
    INSERT INTO queen.partition_consumers AS q
           (partition_id, consumer_group, worker_id, lease_expires_at, lease_acquired_at, lease_end_created_at, lease_end_id, lease_end_seq,
            batch_size, last_consumed_created_at, last_consumed_id, last_seq, last_consumed_at, total_messages_consumed, total_batches_consumed)
    SELECT e.partition_id, e.grp, CASE WHEN NOT e.auto THEN e.lease_id END,
           CASE WHEN NOT e.auto THEN e.ts + e.lease_time END, CASE WHEN NOT e.auto THEN e.ts END,
           CASE WHEN NOT e.auto THEN e.created_at END, CASE WHEN NOT e.auto THEN e.id END, CASE WHEN NOT e.auto THEN e.seq END,
           CASE WHEN e.n = 0 THEN NULL WHEN e.auto THEN 0 ELSE e.n END,
           CASE WHEN e.auto AND e.n > 0 THEN e.created_at ELSE coalesce(e.cursor_at, z.created_at) END,
           CASE WHEN e.auto AND e.n > 0 THEN e.id WHEN e.cursor_at IS NULL THEN coalesce(z.id, '00000000-0000-0000-0000-000000000000') ELSE e.cursor_id END,
           greatest(e.last_seq, e.head_seq, z.seq, CASE WHEN e.auto AND e.n > 0 THEN e.seq END),
           e.ts, CASE WHEN e.auto AND e.n > 0 THEN e.n END, CASE WHEN e.auto THEN 1 END
      FROM tries e
      LEFT JOIN LATERAL (
           SELECT m.created_at, m.id, m.seq
             FROM queen.messages m
            WHERE m.partition_id = e.partition_id AND m.created_at < CASE WHEN e.cursor_at IS NULL AND NOT (e.auto AND e.n > 0) THEN e.start END
            ORDER BY m.created_at DESC, m.id DESC
            LIMIT 1) z ON true
     WHERE e.n > 0 OR e.verdict = 2 AND e.max_wait IS NULL AND (e.cursor_at IS NOT NULL AND e.last_seq < e.head_seq OR z.created_at IS NOT NULL)
        ON CONFLICT (partition_id, consumer_group) DO UPDATE
       SET last_consumed_created_at = excluded.last_consumed_created_at, last_consumed_id = excluded.last_consumed_id, last_seq = excluded.last_seq,
           worker_id = CASE WHEN excluded.batch_size IS NULL THEN q.worker_id ELSE excluded.worker_id END,
           lease_expires_at = CASE WHEN excluded.batch_size IS NULL THEN q.lease_expires_at ELSE excluded.lease_expires_at END,
           lease_acquired_at = CASE WHEN excluded.batch_size IS NULL THEN q.lease_acquired_at ELSE excluded.lease_acquired_at END,
           lease_end_created_at = CASE WHEN excluded.batch_size IS NULL THEN q.lease_end_created_at ELSE excluded.lease_end_created_at END,
           lease_end_id = CASE WHEN excluded.batch_size IS NULL THEN q.lease_end_id ELSE excluded.lease_end_id END,
           lease_end_seq = CASE WHEN excluded.batch_size IS NULL THEN q.lease_end_seq ELSE excluded.lease_end_seq END,
           batch_size = coalesce(excluded.batch_size, q.batch_size),
           acked_count = CASE WHEN excluded.batch_size IS NULL THEN q.acked_count ELSE 0 END,
           batch_retry_count = CASE WHEN excluded.total_messages_consumed IS NULL THEN q.batch_retry_count ELSE 0 END,
           last_consumed_at = CASE WHEN excluded.total_messages_consumed IS NULL THEN q.last_consumed_at ELSE excluded.last_consumed_at END,
           total_messages_consumed = CASE WHEN excluded.batch_size IS NULL THEN q.total_messages_consumed
                                          ELSE coalesce(q.total_messages_consumed, 0) + coalesce(excluded.total_messages_consumed, 0) END,
           total_batches_consumed = CASE WHEN excluded.batch_size IS NULL THEN q.total_batches_consumed
                                         ELSE coalesce(q.total_batches_consumed, 0) + coalesce(excluded.total_batches_consumed, 0) END)
SELECT e.o, a.*
  FROM (SELECT * FROM tries ORDER BY o OFFSET 0) e
 CROSS JOIN LATERAL (
       SELECT -2::bigint AS place,
              CASE WHEN e.partition_id IS NULL THEN 6 WHEN e.first <> e.o THEN 8 WHEN e.retries IS NOT NULL THEN 0
                   WHEN e.lease_end IS NULL THEN 7 WHEN e.lease_end > e.ts THEN 3 ELSE 5 END::bigint AS outcome,
              (1000000 * extract(epoch FROM CASE WHEN e.first <> e.o THEN make_interval(secs => e.first)
                                                 WHEN e.lease_end > '-infinity' THEN e.lease_end - e.ts END))::bigint AS wait,
              NULL::boolean AS more, NULL::bigint AS retries, e.partition_id AS id, e.queue_name::text AS name, e.name::text AS other,
              NULL::timestamptz AS created_at, NULL::uuid AS trace, NULL::text AS payload
        UNION ALL
       SELECT -1::bigint, CASE WHEN e.verdict <> 1 THEN e.verdict WHEN e.before = 0 AND e.wanted > 0 AND e.n = 0 THEN 11 ELSE 0 END::bigint,
              (1000000 * extract(epoch FROM e.wait))::bigint, NULL::boolean, e.retries::bigint, NULL::uuid, NULL::text, NULL::text, NULL::timestamptz, NULL::uuid, NULL::text
        WHERE e.retries IS NOT NULL
        UNION ALL
       SELECT 0::bigint, 1::bigint, (1000000 * extract(epoch FROM e.lease_time))::bigint, e.followed, e.bytes, NULL::uuid, NULL::text, NULL::text, NULL::timestamptz, NULL::uuid, NULL::text
        WHERE e.n > 0
        UNION ALL
       SELECT e.before + row_number() OVER (), NULL::bigint, NULL::bigint, NULL::boolean, NULL::bigint,
              m.id, m.transaction_id::text, m.producer_sub, m.created_at, m.trace_id, m.payload::text
         FROM (SELECT m.id, m.transaction_id, m.producer_sub, m.created_at, m.trace_id, m.payload
                 FROM queen.messages m
                WHERE m.partition_id = e.partition_id AND (m.created_at, m.id) > (e.after_at, e.after_id) AND m.created_at <= e.created_at
                ORDER BY m.created_at, m.id
                LIMIT e.n) m
       OFFSET 0) a;
