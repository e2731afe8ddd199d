package asyncdb

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/queue"
)

// TestEachErrorHasItsPolicy says each SQLSTATE once, at the insert of two pushes, and
// looks at what becomes of these and of the next one.
func TestEachErrorHasItsPolicy(t *testing.T) {
	const (
		goesOn     = "goes on"         // on the same connection, unseen by the clients
		waits      = "waits"           // the same, after a moment
		reconnects = "reconnects"      // on another connection, unseen by the clients
		away       = "away"            // the next is refused until a connection is there, these wait for it
		apart      = "runs them apart" // each in its own transaction
	)
	f := func(severity, code string, want string) {
		t.Helper()
		r := up(t)
		first := r.push("q/p/0")
		r.pass()
		r.serve()
		first.is("queued")
		said := false
		inserts := 0
		r.pg.fail = func(_, _ int, name string) *pgproto3.ErrorResponse {
			if name != "push_insert" {
				return nil
			}
			inserts++
			if said {
				return nil
			}
			said = true
			return refusalOf(severity, code)
		}
		a, b := r.push("q/p/1"), r.push("q/p/2")
		r.pass()
		r.serve()

		got := goesOn
		switch {
		case r.conn.gone && r.store.away:
			got = away
			c := r.push("q/p/3")
			c.is("unavailable")
			r.open()
			r.serve()
		case r.conn.gone:
			got = reconnects
			c := r.push("q/p/3")
			c.is("waits")
			r.open()
			r.serve()
			c.is("queued")
		case a.done == 0:
			got = waits
			r.sleep(100 * time.Millisecond)
			r.serve()
		case inserts == 3:
			got = apart
		}
		if got != want {
			t.Errorf("%s %s: it %s; it should: %s", severity, code, got, want)
		}
		a.is("queued")
		b.is("queued")
		if n := r.store.Stats().Errors[queue.Classify(code)].Load(); severity == "ERROR" && n != 1 {
			t.Errorf("%s was counted %d times", code, n)
		}
		if t.Failed() {
			t.Fatalf("%s %s", severity, code)
		}
	}
	e := func(want string, codes ...string) {
		t.Helper()
		for _, code := range codes {
			f("ERROR", code, want)
		}
	}
	// Database away, full, read-only.
	e(away, "08000", "08003", "08006", "08P01", "53000", "53100", "53200", "53300", "53400", "58000", "58030", "58P01", "25006",
		"XX000", "XX001", "XX002", "57P01", "57P02", "57P03", "57P04", "57P05")
	// Bad data.
	e(apart, "22001", "22003", "22021", "22P02", "22P05", "54000", "54001", "23514", "42804", "42601")
	// Retryable.
	e(waits, "40001", "40P01", "55P03", "57014")
	// May be committed.
	e(waits, "40003")
	// Statement lost.
	e(reconnects, "26000", "0A000")
	// Set-up is wrong.
	e(away, "28000", "28P01", "3D000", "3F000", "42P01", "42501", "42703")
	// Stale partition; a duplicate that turns out to be none.
	e(goesOn, "23503", "23502", "23505")
	// Unheard of.
	e(away, "99999", "F0001")

	// What ends the connection is a lost connection, whatever its code says: the next one
	// tells whether PostgreSQL is away.
	for _, code := range []string{"57P01", "57P02", "57P04", "57P05", "53200", "XX000", "25P03", "22001"} {
		f("FATAL", code, reconnects)
	}
	f("PANIC", "XX000", reconnects)
}

// TestRetriesEnd: what fails again and again is answered within the deadline, and the
// lane goes on.
func TestRetriesEnd(t *testing.T) {
	f := func(code, want string, warnings int) {
		t.Helper()
		r := up(t)
		defer func() { // once, however often it is tried
			if n := strings.Count(r.log.String(), "work waits for a lock"); n != warnings {
				t.Errorf("%s: %d warnings of a lock", code, n)
			}
		}()
		r.pg.fail = func(_, _ int, name string) *pgproto3.ErrorResponse {
			if name == "push_insert" {
				return refusalOf("ERROR", code)
			}
			return nil
		}
		a := r.push("q/p/1")
		b := r.push("q/p/2")
		from := r.now
		for a.done == 0 || b.done == 0 {
			r.pass()
			r.serve()
			r.sleep(time.Millisecond)
			if r.dials > 0 {
				r.open()
			}
			if r.now-from > 2*time.Second {
				t.Fatalf("%s: no answer within the deadline", code)
			}
		}
		a.is(want)
		b.is(want)
		if r.pg.fail = nil; r.conn.gone {
			r.open()
		}
		c := r.push("q/p/3")
		r.pass()
		r.serve()
		c.is("queued")
	}
	f("40P01", "unavailable", 0)
	f("55P03", "unavailable", 1)
	f("57014", "unavailable", 1)
	f("53100", "unavailable", 0)
	f("26000", "unavailable", 0)
	f("42P01", "unavailable", 0)
	f("22P02", "failed", 0)
	f("23503", "unavailable", 0)
}

// TestOneBadRequestFailsAlone: of many requests in a batch exactly the guilty one hears
// of it.
func TestOneBadRequestFailsAlone(t *testing.T) {
	for _, guilty := range []int{0, 1, 7, 19} {
		r := up(t)
		bad := fmt.Sprint(guilty)
		r.pg.poison = map[string]string{bad: "22P02"}
		var all []*call
		for i := range 20 {
			all = append(all, r.push("q/p/"+fmt.Sprint(i)))
		}
		r.pass()
		r.serve()
		for i, c := range all {
			if i == guilty {
				c.is("failed")
			} else {
				c.is("queued")
			}
		}
	}
}

// TestAServerOfNoAnswersIsLeftByTheDeadline: connections are made, and nothing that is
// sent is answered, for a minute.
func TestAServerOfNoAnswersIsLeftByTheDeadline(t *testing.T) {
	r := up(t)
	var all []*call
	until := r.now + time.Minute
	for i := 0; r.now < until; i++ {
		all = append(all, r.push("q/p/"+fmt.Sprint(i)))
		r.pass()
		r.sleep(100 * time.Millisecond)
		if r.dials > 0 {
			r.open()
		}
		for _, c := range all {
			if c.done == 0 && r.now > c.op.Deadline {
				t.Fatal("an op is older than its deadline")
			}
		}
	}
	r.sleep(3 * time.Second)
	for _, c := range all {
		if c.done != 1 {
			t.Fatal("an op was not answered")
		}
	}
	if len(r.waits) > 4 {
		t.Errorf("%d timers are set", len(r.waits))
	}
}
