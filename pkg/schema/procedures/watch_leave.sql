-- watch: this process is gone.
-- $1 uuid process
DELETE FROM queen.queend_processes WHERE id = $1::uuid;
