-- push, early, 3 of 3, when the push before it is committed: moves the heads, and fails (22012)
-- with all that push_early_insert has stored, unless each head is where that has expected it and
-- its last message is older, and unless it is still true to say that the messages are of now.
-- So numbers and times rise in the order of the commits, as push_insert has it. The heads are
-- locked by being moved, in one global order (push_plan).
-- $1 uuid[] partitions, sorted, $2 int4[] messages in each, $3 uuid[] last id in each, $4 bigint[] number
-- of the last message in each before this push
WITH l AS (
    UPDATE queen.partition_lookup h
       SET seq = h.seq + g.n, last_message_id = g.last, last_message_created_at = now(), updated_at = now()
      FROM (SELECT unnest((SELECT $1::uuid[])) AS part, unnest($2::int4[]) AS n, unnest($3::uuid[]) AS last,
                   unnest($4::bigint[]) AS expected) g
     WHERE h.partition_id = g.part AND h.seq = g.expected
       AND coalesce(h.last_message_created_at, '-infinity') < now() AND now() > clock_timestamp() - interval '1 second'
    RETURNING 1)
SELECT 1 / (count(*) = cardinality($1))::int
  FROM l;
