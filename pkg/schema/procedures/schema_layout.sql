-- What a caller has to know of the tables that it writes: whether payload is
-- json (as queend makes it) or jsonb (as Queen made it), the names of the unique
-- constraint or index behind (partition_id, transaction_id), and whether messages still has the
-- foreign key to partitions that Queen gave it.
SELECT
    (SELECT format_type(a.atttypid, NULL)
       FROM pg_attribute a
      WHERE a.attrelid = to_regclass('queen.messages') AND a.attname = 'payload' AND NOT a.attisdropped),
    coalesce((SELECT string_agg(c.relname, ',' ORDER BY c.relname)
       FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
      WHERE i.indrelid = to_regclass('queen.messages') AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
        AND (SELECT array_agg(a.attname::text ORDER BY a.attname)
               FROM pg_attribute a
              WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)) = ARRAY['partition_id', 'transaction_id']), ''),
    EXISTS (SELECT FROM pg_constraint
             WHERE conrelid = to_regclass('queen.messages') AND confrelid = to_regclass('queen.partitions') AND contype = 'f')
