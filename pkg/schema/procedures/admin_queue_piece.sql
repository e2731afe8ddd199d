-- queue delete, of a large one: some of its partitions go before it does. Their heads are
-- locked.
-- $1 uuid[] partitions
DELETE FROM queen.partitions WHERE id = ANY ($1::uuid[]);
