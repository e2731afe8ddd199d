-- watch: what follows in this transaction need not reach the disk before the answer: it
-- is of no use after a crash.
SELECT set_config('synchronous_commit', 'off', true);
