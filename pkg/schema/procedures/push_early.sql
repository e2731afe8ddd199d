-- push, early, 1 of 3: push_plan's settings, for push_move, and little patience with locks.
-- Nobody who stores in order is to be waited for: what holds a lock here is a transaction
-- that comes between this push and the one before it, and then the push is late (push_move).
-- It holds for this transaction.
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_material', 'off', true),
       set_config('lock_timeout', '100', true);
