-- push, after many partitions were made: the prepared push statements were planned when
-- there were few, by reading all heads. This has them planned again, on every
-- connection. Whoever may not analyze the table hears a warning; autovacuum does the
-- same, a minute later. It waits for nobody.
ANALYZE (SKIP_LOCKED) queen.partition_lookup;
