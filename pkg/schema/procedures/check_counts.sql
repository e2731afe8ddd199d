-- check: what a partition is called, and how many numbers in it are known to be nobody's.
-- $1 uuid partition
SELECT (SELECT q.name FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE p.id = $1::uuid),
       (SELECT p.name FROM queen.partitions p WHERE p.id = $1::uuid),
       (SELECT count(*) FROM queen.message_holes h JOIN queen.partition_lookup l ON l.partition_id = h.partition_id
         WHERE h.partition_id = $1::uuid AND h.seq > l.tail_seq AND h.seq <= l.seq),
       EXISTS (SELECT FROM queen.unnumbered u WHERE u.partition_id = $1::uuid);
