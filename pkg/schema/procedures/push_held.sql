-- push, after a lock was waited for in vain: which heads are locked now, and by which
-- transaction (xmax: also the number of a group of transactions). A head that is found
-- locked by the same one twice is held by somebody who takes long over it, and not by one
-- push after the other. It waits for nobody.
-- $1 uuid[] partitions
WITH free AS MATERIALIZED (
    SELECT partition_id
      FROM queen.partition_lookup
     WHERE partition_id = ANY ($1::uuid[])
       FOR NO KEY UPDATE SKIP LOCKED)
SELECT u.o, h.xmax::text::int8
  FROM unnest($1::uuid[]) WITH ORDINALITY u (part, o)
  JOIN queen.partition_lookup h ON h.partition_id = u.part
 WHERE NOT EXISTS (SELECT FROM free f WHERE f.partition_id = u.part);
