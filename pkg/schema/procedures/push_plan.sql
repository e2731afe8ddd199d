-- push, before push_insert, whose plan, whenever it is made, looks the heads up one by one in
-- the order of its $1, or reads their index in its order, which is the same. So the heads are
-- locked by being moved, in one global order, and push_lock can be left out where nobody need
-- see more than the heads. It holds for this transaction (manual, "Planner Method
-- Configuration").
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_material', 'off', true);
