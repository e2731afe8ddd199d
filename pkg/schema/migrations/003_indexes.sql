-- The keys that the statements of the data path rely on. Queen 0.15 has all but
-- the one on partition_lookup (partition_id); what is asked for is a valid index
-- on these columns, whatever its name. Built concurrently: writers go on.

-- step: messages are unique by transaction
-- needs: ownership of table queen.messages
-- unless unique index: messages partition_id, transaction_id
-- concurrently: messages queend_messages_transaction_key
CREATE UNIQUE INDEX CONCURRENTLY queend_messages_transaction_key ON queen.messages (partition_id, transaction_id);

-- step: messages are found in order
-- needs: ownership of table queen.messages
-- unless index: messages partition_id, created_at, id
-- concurrently: messages queend_messages_order_key
CREATE UNIQUE INDEX CONCURRENTLY queend_messages_order_key ON queen.messages (partition_id, created_at, id);

-- step: no head belongs to another queue than its partition
-- needs: DELETE on table queen.partition_lookup
-- unless unique index: partition_lookup partition_id
-- Such a row is reached by no rule and would stand in the way of the next key.
DELETE FROM queen.partition_lookup l
 USING queen.partitions p, queen.queues q
 WHERE p.id = l.partition_id AND q.id = p.queue_id AND q.name <> l.queue_name;

-- step: each partition has one head
-- needs: ownership of table queen.partition_lookup
-- unless unique index: partition_lookup partition_id
-- concurrently: partition_lookup queend_partition_lookup_key
CREATE UNIQUE INDEX CONCURRENTLY queend_partition_lookup_key ON queen.partition_lookup (partition_id);

-- step: heads are found by queue
-- needs: ownership of table queen.partition_lookup
-- unless index: partition_lookup queue_name, partition_id
-- concurrently: partition_lookup queend_partition_lookup_queue_key
CREATE UNIQUE INDEX CONCURRENTLY queend_partition_lookup_queue_key ON queen.partition_lookup (queue_name, partition_id);

-- step: each group has one cursor in a partition
-- needs: ownership of table queen.partition_consumers
-- unless unique index: partition_consumers partition_id, consumer_group
-- concurrently: partition_consumers queend_partition_consumers_key
CREATE UNIQUE INDEX CONCURRENTLY queend_partition_consumers_key ON queen.partition_consumers (partition_id, consumer_group);

-- step: partitions are unique by name
-- needs: ownership of table queen.partitions
-- unless unique index: partitions queue_id, name
-- concurrently: partitions queend_partitions_key
CREATE UNIQUE INDEX CONCURRENTLY queend_partitions_key ON queen.partitions (queue_id, name);

-- step: queues are unique by name
-- needs: ownership of table queen.queues
-- unless unique index: queues name
-- concurrently: queues queend_queues_key
CREATE UNIQUE INDEX CONCURRENTLY queend_queues_key ON queen.queues (name);
