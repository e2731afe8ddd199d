package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// large is a request of n messages, by turns for so many partitions.
func large(name string, n, partitions int) string {
	var b strings.Builder
	b.WriteString(`{"items":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"queue":"q","partition":"p%d","transactionId":"%s-%d","payload":{"n":%d}}`, i%partitions, name, i, i)
	}
	b.WriteString(`]}`)
	return b.String()
}

// exec runs SQL on a store's own connection.
func (s *store) exec(sql string) {
	s.t.Helper()
	if _, err := s.conn.Exec(context.Background(), sql).ReadAll(); err != nil {
		s.t.Fatal(err)
	}
}

// sendOK sends a step that must succeed.
func (s *store) sendOK(step []Statement, b *Batch) {
	s.t.Helper()
	if e, err := s.send(step, b); e != nil || err != nil {
		s.t.Fatal(e, err)
	}
}

// duel is two batches of one lane: the first is stored and not committed, the second can be
// stored early on a connection of its own.
type duel struct {
	db            string
	one, two      *store
	first, second *Batch
	ops           [2]*Op
}

func newDuel(t *testing.T, jsonb bool, name string) *duel {
	t.Helper()
	d := &duel{db: database(t)}
	if jsonb {
		query(t, d.db, `ALTER TABLE queen.messages ALTER payload TYPE jsonb USING payload::jsonb`)
	}
	d.one, d.two = newStore(t, d.db), newStore(t, d.db)
	config := &Config{PayloadJSONB: jsonb}
	d.one.config, d.two.config, d.two.hints = config, config, d.one.hints
	d.one.push(large("resolved", 3, 3))
	b := NewBatch(config, d.one.hints)
	b.Count()
	b.Add(d.one.op(large("counted", EarlyRowsMin, 3)))
	if err := d.one.drive(b); err != nil {
		t.Fatal(err)
	}
	d.first, d.second = NewBatch(config, d.one.hints), NewBatch(config, d.one.hints)
	d.ops = [2]*Op{d.one.op(large("first", EarlyRowsMin, 2)), d.one.op(large(name, 2*EarlyRowsMin, 3))}
	d.first.Add(d.ops[0])
	d.second.Add(d.ops[1])
	return d
}

// begin sends the first, in a transaction that stays open.
func (d *duel) begin() {
	d.one.exec("BEGIN")
	d.one.sendOK(d.first.Step(now()), d.first)
}

// commit ends the first.
func (d *duel) commit() {
	d.one.exec("COMMIT")
	d.first.StepDone(nil, now())
	d.first.Step(now())
}

// store stores the second early.
func (d *duel) store(t *testing.T) {
	t.Helper()
	step := d.second.Early(d.first, now())
	if step == nil {
		t.Fatal("the second cannot be stored early")
	}
	d.two.exec("BEGIN")
	d.two.sendOK(step, d.second)
}

// move makes the second true, and returns what PostgreSQL says against it.
func (d *duel) move(t *testing.T) string {
	t.Helper()
	e, err := d.two.send(d.second.Move(), d.second)
	if err != nil {
		t.Fatal(err)
	}
	if e != nil {
		d.two.exec("ROLLBACK")
		d.second.Late(true)
		return e.Code
	}
	d.two.exec("COMMIT")
	d.second.StepDone(nil, now())
	if d.second.Step(now()) != nil {
		t.Error("the second is not decided")
	}
	return ""
}

// end checks that all is stored, the second after the first.
func (d *duel) end(t *testing.T) {
	t.Helper()
	if err := d.two.drive(d.second); err != nil {
		t.Fatal(err)
	}
	expectStatuses(t, d.ops[:], strings.Repeat("q", EarlyRowsMin), strings.Repeat("q", 2*EarlyRowsMin))
	expect(t, d.db, `SELECT count(*) FROM queen.messages a JOIN queen.messages b USING (partition_id)
		WHERE a.transaction_id LIKE 'first-%' AND b.transaction_id LIKE 'second-%' AND ((a.created_at, a.id) >= (b.created_at, b.id) OR a.seq >= b.seq)`, "0")
	consistent(t, d.db)
}

func TestAPushIsStoredWhileTheOneBeforeIsNotCommitted(t *testing.T) {
	for _, jsonb := range []bool{false, true} {
		d := newDuel(t, jsonb, "second")
		d.begin()
		d.store(t)
		expect(t, d.db, `SELECT count(*) FROM queen.messages WHERE transaction_id LIKE 'second-%'`, "0")
		d.commit()
		if code := d.move(t); code != "" {
			t.Errorf("it is late: %s", code)
		}
		d.end(t)

		// And one more behind that: what is known goes on from there.
		third, fourth := NewBatch(d.one.config, d.one.hints), NewBatch(d.one.config, d.one.hints)
		third.Add(d.one.op(large("third", EarlyRowsMin, 3)))
		fourth.Add(d.one.op(large("fourth", EarlyRowsMin, 3)))
		d.first, d.second = third, fourth
		d.begin()
		d.store(t)
		d.commit()
		if code := d.move(t); code != "" {
			t.Errorf("the fourth is late: %s", code)
		}
		consistent(t, d.db)
	}
}

func TestAnEarlyPushIsLateWhenSomethingCameBetween(t *testing.T) {
	for what, f := range map[string]func(d *duel){
		"another server's push": func(d *duel) {
			newStore(t, d.db).push(`{"items":[{"queue":"q","partition":"p2"}]}`)
		},
		"a later message, with no number": func(d *duel) {
			query(t, d.db, `UPDATE queen.partition_lookup SET last_message_created_at = now() + interval '1 hour'
				WHERE partition_id = (SELECT id FROM queen.partitions WHERE name = 'p1')`)
		},
		"a number that is gone": func(d *duel) {
			query(t, d.db, `UPDATE queen.partition_lookup SET seq = seq - 1 WHERE partition_id = (SELECT id FROM queen.partitions WHERE name = 'p0')`)
		},
		"the end of the queue": func(d *duel) { query(t, d.db, `DELETE FROM queen.queues`) },
		"a second":             func(d *duel) { d.two.exec("SELECT pg_sleep(1.01)") },
	} {
		t.Run(what, func(t *testing.T) {
			d := newDuel(t, false, "second")
			d.begin()
			d.store(t)
			d.commit()
			f(d)
			if code := d.move(t); code != "22012" {
				t.Fatalf("it ends with %q", code)
			}
			expect(t, d.db, `SELECT count(*) FROM queen.messages WHERE transaction_id LIKE 'second-%'`, "0")
			if what == "another server's push" || what == "a second" {
				d.end(t)
			}
		})
	}
}

// A push may be stored early only when the one before it is known to have begun.
func TestAnEarlyPushThatBeganFirstIsLate(t *testing.T) {
	d := newDuel(t, false, "second")
	step := d.first.Step(now())
	d.store(t)
	d.one.exec("BEGIN")
	d.one.sendOK(step, d.first)
	d.commit()
	if code := d.move(t); code != "22012" {
		t.Fatalf("it ends with %q", code)
	}
	d.end(t)
}

// That is all that need be known of it: it may not have moved a head yet.
func TestAPushIsStoredWhileTheOneBeforeHasJustBegun(t *testing.T) {
	d := newDuel(t, false, "second")
	d.one.exec("BEGIN")
	step := d.first.Step(now())
	d.one.sendOK(step[:1], nil)
	d.store(t)
	d.one.sendOK(step[1:], nil)
	d.first.gather.stored = EarlyRowsMin // its place in the step is not that in what was sent
	d.commit()
	if code := d.move(t); code != "" {
		t.Fatalf("it is late: %s", code)
	}
	d.end(t)
}

// Nobody's lock is waited for: what holds it comes between.
func TestAnEarlyPushDoesNotWaitForALock(t *testing.T) {
	d := newDuel(t, false, "second")
	d.begin()
	d.store(t)
	if r := d.two.conn.ExecParams(context.Background(), "SHOW lock_timeout", nil, nil, nil, nil).Read(); string(r.Rows[0][0]) != "100ms" {
		t.Errorf("it waits for %s", r.Rows[0][0])
	}
	d.commit()
	other := newStore(t, d.db)
	other.exec("BEGIN; SELECT FROM queen.partition_lookup FOR UPDATE")
	if code := d.move(t); code != lockNotAvailable {
		t.Fatalf("it ends with %q", code)
	}
	other.exec("ROLLBACK")
	d.end(t)
}

func TestAPushWithAMessageOfTheOneBeforeIsNotStoredEarly(t *testing.T) {
	d := newDuel(t, false, "first") // the same transaction ids
	d.begin()
	if d.second.Early(d.first, now()) != nil {
		t.Fatal("PostgreSQL would have one wait for the other")
	}
	d.commit()
	if err := d.two.drive(d.second); err != nil {
		t.Fatal(err)
	}
	if got := statuses(d.ops[1]); strings.Count(got, "d") == 0 || strings.Count(got, "q") == 0 || strings.Trim(got, "dq") != "" {
		t.Errorf("its messages are %q", got)
	}
	consistent(t, d.db)
}

func TestNumbersAreForgottenWhereTheyMayBeWrong(t *testing.T) {
	for what, f := range map[string]func(d *duel){
		"an answer that is lost": func(d *duel) { d.first.Unknown() },
		"a partition that is anew": func(d *duel) {
			d.first.stale(&d.first.groups[0])
			d.one.push(`{"items":[{"queue":"q","partition":"p0"}]}`)
		},
		"a message that is not there": func(d *duel) { d.first.gather.stored--; d.first.StepDone(nil, now()) },
	} {
		d := newDuel(t, false, "second")
		d.one.exec("BEGIN")
		d.one.sendOK(d.first.Step(now()), d.first)
		d.one.exec("ROLLBACK")
		f(d)
		if d.one.hints.get([]byte("q"), []byte("p0")).counted {
			t.Errorf("%s: its number is remembered", what)
		}
		other := NewBatch(d.one.config, d.one.hints)
		other.Add(d.one.op(large("other", EarlyRowsMin, 1)))
		other.Step(now())
		if d.second.Early(other, now()) != nil {
			t.Errorf("%s: what is not known is expected", what)
		}
	}
}

func TestWithAKeyNothingIsStoredEarly(t *testing.T) {
	c := &Config{Sealer: &Sealer{}}
	if c.PreparedEarly() != nil {
		t.Error("who does not know what is encrypted stores early")
	}
}

func TestMessagesGivenUpAreStoredEarlyAllTheSame(t *testing.T) {
	d := newDuel(t, false, "second")
	d.ops[1].Deadline = 1
	d.begin()
	d.store(t)
	if late := d.second.Expire(time.Hour); len(late) != 1 || !strings.Contains(late[0].Fault.Message, pushDoubt) {
		t.Fatalf("it hears %+v", late)
	}
	d.commit()
	if code := d.move(t); code != "" {
		t.Errorf("it is late: %s", code)
	}
	expect(t, d.db, `SELECT count(*) FROM queen.messages WHERE transaction_id LIKE 'second-%'`, fmt.Sprint(2*EarlyRowsMin))
	consistent(t, d.db)
}

func TestWhatIsNotWorthItIsNotStoredEarly(t *testing.T) {
	const most = 2 * EarlyRowsMin
	d := newDuel(t, false, "second")
	d.one.push(large("more", most, most))
	for i := range most { // as if all were known
		d.one.hints.get([]byte("q"), fmt.Appendf(nil, "p%d", i)).counted = true
	}
	d.begin()
	for _, c := range []struct {
		rows, partitions int
		worth            bool
	}{
		{EarlyRowsMin, 3, true}, {EarlyRowsMin - 1, 3, false},
		{most, most / earlyPerHead, true}, {most, most/earlyPerHead + 1, false},
	} {
		b := NewBatch(d.one.config, d.one.hints)
		b.Add(d.one.op(large("b", c.rows, c.partitions)))
		if got := b.Early(d.first, now()) != nil; got != c.worth {
			t.Errorf("%d messages for %d partitions: %v", c.rows, c.partitions, got)
		}
	}
}
