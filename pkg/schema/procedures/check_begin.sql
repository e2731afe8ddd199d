-- check, first in its transaction: nothing of a push's time-outs, and plans that go by
-- index, so that each slice costs what it reads.
SELECT set_config('statement_timeout', '10min', true), set_config('lock_timeout', '10s', true),
       set_config('idle_in_transaction_session_timeout', '10min', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('jit', 'off', true);
