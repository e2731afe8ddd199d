-- ack, write: as ack_write, with dead letters. Each is the message's own copy, made if its
-- row was written. The payload goes by its text: Queen's column of messages is jsonb.
-- It is a statement of its own since dead letters are rare, and planned anew.
-- Per (partition, group): $1 uuid[] partition, $2 text[] group; what was read: $3 timestamptz[]
-- and $4 uuid[] cursor, $5 text[] worker, $6 timestamptz[] end of the lease, $7 int4[] acked,
-- $8 int4[] retries, $9 bool[] the lease must live still; what to write: $10 timestamptz[]
-- and $11 uuid[] cursor, $12 int8[] its number, $13 bool[] the lease ends, $14 int4[] acked,
-- $15 int4[] retries, $16 int4[] messages and $17 int4[] batches more consumed;
-- per dead letter: $18 uuid[] partition, $19 text[] group, $20 timestamptz[] and $21 uuid[]
-- message, $22 text[] error, $23 int4[] retries, $24 bool[] only if it is none yet, $25
-- int8[] which of the above must be written with it (0: none).
WITH held AS MATERIALIZED (
    SELECT u.*, c.tid
      FROM (SELECT *
              FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::text[], $6::timestamptz[], $7::int4[], $8::int4[], $9::bool[],
                          $10::timestamptz[], $11::uuid[], $12::int8[], $13::bool[], $14::int4[], $15::int4[], $16::int4[], $17::int4[]) WITH ORDINALITY
                   a (part, grp, was_at, was_id, was_worker, was_expires, was_acked, was_retries, must_live,
                      new_at, new_id, new_seq, ends, acked, retries, messages, batches, o)
             ORDER BY a.part, a.grp COLLATE "C") u
     CROSS JOIN LATERAL (
            SELECT x.ctid AS tid
              FROM queen.partition_consumers x
             WHERE x.partition_id = u.part
               AND x.consumer_group = u.grp
               AND x.last_consumed_created_at IS NOT DISTINCT FROM u.was_at
               AND coalesce(x.last_consumed_id, '00000000-0000-0000-0000-000000000000') = u.was_id
               AND x.worker_id IS NOT DISTINCT FROM u.was_worker
               AND x.lease_expires_at IS NOT DISTINCT FROM u.was_expires
               AND coalesce(x.acked_count, 0) = u.was_acked
               AND coalesce(x.batch_retry_count, 0) = u.was_retries
               AND (NOT u.must_live OR x.lease_expires_at > clock_timestamp())
               FOR NO KEY UPDATE) c),
written AS (
    UPDATE queen.partition_consumers c
       SET last_consumed_created_at = u.new_at,
           last_consumed_id = u.new_id,
           last_seq = greatest(c.last_seq, u.new_seq),
           last_consumed_at = CASE WHEN u.new_id <> u.was_id THEN clock_timestamp() ELSE c.last_consumed_at END,
           lease_expires_at = CASE WHEN NOT u.ends THEN c.lease_expires_at END,
           lease_acquired_at = CASE WHEN NOT u.ends THEN c.lease_acquired_at END,
           worker_id = CASE WHEN NOT u.ends THEN c.worker_id END,
           batch_size = CASE WHEN u.ends THEN 0 ELSE c.batch_size END,
           lease_end_created_at = CASE WHEN NOT u.ends THEN c.lease_end_created_at END,
           lease_end_id = CASE WHEN NOT u.ends THEN c.lease_end_id END,
           lease_end_seq = CASE WHEN NOT u.ends THEN c.lease_end_seq END,
           acked_count = u.acked,
           batch_retry_count = u.retries,
           total_messages_consumed = coalesce(c.total_messages_consumed, 0) + u.messages,
           total_batches_consumed = coalesce(c.total_batches_consumed, 0) + u.batches
      FROM held u
     WHERE c.ctid = u.tid
    RETURNING u.o),
dead AS (
    INSERT INTO queen.dead_letter_queue (message_id, partition_id, consumer_group, error_message, retry_count, original_created_at,
                                         transaction_id, trace_id, payload, is_encrypted, producer_sub)
    SELECT m.id, m.partition_id, d.grp, d.error, d.retries, m.created_at, m.transaction_id, m.trace_id, m.payload::text::json,
           coalesce(m.is_encrypted, false), m.producer_sub
      FROM unnest($18::uuid[], $19::text[], $20::timestamptz[], $21::uuid[], $22::text[], $23::int4[], $24::bool[], $25::int8[])
           d (part, grp, at, id, error, retries, once, base)
      JOIN queen.messages m ON m.partition_id = d.part AND m.created_at = d.at AND m.id = d.id
     WHERE (d.base = 0 OR d.base IN (SELECT o FROM written))
       AND (NOT d.once OR NOT EXISTS (SELECT FROM queen.dead_letter_queue x
                                       WHERE x.partition_id = d.part AND x.message_id = d.id AND x.consumer_group = d.grp)))
SELECT o FROM written;
