-- system state: sets a maintenance flag.
-- $1 text key, $2 boolean enabled
INSERT INTO queen.system_state (key, value, updated_at)
VALUES ($1::text, jsonb_build_object('enabled', $2::boolean), now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
