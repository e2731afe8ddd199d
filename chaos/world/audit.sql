-- What the oracle wants to know of leases and cursors: each change, by PostgreSQL's own
-- clock. Changes of one row are in the order of n, since its writers hold its lock.
CREATE SCHEMA chaos;
CREATE TABLE chaos.cursors (
    n              bigserial PRIMARY KEY,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    partition_id   uuid NOT NULL,
    consumer_group text NOT NULL,
    old_worker     text,
    new_worker     text,
    old_expires    timestamptz,
    new_expires    timestamptz,
    back           boolean NOT NULL
);
CREATE FUNCTION chaos.see_cursor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO chaos.cursors (partition_id, consumer_group, new_worker, new_expires, back)
        VALUES (NEW.partition_id, NEW.consumer_group, NEW.worker_id, NEW.lease_expires_at, false);
    ELSE
        INSERT INTO chaos.cursors (partition_id, consumer_group, old_worker, new_worker, old_expires, new_expires, back)
        VALUES (NEW.partition_id, NEW.consumer_group, OLD.worker_id, NEW.worker_id, OLD.lease_expires_at, NEW.lease_expires_at,
                OLD.last_consumed_created_at IS NOT NULL AND (NEW.last_consumed_created_at IS NULL OR
                (NEW.last_consumed_created_at, NEW.last_consumed_id) < (OLD.last_consumed_created_at, OLD.last_consumed_id)));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_sees AFTER INSERT OR UPDATE ON queen.partition_consumers
    FOR EACH ROW EXECUTE FUNCTION chaos.see_cursor();

-- PostgreSQL says no: a trigger of this function, with a SQLSTATE and a chance in percent.
CREATE FUNCTION chaos.say_no() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() * 100 < TG_ARGV[1]::int THEN
        RAISE EXCEPTION 'chaos says %', TG_ARGV[0] USING ERRCODE = TG_ARGV[0];
    END IF;
    RETURN NEW;
END $$;

-- PostgreSQL refuses a message for what is in it, though queend could not know: a trigger of
-- this function.
CREATE FUNCTION chaos.see_doom() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.payload::text LIKE '%"doom":true%' THEN
        RAISE EXCEPTION 'chaos has doomed this message' USING ERRCODE = '22023';
    END IF;
    RETURN NEW;
END $$;
