-- pop, before a claim that has found everything locked: leaves a moment to who holds it.
SELECT pg_sleep(0.001);
