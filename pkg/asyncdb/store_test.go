package asyncdb

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/queue"
)

func TestPushesOfOnePassGoTogetherAtItsEnd(t *testing.T) {
	r := up(t)
	a, b := r.push("q/p/1", "q/p/2"), r.push("q/p/3")
	if r.sent.Len() > 0 {
		t.Error("the first push did not wait for the second")
	}
	r.pass()
	if r.sent.Len() == 0 {
		t.Error("nothing was sent: what for?")
	}
	a.is("waits")
	r.serve()
	a.is("queued queued")
	b.is("queued")
	if n := r.store.Stats().Batches.Load(); n != 1 {
		t.Errorf("%d batches", n)
	}
}

func TestPushesGatherWhileABatchIsInFlight(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	b, c := r.push("q/p/2"), r.push("q/p/3")
	r.pass()
	reply := r.pg.read(t, &r.sent) // the resolve step of the first
	if r.sent.Len() > 0 {
		t.Error("a second step was sent while one is in flight")
	}
	r.answer(reply)
	r.serve()
	a.is("queued")
	b.is("queued")
	c.is("queued")
	if n := r.store.Stats().Batches.Load(); n != 2 {
		t.Errorf("%d batches", n)
	}
}

func TestTheNextBatchIsOnItsWayBeforeTheLastIsAnswered(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	r.answer(r.pg.read(t, &r.sent)) // resolved
	b := r.push("q/p/2")
	sent := 0
	a.told = func() { sent = r.sent.Len() }
	reply := r.pg.read(t, &r.sent)
	r.answer(reply)
	a.is("queued")
	b.is("waits")
	if sent == 0 {
		t.Error("the first was answered before the second was sent")
	}
	r.serve()
	b.is("queued")
}

func TestAPushFromInsideAnAnswerIsTaken(t *testing.T) {
	r := up(t)
	var b *call
	a := r.push("q/p/1")
	a.told = func() { b = r.push("q/p/2") }
	r.pass()
	r.serve()
	a.is("queued")
	b.is("queued")
}

func TestDuplicatesHearTheWinner(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	b := r.push("q/p/1", "q/p/2")
	r.pass()
	r.serve()
	b.is("duplicate queued")
	if b.op.Items[0].WinnerID != a.op.Items[0].ID {
		t.Error("another id won")
	}
}

func TestAStoreThatGivesUpSaysWhatMayBeDone(t *testing.T) {
	r := up(t)
	sent := r.push("q/p/1")
	r.pass()
	r.answer(r.pg.read(t, &r.sent)) // resolved; now the push is under way
	waiting := r.push("q/p/2")
	r.store.giveUp()
	for c, want := range map[*call]string{sent: "may have been stored", waiting: string(refusedClosed)} {
		if got := c.op.Fault; got.Code != queue.Unavailable || !strings.Contains(got.Message, want) {
			t.Errorf("%v, not %q", got, want)
		}
	}
}

// When the server stops, what waits for a connection is told so at once, also when that is
// lost later, and what comes then; what may be stored already is settled first.
func TestNothingWaitsForAConnectionInAHurry(t *testing.T) {
	r := up(t)
	sent := r.push("q/p/1")
	r.pass()
	r.answer(r.pg.read(t, &r.sent)) // resolved; now the push is under way
	waiting := r.push("q/p/2")
	r.store.Hasten()
	r.pass()
	waiting.is("waits") // there is a connection
	r.conn.closedBy(errTest)
	r.pass()
	comes := r.push("q/p/3")
	for _, c := range []*call{waiting, comes} {
		if got := c.op.Fault; got.Code != queue.Unavailable || got.Message != string(refusedClosed) {
			t.Errorf("%+v", got)
		}
	}
	sent.is("waits")
	r.open()
	r.serve()
	sent.is("queued")

	r = up(t)
	asks := r.push("q/p/1")
	r.pass() // under way is a question, which does nothing
	r.store.Hasten()
	r.conn.closedBy(errTest)
	r.pass()
	if got := asks.op.Fault; got.Message != string(refusedClosed) {
		t.Errorf("%+v", got)
	}
	r.open()
	again := r.push("q/p/1")
	r.pass()
	r.serve()
	again.is("queued")

	r = up(t)
	r.conn.closedBy(errTest)
	r.pass()
	waiting = r.push("q/p/1")
	waiting.is("waits")
	end := r.ending(t.Context())
	r.pass()
	r.store.Hasten()
	r.pass()
	if got := waiting.op.Fault; got.Message != string(refusedClosed) {
		t.Errorf("%+v", got)
	}
	if err := <-end; err != nil {
		t.Error(err)
	}
}

func TestOpsKnowTheirTimes(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	sent := r.now
	r.pass()
	r.sleep(time.Millisecond)
	r.serve()
	if a.op.Sent != sent || a.op.Answered != r.now {
		t.Errorf("sent %v, answered %v", a.op.Sent, a.op.Answered)
	}
}

// replies is every reply of a push into a new partition, from a rig of its own.
func replies(t *testing.T) []byte {
	r := up(t)
	r.pg.before = encode(&pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "hm"})
	r.push("q/p/1")
	r.pass()
	var all []byte
	for {
		reply := r.pg.read(t, &r.sent)
		if len(reply) == 0 {
			return all
		}
		all = append(all, reply...)
		r.answer(reply)
	}
}

func TestRepliesMayBeCutAnywhere(t *testing.T) {
	total := len(replies(t))
	for cut := 1; cut < total; cut++ {
		r := up(t)
		r.pg.before = encode(
			&pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "hm"},
			&pgproto3.ParameterStatus{Name: "application_name", Value: "x"},
			&pgproto3.NotificationResponse{PID: 1, Channel: "c"})
		a := r.push("q/p/1")
		r.pass()
		for at := 0; ; {
			reply := r.pg.read(t, &r.sent)
			if len(reply) == 0 {
				break
			}
			if i := cut - at; i > 0 && i < len(reply) {
				first := bytes.Clone(reply[:i])
				r.answer(first)
				clear(first) // it was the loop's
				r.answer(reply[i:])
			} else {
				r.answer(reply)
			}
			at += len(reply)
		}
		a.is("queued")
		if t.Failed() {
			t.Fatalf("cut at %d", cut)
		}
	}
}

// TestALostConnectionIsInvisible cuts the connection after each byte of the replies,
// with the step committed or not, and looks at what the client hears and what is stored.
func TestALostConnectionIsInvisible(t *testing.T) {
	total := len(replies(t))
	for _, committed := range []bool{true, false} {
		for cut := 0; cut < total; cut++ {
			r := up(t)
			a := r.push("q/p/1", "q/p/2")
			r.pass()
			gone := false
			for at := 0; ; {
				before := len(r.pg.messages)
				reply := r.pg.read(t, &r.sent)
				if len(reply) == 0 {
					break
				}
				if i := cut - at; !gone && i >= 0 && i < len(reply) {
					gone = true
					if !committed && before == 0 {
						clear(r.pg.messages)
					}
					r.conn.data(reply[:i])
					r.conn.closedBy(errTest)
					b := r.push("q/p/3") // meanwhile
					b.is("waits")
					r.open()
				} else {
					r.answer(reply)
				}
				at += len(reply)
			}
			a.is("queued queued")
			if n := r.store.Stats().Unknowns.Load(); gone && n != 1 {
				t.Errorf("%d steps count as unknown", n)
			}
			if n := len(r.pg.messages); gone && n != 3 || !gone && n != 2 {
				t.Errorf("%d messages are stored", n)
			}
			for i := range a.op.Items {
				it := &a.op.Items[i]
				if r.pg.messages[message{it.PartitionID, string(it.TransactionID)}] != it.WinnerID {
					t.Error("the client heard an id that is not the stored one")
				}
			}
			if t.Failed() {
				t.Fatalf("cut at %d, committed: %v", cut, committed)
			}
		}
	}
}

// cautious is a batch whose ops do not run again when nobody knows what became of them.
type cautious struct{ *queue.Batch }

func (b cautious) Unknown() {
	b.Batch.Unknown()
	b.Fail(queue.Fault{Code: queue.Unavailable, Message: "it may be done"})
}

func TestWhatALostConnectionDecidesIsSaidAtOnce(t *testing.T) {
	f := func(lose func(r *rig)) {
		t.Helper()
		r := up(t)
		r.store.current = cautious{r.store.current.(*queue.Batch)}
		a := r.push("q/p/1")
		r.pass()
		b := r.push("q/p/2")
		lose(r)
		r.pass()
		a.is("unavailable")
		b.is("waits")
		r.open()
		r.serve()
		b.is("queued")
		if len(r.pg.messages) != 1 {
			t.Errorf("%d messages are stored", len(r.pg.messages))
		}
	}
	f(func(r *rig) { r.conn.closedBy(errTest) })
	f(func(r *rig) { r.conn.closedBy(errTest); r.pass(); r.refuse(errTest) })
}

func TestAWriteThatFailsIsALostConnection(t *testing.T) {
	r := up(t)
	r.fails = errTest
	a := r.push("q/p/1")
	r.pass()
	a.is("waits")
	r.open()
	r.serve()
	a.is("queued")
}

func TestTheServerMayEndTheConnectionAtAnyTime(t *testing.T) {
	goodbye := encode(refusalOf("FATAL", "57P01"))
	f := func(name string, f func(r *rig)) {
		t.Helper()
		r := up(t)
		a := r.push("q/p/1")
		r.pass()
		r.serve()
		a.is("queued")
		f(r)
		b := r.push("q/p/2")
		b.is("waits")
		r.pass()
		r.open()
		r.serve()
		b.is("queued")
		if r.store.Stats().Losses.Load() != 1 {
			t.Errorf("%s: nothing was lost", name)
		}
	}
	f("idle", func(r *rig) { r.answer(goodbye) })
	f("idle, closed", func(r *rig) { r.conn.closedBy(nil) })
	f("probing", func(r *rig) { r.sleep(ProbeAfterDefault); r.answer(goodbye) })
	f("busy", func(r *rig) { r.push("q/p/x"); r.pass(); r.answer(goodbye) })
	f("busy, half a reply", func(r *rig) {
		r.push("q/p/x")
		r.pass()
		r.answer(encode(&pgproto3.BindComplete{}))
		r.answer(goodbye)
	})
	f("busy, cut in the farewell", func(r *rig) {
		r.push("q/p/x")
		r.pass()
		r.answer(goodbye[:9])
		r.conn.closedBy(errTest)
	})
}

func TestNonsenseFromTheServerClosesTheLaneAndNothingElse(t *testing.T) {
	f := func(nonsense []byte) {
		t.Helper()
		r := up(t)
		a := r.push("q/p/1")
		r.pass()
		r.answer(nonsense)
		if r.shut != 1 {
			t.Errorf("%q: the lane was closed %d times", nonsense, r.shut)
		}
		r.answer([]byte("more, on a connection that is gone"))
		r.sleep(reconnectFirst)
		a.is("waits")
		r.open()
		r.serve()
		a.is("queued")
	}
	f([]byte("HTTP/1.1 400 Bad Request\r\n"))
	f([]byte{'D', 0, 0, 0, 3})
	f([]byte{'D', 0xff, 0xff, 0xff, 0xff})
	f(encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})) // too early
	f(encode(&pgproto3.ReadyForQuery{TxStatus: 'T'}))
	f(encode(&pgproto3.AuthenticationOk{}))
	f([]byte{'E', 0, 0, 0, 6, 'C', 'x'}) // no end
	f([]byte{'N', 0, 0, 0, 4})
	f(encode(&pgproto3.EmptyQueryResponse{}))
	f(encode(refusalOf("ERROR", "23505"), refusalOf("ERROR", "23505")))
}

func TestAnErrorOutOfNowhereClosesTheLane(t *testing.T) {
	r := up(t)
	r.answer(encode(refusalOf("ERROR", "22000")))
	if r.shut != 1 {
		t.Error("it was taken")
	}
}

func TestAwayIsSaidAtOnceAndOpsThatWereTakenWait(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	r.conn.closedBy(errTest)
	b := r.push("q/p/2")
	b.is("waits") // it may be back in a moment
	r.refuse(errTest)
	c := r.push("q/p/3")
	c.is("unavailable")
	r.sleep(reconnectFirst)
	r.open()
	d := r.push("q/p/4")
	r.serve()
	a.is("queued")
	b.is("queued")
	d.is("queued")
}

func TestAnOutageIsNotTakenForASlowServer(t *testing.T) {
	r := up(t)
	a := r.pushWithin(time.Hour, "q/p/1")
	r.pass()
	r.conn.closedBy(errTest)
	r.refuse(errTest)
	r.sleep(time.Minute)
	r.open()
	r.serve()
	a.is("queued")
	b := r.push("q/p/2")
	r.pass()
	c := r.push("q/p/3") // behind a batch in flight
	r.pass()
	r.serve()
	b.is("queued")
	c.is("queued")
}

func TestOpsDoNotWaitLongerThanTheirDeadline(t *testing.T) {
	r := up(t)
	a := r.pushWithin(time.Second, "q/p/1")
	r.pass()
	b := r.pushWithin(2*time.Second, "q/p/2")
	r.conn.closedBy(errTest)
	r.refuse(errTest)
	r.sleep(a.op.Deadline - r.now - 10*time.Millisecond)
	a.is("waits")
	r.sleep(10 * time.Millisecond)
	a.is("unavailable")
	b.is("waits")
	r.sleep(time.Second)
	b.is("unavailable")
	r.open()
	r.serve()
	if len(r.pg.messages) != 0 {
		t.Error("what nobody waits for was stored")
	}
	c := r.push("q/p/3")
	r.pass()
	r.serve()
	c.is("queued")
}

func TestAnOpWhoseDeadlineHasPassedIsRefused(t *testing.T) {
	r := up(t)
	a := r.pushWithin(0, "q/p/1")
	a.is("unavailable")
}

func TestBeforeTheFirstConnectionOpsWaitAWhile(t *testing.T) {
	r := newRig(t)
	a := r.push("q/p/1")
	a.is("waits")
	r.open()
	r.serve()
	a.is("queued")

	r = newRig(t)
	r.sleep(FailoverTimeoutDefault/2 + 1)
	b := r.push("q/p/1")
	b.is("unavailable")
}

func TestAnOpGivenUpInFlightDoesNotStopTheLane(t *testing.T) {
	r := up(t)
	a := r.pushWithin(100*time.Millisecond, "q/p/1")
	b := r.push("q/p/2")
	r.pass()
	r.sleep(200 * time.Millisecond)
	a.is("unavailable")
	b.is("waits")
	r.serve()
	b.is("queued")
	if a.done != 1 || r.shut != 0 {
		t.Error("the lane was closed, or the op was answered twice")
	}
}

func TestAHungServerIsLeft(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	r.sleep(time.Second)
	b := r.push("q/p/2")
	r.sleep(749 * time.Millisecond)
	if r.shut != 0 {
		t.Error("it was left too early")
	}
	r.sleep(time.Millisecond)
	if r.shut != 1 || r.store.Stats().Hangs.Load() != 1 {
		t.Error("the lane is still there")
	}
	c := r.push("q/p/3")
	c.is("unavailable")
	a.is("waits")
	r.sleep(250 * time.Millisecond)
	a.is("unavailable") // by its deadline
	b.is("waits")
	old := r.conn
	r.open()
	r.serve()
	b.is("queued")
	old.data([]byte("an answer after all"))
	d := r.push("q/p/4")
	r.pass()
	r.serve()
	d.is("queued")
}

func TestAServerWhoseRowsAreComingIsSlowAndNotHung(t *testing.T) {
	for _, giveBack := range []bool{false, true} {
		r := up(t)
		r.store.work.GiveBack = giveBack
		c := r.pushWithin(time.Minute, "q/p/1")
		r.pass()
		reply := r.pg.read(t, &r.sent)
		r.sleep(time.Second)
		r.answer(reply[:7])
		r.sleep(r.db.config.HungAfter - time.Millisecond)
		if (r.shut == 1) != giveBack {
			t.Errorf("who gives back: %v; left %d times", giveBack, r.shut)
		}
		if giveBack {
			continue
		}
		r.answer(reply[7:])
		r.serve()
		c.is("queued")
		// It hangs in the middle.
		r.push("q/p/2")
		r.pass()
		r.sleep(time.Second)
		r.answer(r.pg.read(t, &r.sent)[:7])
		r.sleep(r.db.config.HungAfter)
		if r.shut != 1 {
			t.Error("a server that hangs in the middle of an answer is not left")
		}
	}
}

func TestALargeRequestIsGivenTime(t *testing.T) {
	var items []string
	for i := range 5000 {
		items = append(items, fmt.Sprintf("q/p/%d", i))
	}
	r := newRig(t)
	r.lax = true // so that a step may have two statements of the store's own
	r.open()
	a := r.pushWithin(time.Hour, items...)
	r.pass()
	r.sleep(r.db.config.HungAfter)
	if r.shut != 0 {
		t.Fatal("it was given the time of any other")
	}
	r.serve()
	if !strings.HasPrefix(a.outcome(), "queued queued") {
		t.Error(a.op.Fault)
	}
	allowance := queue.Allowance(5000, a.op.Cost)
	if want := milliseconds(r.db.config.StatementTimeout + allowance); len(r.pg.patience) != 2 || r.pg.patience[0] != want {
		t.Errorf("the server was asked for %v and not %v", r.pg.patience, want)
	}
	b := r.push("q/p/b")
	r.pass()
	r.serve()
	b.is("queued")
	if len(r.pg.patience) != 2 {
		t.Error("a small one was given more time than any other")
	}
	c := r.pushWithin(time.Hour, items...)
	r.pass()
	r.sleep(r.db.config.HungAfter + allowance)
	if r.shut != 1 {
		t.Error("the time has no end")
	}
	c.is("waits")
}

func TestAnIdleServerIsAskedForASignOfLife(t *testing.T) {
	r := up(t)
	r.sleep(ProbeAfterDefault - 1)
	if r.sent.Len() > 0 {
		t.Error("too early")
	}
	r.sleep(1)
	if got := r.sent.Bytes(); !bytes.Equal(got, appendSync(nil)) {
		t.Fatalf("%q", got)
	}
	a := r.push("q/p/1") // meanwhile
	r.pass()
	r.serve()
	a.is("queued")

	r.sleep(10 * ProbeAfterDefault)
	// The probe stays unanswered.
	if r.shut != 1 || r.store.Stats().Hangs.Load() != 1 {
		t.Error("a silent server was not noticed")
	}
	b := r.push("q/p/2")
	b.is("unavailable")
}

func TestReconnectingWaitsLongerEachTime(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	a.is("queued")
	r.conn.closedBy(errTest)
	if r.dials != 1 {
		t.Fatal("a good connection is replaced at once")
	}
	var waits []time.Duration
	for range 12 {
		r.refuse(errTest)
		from := r.now
		for r.dials == 0 {
			r.sleep(time.Millisecond)
		}
		waits = append(waits, r.now-from)
	}
	for i, w := range waits {
		longest := min(reconnectFirst<<i, reconnectMax)
		if w < longest/2 || w > longest+time.Millisecond {
			t.Errorf("wait %d was %v", i, w)
		}
	}
	r.open() // works, and is lost before it was good for anything
	r.conn.closedBy(errTest)
	if r.dials != 0 {
		t.Error("a server that only closes connections is asked without a pause")
	}
}

// A server that hangs keeps every attempt to connect, and must see to each when it goes on.
func TestWhileAnAttemptHangsOthersAreMadeNowAndThen(t *testing.T) {
	a := newRig(t)
	lanes := []*rig{a}
	for range 10 {
		lanes = append(lanes, a.beside())
	}
	for _, r := range lanes {
		r.refuse(errTest)
	}
	made := func() (n int) {
		for _, r := range lanes {
			n += r.dials
		}
		return n
	}
	const seconds = 20
	for ms := range seconds * 1000 {
		for _, r := range lanes {
			r.sleep(time.Millisecond)
		}
		if most := ms/1000 + 1; made() > most {
			t.Fatalf("%d attempts hang after %d ms", made(), ms)
		}
	}
	if made() < len(lanes) {
		t.Errorf("%d of %d lanes have tried", made(), len(lanes))
	}
	for _, r := range lanes[1:] {
		r.dials = 1
		r.refuse(errTest)
	}
	a.dials = 1
	if a.open(); made() != 0 {
		t.Fatal("the kit counts wrongly")
	}
	for _, r := range lanes[1:] {
		if r.pass(); r.dials != 1 {
			t.Error("a lane waits though another has come through")
		}
	}
}

// A server that takes connections and says nothing gets ever fewer of them; one that is not
// reached, or that answers, does not make the others wait for longer than dialEvery.
func TestASilentServerIsAskedEverMoreSeldom(t *testing.T) {
	var d dials
	begun := []time.Duration{}
	for now := time.Duration(0); now < time.Minute; now += dialLook {
		if d.wait(now) == 0 {
			d.begin(now)
			d.reach()
			begun = append(begun, now)
		}
	}
	want := []time.Duration{0, 1, 3, 7, 12, 17, 22, 27, 32, 37, 42, 47, 52, 57}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(begun, want) {
		t.Errorf("attempts at %v", begun)
	}
	now := begun[len(begun)-1]
	d.end(true)
	if got := d.wait(now); got != dialEveryMax {
		t.Errorf("after another silent one: %v", got)
	}
	d.end(false)
	if got := d.wait(now); got != dialEvery {
		t.Errorf("after an answer: %v", got)
	}
	for range 3 {
		d.begin(now)
		d.reach()
	}
	d.begin(now)
	if got := d.wait(now); got != dialEveryMax {
		t.Errorf("after three silent ones: %v", got)
	}
	d.begin(now) // the one before has not reached a server
	if got := d.wait(now); got != dialEvery {
		t.Errorf("on the way: %v", got)
	}
	d.reach()
	d.begin(now)
	if d.answered(); d.wait(now) != dialEvery {
		t.Errorf("one is let in: %v", d.wait(now))
	}
	for why, want := range map[error]bool{context.DeadlineExceeded: true, context.Canceled: true, errTest: false} {
		if isSilence(fmt.Errorf("so: %w", why)) != want {
			t.Errorf("%v is silence: %v", why, !want)
		}
	}
}

// Lanes that lose their connections together make one attempt, and the others when it has
// come through; those that have left a server by themselves make one each.
func TestLanesThatAreLostTogetherDoNotDialTogether(t *testing.T) {
	for left, want := range map[bool]int{false: 1, true: 3} {
		a := newRig(t)
		lanes := []*rig{a, a.beside(), a.beside()}
		made := func() (n int) {
			for _, r := range lanes {
				n += r.dials
			}
			return n
		}
		for _, r := range lanes {
			r.open()
		}
		for _, r := range lanes {
			r.store.proven()
			r.store.leftShut = left
			r.conn.closedBy(errTest)
			r.pass()
		}
		if made() != want {
			t.Errorf("left %v: %d attempts, not %d", left, made(), want)
		}
		if !left {
			a.open()
			for _, r := range lanes[1:] {
				r.pass()
			}
			if made() != 2 {
				t.Errorf("%d attempts when one has come through", made())
			}
		}
	}
}

// When one lane has come through, another whose attempt is older gives it up: it leads to a
// server, or takes a way, that does not answer any more.
func TestAnOlderAttemptIsGivenUpWhenANewerOneComesThrough(t *testing.T) {
	a := newRig(t)
	b, c := a.beside(), a.beside()
	given := func(r *rig) (up *bool) {
		up = new(bool)
		r.store.stopDial = func() { *up = true }
		return up
	}
	for _, r := range []*rig{a, b, c} {
		r.refuse(errTest)
	}
	for b.dials == 0 {
		b.sleep(time.Millisecond)
	}
	older := given(b)
	for _, r := range []*rig{a, c} {
		for r.sleep(b.now - r.now + dialEvery); r.dials == 0; {
			r.sleep(time.Millisecond)
		}
	}
	newer, begun := given(c), a.store.dialAt
	a.sleep(time.Second)
	a.open()
	for _, r := range []*rig{b, c} {
		r.pass()
		r.sleep(dialEvery / 2)
	}
	if *older {
		t.Error("an attempt is given up at once")
	}
	b.sleep(dialEvery)
	c.sleep(dialEvery)
	if !*older || *newer {
		t.Errorf("given up: the older %v, the newer %v", *older, *newer)
	}
	if d := a.db.dials.through; d != begun || b.store.attempts != 0 {
		t.Errorf("what came through was begun at %v, not %v; the next one waits for %d", d, begun, b.store.attempts)
	}
	b.dials = 0
	b.store.stopDial = func() {}
	b.store.dialFailed(context.Canceled)
	if h := b.db.Health(); h.LastError != errStuck.Error() {
		t.Errorf("it is said to be %q", h.LastError)
	}
	if b.sleep(c.now - b.now + dialEvery); b.dials != 1 {
		t.Error("it does not make another")
	}
}

// Those that leave it to an attempt see soon that it has ended; and where a host may be gone
// while the next one is there, nobody leaves it to others.
func TestAnAttemptIsLeftToOthersOnlyWhileItLasts(t *testing.T) {
	for hosts, want := range map[string]int{"127.0.0.1": 0, "127.0.0.1,127.0.0.2": 1} {
		a := newRig(t, func(c *Config) { c.ConnString = "host=" + hosts + " user=u dbname=d sslmode=disable" })
		b := a.beside()
		a.refuse(errTest)
		b.refuse(errTest)
		for a.dials == 0 {
			a.sleep(time.Millisecond)
		}
		b.sleep(a.now - b.now + reconnectFirst)
		if b.dials != want {
			t.Errorf("%s: %d attempts beside one that hangs, not %d", hosts, b.dials, want)
		}
		a.refuse(errTest)
		if b.sleep(dialLook); b.dials != 1 {
			t.Errorf("%s: %d attempts when the other has ended", hosts, b.dials)
		}
	}
}

func TestIdleLanesAskTogether(t *testing.T) {
	a, b := twoLanes(t)
	a.store.heardAt, b.store.heardAt = time.Hour, time.Hour+ProbeAfterDefault/4
	if x, y := a.store.probeAt(), b.store.probeAt(); x != y || x > a.store.heardAt+ProbeAfterDefault || y <= b.store.heardAt {
		t.Errorf("they ask after %v and %v", x-time.Hour, y-time.Hour)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for attempts := 1; attempts < 1000; attempts++ {
		for _, chance := range []float64{0, 0.5, 0.999} {
			if d := backoff(attempts, chance); d < reconnectFirst/2 || d > reconnectMax {
				t.Errorf("%d attempts: %v", attempts, d)
			}
		}
	}
}

func TestTooManyBytesAreRefused(t *testing.T) {
	r := up(t, func(c *Config) { c.BacklogBytesMax = 4096 })
	var taken []*call
	for range 100 {
		c := r.push("q/p/" + fmt.Sprint(len(taken)))
		if c.done > 0 {
			c.is("overloaded")
			break
		}
		taken = append(taken, c)
	}
	if n := len(taken); n == 0 || n == 100 {
		t.Fatalf("%d were taken", n)
	}
	if held := r.store.Stats().HeldBytes.Load(); held > 4096 {
		t.Errorf("%d bytes are held", held)
	}
	r.pass()
	r.serve()
	for _, c := range taken {
		c.is("queued")
	}
	if held := r.store.Stats().HeldBytes.Load(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
	c := r.push("q/p/again")
	r.pass()
	r.serve()
	c.is("queued")
}

// TestASlowServerGetsWhatItCanCarry lets batches take 600 ms and offers more than fits:
// what is accepted is answered within its deadline, the rest is refused at once, and when
// the server is fast again all is accepted.
func TestASlowServerGetsWhatItCanCarry(t *testing.T) {
	r := up(t, func(c *Config) { c.BatchRowsMax = 10 })
	first := r.push("q/p/0")
	r.pass()
	r.serve() // the partition is known
	first.is("queued")
	n := 0
	var all []*call
	offer := func(count int) (taken int) {
		for range count {
			n++
			c := r.push(fmt.Sprintf("q/p/%d", n))
			all = append(all, c)
			if c.done == 0 {
				taken++
			} else {
				c.is("overloaded")
			}
		}
		r.pass()
		return taken
	}
	for range 20 {
		offer(10)
		r.sleep(600 * time.Millisecond)
		r.answer(r.pg.read(t, &r.sent))
	}
	taken := 0
	for range 10 {
		taken += offer(100) // ten times what it can carry
		r.sleep(600 * time.Millisecond)
		r.answer(r.pg.read(t, &r.sent))
		if held := r.store.Stats().WaitingOps.Load(); held > 30 {
			t.Errorf("%d ops wait", held)
		}
	}
	if taken < 80 || taken > 130 {
		t.Errorf("%d were taken, 10 batches of 10 could be carried", taken)
	}
	r.serve()
	for range 10 { // fast again
		offer(10)
		r.serve()
	}
	if got := offer(100); got != 100 {
		t.Errorf("%d of 100 were taken when the server was fast again", got)
	}
	r.serve()
	late := 0
	for _, c := range all {
		if c.done != 1 {
			t.Fatal("an op was not answered")
		}
		if c.outcome() == "unavailable" {
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d ops were taken and then ran into their deadline", late)
	}
}

func TestACancelledOpIsStored(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.store.Cancel(&a.op)
	a.is("waits")
	r.pass()
	r.serve()
	a.is("queued")
}

func TestARetryWaitsAndHoldsTheLane(t *testing.T) {
	r := up(t)
	r.pg.fail = func(step, _ int, _ string) *pgproto3.ErrorResponse {
		if step == 0 {
			return refusalOf("ERROR", "40P01")
		}
		return nil
	}
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	b := r.push("q/p/2")
	r.pass()
	if r.sent.Len() > 0 {
		t.Error("the second has overtaken the first")
	}
	r.sleep(100 * time.Millisecond)
	r.serve()
	a.is("queued")
	b.is("queued")
	if n := r.store.Stats().Retries.Load(); n != 1 {
		t.Errorf("%d retries", n)
	}
}

func TestALockedPartitionHoldsUpTheLaneForAMoment(t *testing.T) {
	r := up(t)
	for _, name := range []string{"q/a/0", "q/b/0"} {
		r.push(name)
		r.pass()
		r.serve()
	}
	usual := r.store.gather.batchTime
	r.pg.locked = map[[2]string]int{{"q", "a"}: 7}
	locked, beside := r.pushWithin(2*time.Second, "q/a/1"), r.pushWithin(2*time.Second, "q/b/1")
	r.pass()
	r.sleep(600 * time.Millisecond) // the lock is waited for
	r.serve()
	behind := r.pushWithin(2*time.Second, "q/b/2")
	for range 3 { // a retry's pause, and two looks at who holds it
		r.sleep(100 * time.Millisecond)
		r.serve()
	}
	locked.is("unavailable")
	beside.is("queued")
	behind.is("queued")
	if got := r.store.gather.batchTime; got > 2*usual {
		t.Errorf("a batch takes %v now, %v before: others would be refused", got, usual)
	}
	again, free := r.pushWithin(2*time.Second, "q/a/2"), r.pushWithin(2*time.Second, "q/b/3")
	r.pass()
	r.serve()
	again.is("unavailable")
	free.is("queued")
}

func TestARetryIsNoReasonToWaitForWhatIsGivenUp(t *testing.T) {
	r := up(t)
	first := r.push("q/p/0")
	r.pass()
	r.serve()
	first.is("queued")
	r.pg.fail = func(step, _ int, _ string) *pgproto3.ErrorResponse {
		if step == 2 {
			return refusalOf("ERROR", "40P01")
		}
		return nil
	}
	a, b := r.pushWithin(expireAhead+1, "q/p/1"), r.push("q/p/2")
	r.pass()
	r.serve()
	a.is("unavailable") // no time is left for another try
	b.is("waits")
	r.sleep(100 * time.Millisecond)
	r.serve()
	b.is("queued")
}

func TestABatchThatTheServersTimeoutCutsIsFollowedBySmallerOnes(t *testing.T) {
	r := up(t)
	cut := true
	r.pg.fail = func(_, _ int, name string) *pgproto3.ErrorResponse {
		if cut && name == "push_insert" {
			return refusalOf("ERROR", "57014")
		}
		return nil
	}
	for i := range 100 {
		r.push(fmt.Sprintf("q/p/%d", i))
	}
	r.pass()
	r.serve()
	if r.store.gather.rowsCap != 50 {
		t.Errorf("a batch may have %d rows", r.store.gather.rowsCap)
	}
	cut = false
	r.sleep(100 * time.Millisecond)
	r.serve()
	if n := len(r.pg.messages); n != 100 {
		t.Errorf("%d messages", n)
	}
}

func TestASplitBatchAnswersWhoIsDone(t *testing.T) {
	r := up(t)
	first := r.push("q/p/0")
	r.pass()
	r.serve()
	first.is("queued")
	r.pg.poison = map[string]string{"4": "22P02"}
	a, b, c, d := r.push("q/p/1"), r.push("q/p/2"), r.push("q/p/3"), r.push("q/p/4")
	r.pass()
	r.answer(r.pg.read(t, &r.sent)) // all four: refused
	a.is("waits")
	r.answer(r.pg.read(t, &r.sent)) // the first half: stored
	a.is("queued")
	b.is("queued")
	c.is("waits")
	d.is("waits")
	r.serve()
	c.is("queued")
	d.is("failed")
}

func TestAConnectionLostDuringARetrysWaitIsReplaced(t *testing.T) {
	r := up(t)
	r.pg.fail = func(step, _ int, _ string) *pgproto3.ErrorResponse {
		if step == 0 {
			return refusalOf("ERROR", "40P01")
		}
		return nil
	}
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	r.conn.closedBy(errTest)
	r.open()
	r.serve()
	a.is("queued")
	r.sleep(time.Second) // the old wait's timer
	r.serve()
}

func TestLostStatementsArePreparedAgain(t *testing.T) {
	for _, code := range []string{"26000", "0A000"} {
		r := up(t)
		first := r.push("q/p/0")
		r.pass()
		r.serve()
		first.is("queued")
		r.pg.fail = func(step, _ int, _ string) *pgproto3.ErrorResponse {
			if step == 2 {
				return refusalOf("ERROR", code)
			}
			return nil
		}
		a := r.push("q/p/1")
		r.pass()
		r.serve()
		a.is("waits")
		b := r.push("q/p/2")
		b.is("waits") // not away
		r.open()
		r.serve()
		a.is("queued")
		b.is("queued")
		if strings.Contains(r.log.String(), "pooler") {
			t.Error("once is no pooler")
		}
	}
}

func TestBehindAPoolerStatementsAreSentWhole(t *testing.T) {
	r := up(t)
	first := r.push("q/p/0")
	r.pass()
	r.serve()
	first.is("queued")
	// No prepared statement is ever there; what is parsed in the step is.
	whole := false
	r.pg.fail = func(_, _ int, name string) *pgproto3.ErrorResponse {
		if name == "push_insert" && !whole {
			return refusalOf("ERROR", "26000")
		}
		return nil
	}
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	r.open()
	r.serve() // lost again; the batch gives up this connection too, or statements go whole
	whole = true
	for a.done == 0 && r.dials > 0 {
		r.open()
		r.serve()
	}
	if a.done == 0 {
		r.sleep(time.Second)
		for r.dials > 0 {
			r.open()
			r.serve()
		}
	}
	a.is("queued")
}

func TestOutagesAreTwoLines(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	a.is("queued")
	r.log.Reset()
	r.conn.closedBy(errTest)
	for range 20 {
		r.refuse(errTest)
	}
	r.open()
	lines := strings.Count(strings.ReplaceAll(r.log.String(), `{"level":"debug"`, ""), `{"level"`)
	if lines != 2 || !strings.Contains(r.log.String(), "PostgreSQL is back") {
		t.Errorf("%s", r.log.String())
	}
}

// TestADiskThatIsFullIsOneOutage: connections can be made, and each batch fails.
func TestADiskThatIsFullIsOneOutage(t *testing.T) {
	r := up(t)
	full := true
	r.pg.fail = func(int, int, string) *pgproto3.ErrorResponse {
		if full {
			return refusalOf("ERROR", "53100")
		}
		return nil
	}
	r.log.Reset()
	for range 20 {
		r.push(fmt.Sprintf("q/p/%d", r.now))
		r.pass()
		r.serve()
		refused := r.push("q/p/refused")
		if r.conn.gone {
			refused.is("unavailable")
		}
		if r.db.Health().OK() {
			t.Fatal("it counts as well though nothing can be stored")
		}
		r.open()
	}
	full = false
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	a.is("queued")
	if !r.db.Health().OK() {
		t.Error("it is not seen to be well")
	}
	lines := strings.Count(r.log.String(), `{"level"`) - strings.Count(r.log.String(), `{"level":"debug"`)
	if lines != 2 {
		t.Errorf("%s", r.log.String())
	}
}

func TestSetupErrorsAreSaidOnceWithARemedy(t *testing.T) {
	f := func(code, remedy string) {
		t.Helper()
		r := newRig(t)
		for range 5 {
			r.refuse(fmt.Errorf("cannot connect: %w", serverError(&queue.SQLError{Severity: "FATAL", Code: code, Message: "no"})))
		}
		log := r.log.String()
		if n := strings.Count(log, `"level":"error"`); n != 1 || !strings.Contains(log, remedy) {
			t.Errorf("%s: %s", code, log)
		}
		if h := r.db.Health(); h.OK() || h.SQLState != code {
			t.Errorf("%s: %+v", code, h)
		}
		r.open()
		if h := r.db.Health(); !h.OK() || h.Connected != 1 || h.Lanes != 1 {
			t.Errorf("%s: %+v", code, h)
		}
	}
	f("28P01", "password")
	f("28000", "pg_hba.conf")
	f("3D000", "createdb")
	f("3F000", "queend migrate apply")
	f("42P01", "queend migrate apply")
	f("42501", "right")
}

// ending closes the store in the background and returns a channel with Close's error.
func (r *rig) ending(ctx context.Context) chan error {
	r.t.Helper()
	before := len(r.posts)
	end, posted := make(chan error, 1), make(chan struct{})
	post := r.store.sv.Post
	r.store.sv.Post = func(f func()) { post(f); posted <- struct{}{} }
	go func() { end <- r.store.Close(ctx) }()
	<-posted
	if len(r.posts) != before+1 {
		r.t.Fatal("Close does not ask the loop")
	}
	r.store.sv.Post = func(f func()) { post(f); close(posted) }
	r.pass()
	r.t.Cleanup(func() {
		select {
		case <-end:
		default:
		}
	})
	return end
}

func TestCloseWaitsForWhatIsInFlight(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	b := r.push("q/p/2")
	end := r.ending(context.Background())
	c := r.push("q/p/3")
	c.is("unavailable")
	r.serve()
	a.is("queued")
	b.is("queued")
	if err := <-end; err != nil {
		t.Error(err)
	}
	if r.shut != 1 {
		t.Error("the connection is still there")
	}
	r.sleep(time.Minute)
	if r.dials != 0 {
		t.Error("a store that is closed connects")
	}
}

func TestCloseOfAnIdleStoreSaysGoodbye(t *testing.T) {
	r := up(t)
	if err := <-r.ending(context.Background()); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(r.sent.Bytes(), appendTerminate(nil)) || r.shut != 1 {
		t.Errorf("%q", r.sent.Bytes())
	}
}

func TestCloseWhileConnecting(t *testing.T) {
	r := newRig(t)
	if err := <-r.ending(context.Background()); err != nil {
		t.Error(err)
	}
	r.open() // too late
	if r.shut != 1 || !r.conn.gone {
		t.Error("the late connection is still there")
	}

	r = newRig(t)
	if err := <-r.ending(context.Background()); err != nil {
		t.Error(err)
	}
	r.refuse(errTest)
	r.sleep(time.Minute)
	if r.dials != 0 {
		t.Error("a store that is closed connects")
	}
}

func TestCloseGivesUpWhenItsTimeIsOver(t *testing.T) {
	r := up(t)
	a := r.push("q/p/1")
	r.pass()
	b := r.push("q/p/2")
	ctx, cancel := context.WithCancel(context.Background())
	end := r.ending(ctx)
	a.is("waits")
	posted := make(chan func(), 1)
	r.store.sv.Post = func(f func()) { posted <- f }
	cancel()
	(<-posted)()
	if err := <-end; err == nil {
		t.Error("nobody is told")
	}
	a.is("unavailable")
	b.is("unavailable")
	if r.shut != 1 {
		t.Error("the connection is still there")
	}
}

func TestTheOldConnectionIsDeadForItsStore(t *testing.T) {
	r := up(t)
	old := r.conn
	old.closedBy(errTest)
	r.open()
	a := r.push("q/p/1")
	r.pass()
	reply := r.pg.read(t, &r.sent)
	old.data(reply)
	old.closedBy(errTest)
	a.is("waits")
	r.answer(reply)
	r.serve()
	a.is("queued")
}

func TestALoopThatCannotTakeTheSocketIsAFailedAttempt(t *testing.T) {
	r := newRig(t)
	r.dials--
	c := &conn{store: r.store}
	c.closedBy(errTest)
	a := r.push("q/p/1")
	a.is("unavailable")
	r.sleep(reconnectFirst)
	r.open()
	b := r.push("q/p/1")
	r.pass()
	r.serve()
	b.is("queued")
}

func TestTimersDoNotPileUp(t *testing.T) {
	r := up(t)
	for i := range 5000 {
		r.push(fmt.Sprintf("q/p/%d", i))
		r.pass()
		r.serve()
		r.sleep(time.Millisecond)
	}
	if len(r.waits) > 4 {
		t.Errorf("%d timers are set", len(r.waits))
	}
}

func TestStatsAddUp(t *testing.T) {
	r := up(t)
	r.push("q/p/1", "q/p/2")
	r.push("q/p/3")
	r.pass()
	st := r.store.Stats()
	if st.InFlightRows.Load() != 3 {
		t.Errorf("%d rows in flight", st.InFlightRows.Load())
	}
	r.push("q/p/4")
	if st.WaitingOps.Load() != 1 {
		t.Errorf("%d ops wait", st.WaitingOps.Load())
	}
	r.serve()
	f := func(name string, got uint64, want uint64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d", name, got)
		}
	}
	f("ops", st.Ops.Load(), 3)
	f("batches", st.Batches.Load(), 2)
	f("rows", st.Rows.Load(), 4)
	f("steps", st.Steps.Load(), 3)
	f("in flight", uint64(st.InFlightRows.Load()), 0)
	f("waiting", uint64(st.WaitingOps.Load()), 0)
	f("held", uint64(st.HeldBytes.Load()), 0)
	f("connects", st.Connects.Load(), 1)
	count, sum, cumulative := st.BatchRows.Snapshot(1)
	if count != 2 || sum != 4 || cumulative[1] != 1 || cumulative[3] != 2 {
		t.Error(count, sum, cumulative)
	}
}

// pushing returns a function that takes n pushes of one message, in one pass, from Do to
// OpDone; the server's answer is ready before.
func pushing(t testing.TB, n int) func() {
	r := up(t)
	first := r.push("q/p/0")
	r.pass()
	r.serve()
	first.is("queued")
	var calls []*call
	for i := range n {
		calls = append(calls, newCall(t, &r.queue, r.ids, fmt.Sprintf("q/p/a%d", i)))
	}
	reply := encode(
		&pgproto3.BindComplete{}, &pgproto3.DataRow{Values: [][]byte{make([]byte, 8)}}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")},
		&pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "INSERT 0 %d", n)},
		&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if n >= markedRows {
		reply = append(encode(&pgproto3.BindComplete{}, &pgproto3.DataRow{Values: [][]byte{make([]byte, 32)}}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}), reply...)
	}
	ends := make([]func(), 0, 4)
	r.store.sv.Defer = func(f func()) { ends = append(ends, f) }
	r.sent.Grow(1 << 20)
	return func() {
		for _, c := range calls {
			c.done = 0
			c.op.Items[0].Status = queue.Pending
			c.op.Deadline = r.now + 2*time.Second
			r.store.Do(&c.op)
		}
		for _, f := range ends {
			f()
		}
		ends = ends[:0]
		r.conn.data(reply)
		r.sent.Reset()
		for _, c := range calls {
			if c.done != 1 || c.op.Items[0].Status != queue.Queued {
				t.Fatal(c.outcome())
			}
		}
		r.now += time.Microsecond
	}
}

func TestAPushAllocatesNothingHere(t *testing.T) {
	push := pushing(t, 1)
	push()
	if n := testing.AllocsPerRun(1000, push); n > 0 {
		t.Errorf("%v allocations a push", n)
	}
	push = pushing(t, 50)
	push()
	if n := testing.AllocsPerRun(100, push); n > 0 {
		t.Errorf("%v allocations for 50 pushes", n)
	}
}

// BenchmarkBatch is what a batch costs on the loop, from Do to OpDone, without sockets;
// package queue's part is in it.
func BenchmarkBatch(b *testing.B) {
	for _, n := range []int{1, 50} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			push := pushing(b, n)
			b.ReportAllocs()
			for b.Loop() {
				push()
			}
		})
	}
}
