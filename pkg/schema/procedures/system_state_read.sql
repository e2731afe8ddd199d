-- system state: the two maintenance flags, of pushes and of pops. A flag that is not there,
-- or whose value is not an object with a true "enabled", is off.
SELECT coalesce(bool_or(value -> 'enabled' = 'true') FILTER (WHERE key = 'maintenance_mode'), false),
       coalesce(bool_or(value -> 'enabled' = 'true') FILTER (WHERE key = 'pop_maintenance_mode'), false)
  FROM queen.system_state
 WHERE key IN ('maintenance_mode', 'pop_maintenance_mode');
