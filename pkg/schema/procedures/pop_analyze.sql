-- pop, after many cursors were made: the prepared claim was planned when there were few.
-- See push_analyze.
ANALYZE (SKIP_LOCKED) queen.partition_consumers;
