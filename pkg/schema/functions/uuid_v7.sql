-- signature: queen.uuid_v7(timestamptz)
-- A version 7 UUID (RFC 9562 §5.7) made in SQL, for PostgreSQL before 18 and
-- without an extension: 48 bits of milliseconds, the fraction of the millisecond
-- in the 12 bits after the version (§6.2, method 3), 62 random bits. Ids made
-- for moments a microsecond apart rise.
CREATE OR REPLACE FUNCTION queen.uuid_v7(at timestamptz DEFAULT clock_timestamp()) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE AS $queend$
    -- queend
    SELECT encode(
        substring(int8send(us / 1000) FROM 3 FOR 6)
        || substring(int4send(((7 << 12) | ((us % 1000) * 4096 / 1000))::int) FROM 3 FOR 2)
        || substring(uuid_send(gen_random_uuid()) FROM 9 FOR 8), 'hex')::uuid
    FROM (SELECT (extract(epoch FROM at) * 1000000)::bigint AS us) moment
$queend$;
