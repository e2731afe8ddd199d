package maintain

import (
	"context"
	"testing"
	"time"
)

func TestEmptyPartitionsThatNobodyTouchesGo(t *testing.T) {
	each(t, func(t *testing.T, d *db) {
		for _, partition := range []string{"empty", "full", "dead", "read", "held"} {
			d.push("q", partition, 1, 1)
		}
		d.run(`INSERT INTO queen.dead_letter_queue (message_id, partition_id, payload) SELECT m.id, p.id, '1' FROM queen.partitions p JOIN queen.messages m ON m.partition_id = p.id WHERE p.name = 'dead';
			DELETE FROM queen.messages m USING queen.partitions p WHERE p.id = m.partition_id AND p.name <> 'full';
			INSERT INTO queen.partition_consumers (partition_id, consumer_group, last_consumed_at) SELECT id, 'g', now() + interval '20 days' FROM queen.partitions WHERE name = 'read'`)
		d.is("dead,empty,full,held,read", `SELECT string_agg(name, ',' ORDER BY name) FROM queen.partitions`)
		d.cycle(d.maintainer(Options{shift: 29 * 24 * time.Hour}), Partitions)
		d.is("5", `SELECT count(*) FROM queen.partitions`)

		// One whose head somebody holds is in use.
		m := d.maintainer(Options{shift: 31 * 24 * time.Hour})
		d.run(`BEGIN; SELECT FROM queen.partition_lookup l JOIN queen.partitions p ON p.id = l.partition_id WHERE p.name = 'held' FOR NO KEY UPDATE OF l`)
		d.cycle(m, Partitions)
		d.run(`ROLLBACK`)
		d.is("dead,full,held,read", `SELECT string_agg(name, ',' ORDER BY name) FROM queen.partitions`)
		d.cycle(m, Partitions)
		d.is("dead,full,read", `SELECT string_agg(name, ',' ORDER BY name) FROM queen.partitions`)
		d.is("3", `SELECT count(*) FROM queen.partition_lookup`)
	})
}

func TestACycleDeletesSoManyPartitionsAndTheNextOneTheRest(t *testing.T) {
	d := fresh(t)
	d.run(`INSERT INTO queen.queues (name) VALUES ('q'); INSERT INTO queen.partitions (queue_id, name) SELECT id, i::text FROM queen.queues, generate_series(1, 1300) i`)
	m := d.maintainer(Options{shift: 31 * 24 * time.Hour})
	d.cycle(m, Partitions)
	d.is("300", `SELECT count(*) FROM queen.partitions`)
	d.cycle(m, Partitions)
	d.is("0", `SELECT count(*) FROM queen.partitions`)
}

func TestMessagesOfDeletedPartitionsAreSweptAway(t *testing.T) {
	d := fresh(t)
	d.push("gone", "a", 1, 50)
	d.push("gone", "b", 1, 3)
	d.push("stays", "c", 1, 3)
	d.run(`DELETE FROM queen.queues WHERE name = 'gone'`)
	d.is("56", `SELECT count(*) FROM queen.messages`)
	m := d.maintainer(Options{RetentionBatchRows: 20})
	d.cycle(m, Sweep)
	d.is("1,2,3", `SELECT string_agg(seq::text, ',' ORDER BY seq) FROM queen.messages`)
	if n := m.Stats(Sweep).Rows.Load(); n != 53 {
		t.Errorf("%d rows counted", n)
	}
	d.cycle(m, Sweep)
	d.dense()
}

func TestTheSweeperVisitsAllPartitionsInSomeCycles(t *testing.T) {
	d := fresh(t)
	d.run(`INSERT INTO queen.queues (name) VALUES ('q'); INSERT INTO queen.partitions (queue_id, name) SELECT id, i::text FROM queen.queues, generate_series(1, 2500) i;
		INSERT INTO queen.messages (transaction_id, partition_id, payload) SELECT 't', id, '1' FROM queen.partitions;
		DELETE FROM queen.partitions WHERE name::int %% 100 = 0`)
	m := d.maintainer(Options{})
	d.cycle(m, Sweep)
	d.is("2475", `SELECT count(*) FROM queen.messages`)
}

func TestOldMetricsGo(t *testing.T) {
	each(t, func(t *testing.T, d *db) {
		d.run(`INSERT INTO queen.messages_consumed (consumer_group, acked_at) SELECT 'g', now() - i * interval '1 day' FROM generate_series(1, 200) i;
			INSERT INTO queen.retention_history (messages_deleted, executed_at) SELECT i, now() - i * interval '1 day' FROM generate_series(1, 200) i`)
		d.cycle(d.maintainer(Options{RetentionBatchRows: 25, MetricsAge: 90*24*time.Hour + time.Hour}), Metrics)
		d.is("90|90", `SELECT (SELECT count(*) FROM queen.messages_consumed), (SELECT count(*) FROM queen.retention_history)`)
	})
}

func TestOneProcessAtATime(t *testing.T) {
	d := fresh(t)
	m := d.maintainer(Options{})
	d.run(`BEGIN; SELECT pg_advisory_xact_lock(737001)`)
	for _, j := range m.jobs {
		o, err := m.turn(context.Background(), j)
		if want := map[bool]outcome{true: idle, false: busy}[j.id == Reconcile]; err != nil || o != want {
			t.Errorf("%s: %d, %v", j.id, o, err)
		}
	}
	d.run(`ROLLBACK`)
	d.cycle(m, Expired)
}

func TestAJobStepsBackFromAHeadThatIsHeld(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 3)
	d.run(`UPDATE queen.queues SET retention_enabled = true, retention_seconds = 60`)
	m := d.maintainer(Options{shift: time.Hour})
	d.run(`BEGIN; SELECT FROM queen.partition_lookup FOR NO KEY UPDATE`)
	if o, err := m.turn(context.Background(), m.jobs[1]); err != nil || o != yielded {
		t.Errorf("%d, %v", o, err)
	}
	d.is("3", `SELECT count(*) FROM queen.messages`)
	d.run(`ROLLBACK`)
	if n := m.Stats(Expired).Yields.Load(); n != 1 {
		t.Errorf("%d yields counted", n)
	}
	d.cycle(m, Expired)
	d.is("3|3", head, "a")
}
