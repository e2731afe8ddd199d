-- watch: notes that groups found nothing in their queues, at most every 30 seconds each,
-- so that finding nothing is no write. It is read by users of SQL; queend needs it not.
-- $1 text[] queues, $2 text[] groups
INSERT INTO queen.consumer_watermarks AS w (queue_name, consumer_group, last_empty_scan_at, updated_at)
SELECT DISTINCT u.queue, u.grp, now(), now()
  FROM unnest($1::text[], $2::text[]) u (queue, grp)
 WHERE NOT EXISTS (SELECT FROM queen.consumer_watermarks o
                    WHERE o.queue_name = u.queue AND o.consumer_group = u.grp AND o.updated_at > now() - interval '30 seconds')
    ON CONFLICT (queue_name, consumer_group) DO UPDATE SET last_empty_scan_at = excluded.last_empty_scan_at, updated_at = excluded.updated_at;
