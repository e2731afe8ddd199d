-- ack, read 2 of 2: the cursors and leases, each distinct (partition, group) once, with
-- what the answer names. It locks nothing: ack_write compares before it sets. A
-- partition that is not there is left out.
-- $1 uuid[] partitions, $2 text[] groups
SELECT u.o, q.name, p.name, coalesce(q.retry_limit, 3),
       c.partition_id IS NOT NULL,
       c.last_consumed_created_at, c.last_consumed_id, c.lease_expires_at, c.worker_id,
       coalesce(c.lease_expires_at > clock_timestamp(), false),
       coalesce(c.batch_size, 0), coalesce(c.acked_count, 0), coalesce(c.batch_retry_count, 0),
       c.lease_end_created_at, c.lease_end_id,
       h.last_message_created_at, h.last_message_id
  FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY u (part, grp, o)
  JOIN queen.partitions p ON p.id = u.part
  JOIN queen.queues q ON q.id = p.queue_id
  LEFT JOIN queen.partition_lookup h ON h.partition_id = u.part
  LEFT JOIN queen.partition_consumers c ON c.partition_id = u.part AND c.consumer_group = u.grp;
