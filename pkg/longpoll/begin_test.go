package longpoll

import (
	"fmt"
	"testing"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// beginning names where a group begins.
func beginning(scope queue.PopScope, group, q, part string, namespace, task []byte) string {
	return fmt.Sprintf("%d %s %s/%s %s/%s", scope, group, q, part, namespace, task)
}

func beginningOf(p *queue.PopRequest) string {
	return beginning(p.Scope, string(p.Group), string(p.Queue), string(p.Partition), p.Namespace, p.Task)
}

func isNew(p *queue.PopRequest) { p.Subscription = queue.Subscription{Mode: queue.SubscribeNew} }

// Where a group begins is written down at its first contact, whatever the board knows of the
// group already: else what is pushed between that and a claim is before its beginning.
func TestABeginningIsWrittenDownBeforeAnythingElse(t *testing.T) {
	scopes(t, func(t *testing.T, scope func(p *queue.PopRequest)) {
		w := newWorld(2, Limits{})
		pop := func(loop int, set ...func(p *queue.PopRequest)) *queue.Op {
			op := w.popOp(loop, func(p *queue.PopRequest) {
				scope(p)
				for _, f := range set {
					f(p)
				}
			})
			w.settle()
			return op
		}
		waits := func(p *queue.PopRequest) { p.Wait = true }
		pop(0) // says nothing, and has the group swept
		if len(w.begun) != 0 {
			t.Fatalf("a pop that wants nothing in particular begins %v", w.begun)
		}
		parked := pop(1, isNew, waits)
		if w.answers[parked] || w.begun[beginningOf(&parked.Pop)] != 1 {
			t.Fatalf("answered %v, begun %v", w.answers[parked], w.begun)
		}
		f := func(what string, times int, do func()) {
			t.Helper()
			do()
			w.settle()
			if n := w.begun[beginningOf(&parked.Pop)]; n != times {
				t.Errorf("%s: asked for %d times, not %d", what, n, times)
			}
		}
		f("it is known", 1, func() { pop(0, isNew) })
		f("it was known for a while", 2, func() { w.now += begunFor; pop(0, isNew) })
		f("one that waits asks when its group may have been deleted", 3, w.board.AllChanged)
		f("and by another process", 4, func() {
			w.told = append(w.told, everything)
			w.later()
		})
		f("pops are stopped", 5, func() {
			w.now += begunFor
			w.stop(true, true) // whoever waits is held, and says so before
		})
		f("PostgreSQL is away", 5, func() {
			w.now += begunFor
			w.away = true
			if op := pop(0, isNew); op.Fault.Code != queue.Unavailable {
				t.Errorf("it hears %v", op.Fault)
			}
		})
	})
}

// What is deleted while it is asked for is not taken to be there by the next pop; whoever has
// asked goes on, or changes that never end would keep it for ever.
func TestABeginningThatIsDeletedMeanwhileIsAskedForOnceByEach(t *testing.T) {
	w := newWorld(1, Limits{})
	for i := range 2 {
		op := w.popOp(0, isNew)
		for !w.answers[op] {
			if n := w.begun[beginningOf(&op.Pop)]; n > i+1 {
				t.Fatalf("pop %d: asked for %d times", i, n)
			}
			w.board.Changed("another")
			if !w.step() {
				t.Fatal("it is not answered")
			}
		}
		if n := w.begun[beginningOf(&op.Pop)]; n != i+1 {
			t.Errorf("pop %d: asked for %d times", i, n)
		}
	}
}

// The time of a pop that waits is over also while PostgreSQL does not say whether its
// beginning is written down.
func TestABeginningIsAskedForNoLongerThanThePopWaits(t *testing.T) {
	w := newWorld(1, Limits{})
	w.popOp(0, func(*queue.PopRequest) {}) // PostgreSQL is heard of
	w.settle()
	op := w.popOp(0, func(p *queue.PopRequest) {
		isNew(p)
		p.Wait, p.Timeout = true, 300*time.Millisecond
	})
	if len(w.sent) != 1 || w.sent[0].Watch.Kind != queue.WatchBegin {
		t.Fatalf("%d sent", len(w.sent))
	}
	if d := w.sent[0].Deadline; d != w.now+300*time.Millisecond+graceful {
		t.Errorf("it may take until %v, at %v", d, w.now)
	}
	w.now += 300*time.Millisecond + graceful
	w.away = true // the lane gives it back
	w.settle()
	if !w.answers[op] || op.Fault.Code != queue.Unavailable || op.Pop.Count != 0 {
		t.Errorf("answered %v, %v", w.answers[op], op.Fault)
	}
}

// Nor is anything else asked for it longer than that. A sweep is for the whole group, and it
// does not wait for its end.
func TestNothingIsAskedForAPopLongerThanItWaits(t *testing.T) {
	scopes(t, func(t *testing.T, scope func(p *queue.PopRequest)) {
		w := newWorld(1, Limits{})
		asked := map[string]bool{}
		var until time.Duration
		w.onSent = func(op *queue.Op) {
			what := fmt.Sprint(op.Verb, op.Watch.Kind)
			asked[what] = true
			its := op.Verb == queue.Pop || op.Watch.Kind == queue.WatchCheck || op.Watch.Kind == queue.WatchQueues
			if its && op.Deadline > until+graceful {
				t.Errorf("%s may take until %v, and it waits until %v", what, op.Deadline, until)
			}
		}
		for i := range 3 {
			until = w.now + 300*time.Millisecond
			op := w.popOp(0, func(p *queue.PopRequest) {
				scope(p)
				p.Wait, p.Timeout = true, 300*time.Millisecond
			})
			w.settle()
			w.now = until + graceful
			w.away = true
			w.settle()
			w.stores[0].timesUp()
			if !w.answers[op] || op.Pop.Count != 0 {
				t.Errorf("answered %v", w.answers[op])
			}
			until = w.now + 300*time.Millisecond
			op = w.popOp(0, func(p *queue.PopRequest) {
				scope(p)
				p.Wait, p.Timeout, p.Group = true, 300*time.Millisecond, fmt.Append(nil, "g", i)
			})
			w.now = until + graceful
			if w.settle(); !w.answers[op] || op.Fault.Code != queue.Unavailable {
				t.Errorf("nobody could say whether there was something, and it hears %v, %v", w.answers[op], op.Fault)
			}
			w.away = false
		}
		if len(asked) < 2 {
			t.Errorf("only %v was asked", asked)
		}
	})
}

// A group may be named as what stands for all of them.
func TestAGroupWithTheNameOfAllIsOneGroup(t *testing.T) {
	w := newWorld(1, Limits{})
	w.popOp(0, isNew)
	w.settle()
	known := len(w.board.begun)
	w.told = append(w.told, queue.Told{Queue: "q", Partition: w.push("q", "p"), Group: everyGroup})
	w.later()
	if len(w.board.begun) != known || known == 0 {
		t.Errorf("%d beginnings were known, and then %d", known, len(w.board.begun))
	}
}

func TestTheBeginningsThatAreKnownAreBounded(t *testing.T) {
	w := newWorld(1, Limits{})
	for i := range begunMax + 10 {
		w.popOp(0, func(p *queue.PopRequest) {
			isNew(p)
			p.Scope, p.Queue, p.Partition = queue.OnePartition, []byte("q"), []byte(fmt.Sprint(i))
		})
		if i%1000 == 0 {
			w.settle()
		}
	}
	w.settle()
	if n := len(w.board.begun); n == 0 || n > begunMax {
		t.Errorf("%d are remembered", n)
	}
	if w.now > time.Minute {
		t.Error("time has passed")
	}
}
