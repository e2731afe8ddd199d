package maintain

import (
	"testing"
	"time"
)

const rules = `SELECT coalesce(string_agg(DISTINCT retention_type, ','), '') || ' ' || coalesce(sum(messages_deleted), 0) FROM queen.retention_history`

// left are the numbers of a partition's messages.
const left = `SELECT coalesce(string_agg(m.seq::text, ',' ORDER BY m.created_at, m.id), '') FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE p.name = '%s'`

// head is a partition's tail and head.
const head = `SELECT l.tail_seq, l.seq FROM queen.partition_lookup l JOIN queen.partitions p ON p.id = l.partition_id WHERE p.name = '%s'`

func each(t *testing.T, f func(t *testing.T, d *db)) {
	t.Run("fresh", func(t *testing.T) { f(t, fresh(t)) })
	t.Run("taken over", func(t *testing.T) { f(t, taken(t)) })
}

func TestExpiredMessagesGoAndTheTailFollows(t *testing.T) {
	each(t, func(t *testing.T, d *db) {
		d.push("q", "a", 1, 10)
		d.push("q", "b", 1, 3)
		d.push("other", "c", 1, 3)
		d.push("disabled", "d", 1, 3)
		d.run(`UPDATE queen.queues SET retention_enabled = true, retention_seconds = 60 WHERE name = 'q';
			UPDATE queen.queues SET retention_seconds = 60 WHERE name = 'disabled'`)
		for partition, n := range map[string]int{"a": 7, "b": 3, "c": 3, "d": 3} {
			d.age(partition, n, "2 minutes")
		}
		m := d.maintainer(Options{RetentionBatchRows: 4})
		if turns := d.cycle(m, Expired); turns != 3 {
			t.Errorf("%d turns of four messages for ten", turns)
		}
		d.is("8,9,10", left, "a")
		d.is("7|10", head, "a")
		d.is("", left, "b")
		d.is("3|3", head, "b")
		d.is("1,2,3", left, "c")
		d.is("1,2,3", left, "d")
		d.is("retention 10", rules)
		d.dense()
		if n := m.Stats(Expired).Rows.Load(); n != 10 {
			t.Errorf("%d rows counted", n)
		}

		// The next cycle finds nothing, and what is pushed goes on where it was.
		d.cycle(m, Expired)
		d.push("q", "b", 4, 4)
		d.is("4", left, "b")
		d.dense()
	})
}

func TestRetentionGoesByThePostgresClock(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 2)
	d.run(`UPDATE queen.queues SET retention_enabled = true, retention_seconds = 3600`)
	d.cycle(d.maintainer(Options{shift: 59 * time.Minute}), Expired)
	d.is("1,2", left, "a")
	d.cycle(d.maintainer(Options{shift: 61 * time.Minute}), Expired)
	d.is("", left, "a")
	d.is("2|2", head, "a")
}

func TestAHoleThatTheTailPassesIsForgotten(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 5)
	d.run(`UPDATE queen.queues SET retention_enabled = true, retention_seconds = 60;
		WITH gone AS (DELETE FROM queen.messages WHERE seq IN (2, 4) RETURNING partition_id, seq) INSERT INTO queen.message_holes SELECT * FROM gone`)
	d.dense()
	d.age("a", 3, "2 minutes")
	d.cycle(d.maintainer(Options{}), Expired)
	d.is("5", left, "a")
	d.is("3|5", head, "a")
	d.is("4", `SELECT string_agg(seq::text, ',') FROM queen.message_holes`)
	d.dense()
}

func TestADeadLetterOutlivesItsMessage(t *testing.T) {
	each(t, func(t *testing.T, d *db) {
		d.push("q", "a", 1, 2)
		d.run(`UPDATE queen.queues SET retention_enabled = true, retention_seconds = 60;
			INSERT INTO queen.dead_letter_queue (message_id, partition_id, payload) SELECT id, partition_id, '{"kept":true}' FROM queen.messages WHERE seq = 1`)
		d.age("a", 2, "2 minutes")
		d.cycle(d.maintainer(Options{}), Expired)
		d.is("0", `SELECT count(*) FROM queen.messages`)
		d.is("true", `SELECT payload ->> 'kept' FROM queen.dead_letter_queue`)
	})
}

func TestCompletedRetentionKeepsWhatSomeGroupHasNotRead(t *testing.T) {
	f := func(name, want, tail string, groups func(d *db)) {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			d.push("q", "a", 1, 6)
			d.run(`UPDATE queen.queues SET retention_enabled = true, completed_retention_seconds = 60`)
			d.age("a", 5, "2 minutes")
			groups(d)
			d.cycle(d.maintainer(Options{}), Completed)
			d.is(want, left, "a")
			d.is(tail, head, "a")
			d.dense()
		})
	}
	f("no group", "1,2,3,4,5,6", "0|6", func(d *db) {})
	f("one group", "4,5,6", "3|6", func(d *db) { d.read("a", "g", 3) })
	f("two groups", "3,4,5,6", "2|6", func(d *db) { d.read("a", "g", 4); d.read("a", "h", 2) })
	f("a group that has not begun", "1,2,3,4,5,6", "0|6", func(d *db) { d.read("a", "g", 4); d.begin("a", "h") })
	f("consumed and not old", "6", "5|6", func(d *db) { d.read("a", "g", 6) })
	told := func(group, from string, seq int) func(d *db) {
		return func(d *db) {
			d.read("a", "g", 6)
			d.run(`UPDATE queen.queues SET namespace = 'n', task = 't';
				INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp)
				SELECT '%s', %s, 'new', created_at FROM queen.messages WHERE seq = %d`, group, from, seq)
		}
	}
	f("one that begins in its queue and has not come", "3,4,5,6", "2|6", told("late", `'q', '', '', ''`, 3))
	f("in its partition", "3,4,5,6", "2|6", told("late", `'q', 'a', '', ''`, 3))
	f("in its namespace", "3,4,5,6", "2|6", told("late", `'', '', 'n', ''`, 3))
	f("in its namespace and task", "3,4,5,6", "2|6", told("late", `'', '', 'n', 't'`, 3))
	f("in all queues", "3,4,5,6", "2|6", told("late", `'', '*', '*', '*'`, 3))
	f("in another partition", "6", "5|6", told("late", `'q', 'b', '', ''`, 3))
	f("in another namespace", "6", "5|6", told("late", `'', '', 'm', ''`, 3))
	f("in the queue without a name", "6", "5|6", told("late", `'', '', '', ''`, 3))
	f("one that has come", "6", "5|6", told("g", `'q', '', '', ''`, 3))
	two := func(first string, firstSeq int, second string, secondSeq int) func(d *db) {
		return func(d *db) { told("late", first, firstSeq)(d); told("late", second, secondSeq)(d) }
	}
	f("what it was told of the queue goes before its namespace", "6", "5|6", two(`'', '', 'n', ''`, 3, `'q', '', '', ''`, 6))
	f("what it was told of the partition goes before the queue", "6", "5|6", two(`'q', '', '', ''`, 3, `'q', 'a', '', ''`, 6))
	f("later than others have read", "5,6", "4|6", func(d *db) { told("late", `'q', '', '', ''`, 6)(d); d.read("a", "g", 4) })
	f("switched off", "1,2,3,4,5,6", "0|6", func(d *db) {
		d.read("a", "g", 6)
		d.run("UPDATE queen.queues SET retention_enabled = false")
	})
}

func TestEvictionTakesWhatSomeGroupHasNotRead(t *testing.T) {
	f := func(name, want, tail, holes string, groups func(d *db)) {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, d *db) {
				d.push("q", "a", 1, 6)
				d.run(`UPDATE queen.queues SET max_wait_time_seconds = 60`)
				d.age("a", 4, "2 minutes")
				groups(d)
				d.cycle(d.maintainer(Options{EvictionBatchRows: 2}), Eviction)
				d.is(want, left, "a")
				d.is(tail, head, "a")
				d.is(holes, `SELECT coalesce(string_agg(seq::text, ',' ORDER BY seq), '') FROM queen.message_holes`)
				d.dense()
			})
		})
	}
	f("no group", "5,6", "4|6", "", func(d *db) {})
	f("a group that has not begun", "5,6", "4|6", "", func(d *db) { d.begin("a", "g") })
	f("one group is half through", "1,2,5,6", "0|6", "3,4", func(d *db) { d.read("a", "g", 2) })
	f("the slowest group counts", "1,5,6", "0|6", "2,3,4", func(d *db) { d.read("a", "g", 6); d.read("a", "h", 1) })
	f("all have read it", "1,2,3,4,5,6", "0|6", "", func(d *db) { d.read("a", "g", 4) })
}

func TestManyPartitionsAreVisitedInSlices(t *testing.T) {
	d := fresh(t)
	d.run(`SELECT queen.push_messages_v2((SELECT jsonb_agg(jsonb_build_object('queue', 'q' || i %% 7, 'partition', 'p' || i, 'payload', 1)) FROM generate_series(1, 2500) i));
		UPDATE queen.queues SET retention_enabled = true, retention_seconds = 60 WHERE name <> 'q3'`)
	m := d.maintainer(Options{shift: time.Hour, RetentionBatchRows: 300})
	d.cycle(m, Expired)
	d.is("q3", `SELECT string_agg(DISTINCT l.queue_name, ',') FROM queen.messages m JOIN queen.partition_lookup l USING (partition_id)`)
	d.is("357", `SELECT count(*) FROM queen.messages`)
	d.dense()
}

// A lease of which nothing is left would keep its partition from everybody until it runs
// out: nobody can acknowledge what is gone.
func TestALeaseOfWhichNothingIsLeftEnds(t *testing.T) {
	f := func(name string, job JobID, configure string) {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, d *db) {
				d.push("q", "a", 1, 6)
				d.push("q", "b", 1, 2)
				d.run(`UPDATE queen.queues SET %s`, configure)
				d.age("a", 4, "2 minutes")
				lease := func(partition, group string, seq int) {
					d.run(`UPDATE queen.partition_consumers c SET worker_id = 'w', lease_acquired_at = now(), lease_expires_at = now() + interval '1 hour', batch_size = 2, lease_end_created_at = m.created_at, lease_end_id = m.id, lease_end_seq = m.seq
						FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE c.partition_id = p.id AND p.name = '%s' AND c.consumer_group = '%s' AND m.seq = %d`, partition, group, seq)
				}
				for _, group := range []string{"all of it", "new", "part", "unknown"} {
					d.begin("a", group)
				}
				d.read("a", "all of it", 2)
				lease("a", "all of it", 4)
				lease("a", "new", 1)
				d.read("a", "part", 3)
				lease("a", "part", 5)
				lease("a", "unknown", 4)
				d.run(`UPDATE queen.partition_consumers SET lease_end_id = NULL, lease_end_created_at = NULL WHERE consumer_group = 'unknown'`)
				d.begin("b", "other")
				lease("b", "other", 2)
				// What failed may have been what goes.
				for group, seq := range map[string]int{"failed": 2, "failed later": 4, "all of it": 2, "part": 3} {
					d.read("a", group, seq)
					d.run(`UPDATE queen.partition_consumers SET batch_retry_count = 2 WHERE consumer_group = '%s'`, group)
				}
				d.cycle(d.maintainer(Options{}), job)
				d.is("5,6", left, "a")
				d.is("all of it|0\nfailed|0\nfailed later|2\npart|2", `SELECT consumer_group, batch_retry_count FROM queen.partition_consumers WHERE consumer_group IN ('failed', 'failed later', 'all of it', 'part') ORDER BY 1`)
				d.run(`DELETE FROM queen.partition_consumers WHERE consumer_group LIKE 'failed%%'`)
				d.is("all of it|free|0\nnew|free|0\nother|held|2\npart|held|2\nunknown|held|2", `SELECT consumer_group, CASE num_nonnulls(worker_id, lease_expires_at, lease_acquired_at, lease_end_created_at, lease_end_id, lease_end_seq)
					WHEN 0 THEN 'free' ELSE 'held' END, batch_size FROM queen.partition_consumers ORDER BY 1`)
				d.is("q|a|all of it\nq|a|new", `SELECT queue_name, partition_name, consumer_group FROM queen.queend_changes WHERE process IS NULL AND consumer_group IS NOT NULL ORDER BY 3`)
			})
		})
	}
	f("retention", Expired, "retention_enabled = true, retention_seconds = 60")
	f("eviction", Eviction, "max_wait_time_seconds = 60")
}
