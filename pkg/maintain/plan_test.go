package maintain

import (
	"context"
	"testing"
	"time"
)

// watched is a job that asks, at the end of each turn, how its statements read messages.
type watched struct {
	work
	t    *testing.T
	most int64 // messages that a turn may read
}

func (w watched) step(ctx context.Context, t *turn) (outcome, error) {
	scansBefore, rowsBefore, err := w.read(ctx, t)
	if err != nil {
		return idle, err
	}
	o, err := w.work.step(ctx, t)
	if err != nil {
		return o, err
	}
	scans, rows, err := w.read(ctx, t)
	if scans -= scansBefore; scans > 0 {
		w.t.Errorf("a turn read all messages, %d times", scans)
	}
	if rows -= rowsBefore; rows > w.most {
		w.t.Errorf("a turn read %d messages, more than %d", rows, w.most)
	}
	return o, err
}

// read is how often this session has scanned messages, and how many rows it fetched by
// index, in transactions whose counts were not sent away yet.
func (watched) read(ctx context.Context, t *turn) (scans, rows int64, err error) {
	err = t.tx.QueryRow(ctx, `SELECT coalesce(sum(seq_scan), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint FROM pg_stat_xact_user_tables WHERE schemaname = 'queen' AND relname = 'messages'`).Scan(&scans, &rows)
	return scans, rows, err
}

// 10,000 partitions with 20 messages each: whatever there is to do, and whatever PostgreSQL
// knows of the tables, a turn reads what its slice needs.
func TestNoTurnReadsAllMessages(t *testing.T) {
	d := fresh(t)
	d.run(`INSERT INTO queen.queues (name, retention_enabled, retention_seconds, completed_retention_seconds, max_wait_time_seconds)
			SELECT 'q' || i, i %% 4 < 2, CASE WHEN i %% 4 = 0 THEN 3600 ELSE 0 END, CASE WHEN i %% 4 = 1 THEN 3600 ELSE 0 END, CASE WHEN i %% 4 = 2 THEN 3600 ELSE 0 END FROM generate_series(0, 99) i;
		INSERT INTO queen.partitions (queue_id, name) SELECT id, 'p' || i FROM queen.queues, generate_series(1, 100) i;
		INSERT INTO queen.messages (id, transaction_id, partition_id, payload, created_at, seq)
			SELECT gen_random_uuid(), 't' || i, p.id, '1', now() - (21 - i) * interval '1 minute', i FROM queen.partitions p, generate_series(1, 20) i;
		INSERT INTO queen.partition_lookup (queue_name, partition_id, last_message_id, last_message_created_at, seq)
			SELECT q.name, p.id, m.id, m.created_at, 20 FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE m.seq = 20;
		INSERT INTO queen.partition_consumers (partition_id, consumer_group, last_consumed_created_at, last_consumed_id, last_seq)
			SELECT m.partition_id, 'g' || i, m.created_at, m.id, m.seq FROM queen.messages m, generate_series(1, 3) i WHERE m.seq = 5 * i;
		UPDATE queen.partition_consumers c SET worker_id = 'w', lease_expires_at = now() + interval '1 hour', lease_end_created_at = m.created_at, lease_end_id = m.id
			FROM queen.messages m WHERE m.partition_id = c.partition_id AND m.seq = c.last_seq + 3`)
	d.dense()
	round := func(shift time.Duration, analyze bool) {
		t.Helper()
		if analyze {
			d.run(`ANALYZE`)
		}
		d.run(`INSERT INTO queen.messages (transaction_id, partition_id, payload, created_at) SELECT 'hand' || gen_random_uuid(), id, '1', clock_timestamp() FROM queen.partitions ORDER BY id LIMIT 50;
			DELETE FROM queen.queues WHERE name IN (SELECT name FROM queen.queues ORDER BY name LIMIT 2)`)
		m := d.maintainer(Options{shift: shift})
		for _, j := range m.jobs {
			// A slice of partitions, a row or two of each, and what is deleted and looked at again.
			most := int64(4*SlicePartitionsMax + 4*RetentionBatchRowsDefault)
			if j.id == Counts {
				most = countedRowsMax * 11 / 10
			}
			j.work = watched{j.work, t, most}
			began := time.Now()
			turns := d.cycle(m, j.id)
			t.Logf("analyzed %v, %s: %d turns, %d rows, %s", analyze, j.id, turns, j.stats.Rows.Load(), time.Since(began).Round(time.Millisecond))
		}
	}
	round(50*time.Minute, false) // the older half of the messages is too old
	d.is("t", `SELECT count(*) BETWEEN 100000 AND 199000 FROM queen.messages`)
	round(0, true) // nothing is
	round(time.Hour+time.Minute, true)
	d.is("0", `SELECT count(*) FROM queen.messages m JOIN queen.partition_lookup l USING (partition_id) JOIN queen.queues q ON q.name = l.queue_name WHERE q.retention_seconds > 0 AND m.created_at < now() - interval '1 minute'`)
	d.dense()
}
