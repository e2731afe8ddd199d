-- watch: forgets what was told long ago, and processes that are gone.
WITH gone AS (DELETE FROM queen.queend_processes WHERE seen_at < clock_timestamp() - interval '1 minute')
DELETE FROM queen.queend_changes WHERE at < clock_timestamp() - interval '2 minutes';
