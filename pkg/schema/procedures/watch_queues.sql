-- watch: the queues of a namespace and a task; null is any.
-- $1 text namespace, $2 text task, $3 int4 at most
SELECT q.name::text
  FROM queen.queues q
 WHERE ($1::text IS NULL OR q.namespace = $1::text) AND ($2::text IS NULL OR q.task = $2::text)
 ORDER BY q.name
 LIMIT $3::int4;
