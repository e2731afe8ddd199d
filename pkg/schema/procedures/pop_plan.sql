-- pop, before each claim: the claim's plan, whenever it is made, goes by keys alone and is
-- not compiled. A plan that is kept from when the tables were small would else read
-- them from end to end when they are large, for a minute or for ever (manual,
-- "Planner Method Configuration"); and one plan does for all claims. It holds for this
-- transaction.
SELECT num_nonnulls(set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
                    set_config('enable_mergejoin', 'off', true), set_config('enable_material', 'off', true), set_config('jit', 'off', true),
                    set_config('plan_cache_mode', 'force_generic_plan', true))::bigint;
