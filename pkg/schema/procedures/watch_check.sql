-- watch: what was told since a snapshot, by others than this process, and whether there
-- are others. A row is new if its transaction was not over in that snapshot; so none is
-- missed, in whatever order transactions commit, and some may be told twice. Without a
-- snapshot (null) nothing is told, and the next one begins here.
-- $1 text snapshot, $2 uuid this process
WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS now)
SELECT s.now::text, EXISTS (SELECT FROM queen.queend_processes p WHERE p.id <> $2 AND p.seen_at > clock_timestamp() - interval '5 seconds'),
       c.queue_name::text, c.partition_id, c.partition_name::text, c.consumer_group::text
  FROM s
  LEFT JOIN queen.queend_changes c
    ON c.tx >= pg_snapshot_xmin($1::text::pg_snapshot)
   AND NOT pg_visible_in_snapshot(c.tx, $1::text::pg_snapshot)
   AND c.process IS DISTINCT FROM $2;
