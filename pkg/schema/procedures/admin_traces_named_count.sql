-- traces: how many have a name.
-- $1 text name
SELECT count(*) FROM queen.message_trace_names n WHERE n.trace_name = $1::text;
