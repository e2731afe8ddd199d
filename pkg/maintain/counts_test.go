package maintain

import "testing"

func TestWhatWasDeletedByHandNoLongerCounts(t *testing.T) {
	each(t, func(t *testing.T, d *db) {
		for _, partition := range []string{"front", "middle", "all", "none", "both", "known"} {
			d.push("q", partition, 1, 10)
		}
		remove := func(partition, seqs string) {
			d.run(`DELETE FROM queen.messages m USING queen.partitions p WHERE p.id = m.partition_id AND p.name = '%s' AND m.seq IN (%s)`, partition, seqs)
		}
		remove("front", "1, 2, 3")
		remove("middle", "4, 5, 9, 10")
		remove("all", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")
		remove("both", "1, 2, 6")
		remove("known", "3, 4")
		d.run(`INSERT INTO queen.message_holes SELECT id, 4 FROM queen.partitions WHERE name = 'known'; INSERT INTO queen.message_holes SELECT id, 2 FROM queen.partitions WHERE name = 'both'`)
		m := d.maintainer(Options{})
		d.cycle(m, Counts)
		d.is("all|10|\nboth|2|6\nfront|3|\nknown|0|3,4\nmiddle|0|4,5,9,10\nnone|0|",
			`SELECT p.name, l.tail_seq, (SELECT string_agg(h.seq::text, ',' ORDER BY h.seq) FROM queen.message_holes h WHERE h.partition_id = p.id)
			   FROM queen.partition_lookup l JOIN queen.partitions p ON p.id = l.partition_id ORDER BY 1`)
		d.dense()
		rows := m.Stats(Counts).Rows.Load()
		d.cycle(m, Counts)
		if n := m.Stats(Counts).Rows.Load(); rows != 6 || n != rows {
			t.Errorf("%d holes, then %d", rows, n)
		}
		d.push("q", "all", 11, 12)
		d.push("q", "middle", 11, 12)
		d.cycle(m, Counts)
		d.dense()
	})
}

func TestManyHolesTakeSomeTurns(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 1)
	d.push("q", "b", 1, 5)
	d.run(`INSERT INTO queen.messages (transaction_id, partition_id, payload, created_at, seq)
			SELECT 'more' || i, p.id, '1', clock_timestamp() + i * interval '1 us', i FROM queen.partitions p, generate_series(2, %d) i WHERE p.name = 'a';
		UPDATE queen.partition_lookup l SET seq = m.seq, last_message_id = m.id, last_message_created_at = m.created_at FROM queen.messages m WHERE m.partition_id = l.partition_id AND m.seq = %[1]d`, holesTurnMax+10_000)
	d.dense()
	d.run(`DELETE FROM queen.messages WHERE seq %% 5 > 0 AND seq > 2`)
	d.cycle(d.maintainer(Options{}), Counts)
	d.dense()
}

func TestRowsWithoutANumberAndUncountedHeadsAreLeftAlone(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 10)
	d.push("q", "b", 1, 10)
	d.run(`UPDATE queen.messages m SET seq = NULL FROM queen.partitions p WHERE p.id = m.partition_id AND p.name = 'a' AND seq = 4;
		DELETE FROM queen.messages m USING queen.partitions p WHERE p.id = m.partition_id AND p.name = 'b' AND seq = 4;
		UPDATE queen.partition_lookup l SET seq = NULL FROM queen.partitions p WHERE p.id = l.partition_id AND p.name = 'b'`)
	d.cycle(d.maintainer(Options{}), Counts)
	d.is("0|10", head, "a")
	d.is("0|", head, "b")
	d.is("0", `SELECT count(*) FROM queen.message_holes`)
}
