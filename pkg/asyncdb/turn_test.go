package asyncdb

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// twoLanes returns two lanes of a process that are connected and take turns.
func twoLanes(t *testing.T) (a, b *rig) {
	a = newRig(t)
	b = a.beside()
	for _, r := range []*rig{a, b} {
		r.store.work.Turns = true
		r.open()
	}
	return a, b
}

// sends says whether something was sent that was not answered.
func (r *rig) sends() bool {
	r.pass()
	return r.sent.Len() > 0
}

// nobodyStands checks that the line is empty.
func (r *rig) nobodyStands() {
	r.t.Helper()
	if n := len(r.db.turns.line); n != 0 {
		r.t.Errorf("%d lanes stand in line", n)
	}
}

func TestALaneWaitsForOneThatHasAPartitionInCommon(t *testing.T) {
	a, b := twoLanes(t)
	first := a.push("q/p/1")
	if !a.sends() {
		t.Fatal("the first lane waits")
	}
	second, third := b.push("q/p/2"), b.push("q/other/3")
	if b.sends() {
		t.Fatal("the second lane does not wait")
	}
	a.serve()
	first.is("queued")
	fourth := b.push("q/p/4") // it has come before the turn has
	if !b.sends() {
		t.Fatal("the second lane was not told")
	}
	b.serve()
	second.is("queued")
	third.is("queued")
	fourth.is("queued")
	if n := b.store.stats.Batches.Load(); n != 1 {
		t.Errorf("what had come until then went in %d batches", n)
	}
	if n := b.store.stats.Turns.Load(); n != 1 {
		t.Errorf("it has waited %d times, say the stats", n)
	}
	a.nobodyStands()
}

func TestLanesWithOtherPartitionsDoNotWait(t *testing.T) {
	a, b := twoLanes(t)
	a.push("q/p/1")
	b.push("q/other/1") // these two have different bits only mostly
	var x, y seats
	x.take(&newCall(t, &a.queue, a.ids, "q/p/1").op)
	y.take(&newCall(t, &a.queue, a.ids, "q/other/1").op)
	if !a.sends() || b.sends() == x.meet(&y) {
		t.Error("a lane waits for nothing")
	}
}

func TestWhoHasJustGoneStandsBehindWhoWaits(t *testing.T) {
	a, b := twoLanes(t)
	a.push("q/p/1")
	a.pass()
	again := a.push("q/p/2")
	b.push("q/p/3")
	if b.sends() {
		t.Fatal("the second lane does not wait")
	}
	a.answer(a.pg.read(t, &a.sent)) // resolved
	a.answer(a.pg.read(t, &a.sent)) // pushed
	if again.is("waits"); a.sends() {
		t.Error("a lane goes twice while another waits")
	}
	if !b.sends() {
		t.Error("the other was not told")
	}
	b.serve()
	if !a.sends() {
		t.Error("it was not told in its turn")
	}
	a.serve()
	again.is("queued")
	a.nobodyStands()
}

func TestALaneDoesNotWaitForLong(t *testing.T) {
	a, b := twoLanes(t)
	a.push("q/p/1")
	a.pass()
	c := b.push("q/p/2")
	b.pass()
	b.sleep(turnWait)
	if !b.sends() {
		t.Fatal("it waits for ever")
	}
	b.serve()
	c.is("queued")
	a.serve()
	a.nobodyStands()
}

func TestALaneThatLosesItsConnectionLeavesTheLine(t *testing.T) {
	a, b := twoLanes(t)
	first := a.push("q/p/1")
	a.pass()
	second := b.push("q/p/2")
	b.pass()
	b.conn.closedBy(errTest) // while it waits
	b.open()
	if b.sends() {
		t.Error("it does not stand in line again")
	}
	a.conn.closedBy(errTest) // while it is at it
	if !b.sends() {
		t.Error("a lane without a connection is in the way")
	}
	b.serve()
	second.is("queued")
	a.open()
	a.serve()
	first.is("queued")
	a.nobodyStands()
}

func TestALaneWhosePushesAreGivenUpLeavesTheLine(t *testing.T) {
	a, b := twoLanes(t)
	a.pushWithin(time.Minute, "q/p/1")
	a.pass()
	c := b.pushWithin(6*time.Millisecond, "q/p/2") // given up before its turn comes
	b.pass()
	b.sleep(2 * turnWait)
	c.is("unavailable")
	a.serve()
	a.nobodyStands()
}

// Many lanes in many goroutines: two that have something in common never go at once, and
// all come to go.
func TestTurnsExclude(t *testing.T) {
	const lanes, rounds, places = 8, 300, 12
	var line turns
	var at [places]atomic.Int32
	var done sync.WaitGroup
	for range lanes {
		told := make(chan struct{}, 1)
		s := &Store{sv: Services{Post: func(f func()) { f() }}, turnFn: func() { told <- struct{}{} }}
		done.Go(func() {
			for range rounds {
				mine := turn{store: s}
				held := rand.Perm(places)[:1+rand.IntN(3)]
				for _, p := range held {
					mine.seats[p%4] |= 1 << p
				}
				if !line.join(&mine) {
					<-told
				}
				for _, p := range held {
					if at[p].Add(1) != 1 {
						t.Error("two at once")
					}
				}
				for _, p := range held {
					at[p].Add(-1)
				}
				line.leave(&mine)
			}
		})
	}
	done.Wait()
	if len(line.line) != 0 {
		t.Errorf("%d stand in line", len(line.line))
	}
}

func TestATurnAllocatesNothing(t *testing.T) {
	var line turns
	op := &newCall(t, &queue.Config{}, queue.NewIDs(func() int64 { return 1 }), "q/p/1", "q/p/2", "q/r/1").op
	mine := &turn{store: &Store{}}
	if n := testing.AllocsPerRun(100, func() {
		mine.seats = seats{}
		mine.seats.take(op)
		line.join(mine)
		line.may(mine, false)
		line.leave(mine)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
