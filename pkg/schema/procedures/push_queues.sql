-- push, resolve 1 of 4: makes the queues that are not there, with all defaults. Rows
-- are inserted in one global order, so that two batches cannot wait for each other.
-- $1 text[] names
INSERT INTO queen.queues (id, name, namespace, task)
SELECT gen_random_uuid(), u.name, split_part(u.name, '.', 1), split_part(u.name, '.', 2)
  FROM unnest($1::text[]) u (name)
 ORDER BY u.name COLLATE "C"
    ON CONFLICT DO NOTHING;
