package maintain

import (
	"slices"
	"testing"
)

// insert inserts messages by hand.
func (d *db) insert(partition string, from, to int) {
	d.t.Helper()
	d.run(`INSERT INTO queen.messages (id, transaction_id, partition_id, payload, created_at)
		SELECT gen_random_uuid(), 'hand' || i, p.id, '1', clock_timestamp() + i * interval '1 ms' FROM queen.partitions p, generate_series(%d, %d) i WHERE p.name = '%s'`, from, to, partition)
}

func TestRowsInsertedByHandAreNumberedAndTheHeadMoves(t *testing.T) {
	each(t, func(t *testing.T, d *db) {
		var moved []string
		m := d.maintainer(Options{Moved: func(queue string, partition [16]byte) { moved = append(moved, queue) }})
		d.push("q", "a", 1, 3)
		d.push("r", "b", 1, 2)
		d.push("s", "c", 1, 2)
		d.cycle(m, Reconcile)
		if moved != nil {
			t.Errorf("nothing was inserted and %v moved", moved)
		}
		d.insert("a", 1, 4)
		d.insert("c", 1, 1)
		d.cycle(m, Reconcile)
		slices.Sort(moved)
		if !slices.Equal(moved, []string{"q", "s"}) {
			t.Errorf("moved: %v", moved)
		}
		d.is("1,2,3,4,5,6,7", left, "a")
		d.is("0|7", head, "a")
		d.is("1,2", left, "b")
		d.is("0|3", head, "c")
		d.is("3", `SELECT count(*) FROM queen.partition_lookup l JOIN queen.messages m ON m.partition_id = l.partition_id AND m.id = l.last_message_id AND m.created_at = l.last_message_created_at AND m.seq = l.seq`)
		d.dense()
		d.push("q", "a", 4, 4)
		d.is("1,2,3,4,5,6,7,8", left, "a")
		moved = nil
		d.cycle(m, Reconcile)
		if moved != nil {
			t.Errorf("moved again: %v", moved)
		}
		if n := m.Stats(Reconcile).Rows.Load(); n != 5 {
			t.Errorf("%d messages counted", n)
		}
	})
}

func TestAHeadBeyondTheNewestMessageStays(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 3)
	d.run(`DELETE FROM queen.messages WHERE seq = 3`)
	before := d.run(`SELECT last_message_id, last_message_created_at, seq FROM queen.partition_lookup`)
	d.cycle(d.maintainer(Options{}), Reconcile)
	d.is(before, `SELECT last_message_id, last_message_created_at, seq FROM queen.partition_lookup`)
}

func TestAPartitionMadeByHandGetsItsHead(t *testing.T) {
	d := fresh(t)
	d.run(`INSERT INTO queen.queues (name) VALUES ('q'); INSERT INTO queen.partitions (queue_id, name) SELECT id, 'a' FROM queen.queues`)
	d.insert("a", 1, 3)
	var moved int
	d.cycle(d.maintainer(Options{Moved: func(string, [16]byte) { moved++ }}), Reconcile)
	d.is("1,2,3", left, "a")
	d.is("0|3", head, "a")
	if moved != 1 {
		t.Errorf("moved %d heads", moved)
	}
	d.dense()
}

func TestACursorThatWasAheadOfTheNumbersFollows(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 3)
	d.read("a", "slow", 2)
	d.read("a", "quick", 3)
	d.insert("a", 1, 3)
	d.run(`UPDATE queen.partition_consumers c SET last_consumed_created_at = m.created_at, last_consumed_id = m.id FROM queen.messages m WHERE m.transaction_id = 'hand2' AND c.consumer_group = 'quick'`)
	d.cycle(d.maintainer(Options{}), Reconcile)
	d.is("quick|5\nslow|2", `SELECT consumer_group, last_seq FROM queen.partition_consumers ORDER BY 1`)
}

func TestManyRowsOfOnePartitionTakeSomeTurns(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 1)
	d.insert("a", 1, 2*numberedRowsMax+1)
	d.cycle(d.maintainer(Options{}), Reconcile)
	d.is("0|10002", head, "a")
	d.is("10002|10002", `SELECT count(*), count(DISTINCT seq) FROM queen.messages`)
	d.is("", `SELECT id FROM (SELECT id, seq, row_number() OVER (ORDER BY created_at, id) n FROM queen.messages) x WHERE seq <> n`)
	d.dense()
}
