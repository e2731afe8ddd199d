-- signature: queen.push_messages_v2(jsonb, boolean, boolean)
-- As push_messages_v3, with the results alone.
CREATE OR REPLACE FUNCTION queen.push_messages_v2(items jsonb, check_duplicates boolean DEFAULT true, check_capacity boolean DEFAULT true) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $queend$
-- queend
BEGIN
    RETURN queen.push_messages_v3(items, check_duplicates, check_capacity) -> 'items';
END
$queend$;
