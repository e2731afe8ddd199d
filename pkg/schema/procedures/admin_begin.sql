-- administrative routes, at the beginning of each transaction: time-outs, in milliseconds;
-- times in UTC; and a commit that is answered is on disk, also where the server or the
-- role says synchronous_commit = off. Stricter settings than on stay as they are.
-- $1 text of a statement and between two, $2 text of a wait for a lock
SELECT set_config('statement_timeout', $1::text, true),
       set_config('idle_in_transaction_session_timeout', $1::text, true),
       set_config('lock_timeout', $2::text, true),
       set_config('timezone', 'UTC', true),
       CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END;
