package asyncdb

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// begun is a server of a name, as it was seen so many seconds after the test's epoch.
func begun(id string, second int) instance {
	return instance{id: id, seen: time.Unix(1_700_000_000+int64(second), 0)}
}

// upAt returns a rig that is connected to a server of a name.
func upAt(t *testing.T, id string) *rig {
	r := newRig(t)
	r.at = begun(id, 0)
	r.open()
	return r
}

// elsewhere has another lane find a server.
func (r *rig) elsewhere(id string, second int) {
	at := begun(id, second)
	r.db.arrived(-1, &at)
	r.at = at
}

func (r *rig) leaves(want uint64) {
	r.t.Helper()
	if got := r.store.stats.Moves.Load(); got != want {
		r.t.Errorf("the lane has left %d servers and not %d", got, want)
	}
}

func TestAnIdleLaneLeavesWhenAnotherServerIsFound(t *testing.T) {
	r := upAt(t, "old")
	r.elsewhere("new", 1)
	if r.pass(); r.shut != 1 {
		t.Error("the lane stays")
	}
	r.open()
	c := r.push("q/p/1")
	r.pass()
	r.serve()
	c.is("queued")
	r.leaves(1)
}

func TestNothingIsAskedOfAServerThatIsLeft(t *testing.T) {
	r := upAt(t, "old")
	c := r.push("q/p/1")
	r.elsewhere("new", 1) // and the lane has not heard yet
	r.store.fire()
	if c.is("waits"); r.sent.String() != string(appendTerminate(nil)) {
		t.Errorf("the old server is sent %q", r.sent.Bytes())
	}
	r.open()
	r.serve()
	c.is("queued")
}

func TestWhatAServerSaysThatIsLeftIsNotBelieved(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		r := upAt(t, "old")
		first := r.push("q/p/0")
		r.pass()
		r.serve()
		first.is("queued")
		c := r.push("q/p/1")
		r.pass()
		if refuses {
			r.pg.fail = func(int, int, string) *pgproto3.ErrorResponse { return refusalOf("ERROR", "22P02") }
		}
		reply := r.pg.read(t, &r.sent) // stored, if it is not refused
		r.pg.fail = nil
		r.elsewhere("new", 1)
		r.pass()
		if c.is("waits"); r.shut != 0 {
			t.Error("the lane leaves while an answer is owed")
		}
		r.answer(reply)
		if c.is("waits"); r.shut != 1 {
			t.Error("the lane stays")
		}
		r.open()
		r.serve()
		c.is("queued") // by its own id, if it was there
		r.leaves(1)
	}
}

func TestALaneLeavesAServerThatHasBecomeReadOnly(t *testing.T) {
	for _, name := range []string{"default_transaction_read_only", "in_hot_standby"} {
		said := encode(&pgproto3.ParameterStatus{Name: name, Value: "on"})
		// It comes before the answer that it concerns.
		r := upAt(t, "only")
		c := r.push("q/p/1")
		r.pass()
		r.answer(append(said, r.pg.read(t, &r.sent)...))
		if c.is("waits"); r.shut != 1 {
			t.Errorf("%s: the lane stays", name)
		}
		r.open()
		r.serve()
		c.is("queued")
		// Or while nothing is asked; then the next op looks.
		r.answer(said)
		c = r.push("q/p/2")
		r.pass()
		if c.is("waits"); r.shut != 2 {
			t.Errorf("%s: the lane asks", name)
		}
		r.open()
		r.serve()
		c.is("queued")
		// A server that is writable again is good.
		r.answer(append(said, encode(&pgproto3.ParameterStatus{Name: name, Value: "off"})...))
		c = r.push("q/p/3")
		r.pass()
		r.serve()
		c.is("queued")
		r.leaves(2)
	}
}

func TestAConnectionThatWasMadeBeforeTheMoveIsNoMove(t *testing.T) {
	r := newRig(t)
	r.elsewhere("new", 1)
	r.at = begun("old", 0) // it could be written to then
	r.open()
	r.leaves(1)
	if r.db.primary.at.Load().id != "new" {
		t.Error("the old server is the primary again")
	}
	r.at = begun("new", 2)
	r.open()
	r.leaves(1)
}

func TestLanesDoNotFollowEachOtherWithoutAPause(t *testing.T) {
	r := upAt(t, "a")
	for i := 1; i < 100; i++ {
		r.elsewhere([]string{"a", "b"}[i%2], 2*i)
		if r.pass(); r.store.state == down {
			r.at = begun([]string{"a", "b"}[(i+1)%2], 2*i+1)
			r.open()
		}
		r.sleep(100 * time.Millisecond)
	}
	if n := r.store.stats.Moves.Load(); n < 1 || n > 2+10*uint64(time.Second)/uint64(leaveAgain) {
		t.Errorf("%d moves in 10 s", n)
	}
}

// One that lets lanes in and then says that it is read-only would have them all call each
// other in.
func TestALaneThatWasToldReadOnlyDoesNotCallTheOthers(t *testing.T) {
	a := newRig(t)
	b := a.beside()
	a.open()
	b.refuse(errTest)
	b.refuse(errTest) // it waits for its third attempt
	a.answer(encode(&pgproto3.ParameterStatus{Name: "in_hot_standby", Value: "on"}))
	a.push("q/p/1")
	a.pass()
	a.open()
	if b.pass(); b.dials != 0 {
		t.Error("another lane is called to a server that may say the same again")
	}
	a.serve() // now it was good for something
	a.conn.closedBy(errTest)
	a.open()
	if b.pass(); b.dials != 1 {
		t.Error("another lane is not called")
	}
}

func TestWhoConnectsInAnotherWayHearsOfAMoveOnce(t *testing.T) {
	r := newRig(t)
	told := 0
	r.db.OnMoved(func() { told++ })
	for i, id := range []string{"a", "a", "b", "b", "b"} {
		r.elsewhere(id, i)
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestAMalformedParameterStatusClosesTheLane(t *testing.T) {
	for _, body := range []string{"", "name", "name\x00value", "name\x00value\x00more"} {
		r := up(t)
		r.answer(append([]byte{kindParameter, 0, 0, 0, byte(4 + len(body))}, body...))
		if r.shut != 1 {
			t.Errorf("%q is taken", body)
		}
	}
}
