-- push, before the other statements of a step that follows another on the same connection:
-- fails (22P02) unless that one was committed, and all of this one's transaction with it; and
-- says of this one what push_mark says. The sentence is for the server's log.
-- $1 text mark of that one, $2 text mark of this one
SELECT CASE WHEN current_setting('queend.step', true) = $1 THEN 1
            ELSE ('the push before this one was not committed; the last one was ' || coalesce(nullif(current_setting('queend.step', true), ''), 'none'))::int
       END,
       set_config('queend.step', $2, false);
