-- signature: queen.payload_jsonb(text)
-- A payload as jsonb. A column of type json keeps what jsonb cannot hold: \u0000, half
-- of a surrogate pair, numbers without bound. Such a payload becomes a JSON string of
-- its text, so that it does not keep the messages behind it from being read.
CREATE OR REPLACE FUNCTION queen.payload_jsonb(payload text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $queend$
    -- queend
BEGIN
    RETURN payload::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
    RETURN to_jsonb(payload);
END
$queend$;
