-- the names that traces have: how many there are.
SELECT count(DISTINCT n.trace_name) FROM queen.message_trace_names n;
