package longpoll

import (
	"container/heap"
	"slices"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// Store is the part of the long poll that belongs to one loop; it implements queue.Store.
// Do, Cancel and OpDone run on that loop, and so does everything below that does not say
// otherwise.
type Store struct {
	board *Board
	sv    Services
	lanes Lanes
	limit time.Duration // of one attempt, and of what is asked on the way

	parked  deadlines // pops that wait, by the end of their time
	armedAt time.Duration
	stalled []*call // PostgreSQL is away: tried again when it is back
	calls   []*call // free list
	asks    []*ask  // free list
	key     []byte  // scratch
	closed  bool

	drainFn, expireFn, timeFn, recoveredFn func()

	woken  []*call // the board's: calls that were woken
	posted bool    // the board's: drain was posted
	spare  []*call

	watcher *watcher // on the first loop of a process
}

// New makes the store of a loop around its lanes. attempt is how long PostgreSQL may
// take for one attempt of a pop. Any goroutine, before the loop has requests.
func (b *Board) New(sv Services, lanes Lanes, attempt time.Duration) *Store {
	s := &Store{board: b, sv: sv, lanes: lanes, limit: attempt}
	s.drainFn, s.expireFn, s.timeFn, s.recoveredFn = s.drain, s.fired, s.timesUp, s.recovered
	b.mu.Lock()
	b.stores = append(b.stores, s)
	first := len(b.stores) == 1
	b.mu.Unlock()
	if first {
		s.watcher = newWatcher(s)
		sv.Post(s.watcher.tick)
	}
	return s
}

// Do implements queue.Store.
func (s *Store) Do(op *queue.Op) {
	switch op.Verb {
	case queue.Pop:
		s.pop(op)
		return
	case queue.Push:
		op.Wrap(s)
		s.lanes.Push.Do(op)
	case queue.Ack, queue.Extend, queue.Release:
		op.Wrap(s)
		s.lanes.Ack.Do(op)
	case queue.Transaction:
		op.Wrap(s)
		s.lanes.Transaction.Do(op)
	default:
		panic("BUG: a verb that the long poll does not know")
	}
}

// Around returns a store like s whose pushes go another way: the pool's.
func (s *Store) Around(push queue.Store) queue.Store { return &around{s, push} }

type around struct {
	s    *Store
	push queue.Store
}

func (a *around) Do(op *queue.Op) {
	op.Wrap(a.s)
	a.push.Do(op)
}

func (a *around) Cancel(op *queue.Op) { a.push.Cancel(op) }

// OpDone implements queue.Completer for all but pops: what the op changed is on the board
// before its client hears of it.
func (s *Store) OpDone(op *queue.Op) {
	op.Unwrap()
	if s.board.active.Load() {
		s.learn(op)
	}
	op.Done.OpDone(op)
}

// learn puts on the board what an op has changed.
func (s *Store) learn(op *queue.Op) {
	b := s.board
	b.mu.Lock()
	var last *queue.Item
	for i := range op.Items {
		it := &op.Items[i]
		if it.Status != queue.Queued || last != nil && last.PartitionID == it.PartitionID {
			continue
		}
		last = it
		if len(b.byQueue) > 0 {
			b.changedItem(it)
		}
		if b.many {
			b.meet(it.Queue)
		}
		if b.others {
			b.toldItem(it)
		}
	}
	b.learnFreed(op.Freed)
	b.unlock()
	s.arm()
}

func (b *Board) changedItem(it *queue.Item) {
	if len(b.byQueue[string(it.Queue)]) > 0 {
		b.changed(string(it.Queue), it.PartitionID, it.Partition)
	}
}

// meet has pops of many queues look again when a queue is pushed to for the first time: it
// may be new, and one of theirs. Once for each.
func (b *Board) meet(q []byte) {
	if _, met := b.met[string(q)]; met {
		return
	}
	if len(b.met) >= metMax {
		clear(b.met)
	}
	b.met[string(q)] = struct{}{}
	b.meetings.Add(1)
	for _, list := range b.filters {
		b.wakeAll(list)
	}
}

// metMax bounds the queues that are known to have been looked for; beyond it all are
// looked for once more.
const metMax = 100_000

func (b *Board) learnFreed(freed []queue.Freed) {
	for i := range freed {
		f := &freed[i]
		b.freed(f.Queue, f.Group, f.Partition, !f.Drained)
		if b.others {
			b.told(queue.Told{Queue: f.Queue, Partition: f.Partition, Group: f.Group})
		}
	}
}

// toldItem notes that messages came. Of many pushes into one partition only the first
// since the others were told does more than look.
func (b *Board) toldItem(it *queue.Item) {
	// The strings of a key that is only looked up are not made.
	if _, noted := b.tell[queue.Told{Queue: string(it.Queue), Partition: it.PartitionID, Name: string(it.Partition)}]; noted {
		return
	}
	b.told(queue.Told{Queue: b.name(it.Queue), Partition: it.PartitionID, Name: b.name(it.Partition)})
}

// name is a name as a string, which is mostly at hand.
func (b *Board) name(name []byte) string {
	s, known := b.names[string(name)]
	if !known {
		if len(b.names) >= namesMax {
			clear(b.names)
		}
		s = string(name)
		b.names[s] = s
	}
	return s
}

// namesMax bounds the names that are at hand; beyond it they are gathered anew.
const namesMax = 10_000

// told notes what the others are to be told. What finds no place they find by sweeping.
func (b *Board) told(t queue.Told) {
	if len(b.tell) >= ToldMax {
		t = everything
	}
	b.tell[t] = struct{}{}
}

// everything tells other processes that any partition of any queue may have changed.
var everything = queue.Told{Group: everyGroup}

// Changed says that something was done to a queue, or to its groups, by another way than
// through this store: what is on the board of it may be wrong. Any goroutine.
func (b *Board) Changed(q string) {
	b.mu.Lock()
	b.queueChanged(q)
	if b.others {
		b.told(queue.Told{Queue: q, Group: everyGroup})
	}
	b.unlock()
}

// AllChanged is Changed for all queues, also those that are to come. Any goroutine.
func (b *Board) AllChanged() {
	b.mu.Lock()
	b.allChanged()
	if b.others {
		b.told(everything)
	}
	b.unlock()
}

func (b *Board) queueChanged(q string) {
	b.unbegin()
	delete(b.met, q)
	for _, g := range b.byQueue[q] {
		b.unsweep(g)
	}
}

func (b *Board) allChanged() {
	b.unbegin()
	clear(b.met)
	for _, g := range b.groups {
		b.unsweep(g)
	}
	for _, list := range b.filters {
		b.wakeAll(list)
	}
}

// everyGroup, without a partition, tells other processes that any partition of a queue may
// have changed.
const everyGroup = "*"

// Moved says that a partition was found to have messages that nobody here has pushed. Any
// goroutine.
func (b *Board) Moved(q string, id queue.UUID) {
	b.mu.Lock()
	b.changed(q, id, nil)
	if b.others {
		b.told(queue.Told{Queue: q, Partition: id})
	}
	b.unlock()
}

// unsweep has a group swept again by whoever wants something of it next, and at once if
// somebody waits.
func (b *Board) unsweep(g *group) {
	g.swept = false
	for i := range g.marks {
		g.marks[i]++
	}
	for _, e := range g.entries {
		if e.state == timed && e.undue {
			// Its queue may have another delay now: whoever comes looks.
			b.makeReady(e)
		}
	}
	if g.waiting.first != nil {
		b.wake(g.waiting.first)
	}
	for _, w := range g.byID {
		b.wakeAll(w)
	}
	b.appeared(g, queue.UUID{}, nil)
}

// resumedMax is how many calls are resumed in one turn of the loop: when pops go on after
// maintenance there may be very many.
const resumedMax = 1000

// drain goes on with the calls that were woken.
func (s *Store) drain() {
	b := s.board
	b.mu.Lock()
	n := min(len(s.woken), resumedMax)
	s.spare = append(s.spare[:0], s.woken[:n]...)
	s.woken = slices.Delete(s.woken, 0, n)
	s.posted = len(s.woken) > 0
	more := s.posted
	b.mu.Unlock()
	for i, c := range s.spare {
		s.spare[i] = nil
		s.resume(c)
	}
	if more {
		s.sv.Post(s.drainFn)
	}
}

// arm sets a timer for what is due on the board, unless one is set. It must be called on
// a loop after whatever may have made something due sooner.
func (s *Store) arm() {
	b := s.board
	now := s.sv.Now()
	b.mu.Lock()
	var at time.Duration
	if len(b.due) > 0 && (b.armedAt == 0 || b.due[0].due < b.armedAt) {
		at = b.due[0].due
		b.armedAt = at
	}
	b.mu.Unlock()
	if at != 0 {
		s.sv.After(max(at-now, 0), s.expireFn)
	}
}

// fired: what is due may be tried again.
func (s *Store) fired() {
	b := s.board
	now := s.sv.Now()
	b.mu.Lock()
	if b.armedAt <= now {
		b.armedAt = 0
	}
	b.expire(now)
	b.unlock()
	s.arm()
}

// deadlines orders calls by the end of their time.
type deadlines []*call

func (h deadlines) Len() int           { return len(h) }
func (h deadlines) Less(i, j int) bool { return h[i].until < h[j].until }
func (h deadlines) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *deadlines) Push(x any) {
	c := x.(*call)
	c.place = len(*h)
	*h = append(*h, c)
}
func (h *deadlines) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.place = -1
	return c
}

// timesUp answers the pops whose time is over.
func (s *Store) timesUp() {
	now := s.sv.Now()
	if s.armedAt <= now {
		s.armedAt = 0
	}
	for len(s.parked) > 0 && s.parked[0].until <= now {
		s.timeout(s.parked[0])
	}
	s.armTime()
}

// armTime sets the one timer of all parked pops.
func (s *Store) armTime() {
	if len(s.parked) == 0 || s.armedAt != 0 && s.armedAt <= s.parked[0].until {
		return
	}
	s.armedAt = s.parked[0].until
	s.sv.After(max(s.armedAt-s.sv.Now(), 0), s.timeFn)
}

// rest notes until when c may wait.
func (s *Store) rest(c *call) {
	heap.Push(&s.parked, c)
	s.armTime()
}

func (s *Store) unrest(c *call) {
	if c.place >= 0 {
		heap.Remove(&s.parked, c.place)
	}
}
