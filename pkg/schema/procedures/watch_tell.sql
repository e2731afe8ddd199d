-- watch: tells the other processes which partitions changed.
-- $1 uuid process, $2 text[] queues, $3 uuid[] partitions, $4 text[] names, $5 text[] groups
INSERT INTO queen.queend_changes (process, queue_name, partition_id, partition_name, consumer_group)
SELECT $1::uuid, u.queue, u.part, u.name, u.grp
  FROM unnest($2::text[], $3::uuid[], $4::text[], $5::text[]) u (queue, part, name, grp);
