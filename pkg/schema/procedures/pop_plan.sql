-- pop, before each claim: the claim's plan, whenever it is made, goes by keys alone and is
-- not compiled. A plan that is kept from when the tables were small would else read
-- them from end to end when they are large, for a minute or for ever (manual,
-- "Planner Method Configuration"); and one plan does for all claims. It holds for this
-- transaction.
SELECT count(set_config(s.name, s.value, true))
  FROM (VALUES ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
               ('enable_material', 'off'), ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan')) s (name, value);
