-- push, before 1 of 2 where another push is in flight on the same connection: fails (22012)
-- unless that one was committed, and all of this one's transaction with it; and says of this
-- one what push_mark says.
-- $1 text mark of that one, $2 text mark of this one
SELECT 1 / coalesce(current_setting('queend.step', true) = $1, false)::int, set_config('queend.step', $2, false);
