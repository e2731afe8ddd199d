package asyncdb

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/queue"
)

// twoLanes returns two lanes of a process that are connected and take turns.
func twoLanes(t *testing.T) (a, b *rig) {
	a = newRig(t)
	b = a.beside()
	for _, r := range []*rig{a, b} {
		r.store.work.Turns = true
		r.db.turns.lanes.Add(1)
		r.open()
	}
	return a, b
}

// A lane that is the only one of its kind stands in no line.
func TestOneLaneAloneTakesNoTurn(t *testing.T) {
	a, _ := twoLanes(t)
	for lanes, want := range map[int32]int{1: 0, 2: 1} {
		a.db.turns.lanes.Store(lanes)
		a.push(fmt.Sprint("q/p/", lanes))
		if a.pass(); len(a.db.turns.line) != want {
			t.Errorf("of %d lanes %d stand in line", lanes, len(a.db.turns.line))
		}
		a.serve()
	}
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
	b.push("q/other/1")
	if !a.sends() || !b.sends() {
		t.Error("a lane waits for nothing")
	}
}

// With hundreds of partitions each the bits of two sets meet; the sets do not.
func TestSetsOfOtherPartitionsDoNotMeet(t *testing.T) {
	of := func(name string, from, to int) *seats {
		s := &seats{}
		for i := from; i < to; i++ {
			s.take(&queue.Op{Items: []queue.Item{{Queue: []byte("q"), Partition: fmt.Appendf(nil, "%s-%d", name, i)}}})
		}
		s.settle()
		return s
	}
	a, b := of("a", 0, turnSeats), of("b", 0, turnSeats)
	if a.meet(b) || b.meet(a) {
		t.Error("they meet")
	}
	if c := of("a", turnSeats-1, 2*turnSeats); !a.meet(c) || !c.meet(a) {
		t.Error("one partition in common is not seen")
	}
	if !a.meet(a) || a.meet(&seats{}) {
		t.Error("a set meets itself, and not nothing")
	}
}

func TestABatchOfManyPartitionsTakesNoTurn(t *testing.T) {
	a, b := twoLanes(t)
	var items []string
	for i := range turnSeats + 1 {
		items = append(items, fmt.Sprintf("q/p%d/1", i))
	}
	a.push(items...)
	a.pass()
	b.push("q/p0/2")
	if a.nobodyStands(); !b.sends() {
		t.Error("it is in the way")
	}
}

func TestALaneThatRestsIsInNobodysWay(t *testing.T) {
	a, b := twoLanes(t)
	first := a.push("q/p/1")
	a.pass()
	a.answer(a.pg.read(t, &a.sent)) // resolved
	a.pg.fail = func(int, int, string) *pgproto3.ErrorResponse { return refusalOf("ERROR", "40P01") }
	b.push("q/p/2")
	if b.sends() {
		t.Fatal("it does not wait")
	}
	a.answer(a.pg.read(t, &a.sent))
	a.pg.fail = nil
	if a.store.state != resting || !b.sends() {
		t.Error("it waits for a lane that rests")
	}
	b.serve()
	a.sleep(time.Second)
	a.serve()
	first.is("queued")
	a.nobodyStands()
}

func TestALaneThatIsAtItForLongIsInNobodysWay(t *testing.T) {
	a, b := twoLanes(t)
	a.push("q/p/1")
	a.pass()
	b.now += turnMax + time.Millisecond
	b.push("q/p/2")
	if !b.sends() {
		t.Error("it waits")
	}
}

// A lane that was quiet for long asks for a sign of life; not while its turn may come.
func TestALaneInLineDoesNotAskForASignOfLife(t *testing.T) {
	a, b := twoLanes(t)
	until := b.now + b.db.config.ProbeAfter - time.Millisecond
	a.sleep(until - a.now)
	b.sleep(until - b.now)
	a.sent.Reset()
	a.push("q/p/1")
	a.pass()
	c := b.push("q/p/2")
	b.pass()
	b.sleep(2 * time.Millisecond)
	if b.store.state != idle {
		t.Fatal("it asks")
	}
	a.serve()
	if !b.sends() {
		t.Error("its turn is lost")
	}
	b.serve()
	c.is("queued")
	b.sleep(b.db.config.ProbeAfter + time.Second)
	if b.store.state != probing {
		t.Error("it never asks again")
	}
}

// All that it was to send was given up in the moment in which it would have asked.
func TestALaneThatHasLeftTheLineWithNothingAsksForASignOfLife(t *testing.T) {
	a, b := twoLanes(t)
	until := b.now + b.db.config.ProbeAfter - time.Millisecond
	a.sleep(until - a.now)
	b.sleep(until - b.now)
	a.push("q/p/1")
	a.pass()
	b.pushWithin(6*time.Millisecond, "q/p/2").is("waits")
	b.pass()
	b.sleep(2 * turnWait)
	if b.store.state != probing {
		t.Error("it does not ask")
	}
}

// The wait in line is part of what a batch takes, to those who ask how long theirs will.
func TestTheWaitInLineCounts(t *testing.T) {
	a, b := twoLanes(t)
	wait := func() {
		a.push("q/p/" + fmt.Sprint(a.now))
		a.pass()
		b.push("q/p/b" + fmt.Sprint(a.now))
		b.pass()
		b.sleep(8 * time.Millisecond)
		a.now = b.now
		a.serve()
		b.pass()
	}
	wait()
	b.serve()
	if got := b.store.gather.batchTime; got != 8*time.Millisecond {
		t.Errorf("a batch is said to take %v", got)
	}
	wait()
	b.store.gather.batchTime = 20 * time.Millisecond
	b.pushWithin(35*time.Millisecond, "q/p/late").is("waits") // 12 ms for the one in flight, 20 for its own
}

func TestTimersOfTurnsDoNotPileUp(t *testing.T) {
	a, b := twoLanes(t)
	for range 200 {
		a.push("q/p/" + fmt.Sprint(a.now))
		a.pass()
		c := b.push("q/p/b" + fmt.Sprint(a.now))
		b.pass()
		a.serve()
		b.pass()
		b.serve()
		c.is("queued")
		a.sleep(3 * time.Millisecond)
		b.sleep(3 * time.Millisecond)
	}
	if len(b.waits) > 5 {
		t.Errorf("%d timers", len(b.waits))
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
					mine.seats.all = append(mine.seats.all, uint64(p))
				}
				mine.seats.settle()
				if !line.join(&mine, 0) {
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
				line.leave(&mine, 0)
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
		mine.seats.all = mine.seats.all[:0]
		mine.seats.take(op)
		mine.seats.settle()
		line.join(mine, 0)
		line.may(mine, 0, false)
		line.leave(mine, 0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
