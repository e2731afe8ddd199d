package longpoll

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/queend/queend/pkg/queue"
)

// Whatever happens in whatever order: when all is at rest, nobody waits for what he could
// have, and everybody was answered once.
func TestNobodyWaitsForWhatIsThere(t *testing.T) {
	for range 100 { // one Check is 100 walks; some orders of events are rare
		rapid.Check(t, whatHappens)
	}
}

func whatHappens(t *rapid.T) {
	w := newWorld(2, Limits{EntriesMax: rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "entries"), GroupsMax: rapid.SampledFrom([]int{0, 3}).Draw(t, "groups")})
	var waiting []*queue.Op
	untold := false
	// Alone, and with PostgreSQL there, a process need not be told or sweep to know all.
	alone := rapid.Bool().Draw(t, "alone") && w.board.limits.EntriesMax == EntriesMaxDefault && w.board.limits.GroupsMax == GroupsMaxDefault
	company := func(act func(t *rapid.T)) func(t *rapid.T) {
		return func(t *rapid.T) {
			if alone {
				t.Skip()
			}
			act(t)
		}
	}
	store := func() int { return rapid.IntRange(0, 1).Draw(t, "loop") }
	names := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
	queues := rapid.SampledFrom([]string{"q", "q", "r"})
	groups := rapid.SampledFrom([]string{"g", "g", "h"})
	at := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "which") }
	t.Repeat(map[string]func(*rapid.T){
		"push": func(*rapid.T) { w.pushOp(store(), queues.Draw(t, "queue"), names.Draw(t, "partition")) },
		"push by SQL": company(func(*rapid.T) {
			q, name := queues.Draw(t, "queue"), names.Draw(t, "partition")
			id := w.push(q, name)
			w.told = append(w.told, queue.Told{Queue: q, Partition: id, Name: name})
		}),
		"push of a process that does not know us": company(func(*rapid.T) {
			w.push(queues.Draw(t, "queue"), names.Draw(t, "partition"))
			untold = true
		}),
		"it gets to know us": func(*rapid.T) {
			if untold {
				untold = false
				w.told = append(w.told, everything)
			}
		},
		"pop": func(*rapid.T) {
			op := w.popOp(store(), func(p *queue.PopRequest) {
				p.Scope = rapid.SampledFrom([]queue.PopScope{queue.OneQueue, queue.OneQueue, queue.OnePartition, queue.ManyQueues}).Draw(t, "scope")
				p.Queue, p.Group = []byte(queues.Draw(t, "queue")), []byte(groups.Draw(t, "group"))
				p.Wait, p.AutoAck = rapid.Bool().Draw(t, "wait"), rapid.Bool().Draw(t, "autoAck")
				p.Batch, p.Partitions = rapid.IntRange(1, 3).Draw(t, "batch"), rapid.IntRange(1, 3).Draw(t, "partitions")
				switch p.Scope {
				case queue.OnePartition:
					p.Partition = []byte(names.Draw(t, "partition"))
				case queue.ManyQueues:
					p.Namespace = []byte(queues.Draw(t, "namespace"))
				}
				if rapid.IntRange(0, 3).Draw(t, "new") == 0 {
					isNew(p)
				}
			})
			waiting = append(waiting, op)
		},
		"ack": func(t *rapid.T) {
			if len(w.leases) == 0 {
				t.Skip()
			}
			w.ack(store(), at(len(w.leases)))
		},
		"cancel": func(t *rapid.T) {
			if len(waiting) == 0 {
				t.Skip()
			}
			if op := waiting[at(len(waiting))]; !w.answers[op] {
				w.stores[cancelAt(w, op)].Cancel(op)
			}
		},
		"happen": func(t *rapid.T) {
			if len(w.sent) == 0 {
				t.Skip()
			}
			w.happen(at(len(w.sent)))
		},
		"answer": func(t *rapid.T) {
			if len(w.done) == 0 {
				t.Skip()
			}
			w.answer(at(len(w.done)))
		},
		"loop": func(t *rapid.T) {
			if len(w.posts) == 0 {
				t.Skip()
			}
			f := w.posts[0]
			w.posts = w.posts[1:]
			f()
		},
		"time": func(t *rapid.T) {
			if alone && len(w.done) > 0 {
				t.Skip() // a lease ends later on the board by what its answer was late
			}
			by := rapid.SampledFrom([]time.Duration{time.Millisecond, 50 * time.Millisecond, time.Second, leaseTime}).Draw(t, "by")
			if len(w.done) > 0 {
				by = min(by, time.Second) // no lane lets an answer wait for longer
			}
			w.now += by
			for w.fire() {
			}
		},
		"outage":                    company(func(t *rapid.T) { w.away = !w.away }),
		"pops are stopped or go on": company(func(t *rapid.T) { w.stop(!w.flags.Pop, rapid.Bool().Draw(t, "here")) }),
	})
	w.away, w.flags.Pop = false, false
	if untold {
		w.told = append(w.told, everything)
	}
	for range 8 { // what is told and swept is so within some rounds
		if w.settle(); alone {
			break
		}
		w.now += 1100 * time.Millisecond
	}
	w.settle()
	for _, op := range waiting {
		if !w.answers[op] && w.claimable(&op.Pop) {
			t.Fatalf("a pop (scope %d, queue %s, partition %s, group %s) waits for what is there\n%s", op.Pop.Scope, op.Pop.Queue, op.Pop.Partition, op.Pop.Group, w.dump())
		}
		if !w.answers[op] && !op.Pop.Wait {
			t.Fatalf("a pop that does not wait was not answered (scope %d)", op.Pop.Scope)
		}
	}
	w.now += 2 * time.Hour
	for range 4 {
		w.settle()
		w.now += time.Second
	}
	for _, op := range waiting {
		if !w.answers[op] {
			t.Fatalf("a pop was never answered (scope %d, wait %v)", op.Pop.Scope, op.Pop.Wait)
		}
	}
	if n, held := w.board.stats.Parked.Load(), w.board.stats.Paused.Load(); n != 0 || held != 0 {
		t.Fatalf("%d pops are counted as parked, %d as held", n, held)
	}
	for _, g := range w.board.groups {
		if g.users != 0 || g.waiting.first != nil || len(g.byID)+len(g.byName) > 0 {
			t.Fatalf("somebody holds group %v: users %d, lists %d %d", g.Group, g.users, len(g.byID), len(g.byName))
		}
	}
	if len(w.board.filters) > 0 {
		t.Fatal("an empty list of pops of many queues stays")
	}
}

// cancelAt is the loop that has op.
func cancelAt(w *world, op *queue.Op) int {
	if c, ok := op.Done.(*call); ok && c.store == w.stores[1] {
		return 1
	}
	return 0
}

func (w *world) dump() string {
	s := fmt.Sprintf("now %v\n", w.now)
	for _, p := range w.parts {
		s += fmt.Sprintf("%s/%s id %x head %d cursor %v lease %v\n", p.queue, p.name, p.id[15:], p.head, p.cursor, p.lease)
	}
	for _, st := range w.stores {
		s += fmt.Sprintf("store: parked %d stalled %d woken %d posted %v\n", len(st.parked), len(st.stalled), len(st.woken), st.posted)
		for _, c := range st.parked {
			s += fmt.Sprintf("   call scope %d %s/%s state %d known %v listed %v woke %v\n", c.op.Pop.Scope, c.op.Pop.Queue, c.op.Pop.Partition, c.state, c.known, c.list != nil, c.woke)
		}
	}
	for _, g := range w.board.groups {
		s += fmt.Sprintf("group %v swept %v sweeping %v waiting %v first %v\n", g.Group, g.swept, g.sweeping, g.waiting.first != nil, g.first != nil)
		for _, e := range g.entries {
			s += fmt.Sprintf("   entry %x state %d due %v dirty %v\n", e.id[15:], e.state, e.due, e.dirty)
		}
	}
	return s
}

// The partition that has been claimable longest comes first, and one that is given back
// goes to the end.
func TestWhoHasWaitedLongestComesFirst(t *testing.T) {
	w := newWorld(1, Limits{})
	for _, name := range []string{"a", "b", "c"} {
		w.pushOp(0, "q", name)
		w.settle()
	}
	var order string
	for range 7 {
		op := w.popOp(0, func(*queue.PopRequest) {})
		w.settle()
		if len(op.Pop.Tries) == 0 || op.Pop.Count == 0 {
			t.Fatal("nothing")
		}
		for _, try := range op.Pop.Tries {
			if try.Outcome == queue.Claimed {
				order += w.parts[try.Partition].name
				p := w.parts[try.Partition]
				w.leases = nil
				p.lease["g"] = 0 // nacked: the cursor stays
				nack := &queue.Op{Verb: queue.Ack, Done: w, Freed: []queue.Freed{{Queue: "q", Group: "g", Partition: p.id}}}
				w.stores[0].Do(nack)
				w.settle()
			}
		}
	}
	if order != "abcabca" {
		t.Errorf("served in order %s", order)
	}
}

// At the bound of parked pops a further one is refused, and those that are parked stay.
func TestAtTheBoundAPopIsRefused(t *testing.T) {
	w := newWorld(1, Limits{ParkedMax: 2})
	var ops []*queue.Op
	for range 3 {
		ops = append(ops, w.popOp(0, func(p *queue.PopRequest) { p.Wait = true }))
		w.settle()
	}
	if w.answers[ops[0]] || w.answers[ops[1]] || !w.answers[ops[2]] || ops[2].Fault.Code != queue.Overloaded {
		t.Errorf("answered: %v %v %v, fault %v", w.answers[ops[0]], w.answers[ops[1]], w.answers[ops[2]], ops[2].Fault)
	}
	if w.board.stats.Refused.Load() != 1 {
		t.Error("it is not counted")
	}
	w.pushOp(0, "q", "a")
	w.settle()
	if !w.answers[ops[0]] || ops[0].Pop.Count != 1 {
		t.Error("the first to wait was not served")
	}
}

// Ten thousand pops that wait cost one timer.
func TestParkedPopsHaveNoTimerEach(t *testing.T) {
	w := newWorld(1, Limits{})
	for range 10_000 {
		w.popOp(0, func(p *queue.PopRequest) { p.Wait = true })
	}
	w.settle()
	if len(w.timers) > 5 {
		t.Errorf("%d timers", len(w.timers))
	}
	if w.pops != 10_000 {
		t.Fatalf("%d wait", w.pops)
	}
	w.now += time.Hour
	w.settle()
	if w.pops != 0 {
		t.Errorf("%d were not answered in time", w.pops)
	}
}

// A parked pop knows its partition by its id. When somebody deletes the queue by hand, and it
// is pushed to again, the partition has another one.
func TestAPartitionThatIsMadeAnewWakesThoseWhoKnewTheOldOne(t *testing.T) {
	w := newWorld(1, Limits{})
	pop := func(wait bool) *queue.Op {
		op := w.popOp(0, func(p *queue.PopRequest) {
			p.Scope, p.Partition, p.AutoAck, p.Wait = queue.OnePartition, []byte("p"), true, wait
		})
		w.settle()
		return op
	}
	w.push("q", "p")
	if op := pop(false); op.Pop.Count != 1 {
		t.Fatal("it is not popped")
	}
	for _, deletedFirst := range []bool{true, false} {
		forget := func() {
			delete(w.parts, w.names["q/p"])
			delete(w.names, "q/p")
		}
		if deletedFirst {
			forget()
		}
		op := pop(true)
		if w.answers[op] {
			t.Fatal("it does not wait")
		}
		if !deletedFirst {
			forget()
		}
		w.pushOp(0, "q", "p")
		w.settle()
		if !w.answers[op] || op.Pop.Count != 1 {
			t.Fatalf("deleted first %v: it was not woken\n%s", deletedFirst, w.dump())
		}
	}
	if g := w.board.groups[queue.Group{Queue: "q", Name: "g"}]; len(g.named)+len(g.byID)+len(g.byName) != 0 {
		t.Errorf("somebody is still remembered: %v %v %v", g.named, g.byID, g.byName)
	}
}

// A process that finds that there are others tells them that anything may have changed:
// what it did before it has told nobody.
func TestWhoeverIsFoundIsToldThatAnythingMayHaveChanged(t *testing.T) {
	w := newWorld(1, Limits{})
	w.settle()
	w.others = true
	for range 3 {
		w.now += 2 * time.Second
		w.settle()
	}
	if len(w.heard) != 1 || w.heard[0] != everything {
		t.Errorf("it told %v", w.heard)
	}
}

// A queue's delay may be made shorter while its messages rest: for those who wait and for
// those who come later.
func TestAnotherDelayOfAQueueCountsAtOnce(t *testing.T) {
	f := func(changed func(w *world)) {
		t.Helper()
		w := newWorld(1, Limits{})
		w.settle()
		w.push("q", "p")
		w.undue = w.now + time.Hour
		parked := w.popOp(0, func(p *queue.PopRequest) { p.AutoAck, p.Wait = true, true })
		w.settle()
		if w.answers[parked] {
			t.Fatal("it does not wait")
		}
		w.undue = 0
		changed(w)
		w.settle()
		if parked.Pop.Count != 1 {
			t.Error("who waits is not woken")
		}
		w.push("q", "p")
		w.undue = w.now + time.Hour
		later := func() *queue.Op {
			op := w.popOp(0, func(p *queue.PopRequest) { p.AutoAck = true })
			w.settle()
			return op
		}
		w.board.Changed("q")
		if op := later(); op.Pop.Count != 0 {
			t.Fatal("it is delivered too early")
		}
		w.undue = 0
		changed(w)
		if op := later(); op.Pop.Count != 1 {
			t.Error("who comes later does not find it")
		}
	}
	f(func(w *world) { w.board.Changed("q") })
	f(func(w *world) { // by another process
		w.told = append(w.told, queue.Told{Queue: "q", Group: everyGroup})
		w.now += 2 * time.Second
		w.settle()
	})
}

type nobody struct{}

func (nobody) OpDone(*queue.Op) {}
func (nobody) Gone() bool       { return false }

// What a push must leave for other processes costs it no memory, also when they were told
// a moment ago.
func TestAPushInCompanyAllocatesNothing(t *testing.T) {
	w := newWorld(1, Limits{})
	w.board.others = true
	w.board.active.Store(true)
	s, op := w.stores[0], &queue.Op{Verb: queue.Push, Items: make([]queue.Item, 100)}
	for i := range op.Items {
		op.Items[i] = queue.Item{Queue: []byte("q"), Partition: fmt.Appendf(nil, "p%d", i), PartitionID: queue.UUID{15: byte(i)}, Status: queue.Queued}
	}
	push := func() {
		op.Done = nobody{}
		op.Wrap(s)
		s.OpDone(op)
	}
	push()
	if n := testing.AllocsPerRun(100, push); n > 0 || len(w.board.tell) != 100 {
		t.Errorf("%v allocations for 100 messages, %d to tell", n, len(w.board.tell))
	}
	if n := testing.AllocsPerRun(100, func() { clear(w.board.tell); push() }); n > 0 {
		t.Errorf("%v allocations for 100 messages after the others were told", n)
	}
}

func TestNamesAtHandAreBounded(t *testing.T) {
	b := NewBoard(queue.UUID{1}, "test", Limits{})
	for i := range 2*namesMax + 1 {
		if name := fmt.Sprint(i); b.name([]byte(name)) != name {
			t.Fatalf("%q became another", name)
		}
	}
	if len(b.names) > namesMax {
		t.Errorf("%d names are kept", len(b.names))
	}
}

// When hundreds of groups are new at once, none waits until the large slices of all others
// are read, and their sweeps are not one step of a length that looks like a server's that hangs.
func TestManySweepsAtOnceBeginWithSmallSlices(t *testing.T) {
	w := newWorld(1, Limits{})
	w.pushOp(0, "q", "a")
	w.settle()
	const groups = 500
	var pops []*queue.Op
	for i := range groups {
		pops = append(pops, w.popOp(0, func(p *queue.PopRequest) { p.Group = fmt.Appendf(nil, "new-%d", i) }))
	}
	for len(w.posts) > 0 {
		f := w.posts[0]
		w.posts = w.posts[1:]
		f()
	}
	sizes, rows := map[int]int{}, 0
	for _, op := range w.sent {
		if op.Verb == queue.Watch && op.Watch.Kind == queue.WatchSweep {
			sizes[op.Watch.Partitions]++
			rows += op.Rows()
		}
	}
	if want := map[int]int{firstPartitions: crowdSweeps, crowdPartitions: groups - crowdSweeps}; !maps.Equal(sizes, want) {
		t.Errorf("slices of so many partitions: %v, not %v", sizes, want)
	}
	if rows < 5000 {
		t.Errorf("the sweeps of %d groups count as %d rows: a step takes a thousand", groups, rows)
	}
	w.settle()
	for i, op := range pops {
		if !w.answers[op] || op.Pop.Count != 1 {
			t.Fatalf("group %d has nothing", i)
		}
	}
	if n := w.board.sweeps.Load(); n != 0 {
		t.Errorf("%d sweeps have no end", n)
	}
}

// A pop of many queues that waits hears of a queue that is new from the push that made it.
func TestANewQueueWakesWhoWaitsForItsNamespace(t *testing.T) {
	w := newWorld(2, Limits{})
	many := func(p *queue.PopRequest) {
		p.Scope, p.Queue, p.Namespace, p.Wait = queue.ManyQueues, nil, []byte("q"), true
	}
	first, second := w.popOp(0, many), w.popOp(1, many)
	w.settle()
	w.pushOp(0, "x", "a") // is none of theirs
	w.settle()
	if w.answers[first] || w.answers[second] {
		t.Fatal("they were not to be answered")
	}
	looks := w.board.meetings.Load()
	w.pushOp(0, "x", "b")
	w.settle()
	if w.board.meetings.Load() != looks {
		t.Error("each push into a queue of somebody else has them look again")
	}
	w.board.Changed("x") // it may be one of theirs now
	w.pushOp(0, "x", "b")
	w.settle()
	if w.board.meetings.Load() == looks {
		t.Error("a queue that was changed is not looked at again")
	}
	w.pushOp(0, "qa", "a")
	w.settle()
	w.pushOp(1, "qb", "a")
	w.settle()
	if !w.answers[first] || !w.answers[second] || first.Pop.Count != 1 || second.Pop.Count != 1 {
		t.Errorf("answered: %v and %v", w.answers[first], w.answers[second])
	}
}

func TestNoClaimBeginsWhenTheTimeIsOver(t *testing.T) {
	w := newWorld(1, Limits{})
	w.pushOp(0, "q", "a")
	w.settle()
	until := w.now + time.Second
	op := w.popOp(0, func(p *queue.PopRequest) { p.Wait, p.AutoAck, p.Timeout = true, true, time.Second })
	w.now = until - 10*time.Millisecond
	claim := func() {
		t.Helper()
		for len(w.sent) == 0 || w.sent[0] != op {
			if !w.step() {
				t.Fatal("it does not look")
			}
		}
	}
	inVain := func(took time.Duration) {
		for _, p := range w.parts { // somebody else has them, and there are more
			p.cursor["g"] = p.head
		}
		w.now += took
		w.happen(0)
		w.pushOp(0, "q", "a")
		w.happen(len(w.sent) - 1)
		w.answer(len(w.done) - 1)
		w.answer(0)
	}
	claim()
	inVain(20 * time.Millisecond) // which is a little late
	claim()
	if inVain(queue.PopLateMax); !w.answers[op] {
		t.Errorf("it is not answered at %v after its time", w.now-until)
	}
}

// Another attempt would find the next messages, and nobody would hear of those before.
func TestAPopThatMayHaveLostMessagesIsToldSo(t *testing.T) {
	f := func(lost bool) (*world, *queue.Op) {
		t.Helper()
		w := newWorld(1, Limits{})
		w.pushOp(0, "q", "a")
		w.settle()
		op := w.popOp(0, func(p *queue.PopRequest) { p.Wait, p.AutoAck = true, true })
		for len(w.sent) == 0 || w.sent[0] != op {
			if !w.step() {
				t.Fatal("it does not look")
			}
		}
		w.away = true
		w.happen(0)
		w.away, op.Pop.Lost = false, lost
		w.answer(0)
		w.now += 2 * time.Second // it is seen that PostgreSQL is back
		w.settle()
		return w, op
	}
	if w, op := f(true); !w.answers[op] || op.Fault.Code != queue.Unavailable || op.Pop.Count != 0 {
		t.Errorf("answered: %v, with %d messages and %v", w.answers[op], op.Pop.Count, op.Fault)
	}
	// A claim that was surely not made is made again.
	if w, op := f(false); !w.answers[op] || op.Fault.Code != queue.OK || op.Pop.Count != 1 {
		t.Errorf("answered: %v, with %d messages and %v", w.answers[op], op.Pop.Count, op.Fault)
	}
}

// A sweep sees a lease that ends before its answer comes: what it says of the partition is
// old, and the next messages must not wait for the end of a lease that is none.
func TestALeaseThatEndsDuringASweepIsNoLease(t *testing.T) {
	w := newWorld(1, Limits{})
	w.pushOp(0, "q", "a")
	pop := func() *queue.Op { return w.popOp(0, func(p *queue.PopRequest) { p.Wait = true }) }
	pop()
	w.settle()
	w.now += sweepAgain + time.Second
	sweep := w.seen(t, func(op *queue.Op) bool { return op.Verb == queue.Watch && op.Watch.Kind == queue.WatchSweep })
	if len(sweep.Watch.Pending) != 1 || sweep.Watch.Pending[0].In == 0 || len(w.leases) != 1 {
		t.Fatalf("the sweep has not seen the lease: %v", sweep.Watch.Pending)
	}
	w.ack(0, 0)
	w.last()
	w.settle()
	w.pushOp(0, "q", "a")
	op := pop()
	w.settle()
	if !w.answers[op] || op.Pop.Count != 1 {
		t.Fatalf("a pop waits for what is there\n%s", w.dump())
	}
}

// seen has a wanted op happen, which is sent now or by a timer that is due. Its answer is
// on the way then.
func (w *world) seen(t *testing.T, wanted func(op *queue.Op) bool) *queue.Op {
	t.Helper()
	for {
		if i := slices.IndexFunc(w.sent, wanted); i >= 0 {
			op := w.sent[i]
			w.happen(i)
			return op
		}
		if len(w.posts) > 0 {
			f := w.posts[0]
			w.posts = w.posts[1:]
			f()
		} else if !w.fire() {
			t.Fatal("it is not sent")
		}
	}
}

// last has the op happen that was sent last, whatever else is under way, and be answered.
func (w *world) last() {
	for n := len(w.done); len(w.done) == n; { // an ack has two steps
		w.happen(len(w.sent) - 1)
	}
	w.answer(len(w.done) - 1)
}

func isPop(op *queue.Op) bool { return op.Verb == queue.Pop }

// A pop sees a lease (somebody has extended it) that ends before its answer comes.
func TestALeaseThatEndsDuringAPopIsNoLease(t *testing.T) {
	for _, scope := range []queue.PopScope{queue.OneQueue, queue.OnePartition} {
		w := newWorld(2, Limits{})
		pop := func(scope queue.PopScope) *queue.Op {
			return w.popOp(1, func(p *queue.PopRequest) { p.Wait, p.Scope, p.Partition = true, scope, []byte("a") })
		}
		id := w.pushOp(0, "q", "a")
		w.settle()
		w.popOp(0, func(*queue.PopRequest) {})
		w.settle()
		w.parts[id.Items[0].PartitionID].lease["g"] += time.Hour
		w.leases[0].until += time.Hour
		w.now += leaseTime
		for w.fire() {
		}
		second := pop(scope)
		if w.seen(t, isPop); second.Pop.Tries[0].Outcome != queue.Leased {
			t.Fatalf("the pop has not seen the lease: %+v", second.Pop.Tries)
		}
		w.ack(0, 0)
		w.last()
		w.settle()
		w.pushOp(0, "q", "a")
		w.settle()
		if scope == queue.OnePartition { // it is told by its mark; what is on the board?
			w.ack(0, 0)
			w.settle()
			w.pushOp(0, "q", "a")
			second = pop(queue.OneQueue)
			w.settle()
		}
		if !w.answers[second] || second.Pop.Count != 1 {
			t.Errorf("scope %d: pops wait for what is there\n%s", scope, w.dump())
		}
	}
}

// A pop of one partition takes all that it sees, and a push commits before its answer
// comes: pops of the queue hear of that push.
func TestAPushDuringAPopOfOnePartitionIsSeen(t *testing.T) {
	w := newWorld(2, Limits{})
	pop := func(scope queue.PopScope) *queue.Op {
		return w.popOp(0, func(p *queue.PopRequest) {
			p.Wait, p.AutoAck, p.Batch, p.Scope, p.Partition = true, true, 10, scope, []byte("a")
		})
	}
	w.pushOp(0, "q", "b")
	pop(queue.OneQueue) // the group is known, and swept
	w.settle()
	w.pushOp(0, "q", "a")
	w.settle()
	one := pop(queue.OnePartition)
	w.seen(t, isPop)
	w.pushOp(1, "q", "a")
	w.last()
	w.settle()
	other := pop(queue.OneQueue)
	w.settle()
	if one.Pop.Count != 1 || !w.answers[other] || other.Pop.Count != 1 {
		t.Fatalf("a pop waits for what is there\n%s", w.dump())
	}
}

// An ack reads what the group has left and then writes: what it says is older than a push
// that committed between, and than the pop that this push woke, which saw the lease.
func TestAnAckThatReadBeforeAPushDoesNotHideIt(t *testing.T) {
	w := newWorld(1, Limits{})
	pop := func() *queue.Op { return w.popOp(0, func(p *queue.PopRequest) { p.Wait = true }) }
	pop()
	w.settle() // it waits; what it gets comes of another process
	id := w.push("q", "a")
	p := w.parts[id]
	p.lease["g"], p.leaseEnd["g"] = w.now+leaseTime, 1
	w.leases = append(w.leases, lease{"g", p, p.lease["g"], false})
	w.ack(0, 0)
	ack := w.sent[len(w.sent)-1]
	w.happen(len(w.sent) - 1) // it reads
	w.sent = w.sent[:len(w.sent)-1]
	w.pushOp(0, "q", "a")
	w.settle()
	w.sent = append(w.sent, ack)
	w.settle()
	if !ack.Freed[0].Drained || len(w.leases) != 1 {
		t.Errorf("the pop waits for what is there\n%s", w.dump())
	}
}

// What a pop of many queues took and did not try keeps its age.
func TestWhatIsGivenBackUntriedIsNotTheYoungest(t *testing.T) {
	w := newWorld(1, Limits{})
	pop := func(partitions int) *queue.Op {
		op := w.popOp(0, func(p *queue.PopRequest) {
			p.Scope, p.Queue, p.AutoAck, p.Partitions = queue.ManyQueues, nil, true, partitions
		})
		w.settle()
		return op
	}
	push := func(q string) { w.pushOp(0, q, "x"); w.settle() }
	for _, q := range []string{"a", "b", "old"} { // all are known then
		push(q)
		pop(1)
	}
	push("a")
	push("old")
	for i := range 4 {
		push([]string{"b", "a"}[i%2])
		for _, try := range pop(2).Pop.Tries {
			if try.Outcome == queue.Claimed && try.Queue == "old" {
				return
			}
		}
	}
	t.Errorf("one that has waited for longest waits on\n%s", w.dump())
}

// A pop that was given enough before it came to a partition knows nothing of it.
func TestAPartitionThatWasNotTriedStaysWhereItIs(t *testing.T) {
	w := newWorld(1, Limits{})
	w.pushOp(0, "q", "b")
	w.popOp(0, func(p *queue.PopRequest) { p.AutoAck = true })
	w.settle()
	w.pushOp(0, "q", "a")
	w.settle()
	one := w.popOp(0, func(p *queue.PopRequest) { p.Wait, p.Scope, p.Partition = true, queue.OnePartition, []byte("a") })
	for range 2 { // it looks twice before it waits
		w.seen(t, isPop)
		p, try := &one.Pop, &one.Pop.Tries[0]
		w.parts[try.Partition].lease["g"] = 0
		p.Count, p.Claimed, try.Outcome, try.More = 0, 0, queue.NotTried, false
		w.answer(len(w.done) - 1)
	}
	w.stores[0].Cancel(one)
	other := w.popOp(0, func(p *queue.PopRequest) { p.Wait = true })
	w.settle()
	if !w.answers[other] || other.Pop.Count != 1 {
		t.Errorf("a pop waits for what is there\n%s", w.dump())
	}
}

// What another process has taken is on the board as if it were there. Two that wait for it
// by its name find that out, and do not send each other to look for ever.
func TestThoseWhoFindNothingDoNotWakeEachOther(t *testing.T) {
	w := newWorld(2, Limits{})
	w.popOp(0, func(*queue.PopRequest) {})
	w.settle()
	push := w.pushOp(0, "q", "a")
	w.settle()
	w.parts[push.Items[0].PartitionID].cursor["g"] = 1
	for store := range 2 {
		w.popOp(store, func(p *queue.PopRequest) { p.Wait, p.Scope, p.Partition = true, queue.OnePartition, []byte("a") })
	}
	w.settle() // it panics if that does not end
}

// A lease of another process ends here, while a pop of the partition that has seen it is
// on its way back.
func TestALeaseOfAnotherProcessThatEndsDuringAPopIsNoLease(t *testing.T) {
	w := newWorld(1, Limits{})
	pop := func(scope queue.PopScope) *queue.Op {
		return w.popOp(0, func(p *queue.PopRequest) { p.Wait, p.Scope, p.Partition = true, scope, []byte("a") })
	}
	w.popOp(0, func(*queue.PopRequest) {})
	w.settle()
	p := w.parts[w.push("q", "a")]
	p.lease["g"], p.leaseEnd["g"] = w.now+leaseTime, 1
	w.leases = append(w.leases, lease{"g", p, p.lease["g"], false})
	one := pop(queue.OnePartition)
	if w.seen(t, isPop); one.Pop.Tries[0].Outcome != queue.Leased {
		t.Fatalf("it has not seen the lease: %+v", one.Pop.Tries)
	}
	w.ack(0, 0)
	w.last()
	w.settle()
	w.stores[0].Cancel(one)
	w.pushOp(0, "q", "a")
	other := pop(queue.OneQueue)
	w.settle()
	if !w.answers[other] {
		t.Errorf("a pop waits for what is there\n%s", w.dump())
	}
}

// A partition leaves the board and comes back while an answer is on its way that was of its
// first time there.
func TestAnOldAnswerIsNotTakenForAnother(t *testing.T) {
	w := newWorld(2, Limits{})
	pop := func(set func(p *queue.PopRequest)) *queue.Op {
		return w.popOp(0, func(p *queue.PopRequest) { p.Wait = true; set(p) })
	}
	w.popOp(0, func(*queue.PopRequest) {})
	w.settle()
	w.pushOp(0, "q", "a")
	w.settle()
	is := func(op *queue.Op) func(*queue.Op) bool { return func(o *queue.Op) bool { return o == op } }
	answer := func(op *queue.Op) { w.answer(slices.Index(w.done, op)) }

	old := pop(func(*queue.PopRequest) {}) // has taken it, and is late
	one := pop(func(p *queue.PopRequest) { p.Scope, p.Partition = queue.OnePartition, []byte("a") })
	w.seen(t, is(one))
	answer(one)
	if w.seen(t, is(old)); len(w.leases) != 1 || old.Pop.Tries[0].Outcome != queue.Leased {
		t.Fatalf("%d leases, %+v", len(w.leases), old.Pop.Tries)
	}
	w.ack(0, 0)
	w.last()
	for range 2 {
		w.pushOp(0, "q", "a")
		w.last()
	}
	next := pop(func(p *queue.PopRequest) { p.AutoAck = true })
	w.seen(t, is(next))
	answer(old)
	answer(next)
	w.settle()
	if old.Pop.Count+next.Pop.Count != 2 {
		t.Errorf("a pop waits for what is there: %d and %d\n%s", old.Pop.Count, next.Pop.Count, w.dump())
	}
}

func TestTheWatcherIsWokenAtRoundTimes(t *testing.T) {
	w := newWorld(1, Limits{})
	w.now += 123 * time.Millisecond
	w.settle()
	for range 3 {
		if len(w.timers) != 1 || w.timers[0].at%tellEvery != 0 {
			t.Fatalf("timers: %v", w.timers)
		}
		w.now = w.timers[0].at
		w.settle()
	}
}
