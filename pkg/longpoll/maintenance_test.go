package longpoll

import (
	"fmt"
	"testing"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// later is when everybody has heard what the database says.
func (w *world) later() {
	w.settle()
	w.now += 1100 * time.Millisecond
	w.settle()
}

// scopes are the three kinds of pop, of what is pushed to partition p of queue q.
func scopes(t *testing.T, test func(t *testing.T, scope func(p *queue.PopRequest))) {
	for name, scope := range map[string]func(p *queue.PopRequest){
		"a queue":     func(*queue.PopRequest) {},
		"a partition": func(p *queue.PopRequest) { p.Scope, p.Partition = queue.OnePartition, []byte("p") },
		"many queues": func(p *queue.PopRequest) { p.Scope, p.Namespace = queue.ManyQueues, []byte("q") },
	} {
		t.Run(name, func(t *testing.T) { test(t, scope) })
	}
}

func (w *world) said(op *queue.Op) string {
	if !w.answers[op] {
		return "nothing"
	}
	return string(queue.AppendPopAnswer(nil, op))
}

const paused = `{"messages":[],"paused":true}`

func TestWhilePopsAreStoppedNothingIsClaimed(t *testing.T) {
	scopes(t, func(t *testing.T, scope func(p *queue.PopRequest)) {
		for _, here := range []bool{true, false} {
			w := newWorld(2, Limits{})
			pop := func(loop int, wait bool) *queue.Op {
				op := w.popOp(loop, func(p *queue.PopRequest) {
					scope(p)
					p.Wait, p.AutoAck, p.Timeout = wait, true, time.Minute
				})
				w.settle()
				return op
			}
			parked := pop(0, true) // before they are stopped
			w.stop(true, here)
			w.later()
			w.pushOp(0, "q", "p")
			w.pushOp(1, "q", "p")
			w.pushOp(1, "q", "p")
			w.settle()
			if got := w.said(pop(1, false)); got != paused {
				t.Errorf("here %v: a pop that does not wait hears %s", here, got)
			}
			held := pop(1, true)
			w.later()
			if w.answers[parked] || w.answers[held] || w.board.stats.Paused.Load() != 2 || w.board.stats.Parked.Load() != 2 {
				t.Fatalf("here %v: %s %s, %d held of %d parked", here, w.said(parked), w.said(held), w.board.stats.Paused.Load(), w.board.stats.Parked.Load())
			}
			w.stop(false, here)
			w.later()
			if parked.Pop.Count != 1 || held.Pop.Count != 1 || !w.answers[parked] || !w.answers[held] {
				t.Errorf("here %v: when pops go on: %s, %s\n%s", here, w.said(parked), w.said(held), w.dump())
			}
			if after := pop(0, false); after.Pop.Count != 1 {
				t.Errorf("here %v: afterwards: %s", here, w.said(after))
			}
			if n := w.board.stats.Paused.Load(); n != 0 {
				t.Errorf("here %v: %d are counted as held", here, n)
			}
		}
	})
}

func TestAHeldPopEndsByItsTimeItsClientOrTheServer(t *testing.T) {
	scopes(t, func(t *testing.T, scope func(p *queue.PopRequest)) {
		f := func(what string, end func(w *world, op *queue.Op), other string) {
			t.Helper()
			w := newWorld(2, Limits{})
			w.stop(true, true)
			w.pushOp(0, "q", "p")
			var ops []*queue.Op
			for range 2 {
				ops = append(ops, w.popOp(1, func(p *queue.PopRequest) {
					scope(p)
					p.Wait, p.AutoAck, p.Timeout = true, true, time.Minute
				}))
			}
			w.settle()
			if w.answers[ops[0]] || w.answers[ops[1]] {
				t.Fatalf("%s: they are not held", what)
			}
			end(w, ops[0])
			w.settle()
			if got := w.said(ops[0]); got != paused {
				t.Errorf("%s: %s", what, got)
			}
			w.stop(false, true)
			w.later()
			if got := w.said(ops[1]); got != other && (other != "" || ops[1].Pop.Count != 1) {
				t.Errorf("%s: the other one hears %s", what, got)
			}
			if n := w.board.stats.Paused.Load() + w.board.stats.Parked.Load(); n != 0 {
				t.Errorf("%s: %d are counted", what, n)
			}
		}
		f("time", func(w *world, _ *queue.Op) { w.now += time.Minute }, paused)
		f("client", func(w *world, op *queue.Op) { w.stores[1].Cancel(op) }, "")
		f("server", func(w *world, _ *queue.Op) { w.stores[1].Close() }, paused)
	})
}

// One of two that were parked before is gone when pops go on: what came meanwhile is for the
// other.
func TestWhoGoesWhilePopsAreStoppedTakesNothingAlong(t *testing.T) {
	scopes(t, func(t *testing.T, scope func(p *queue.PopRequest)) {
		w := newWorld(2, Limits{})
		var ops []*queue.Op
		for range 2 {
			ops = append(ops, w.popOp(0, func(p *queue.PopRequest) { scope(p); p.Wait, p.AutoAck = true, true }))
			w.settle()
		}
		w.stop(true, true)
		w.settle()
		w.pushOp(1, "q", "p")
		w.settle()
		w.stores[0].Cancel(ops[0])
		w.settle()
		w.stop(false, true)
		w.later()
		if ops[1].Pop.Count != 1 {
			t.Errorf("it hears %s\n%s", w.said(ops[1]), w.dump())
		}
	})
}

// A claim that was under way when pops were stopped is the last: what it finds is delivered,
// and if it finds nothing the pop is held.
func TestAClaimThatIsUnderWayWhenPopsStopIsTheLast(t *testing.T) {
	for _, there := range []bool{true, false} {
		w := newWorld(1, Limits{})
		w.settle()
		if there {
			w.push("q", "p")
		}
		op := w.popOp(0, func(p *queue.PopRequest) {
			p.Scope, p.Partition, p.Wait, p.AutoAck = queue.OnePartition, []byte("p"), true, true
		})
		if len(w.sent) == 0 || w.sent[len(w.sent)-1] != op {
			t.Fatal("nothing is claimed")
		}
		w.stop(true, true)
		w.settle()
		if w.answers[op] != there || there && op.Pop.Count != 1 || !there && w.board.stats.Paused.Load() != 1 {
			t.Errorf("there %v: it hears %s", there, w.said(op))
		}
	}
}

func TestHeldPopsAreBoundedAsParkedOnesAre(t *testing.T) {
	w := newWorld(1, Limits{ParkedMax: 2})
	w.stop(true, true)
	var ops []*queue.Op
	for range 3 {
		ops = append(ops, w.popOp(0, func(p *queue.PopRequest) { p.Wait = true }))
		w.settle()
	}
	if w.answers[ops[0]] || w.answers[ops[1]] || !w.answers[ops[2]] || ops[2].Fault.Code != queue.Overloaded {
		t.Errorf("%s %s %s", w.said(ops[0]), w.said(ops[1]), w.said(ops[2]))
	}
}

// However many are held, a loop has other things to do in between.
func TestPopsGoOnSomeAtATime(t *testing.T) {
	w := newWorld(1, Limits{})
	w.stop(true, true)
	const all = 3*resumedMax + 1
	for range all {
		w.popOp(0, func(p *queue.PopRequest) { p.Wait = true })
	}
	w.settle()
	w.stop(false, true)
	turns, before := 0, w.board.stats.Attempts.Load()
	for ; len(w.posts) > 0; turns++ {
		f := w.posts[0]
		w.posts = w.posts[1:]
		f()
		if n := w.board.stats.Attempts.Load() - before; n > uint64(turns+1)*resumedMax {
			t.Fatalf("%d look again in turn %d", n, turns)
		}
	}
	w.settle()
	if n := w.board.stats.Parked.Load(); n != all || turns != 4 {
		t.Errorf("%d are parked after %d turns", n, turns)
	}
}

// While PostgreSQL is away, what was known last holds.
func TestPopsStayStoppedWhilePostgreSQLIsAway(t *testing.T) {
	w := newWorld(1, Limits{})
	w.stop(true, false)
	w.later()
	w.away = true
	w.later()
	op := w.popOp(0, func(*queue.PopRequest) {})
	w.settle()
	if got := w.said(op); got != paused {
		t.Error(got)
	}
}

// A process that begins while pops are stopped gives nobody anything, whoever comes first.
func TestPopsThatWereStoppedBeforeTheStartAreStopped(t *testing.T) {
	w := newWorld(1, Limits{})
	w.push("q", "p")
	w.flags.Pop = true
	op := w.popOp(0, func(*queue.PopRequest) {}) // before the watcher has asked anything
	w.settle()
	if got := w.said(op); got != paused {
		t.Error(got)
	}
}

// What was asked before this process set a flag itself, and is answered afterwards, is of
// the time before.
func TestAnOldAnswerDoesNotTurnAFlagBack(t *testing.T) {
	w := newWorld(1, Limits{})
	w.settle()
	w.now += 1100 * time.Millisecond
	for w.fire() {
	}
	if len(w.sent) != 1 {
		t.Fatalf("%d questions are under way", len(w.sent))
	}
	w.happen(0) // the flags are read
	var heard []string
	w.board.OnFlags(func(push, pop bool) { heard = append(heard, fmt.Sprint(push, pop)) })
	w.stop(true, true)
	w.answer(0)
	w.later()
	if got := fmt.Sprint(heard); got != "[false false false true]" {
		t.Errorf("heard %s", got)
	}
}

func TestWhoListensHearsTheFlagsWhenTheyAreKnownAndWhenTheyChange(t *testing.T) {
	w := newWorld(1, Limits{})
	var heard []string
	listen := func(push, pop bool) { heard = append(heard, fmt.Sprint(push, pop)) }
	f := func(want ...string) {
		t.Helper()
		w.later()
		if fmt.Sprint(heard) != fmt.Sprint(want) {
			t.Errorf("heard %q, want %q", heard, want)
		}
		if n := len(want); n > 0 && fmt.Sprint(w.board.Flags()) != want[n-1] {
			t.Errorf("they are %s, want %s", fmt.Sprint(w.board.Flags()), want[n-1])
		}
		heard = nil
	}
	yes, no := true, false
	w.board.OnFlags(listen)
	if heard != nil {
		t.Error("it hears what nobody knows yet")
	}
	f("false false")
	f()
	w.flags.Push = true // by another process
	f("true false")
	w.flags.Push, w.flags.Pop = false, true
	f("false true")
	w.flags.Push = true
	w.board.SetFlags(&yes, nil)
	f("true true")
	w.board.SetFlags(&yes, &yes)
	f()
	w.flags = queue.Flags{Known: true}
	w.board.SetFlags(&no, &no)
	f("false false")
	w.board.OnFlags(listen)
	f("false false")
}
