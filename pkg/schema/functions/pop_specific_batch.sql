-- signature: queen.pop_specific_batch(jsonb)
-- The pop of one named partition for users of SQL. requests is an array of objects with
-- the keys idx, queue_name, partition_name, consumer_group, lease_seconds,
-- worker_id, batch_size, sub_mode and sub_from; the answer has one element
-- {"idx", "result"} per request. A result with messages holds a lease that is as
-- good as one taken over HTTP: worker_id is its id (made here when it is missing).
--
-- A payload that jsonb cannot hold (it has \u0000) is given as a string of its JSON.
CREATE OR REPLACE FUNCTION queen.pop_specific_batch(requests jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $queend$
-- queend
DECLARE
    zero   constant uuid := '00000000-0000-0000-0000-000000000000';
    r      record;
    place  record;    -- queue and partition
    reader record;    -- cursor and lease
    mode   text;           -- how this group wants to begin, if it is new
    began  timestamptz;    -- messages before it are none of this group's
    moment timestamptz;
    lease  text;
    found_n integer;
    end_at  timestamptz;   -- the last message delivered
    end_id  uuid;
    end_seq bigint;
    list   jsonb;
    one    jsonb;
    answer jsonb := '[]';
BEGIN
    FOR r IN
        SELECT coalesce((e.item ->> 'idx')::integer, e.n::integer - 1) AS idx, e.item ->> 'queue_name' AS queue, e.item ->> 'partition_name' AS part,
               coalesce(nullif(e.item ->> 'consumer_group', ''), '__QUEUE_MODE__') AS grp, nullif((e.item ->> 'lease_seconds')::integer, 0) AS seconds,
               nullif(e.item ->> 'worker_id', '') AS worker, coalesce((e.item ->> 'batch_size')::integer, 1) AS size,
               coalesce(e.item ->> 'sub_mode', '') AS sub_mode, coalesce(e.item ->> 'sub_from', '') AS sub_from
          FROM jsonb_array_elements(requests) WITH ORDINALITY e (item, n) ORDER BY e.n
    LOOP
        moment := clock_timestamp();
        SELECT q.name AS queue, q.namespace, q.task, q.lease_time, q.delayed_processing, q.window_buffer, q.max_wait_time_seconds, p.id, p.name AS part, p.queue_id, l.last_message_created_at AS newest
          INTO place
          FROM queen.queues q JOIN queen.partitions p ON p.queue_id = q.id LEFT JOIN queen.partition_lookup l ON l.partition_id = p.id
         WHERE q.name = r.queue AND p.name = r.part;
        IF NOT FOUND THEN
            answer := answer || jsonb_build_object('idx', r.idx, 'result', jsonb_build_object('success', false, 'error', 'partition_not_found', 'messages', '[]'::jsonb));
            CONTINUE;
        END IF;
        one := jsonb_build_object('success', true, 'queue', place.queue, 'partition', place.part, 'partitionId', place.id,
                                  'consumerGroup', r.grp, 'leaseId', '', 'messages', '[]'::jsonb);
        IF coalesce(place.window_buffer, 0) > 0 AND place.newest > moment - place.window_buffer * interval '1 second' THEN
            answer := answer || jsonb_build_object('idx', r.idx, 'result', one || '{"windowBufferActive": true}');
            CONTINUE;
        END IF;

        INSERT INTO queen.partition_consumers (partition_id, consumer_group) VALUES (place.id, r.grp) ON CONFLICT (partition_id, consumer_group) DO NOTHING;
        SELECT c.last_consumed_created_at AS at, c.last_consumed_id AS id, c.lease_expires_at > moment AS leased INTO reader
          FROM queen.partition_consumers c WHERE c.partition_id = place.id AND c.consumer_group = r.grp FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND OR reader.leased THEN
            answer := answer || jsonb_build_object('idx', r.idx, 'result', jsonb_build_object('success', false, 'error', 'lease_held', 'messages', '[]'::jsonb));
            CONTINUE;
        END IF;

        -- Where a group begins that never read here: where it did in this partition, in the
        -- queue, or in the queues that this one is of; else where it wants to.
        began := NULL;
        IF reader.at IS NULL AND r.grp <> '__QUEUE_MODE__' THEN
            SELECT g.subscription_timestamp INTO began
              FROM (SELECT m.*, CASE WHEN m.queue_name <> '' OR m.namespace = '' AND m.task = '' THEN CASE WHEN m.partition_name = place.part THEN 1 ELSE 2 END ELSE 3 END AS rank
                      FROM queen.consumer_groups_metadata m WHERE m.consumer_group = r.grp) g
             WHERE g.rank < 3 AND g.queue_name = place.queue AND g.partition_name IN ('', place.part)
                OR g.rank = 3 AND g.partition_name = '' AND g.namespace IN ('', place.namespace) AND g.task IN ('', place.task)
                OR g.rank = 3 AND g.partition_name = '*' AND g.namespace = '*' AND g.task = '*'
             ORDER BY g.rank, g.subscription_timestamp LIMIT 1;
            IF NOT FOUND THEN
                mode := CASE WHEN r.sub_from = 'now' OR r.sub_mode IN ('new', 'new-only') THEN 'new' END;
                IF r.sub_from NOT IN ('', 'now') THEN
                    BEGIN
                        began := r.sub_from::timestamptz;
                        IF isfinite(began) THEN
                            mode := 'timestamp';
                        END IF;
                    EXCEPTION WHEN data_exception THEN
                        NULL;    -- no time: as if it were not there
                    END;
                END IF;
                IF mode IS DISTINCT FROM 'timestamp' THEN
                    began := CASE WHEN mode = 'new' THEN moment END;
                END IF;
                IF mode IS NOT NULL THEN
                    INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, subscription_mode, subscription_timestamp)
                    VALUES (r.grp, place.queue, place.part, mode, began) ON CONFLICT DO NOTHING;
                END IF;
            END IF;
        END IF;

        SELECT count(*), jsonb_agg(jsonb_build_object('id', m.id, 'transactionId', m.transaction_id, 'traceId', m.trace_id, 'producerSub', m.producer_sub,
                   'data', queen.payload_jsonb(m.payload::text),
                   'createdAt', to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) ORDER BY m.created_at, m.id),
               (array_agg(m.created_at ORDER BY m.created_at DESC, m.id DESC))[1], (array_agg(m.id ORDER BY m.created_at DESC, m.id DESC))[1],
               (array_agg(m.seq ORDER BY m.created_at DESC, m.id DESC))[1]
          INTO found_n, list, end_at, end_id, end_seq
          FROM (SELECT * FROM queen.messages o
                 WHERE o.partition_id = place.id
                   AND (o.created_at, o.id) > (coalesce(reader.at, '-infinity'), coalesce(reader.id, zero))
                   AND (began IS NULL OR o.created_at >= began)
                   AND (coalesce(place.delayed_processing, 0) <= 0 OR o.created_at <= moment - place.delayed_processing * interval '1 second')
                   AND (coalesce(place.max_wait_time_seconds, 0) <= 0 OR o.created_at > moment - place.max_wait_time_seconds * interval '1 second')
                 ORDER BY o.created_at, o.id LIMIT r.size) m;

        IF found_n > 0 THEN
            lease := coalesce(r.worker, queen.uuid_v7()::text);
            UPDATE queen.partition_consumers c
               SET lease_expires_at = moment + coalesce(r.seconds, nullif(place.lease_time, 0), 60) * interval '1 second',
                   lease_acquired_at = moment, worker_id = lease, batch_size = found_n, acked_count = 0,
                   lease_end_created_at = end_at, lease_end_id = end_id, lease_end_seq = end_seq
             WHERE c.partition_id = place.id AND c.consumer_group = r.grp;
            one := one || jsonb_build_object('leaseId', lease, 'messages', list);
        END IF;
        IF began IS NOT NULL THEN
            -- What was there before the group began is passed, so that nobody looks again.
            UPDATE queen.partition_consumers c
               SET last_consumed_created_at = m.created_at, last_consumed_id = m.id, last_seq = greatest(c.last_seq, coalesce(m.seq, 0))
              FROM (SELECT o.created_at, o.id, o.seq FROM queen.messages o WHERE o.partition_id = place.id AND o.created_at < began
                     ORDER BY o.created_at DESC, o.id DESC LIMIT 1) m
             WHERE c.partition_id = place.id AND c.consumer_group = r.grp;
        END IF;
        answer := answer || jsonb_build_object('idx', r.idx, 'result', one);
    END LOOP;
    RETURN answer;
END
$queend$;
