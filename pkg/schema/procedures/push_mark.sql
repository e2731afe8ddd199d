-- push, before 1 of 2: says which step the session's last committed one is. A setting that a
-- transaction has made is undone with it (manual, SET).
-- $1 text mark
SELECT set_config('queend.step', $1, false);
