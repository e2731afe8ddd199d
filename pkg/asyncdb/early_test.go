package asyncdb

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/queue"
)

// aide is a lane's helper, whose connection the test runs by hand as it does the lane's.
type aide struct {
	r       *rig
	store   *Store
	session session
	dials   int
	conn    *conn
	sent    bytes.Buffer
	late    bytes.Buffer
	fails   error
}

// aided gives a lane a helper, which is not connected yet.
func (r *rig) aided() *aide {
	r.store.work.Early = r.queue.PreparedEarly()
	h := &aide{r: r, store: r.db.newStore(r.store.sv, Work{NewBatch: func() Batch { return nil }, Prepare: r.store.work.Early, owner: r.store})}
	r.store.helper = h.store
	h.store.dialFn = func(context.Context) { h.dials++ }
	h.store.dial(r.now)
	r.pg.second, r.pg.late, r.pg.behind = &h.session, &h.late, h.read
	r.pg.undone = func() bool { return r.store.early == noEarly }
	return h
}

// read lets the server read what was sent to it by the helper.
func (h *aide) read() []byte {
	answer := h.r.pg.readOn(h.r.t, &h.session, &h.sent)
	return append(bytes.Clone(drain(&h.late)), answer...)
}

func drain(b *bytes.Buffer) []byte {
	all := bytes.Clone(b.Bytes())
	b.Reset()
	return all
}

// open lets the helper's attempt to connect succeed.
func (h *aide) open() {
	h.r.t.Helper()
	for range 300 {
		if h.dials > 0 {
			break
		}
		h.r.sleep(10 * time.Millisecond)
	}
	if h.dials == 0 {
		h.r.t.Fatal("the helper does not connect")
	}
	h.dials--
	h.sent.Reset()
	h.late.Reset()
	h.session = session{}
	at := h.r.at
	c := &conn{store: h.store, link: link{about: "the test's server", instance: &at}}
	h.conn = c
	c.opened(func(b []byte) error {
		if err := h.fails; err != nil {
			h.fails = nil
			c.closedBy(err)
			return err
		}
		h.sent.Write(b)
		return nil
	}, func() { c.closedBy(nil) })
	h.r.pass()
}

// serve lets the server answer what the helper has sent.
func (h *aide) serve() {
	h.conn.data(h.read())
	h.r.pass()
}

// endIfGone rolls back what a connection that is gone has left.
func (h *aide) endIfGone() {
	if h.conn != nil && h.conn.gone && h.session.open != nil {
		h.session.failed = true
		h.r.pg.end(&h.session)
	}
}

// aidedAndCounted is a lane with a helper that knows the numbers of partition q/p.
func aidedAndCounted(t *testing.T) (*rig, *aide) {
	r := upAndResolved(t)
	h := r.aided()
	h.open()
	first := r.push(many("q", 2, "count", queue.EarlyRowsMin)...)
	r.pass()
	r.serve()
	first.is(all("queued", queue.EarlyRowsMin))
	return r, h
}

// many are items of one push, in two partitions by turns.
func many(q string, partitions int, name string, n int) (items []string) {
	for i := range n {
		items = append(items, fmt.Sprintf("%s/p%d/%s-%d", q, i%partitions, name, i))
	}
	return items
}

func all(status string, n int) string {
	return strings.TrimSpace(strings.Repeat(status+" ", n))
}

const earlyRows = 2 * queue.EarlyRowsMin

// oneEarly is a lane with a batch in flight, and one behind it that the helper stores.
func oneEarly(t *testing.T) (r *rig, h *aide, first, second *call) {
	r, h = aidedAndCounted(t)
	first = r.push(many("q", 2, "a", queue.EarlyRowsMin)...)
	r.pass()
	r.pg.idles = true
	second = r.push(many("q", 2, "b", earlyRows)...)
	if r.store.following {
		t.Fatal("a batch is stored early behind one that may not have begun")
	}
	r.answer(r.pg.read(t, &r.sent))
	if r.store.early != storing || h.store.state != busy {
		t.Fatal("no batch is stored early")
	}
	return r, h, first, second
}

// both checks that both pushes are stored, in their order.
func (r *rig) both(h *aide, first, second *call) {
	r.t.Helper()
	for range 20 {
		r.serve()
		if !h.conn.gone {
			h.serve()
		}
		h.endIfGone()
		r.sleep(20 * time.Millisecond)
	}
	first.is(all("queued", queue.EarlyRowsMin))
	second.is(all("queued", earlyRows))
	r.pg.inOrder(r.t, "first", "count", "a", "b")
	if h.session.open != nil {
		r.t.Error("a transaction is left open")
	}
	third := r.push(many("q", 2, "c", 5)...)
	r.pass()
	r.serve()
	third.is(all("queued", 5))
}

func TestALargeBatchIsStoredBeforeItsTurn(t *testing.T) {
	for _, soon := range []bool{false, true} {
		r, h, first, second := oneEarly(t)
		if soon {
			h.serve()
			if r.store.early != stored || len(r.pg.stored) != 2+queue.EarlyRowsMin {
				t.Fatal("the second is not stored early")
			}
		}
		r.serve()
		first.is(all("queued", queue.EarlyRowsMin))
		second.is("waits")
		if !soon {
			h.serve() // now its rows are, and it is its turn
		}
		if r.store.early != moving {
			t.Fatal("its heads are not moved")
		}
		h.serve()
		second.is(all("queued", earlyRows))
		if n := r.store.stats.Earlies.Load(); n != 1 || r.store.stats.Late.Load() != 0 {
			t.Errorf("%d were stored early", n)
		}
		r.both(h, first, second)
	}
}

func TestWhatCannotBeKnownIsNotStoredEarly(t *testing.T) {
	for what, f := range map[string]func(r *rig, h *aide) (*call, int){
		"nothing against it": func(r *rig, h *aide) (*call, int) { // this one is
			return r.push(many("q", 2, "b", earlyRows)...), earlyRows
		},
		"few": func(r *rig, h *aide) (*call, int) {
			return r.push(many("q", 2, "b", queue.EarlyRowsMin-1)...), queue.EarlyRowsMin - 1
		},
		"a partition whose number is not known": func(r *rig, h *aide) (*call, int) {
			return r.push(append(many("q", 2, "b", earlyRows), "q/other/b-x")...), earlyRows + 1
		},
		"many partitions": func(r *rig, h *aide) (*call, int) {
			return r.push(many("q", earlyRows/2, "b", earlyRows)...), earlyRows
		},
		"small requests": func(r *rig, h *aide) (*call, int) {
			r.crowd("b", earlyRows)
			return r.push("q/p0/b-last"), 1
		},
		"the same message": func(r *rig, h *aide) (*call, int) {
			return r.push(append(many("q", 2, "b", earlyRows), "q/p1/a-1")...), -1
		},
		"the same message twice": func(r *rig, h *aide) (*call, int) {
			return r.push(append(many("q", 2, "b", earlyRows), "q/p1/b-1")...), -1
		},
		"a helper that is away": func(r *rig, h *aide) (*call, int) {
			h.conn.closedBy(io.EOF)
			return r.push(many("q", 2, "b", earlyRows)...), earlyRows
		},
		"a helper whose server is another": func(r *rig, h *aide) (*call, int) {
			h.conn.link.instance = &instance{id: "other"}
			h.store.leftFrom, h.store.leftAt = "other", r.now // it has just come back to that one
			return r.push(many("q", 2, "b", earlyRows)...), earlyRows
		},
	} {
		t.Run(what, func(t *testing.T) {
			r, h := aidedAndCounted(t)
			first := r.push(many("q", 2, "a", queue.EarlyRowsMin)...)
			r.pass()
			r.pg.idles = true
			second, n := f(r, h)
			r.answer(r.pg.read(t, &r.sent)) // the first has begun
			if got, want := r.store.stats.Earlies.Load() != 0, what == "nothing against it"; got != want {
				t.Errorf("it is stored early: %v", got)
			}
			r.pg.idles = false
			for range 3 {
				r.serve()
				if !h.conn.gone {
					h.serve()
				}
			}
			first.is(all("queued", queue.EarlyRowsMin))
			if n < 0 {
				second.is(all("queued", earlyRows) + " duplicate")
			} else {
				second.is(all("queued", n))
			}
			r.pg.inOrder(t, "first", "count", "a", "b")
		})
	}
}

// A step that nobody has asked for it does not say when it has begun, and a batch that is stored
// behind it would be late.
func TestNothingIsStoredEarlyBehindAStepThatDoesNotSayWhenItHasBegun(t *testing.T) {
	r, h := aidedAndCounted(t)
	h.conn.closedBy(io.EOF)
	first := r.push(many("q", 2, "a", queue.EarlyRowsMin)...)
	r.pass()
	h.open()
	r.store.pause = 0
	second := r.push(many("q", 2, "b", earlyRows)...)
	if r.store.stats.Earlies.Load() != 0 || !r.store.nextSent {
		t.Error("it does not just follow")
	}
	r.both(h, first, second)
}

// What the helper is told late of a batch that was sent again is not taken for what is told of that.
func TestALateAnswerOfTheHelperIsHeardByNobody(t *testing.T) {
	r, h, first, second := oneEarly(t)
	r.pg.fail = failOf("push_insert", "40001", 1)
	late := h.read()
	r.answer(r.pg.read(t, &r.sent)) // the first has failed, and the second is to wait for it
	r.sleep(20 * time.Millisecond)
	r.pg.idles = false
	r.answer(r.pg.read(t, &r.sent))
	first.is(all("queued", queue.EarlyRowsMin))
	reply := r.pg.read(t, &r.sent) // of the second, which is sent by itself now
	end := len(reply) - len(ready)
	r.answer(reply[:end])
	tag := fmt.Sprintf("INSERT 0 %d", earlyRows)
	if !bytes.Contains(late, []byte(tag)) {
		t.Fatal("the helper has stored nothing")
	}
	h.conn.data(bytes.Replace(late, []byte(tag), []byte("INSERT 0 999"), 1))
	r.answer(reply[end:])
	second.is(all("queued", earlyRows))
	r.both(h, first, second)
}

// Of what was rolled back for sure nothing is said, and of what may be committed it is.
func TestACommitThatIsNotKnownIsADoubt(t *testing.T) {
	for code, doubt := range map[string]bool{"40003": true, "40001": false} {
		r, h, first, second := oneEarly(t)
		h.serve()
		r.pg.fail = failOf(commit, code, 1)
		r.answer(r.pg.read(t, &r.sent))
		r.answer(r.pg.read(t, &r.sent))
		h.conn.data(h.read())
		if got := r.store.current.MayBeStored(); got != doubt {
			t.Errorf("%s: it may be stored: %v", code, got)
		}
		r.pass()
		r.both(h, first, second)
	}
}

func TestWhatFailsEarlyIsSentInItsTurn(t *testing.T) {
	for _, code := range []string{"40001", "55P03", "57014", "23505", "22021", "26000", "57P03", "40003"} {
		for _, statement := range []string{begin, "push_early", "push_early_insert", "push_move", commit} {
			for _, soon := range []bool{false, true} {
				r, h, first, second := oneEarly(t)
				r.pg.fail = failOf(statement, code, 1)
				if soon {
					h.serve()
				}
				r.serve()
				h.serve()
				if statement == begin {
					h.serve()
				}
				h.serve()
				if r.store.stats.Late.Load() != 1 && code != "40003" {
					t.Errorf("%s in %s: it was not in vain", code, statement)
				}
				r.both(h, first, second)
			}
		}
	}
}

func TestWhatComesBetweenMakesItLate(t *testing.T) {
	r, h, first, second := oneEarly(t)
	h.serve()
	at := r.pg.heads[queue.UUID{15: 2}]
	r.pg.heads[queue.UUID{15: 2}] = place{at.seq + 1, at.at} // another server's push
	r.serve()
	h.serve()
	if r.store.stats.Late.Load() != 1 {
		t.Error("it is not late")
	}
	r.both(h, first, second)
	if r.store.pause == 0 {
		t.Error("the next batch may be stored early, which is in vain where others push too")
	}
}

func TestAFailureOfTheFirstUndoesTheSecond(t *testing.T) {
	for _, code := range []string{"40001", "55P03", "57014", "23505", "22021", "26000", "57P03", "40003"} {
		for _, soon := range []bool{false, true} {
			r, h, first, second := oneEarly(t)
			if soon {
				h.serve()
			}
			r.pg.fail = failOf("push_insert", code, 1)
			if code == "22021" {
				r.pg.fail, r.pg.poison = nil, map[string]string{"a-7": code}
			}
			r.answer(r.pg.read(t, &r.sent))
			if r.store.early != noEarly {
				t.Fatalf("%s: the second goes on", code)
			}
			if r.store.state == down {
				r.open()
			}
			if code == "22021" {
				for range 5 {
					h.serve()
					r.serve()
					r.sleep(20 * time.Millisecond)
				}
				first.is(all("failed", queue.EarlyRowsMin))
				second.is(all("queued", earlyRows))
				continue
			}
			r.both(h, first, second)
		}
	}
}

func TestALostHelperIsNoticedByNobody(t *testing.T) {
	for stage := range 5 {
		for _, isStored := range []bool{false, true} {
			r, h, first, second := oneEarly(t)
			if stage >= 1 {
				h.serve() // its rows are stored
			}
			if stage >= 2 {
				r.serve() // it is moved
			}
			if isStored {
				h.read() // and the answer is lost
			}
			if stage == 3 {
				h.fails = errTest
				h.store.write(h.conn, nil, r.now)
			} else {
				h.conn.closedBy(io.EOF)
			}
			if !isStored || stage < 2 { // what is not committed is rolled back
				h.endIfGone()
			}
			r.pass()
			r.both(h, first, second)
			h.open()
		}
	}
}

func TestALostLaneUndoesWhatIsEarly(t *testing.T) {
	for stage := range 3 {
		for _, isStored := range []bool{false, true} {
			r, h, first, second := oneEarly(t)
			if stage >= 1 {
				h.serve()
			}
			if stage >= 2 {
				r.serve()
				if isStored {
					h.read()
				}
			}
			r.conn.closedBy(io.EOF)
			if stage >= 2 && !h.conn.gone {
				t.Fatal("what is unknown is waited for")
			}
			if !isStored {
				h.endIfGone()
			}
			r.open()
			r.both(h, first, second)
		}
	}
}

func TestAHelperThatHangsIsAnOutage(t *testing.T) {
	r, h, _, second := oneEarly(t)
	r.store.work.GiveBack = true
	h.serve()
	r.serve()
	r.sleep(r.db.config.HungAfter + 10*time.Millisecond)
	second.is("outage")
	if !strings.Contains(second.op.Fault.Message, "may have been stored") {
		t.Errorf("it hears %q", second.op.Fault.Message)
	}
	if r.store.state != down || !r.store.away {
		t.Error("the lane takes the server for well")
	}
}

// When it is its turn the lane's own connection is free, and the helper is not waited for long.
func TestAHelperThatHangsTooSoonHoldsUpNothing(t *testing.T) {
	r, h, first, second := oneEarly(t)
	r.answer(r.pg.read(t, &r.sent))
	first.is(all("queued", queue.EarlyRowsMin))
	r.sleep(earlyPatience + earlyRows*earlyRow + 10*time.Millisecond)
	if !h.conn.gone {
		t.Fatal("the helper is waited for")
	}
	if r.store.Away() || r.db.hungAt() != 0 {
		t.Error("the server is taken for hung")
	}
	r.both(h, first, second)
}

// Somebody may wait for the helper's transaction whom the first waits for.
func TestATurnThatDoesNotComeIsNotWaitedForLong(t *testing.T) {
	r, h, first, second := oneEarly(t)
	h.serve()
	r.sleep(earlyPatience + 10*time.Millisecond)
	if r.store.early != noEarly || r.store.state != busy {
		t.Fatal("its transaction is left open")
	}
	h.serve()
	if h.session.open != nil {
		t.Error("it is not rolled back")
	}
	r.both(h, first, second)
}

func TestNothingIsMissingWithoutAHelper(t *testing.T) {
	r, h, first, second := oneEarly(t)
	connects := r.store.stats.Connects.Load()
	h.conn.closedBy(io.EOF)
	r.pass()
	r.both(h, first, second)
	var waits []time.Duration
	for range 4 {
		since := r.now
		for h.dials == 0 {
			r.sleep(50 * time.Millisecond)
			r.serve()
		}
		waits = append(waits, r.now-since)
		h.dials--
		h.store.dialFailed(errTest)
		if health := r.db.Health(); !health.OK() || health.Lanes != 1 {
			t.Errorf("the server is %+v", health)
		}
	}
	if waits[3] < helperPatience*reconnectFirst*2 {
		t.Errorf("it tries again after %v", waits)
	}
	if strings.Contains(r.log.String(), `"warn"`) || strings.Contains(r.log.String(), "is back") {
		t.Errorf("it is said:\n%s", r.log.String())
	}
	if s := &r.store.stats; s.Losses.Load() != 1 || s.ConnectFailures.Load() != 4 {
		t.Error("what becomes of its connections is not counted")
	}
	for h.dials == 0 {
		r.sleep(50 * time.Millisecond)
		r.serve()
	}
	h.open()
	if r.store.stats.Connects.Load() != connects+1 {
		t.Error("nor that it has one again")
	}
}

// As on the lane's own connection: what a server says that is left is not believed.
func TestWhatIsCommittedWhileTheServerIsLeftIsUnknown(t *testing.T) {
	r, h, _, second := oneEarly(t)
	h.serve()
	r.serve()
	r.conn.readOnly = true
	h.serve()
	second.is("waits")
	if !r.store.current.MayBeStored() {
		t.Error("it counts as not stored")
	}
	r.open()
	r.serve()
	second.is(all("queued", earlyRows))
}

func TestAHelperWhoseStatementsAreLostIsReplaced(t *testing.T) {
	r, h, first, second := oneEarly(t)
	r.pg.fail = failOf("push_early_insert", "26000", 1)
	h.serve()
	if !h.conn.gone {
		t.Fatal("its connection is kept")
	}
	h.endIfGone()
	h.open()
	r.both(h, first, second)
}

func TestAHelperIsMadeForLargeRequestsAlone(t *testing.T) {
	r := upAndResolved(t)
	r.store.work.Early = r.queue.PreparedEarly()
	r.crowd("a", queue.EarlyRowsMin)
	r.pass()
	r.crowd("b", earlyRows)
	if r.store.stats.Follows.Load() == 0 || r.store.helper != nil {
		t.Fatal("one is made for small ones")
	}
	r.serve()
	r.push(many("q", 2, "c", queue.EarlyRowsMin)...)
	r.pass()
	r.store.closing = true
	r.store.next.Add(&newCall(t, &r.queue, r.ids, many("q", 2, "d", earlyRows)...).op)
	if r.store.storeEarly(r.now) || r.store.helper != nil {
		t.Error("one is made for a lane that ends")
	}
}

func TestALaneEndsWithItsHelper(t *testing.T) {
	r, h, first, second := oneEarly(t)
	r.store.closing = true
	r.bothServed(h)
	first.is(all("queued", queue.EarlyRowsMin))
	second.is(all("queued", earlyRows))
	if !r.store.closed || !h.store.closed || !h.conn.gone {
		t.Error("one of them is left")
	}
	if h := r.db.Health(); h.Lanes != 0 {
		t.Errorf("%d lanes are left", h.Lanes)
	}
}

// bothServed serves both until nothing is left to do.
func (r *rig) bothServed(h *aide) {
	for range 5 {
		r.serve()
		if !h.conn.gone {
			h.serve()
		}
	}
}

// The walk of batches that follow, with large pushes and a helper whose connection fails too.
func TestAWalkOfBatchesThatAreStoredEarly(t *testing.T) {
	earlies, late := uint64(0), uint64(0)
	for range 25 {
		w := newWalk(t, 100)
		w.aide = w.r.aided()
		w.r.pg.idles = true
		for range 150 {
			w.step()
			w.isSound()
		}
		w.end()
		earlies += w.r.store.stats.Earlies.Load()
		late += w.r.store.stats.Late.Load()
	}
	if late < 5 || earlies-late < 3 {
		t.Errorf("%d batches were stored early, %d in vain", earlies, late)
	}
}

// stepOfHelper does something on the helper's connection.
func (w *walk) stepOfHelper() {
	h := w.aide
	switch n := w.random.IntN(200); {
	case h.conn == nil || h.conn.gone:
		if h.dials == 0 && n < 20 {
			h.store.dialSoon()
		}
		if h.dials == 0 || n > 60 {
			return
		}
		w.early = nil
		h.open()
	case n == 0:
		h.fails = errTest
	case n == 1:
		if w.random.IntN(2) == 0 {
			h.read()
		}
		h.conn.closedBy(io.EOF)
		w.r.pass()
	case n < 160:
		if w.early = append(w.early, h.read()...); len(w.early) > 0 {
			k := len(w.early)
			if w.random.IntN(2) == 0 {
				k = w.random.IntN(k) + 1
			}
			now := w.early[:k]
			w.early = bytes.Clone(w.early[k:])
			h.conn.data(now)
			w.r.pass()
		}
	case n == 160 && w.r.pg.second.open == nil: // another server's push
		for id, at := range w.r.pg.heads {
			w.r.pg.heads[id] = place{at.seq + 1, at.at}
		}
	case n > 160:
		w.r.store.pause = 0
	}
	h.endIfGone()
}

// PostgreSQL itself: clients that push much at once, while connections are killed and another
// server pushes to the same partitions; and a reader that must not be overtaken.
func TestPostgreSQLStoresLargePushesEarly(t *testing.T) {
	url := migrate(t, postgrestest.Database(t))
	s, other := newStage(t, url, 1), newStage(t, url, 1)
	first := s.pusher(0).push(many("q", 4, "first", 4)...)
	first.is("queued queued queued queued")
	const clients, rows = 12, 150
	end := make(chan struct{})
	var at sync.WaitGroup
	var pushed, others atomic.Uint64
	for c := range clients {
		at.Go(func() {
			p := s.pusher(0)
			for i := 0; ; i++ {
				select {
				case <-end:
					return
				default:
				}
				call := p.push(many("q", 4, fmt.Sprintf("c%d-%06d", c, i), rows)...)
				call.is(all("queued", rows))
				pushed.Add(rows)
			}
		})
	}
	reads := newReaders(t, url, &at, end, &first.op)
	early := func() uint64 {
		st := s.stores[0].Stats()
		return st.Earlies.Load() - st.Late.Load()
	}
	for i := range 4 {
		before := early()
		until(t, "batches are stored early", func() bool { return early() > before+5 })
		if i%2 == 0 {
			late := s.stores[0].Stats().Late.Load()
			until(t, "one is late", func() bool {
				other.pusher(0).push(many("q", 4, fmt.Sprintf("other-%d", others.Add(1)), 4)...).is("queued queued queued queued")
				return s.stores[0].Stats().Late.Load() > late
			})
		} else {
			ask(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'queend' AND random() < 0.7")
		}
	}
	close(end)
	at.Wait()
	for _, f := range reads {
		f.read(t)
		if n := ask(t, url, "SELECT count(*) FROM queen.messages WHERE partition_id = '"+f.partition+"'"); string(n[0][0]) != fmt.Sprint(f.n) {
			t.Errorf("of %s messages the reader has seen %d", n[0][0], f.n)
		}
	}
	for what, sql := range map[string]string{
		"numbers that are not dense":       `SELECT m.id FROM (SELECT id, seq, row_number() OVER (PARTITION BY partition_id ORDER BY created_at, id) n FROM queen.messages) m WHERE seq <> n`,
		"heads that are somewhere else":    `SELECT h.partition_id FROM queen.partition_lookup h WHERE h.seq <> (SELECT count(*) FROM queen.messages m WHERE m.partition_id = h.partition_id)`,
		"messages that overtook":           `SELECT id FROM (SELECT id, split_part(transaction_id, '-', 2)::int n, max(split_part(transaction_id, '-', 2)::int) OVER (PARTITION BY partition_id, split_part(transaction_id, '-', 1) ORDER BY seq) most FROM queen.messages WHERE transaction_id LIKE 'c%') m WHERE n < most`,
		"messages that are later than now": `SELECT id FROM queen.messages WHERE created_at > now()`,
	} {
		if rows := ask(t, url, sql); len(rows) != 0 {
			t.Errorf("%d %s", len(rows), what)
		}
	}
	if n := ask(t, url, "SELECT count(*) FROM queen.messages WHERE transaction_id LIKE 'c%'"); string(n[0][0]) != fmt.Sprint(pushed.Load()) {
		t.Errorf("%s messages of %d are stored", n[0][0], pushed.Load())
	}
}

// reader reads a partition as a consumer does: what appears behind its cursor is lost to it.
type reader struct {
	partition, at, id string
	n                 int
	conn              *pgconn.PgConn
}

func (f *reader) read(t *testing.T) {
	for {
		r := f.conn.ExecParams(context.Background(), `SELECT created_at, id FROM queen.messages WHERE partition_id = $1 AND (created_at, id) > ($2::timestamptz, $3::uuid)
			ORDER BY created_at, id LIMIT 100`, [][]byte{[]byte(f.partition), []byte(f.at), []byte(f.id)}, nil, nil, nil).Read()
		if r.Err != nil {
			t.Error(r.Err)
			return
		}
		if len(r.Rows) == 0 {
			return
		}
		last := r.Rows[len(r.Rows)-1]
		f.at, f.id = string(last[0]), string(last[1])
		f.n += len(r.Rows)
	}
}

// newReaders reads the partitions of an op's items until end.
func newReaders(t *testing.T, url string, at *sync.WaitGroup, end chan struct{}, op *queue.Op) (all []*reader) {
	for i := range op.Items {
		f := &reader{partition: uuidText(op.Items[i].PartitionID), at: "-infinity", id: uuidText(queue.UUID{}), conn: connect(t, url)}
		t.Cleanup(func() { _ = f.conn.Close(context.Background()) })
		all = append(all, f)
		at.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					f.read(t)
				}
			}
		})
	}
	return all
}
