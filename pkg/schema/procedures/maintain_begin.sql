-- maintain, first in each transaction: takes the lock under which one process at a time
-- works on these tables, if it is free, and says what time it is here, where messages
-- are stamped. All of it ends with the transaction, as it must behind a pooler.
-- lock_timeout is below deadlock_timeout and below that of a push: who meets a push at
-- a head steps back first. A commit that a crash takes away is done again, so it need
-- not wait for the disk. Plans may only go by index: with a few rows too many in an
-- estimate the planner would read all messages, or plan against statistics that are
-- hours old.
-- $1 int8 lock
SELECT pg_try_advisory_xact_lock($1::bigint), clock_timestamp(),
       set_config('lock_timeout', '250ms', true),
       set_config('statement_timeout', '30s', true),
       set_config('idle_in_transaction_session_timeout', '30s', true),
       set_config('synchronous_commit', 'off', true),
       set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true),
       set_config('jit', 'off', true);
