package longpoll

import (
	"fmt"
	"sort"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// world is a PostgreSQL and some loops, in memory, that a test moves by hand: an op in a
// lane first happens and is answered later, so that anything can come in between, as it
// does between a snapshot and its answer.
type world struct {
	now    time.Duration
	board  *Board
	stores []*Store
	posts  []func()
	timers []timer
	sent   []*queue.Op // in a lane, not looked at yet
	done   []*queue.Op // it happened; its answer is on the way

	parts  map[queue.UUID]*part
	names  map[string]queue.UUID // queue/name
	told   []queue.Told          // by users of SQL and other processes
	heard  []queue.Told          // by other processes, of us
	others bool
	away   bool // PostgreSQL is
	flags  queue.Flags
	undue  time.Duration // until then nothing may be delivered

	pops    int
	answers map[*queue.Op]bool
	leases  []lease // held by clients
	acks    map[*queue.Op]lease
	begun   map[string]int // beginnings that were asked to be written down, how often
	lastID  uint64

	onSent func(op *queue.Op) // hears of each op that is given to a lane; may be nil
}

type timer struct {
	at time.Duration
	f  func()
}

type part struct {
	queue, name string
	id          queue.UUID
	head        int
	cursor      map[string]int
	lease       map[string]time.Duration
	leaseEnd    map[string]int
}

type lease struct {
	group string
	part  *part
	until time.Duration
	read  bool // its ack has read the partition, and not written yet
}

const leaseTime = 30 * time.Second

func newWorld(loops int, limits Limits) *world {
	w := &world{parts: map[queue.UUID]*part{}, names: map[string]queue.UUID{}, answers: map[*queue.Op]bool{}, acks: map[*queue.Op]lease{}, begun: map[string]int{}, now: time.Second, flags: queue.Flags{Known: true}}
	w.board = NewBoard(queue.UUID{1}, "test", limits)
	for range loops {
		lane := fakeLane{w}
		w.stores = append(w.stores, w.board.New(Services{
			Post:  func(f func()) { w.posts = append(w.posts, f) },
			After: func(d time.Duration, f func()) { w.timers = append(w.timers, timer{w.now + d, f}) },
			Now:   func() time.Duration { return w.now },
		}, Lanes{lane, lane, lane, lane, lane}, 2*time.Second))
	}
	return w
}

type fakeLane struct{ w *world }

func (l fakeLane) Do(op *queue.Op) {
	if _, stopped := l.w.board.Flags(); stopped && op.Verb == queue.Pop {
		panic("something is claimed while pops are stopped")
	}
	if op.Verb == queue.Pop && op.Pop.Elsewhere() && l.w.begun[beginningOf(&op.Pop)] == 0 {
		panic("something is claimed for a group whose beginning is not written down")
	}
	if l.w.onSent != nil {
		l.w.onSent(op)
	}
	l.w.sent = append(l.w.sent, op)
}

func (l fakeLane) Cancel(*queue.Op)  {}
func (w *world) Gone() bool          { return false }
func (w *world) OpDone(op *queue.Op) { w.answered(op) }

// happen has sent op #i happen now.
func (w *world) happen(i int) {
	op := w.sent[i]
	w.sent = append(w.sent[:i], w.sent[i+1:]...)
	w.done = append(w.done, op)
	if w.away {
		op.Fault = queue.Fault{Code: queue.Unavailable, Message: "away"}
		return
	}
	switch op.Verb {
	case queue.Push:
		for j := range op.Items {
			it := &op.Items[j]
			it.Status, it.PartitionID = queue.Queued, w.push(string(it.Queue), string(it.Partition))
		}
	case queue.Pop:
		w.claim(op)
	case queue.Ack:
		for j := range op.Freed {
			f := &op.Freed[j]
			p := w.parts[f.Partition]
			a, ends := w.acks[op] // else it gives it back
			if ends && !a.read {  // what it says of the partition is what it read
				a.read, f.Drained = true, max(p.cursor[f.Group], p.leaseEnd[f.Group]) >= p.head
				w.acks[op] = a
				w.done = w.done[:len(w.done)-1]
				w.sent = append(w.sent, op)
				return
			}
			if ends && p.lease[f.Group] != a.until {
				op.Freed = nil // it has ended, and may be another's now
				break
			}
			if p.lease[f.Group] > w.now {
				p.cursor[f.Group] = max(p.cursor[f.Group], p.leaseEnd[f.Group])
			}
			p.lease[f.Group] = 0
		}
	case queue.Watch:
		w.watch(&op.Watch)
	}
}

func (w *world) push(q, name string) queue.UUID {
	key := q + "/" + name
	id, ok := w.names[key]
	if !ok {
		w.lastID++
		for i := range 8 {
			id[i], id[15-i] = byte(w.lastID>>(8*(7-i))), byte(w.lastID>>(8*i))
		}
		w.names[key] = id
		w.parts[id] = &part{queue: q, name: name, id: id, cursor: map[string]int{}, lease: map[string]time.Duration{}, leaseEnd: map[string]int{}}
	}
	w.parts[id].head++
	return id
}

func (w *world) claim(op *queue.Op) {
	p := &op.Pop
	group := string(p.Group)
	if p.Scope == queue.OnePartition {
		id, ok := w.names[string(p.Queue)+"/"+string(p.Partition)]
		if !ok {
			p.Missing = true
			return
		}
		p.Tries = append(p.Tries, queue.Try{Queue: string(p.Queue), Partition: id})
	}
	for i := range p.Tries {
		t := &p.Tries[i]
		at := w.parts[t.Partition]
		switch {
		case p.Claimed == max(p.Partitions, 1) || p.Count >= max(p.Batch, 1):
			t.Outcome = queue.NotTried
		case at.lease[group] > w.now:
			t.Outcome, t.In = queue.Leased, at.lease[group]-w.now
			p.Held = true
		case at.cursor[group] >= at.head:
			t.Outcome = queue.Drained
		case w.undue > w.now:
			t.Outcome, t.In = queue.NotDue, w.undue-w.now
		default:
			n := min(at.head-at.cursor[group], max(p.Batch, 1)-p.Count)
			t.Outcome, t.More, t.In = queue.Claimed, at.cursor[group]+n < at.head, leaseTime
			p.Claimed++
			p.Count += n
			if p.AutoAck {
				at.cursor[group] += n
			} else {
				p.LeaseID = append(p.LeaseID[:0], "lease"...)
				at.lease[group], at.leaseEnd[group] = w.now+leaseTime, at.cursor[group]+n
			}
		}
	}
}

func (w *world) watch(r *queue.WatchRequest) {
	switch r.Kind {
	case queue.WatchCheck, queue.WatchTell:
		var seen int
		_, _ = fmt.Sscan(r.Since, &seen)
		if r.Since != "" {
			r.Heard = append(r.Heard, w.told[seen:]...)
		}
		w.heard = append(w.heard, r.Tell...)
		if r.Kind == queue.WatchTell || r.Since == "" {
			r.Flags = w.flags
		}
		r.Snapshot, r.Others = fmt.Sprint(len(w.told)), w.others
	case queue.WatchSweep:
		var ids []queue.UUID
		for id, p := range w.parts {
			if p.queue == r.Queue && string(id[:]) > string(r.After[:]) {
				ids = append(ids, id)
			}
		}
		sort.Slice(ids, func(i, j int) bool { return string(ids[i][:]) < string(ids[j][:]) })
		if len(ids) > 3 { // a slice
			ids = ids[:3]
			r.More, r.Next = true, ids[2]
		}
		for _, id := range ids {
			p := w.parts[id]
			if p.cursor[r.Group.Name] < p.head {
				r.Pending = append(r.Pending, queue.Claimable{Partition: id, In: max(p.lease[r.Group.Name]-w.now, 0)})
			}
		}
	case queue.WatchBegin:
		w.begun[beginning(r.Scope, r.Group.Name, r.Group.Queue, r.Part, r.Namespace, r.Task)]++
	case queue.WatchQueues:
		queues := map[string]bool{}
		for _, p := range w.parts {
			if r.Namespace == nil || p.queue[:1] == string(r.Namespace) {
				queues[p.queue] = true
			}
		}
		for q := range queues {
			r.Queues = append(r.Queues, q)
		}
		sort.Strings(r.Queues)
	}
}

// answer gives answer #i back.
func (w *world) answer(i int) {
	op := w.done[i]
	w.done = append(w.done[:i], w.done[i+1:]...)
	op.Done.OpDone(op)
}

// answered hears of the end of an op that a client made.
func (w *world) answered(op *queue.Op) {
	if w.answers[op] {
		panic("an op is answered twice")
	}
	w.answers[op] = true
	if op.Verb != queue.Pop {
		return
	}
	w.pops--
	if op.Fault.Code != queue.OK || op.Pop.AutoAck {
		return
	}
	for _, t := range op.Pop.Tries {
		if t.Outcome == queue.Claimed {
			p := w.parts[t.Partition]
			w.leases = append(w.leases, lease{string(op.Pop.Group), p, p.lease[string(op.Pop.Group)], false})
		}
	}
}

// settle lets everything happen that is to happen now. Time stands still.
func (w *world) settle() {
	for range 100_000 {
		if !w.step() {
			return
		}
	}
	panic("it never comes to rest")
}

// step lets the next thing happen, and says whether there was one.
func (w *world) step() bool {
	switch {
	case len(w.posts) > 0:
		f := w.posts[0]
		w.posts = w.posts[1:]
		f()
	case len(w.done) > 0:
		w.answer(0)
	case len(w.sent) > 0:
		w.happen(0)
	default:
		return w.fire()
	}
	return true
}

// fire runs one timer that is due.
func (w *world) fire() bool {
	for i, t := range w.timers {
		if t.at <= w.now {
			w.timers = append(w.timers[:i], w.timers[i+1:]...)
			t.f()
			return true
		}
	}
	return false
}

func (w *world) pushOp(store int, q, name string) *queue.Op {
	op := &queue.Op{Verb: queue.Push, Done: w, Items: []queue.Item{{Queue: []byte(q), Partition: []byte(name)}}}
	w.stores[store].Do(op)
	return op
}

func (w *world) popOp(store int, set func(p *queue.PopRequest)) *queue.Op {
	op := &queue.Op{Verb: queue.Pop, Done: w, Accepted: w.now}
	p := &op.Pop
	p.Scope, p.Queue, p.Group, p.Batch, p.Partitions, p.Timeout = queue.OneQueue, []byte("q"), []byte("g"), 1, 1, time.Hour
	set(p)
	w.pops++
	w.stores[store].Do(op)
	return op
}

// ack ends a client's lease.
func (w *world) ack(store, i int) {
	l := w.leases[i]
	w.leases = append(w.leases[:i], w.leases[i+1:]...)
	op := &queue.Op{Verb: queue.Ack, Done: w, Freed: []queue.Freed{{Queue: l.part.queue, Group: l.group, Partition: l.part.id}}}
	w.acks[op] = l
	w.stores[store].Do(op)
}

// claimable says whether a pop that waits could have something.
func (w *world) claimable(p *queue.PopRequest) bool {
	for _, at := range w.parts {
		switch p.Scope {
		case queue.OnePartition:
			if at.queue != string(p.Queue) || at.name != string(p.Partition) {
				continue
			}
		case queue.OneQueue:
			if at.queue != string(p.Queue) {
				continue
			}
		default:
			if p.Namespace != nil && at.queue[:1] != string(p.Namespace) {
				continue
			}
		}
		if at.lease[string(p.Group)] <= w.now && at.cursor[string(p.Group)] < at.head {
			return true
		}
	}
	return false
}

// stop stops the pops of all processes, or lets them go on; by this one, or another.
func (w *world) stop(on, here bool) {
	if here && w.away {
		return // it cannot be committed
	}
	w.flags.Pop = on
	if here {
		w.board.SetFlags(nil, &on)
	}
}
