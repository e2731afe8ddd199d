package longpoll

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// Board is what one process knows about who may find messages where, and who waits for
// them. All loops share it; its lock is held for a few map operations at a time.
type Board struct {
	limits Limits
	self   queue.UUID // this process, to the others
	worker string

	active atomic.Bool  // there are groups, or others who want to be told
	sweeps atomic.Int64 // groups that are being swept

	mu       sync.Mutex
	groups   map[queue.Group]*group
	byQueue  map[string][]*group
	filters  map[string]*waiters // by group's name: pops of many queues that wait
	entries  int
	turns    uint64 // in which partitions became ready
	takings  uint64
	due      dueHeap
	armedAt  time.Duration // a timer is set for then; 0: none
	position string        // of the others' changes: all before it was heard
	others   bool          // there are other processes
	tell     map[queue.Told]struct{}
	names    map[string]string // of queues and partitions, for tell

	begun     map[string]time.Duration // beginnings that were seen to be written down, and when
	forgotten uint64                   // times that they were forgotten

	met      map[string]struct{} // queues that pops of many queues have looked for
	meetings atomic.Uint64       // times that they had to
	many     bool                // there was one
	stores   []*Store
	post     []*Store // that have woken calls to look at, once the lock is given back
	rotation []*group // of the slow sweep

	flags    queue.Flags
	flagsSet uint64  // how often this process has set them itself
	held     waiters // pops that wait for the end of maintenance

	hearing sync.Mutex // held while those in hear are told; taken before mu
	hear    []func(push, pop bool)

	stats Stats
}

// Limits are the bounds of a Board; the zero value of a field takes its default.
type Limits struct{ ParkedMax, GroupsMax, EntriesMax int }

// Stats are counters and gauges of a board; any goroutine.
type Stats struct {
	Parked, Paused, Groups, Entries                               atomic.Int64 // Paused: of those that are parked
	Wakes, Expired, Sweeps, Slices, Checks, Heard, Told, Released atomic.Uint64
	Attempts, Vain, Refused, Forgotten                            atomic.Uint64
}

// Stats returns the board's counters.
func (b *Board) Stats() *Stats { return &b.stats }

// NewBoard makes the board of a process. self is its name among the processes that share
// the database, and must be its own; worker is for people.
func NewBoard(self queue.UUID, worker string, limits Limits) *Board {
	or := func(v *int, otherwise int) {
		if *v == 0 {
			*v = otherwise
		}
	}
	or(&limits.ParkedMax, ParkedMaxDefault)
	or(&limits.GroupsMax, GroupsMaxDefault)
	or(&limits.EntriesMax, EntriesMaxDefault)
	return &Board{
		limits: limits, self: self, worker: worker,
		groups: map[queue.Group]*group{}, byQueue: map[string][]*group{}, filters: map[string]*waiters{}, tell: map[queue.Told]struct{}{}, names: map[string]string{}, met: map[string]struct{}{}, begun: map[string]time.Duration{},
	}
}

// group is a consumer group of a queue.
type group struct {
	queue.Group
	entries     map[queue.UUID]*entry
	first, last *entry // those that are ready, the longest first

	waiting waiters                 // pops of any partition
	byID    map[queue.UUID]*waiters // pops of one partition
	named   map[string]queue.UUID   // which one those in byID mean by its name
	byName  map[string]*waiters     // and of one that is not known yet

	sweepers waiters // those that wait for the end of a sweep

	swept    bool // all that was there when it was swept is on the board
	sweeping bool
	lost     bool       // what was found had no place on the board, since the last sweep began
	slow     queue.UUID // where the slow sweep goes on
	sweptAt  time.Duration
	slices   int // of the last sweep
	usedAt   time.Duration
	notedAt  time.Duration // that nothing was found was noted then
	users    int           // calls that hold it

	// What happened to partitions, counted by a few bits of their ids and names: a call
	// that has looked in vain knows by them that it must look again.
	marks     marks
	nameMarks [64]uint32
}

// marks counts what happened to partitions, by a few bits of their ids.
type marks [64]uint32

func (m *marks) of(id queue.UUID) *uint32 { return &m[id[15]&63] }

func (g *group) mark(id queue.UUID) *uint32 { return g.marks.of(id) }

func (g *group) nameMark(name []byte) *uint32 {
	h := uint32(2166136261) // FNV-1a
	for _, c := range name {
		h = (h ^ uint32(c)) * 16777619
	}
	return &g.nameMarks[h&63]
}

// entry is a partition on the board.
type entry struct {
	group      *group
	id         queue.UUID
	state      entryState
	dirty      bool   // something happened to it meanwhile
	given      bool   // trying: it was given back meanwhile
	undue      bool   // timed: it is not leased, its messages may not be delivered yet
	turn       uint64 // among all that are ready, who came first
	taken      uint64 // trying: which taking it was
	due        time.Duration
	place      int // in the heap
	prev, next *entry
}

type entryState uint8

const (
	ready  entryState = iota
	trying            // a pop has taken it
	timed             // leased, or not due, until its time
)

// group returns the group, and makes it if need be. nil: there is no room.
func (b *Board) group(q, name string, now time.Duration) *group {
	key := queue.Group{Queue: q, Name: name}
	g := b.groups[key]
	if g == nil {
		if len(b.groups) >= b.limits.GroupsMax && !b.forget(now) {
			return nil
		}
		g = &group{Group: key, entries: map[queue.UUID]*entry{}}
		b.groups[key] = g
		b.byQueue[q] = append(b.byQueue[q], g)
		b.active.Store(true)
		b.stats.Groups.Store(int64(len(b.groups)))
	}
	g.usedAt = now
	return g
}

// forget makes room for groups: a tenth of them, those that were not used for longest.
func (b *Board) forget(now time.Duration) bool {
	old := now
	for _, g := range b.groups {
		old = min(old, g.usedAt)
	}
	limit := old + (now-old)/10
	gone := 0
	for _, g := range b.groups {
		if g.usedAt <= limit && g.idle() {
			b.drop(g)
			gone++
		}
	}
	b.stats.Forgotten.Add(uint64(gone))
	return gone > 0
}

// idle says that nobody waits for the group.
func (g *group) idle() bool {
	if g.sweeping || g.users > 0 {
		return false
	}
	for _, e := range g.entries {
		if e.state == trying {
			return false
		}
	}
	return true
}

func (b *Board) drop(g *group) {
	for _, e := range g.entries {
		b.remove(e)
	}
	delete(b.groups, g.Group)
	list := b.byQueue[g.Queue]
	for i := range list {
		if list[i] == g {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
			break
		}
	}
	if len(list) == 0 {
		delete(b.byQueue, g.Queue)
	} else {
		b.byQueue[g.Queue] = list
	}
	b.stats.Groups.Store(int64(len(b.groups)))
}

// Entries.

// enter puts a partition on the board, ready to be tried.
func (b *Board) enter(g *group, id queue.UUID) *entry {
	if b.full(g) {
		return nil
	}
	e := &entry{group: g, id: id, place: -1}
	g.entries[id] = e
	b.entries++
	b.stats.Entries.Store(int64(b.entries))
	b.makeReady(e)
	return e
}

// full says that there is no room for a partition of g; then a later sweep finds it. What
// somebody waits for is let in beyond the bound: it goes with him.
func (b *Board) full(g *group) bool {
	if b.entries < b.limits.EntriesMax || g.waiting.first != nil || g.sweepers.first != nil || len(g.byID) > 0 || b.filters[g.Name] != nil {
		return false
	}
	g.swept, g.lost = false, true
	return true
}

// makeReady appends e to the list of those that are ready and wakes one who waits for it.
func (b *Board) makeReady(e *entry) {
	b.unlink(e)
	b.turns++
	e.state, e.dirty, e.given, e.turn = ready, false, false, b.turns
	g := e.group
	if e.prev = g.last; e.prev != nil {
		e.prev.next = e
	} else {
		g.first = e
	}
	g.last = e
	b.wakeFor(e)
}

// putBack makes e the first of those that are ready: it was taken and not tried.
func (b *Board) putBack(e *entry) {
	g := e.group
	e.state, e.dirty, e.given = ready, false, false
	if e.next = g.first; e.next != nil {
		e.next.prev = e
	} else {
		g.last = e
	}
	g.first = e
	b.wakeFor(e)
}

// unlink takes e out of the list or the heap that it is in.
func (b *Board) unlink(e *entry) {
	switch {
	case e.place >= 0:
		heap.Remove(&b.due, e.place)
	case e.state == ready && (e.prev != nil || e.next != nil || e.group.first == e):
		if e.prev != nil {
			e.prev.next = e.next
		} else {
			e.group.first = e.next
		}
		if e.next != nil {
			e.next.prev = e.prev
		} else {
			e.group.last = e.prev
		}
		e.prev, e.next = nil, nil
	}
}

func (b *Board) remove(e *entry) {
	b.unlink(e)
	delete(e.group.entries, e.id)
	b.entries--
	b.stats.Entries.Store(int64(b.entries))
}

// wait lets e rest until its time.
func (b *Board) wait(e *entry, due time.Duration) {
	b.unlink(e)
	e.state, e.due, e.undue = timed, due, false
	heap.Push(&b.due, e)
}

// take takes up to n partitions that are ready, the longest first, and appends them to
// tries.
func (b *Board) take(g *group, n int, tries []queue.Try) []queue.Try {
	for ; n > 0 && g.first != nil; n-- {
		e := g.first
		b.unlink(e)
		b.takings++
		e.state, e.dirty, e.given, e.taken = trying, false, false, b.takings
		tries = append(tries, queue.Try{Queue: g.Queue, Partition: e.id, Taken: e.taken})
	}
	return tries
}

// takenFor says that e is in the hands of whom t was given to.
func (e *entry) takenFor(t *queue.Try) bool {
	return e != nil && e.state == trying && e.taken == t.Taken
}

// lockedAfter is how long a partition rests whose row was locked by somebody.
const lockedAfter = 20 * time.Millisecond

// resolve takes what a pop found at its tries, which take gave it.
func (b *Board) resolve(tries []queue.Try, name string, autoAck bool, now time.Duration) {
	for i := len(tries) - 1; i >= 0; i-- { // so that those not tried keep their order
		t := &tries[i]
		g := b.groups[queue.Group{Queue: t.Queue, Name: name}]
		if g == nil {
			continue
		}
		e := g.entries[t.Partition]
		switch {
		case t.Outcome == queue.Claimed && !autoAck:
			b.leased(g, t, false, now)
		case !e.takenFor(t):
			// A pop of this one partition knew more.
		case t.Outcome == queue.NotTried:
			b.putBack(e)
		case e.given:
			b.makeReady(e) // what was found may be older than that
		case t.Outcome == queue.Leased, t.Outcome == queue.NotDue, t.Outcome == queue.Busy:
			b.rests(e, t, now)
		case e.dirty || t.More:
			b.makeReady(e)
		default: // Drained, Gone, or all was claimed
			b.remove(e)
		}
	}
}

// rests lets a partition rest that could not be claimed. Nobody has seen that there is
// nothing for the group: an ack that says so may have looked earlier than a push.
func (b *Board) rests(e *entry, t *queue.Try, now time.Duration) {
	in := max(t.In, time.Millisecond)
	if t.Outcome == queue.Busy {
		in = lockedAfter
	}
	b.wait(e, now+in)
	e.undue, e.dirty = t.Outcome == queue.NotDue, true
}

// leased lets a partition rest that was claimed.
func (b *Board) leased(g *group, t *queue.Try, more bool, now time.Duration) {
	e := g.entries[t.Partition]
	if e == nil {
		if e = b.enterTrying(g, t.Partition); e == nil {
			return
		}
	}
	e.dirty = e.dirty || t.More || more
	b.wait(e, now+t.In)
}

// resolveOne takes what a pop of one partition of g found, which took nothing from the
// board. pushed says that messages may have come since it began, happened that anything may
// have: then the board knows better than the pop.
func (b *Board) resolveOne(g *group, t *queue.Try, autoAck, pushed, happened bool, now time.Duration) {
	e := g.entries[t.Partition]
	switch t.Outcome {
	case queue.Claimed:
		more := t.More || pushed
		switch {
		case !autoAck:
			b.leased(g, t, pushed, now)
		case e == nil && more:
			b.enter(g, t.Partition)
		case e == nil:
		case e.state == trying:
			e.dirty = e.dirty || more
		case more:
			b.makeReady(e)
		case e.state == ready:
			b.remove(e)
		}
	case queue.Leased, queue.NotDue, queue.Busy:
		switch { // only when it will be free is of interest
		case e == nil && happened:
			b.enter(g, t.Partition)
		case e == nil:
			if e = b.enterTrying(g, t.Partition); e != nil {
				b.rests(e, t, now)
			}
		case e.state == ready && !happened:
			b.rests(e, t, now)
		}
	case queue.Drained, queue.Gone:
		if e != nil && e.state == ready && !happened {
			b.remove(e)
		}
	}
}

// enterTrying puts a partition on the board that is about to be timed.
func (b *Board) enterTrying(g *group, id queue.UUID) *entry {
	if b.full(g) {
		return nil
	}
	e := &entry{group: g, id: id, place: -1, state: trying}
	g.entries[id] = e
	b.entries++
	b.stats.Entries.Store(int64(b.entries))
	return e
}

// changed: a partition has got messages. freed: a group gave it back.

func (b *Board) changed(q string, id queue.UUID, name []byte) {
	for _, g := range b.byQueue[q] {
		b.touch(g, id, false, true)
		b.appeared(g, id, name)
	}
}

// appeared wakes those who wait for a partition that may be this one; name nil: any. That
// includes those who know it by another id: it was deleted, and made anew.
func (b *Board) appeared(g *group, id queue.UUID, name []byte) {
	if name == nil {
		for i := range g.nameMarks {
			g.nameMarks[i]++
		}
		for _, w := range g.byName {
			b.wakeAll(w)
		}
		return
	}
	*g.nameMark(name)++
	if w := g.byName[string(name)]; w != nil {
		b.wakeAll(w)
	}
	b.renamed(g, id, name)
}

// renamed wakes those who wait for a partition of this name that has another id.
func (b *Board) renamed(g *group, id queue.UUID, name []byte) {
	if old, ok := g.named[string(name)]; ok && old != id {
		if w := g.byID[old]; w != nil {
			b.wakeAll(w)
		}
	}
}

func (b *Board) freed(q, name string, id queue.UUID, more bool) {
	if g := b.groups[queue.Group{Queue: q, Name: name}]; g != nil {
		b.touch(g, id, true, more)
	}
}

// touch looks what became of a partition to which something happened. given: it is not
// leased any more. more: there may be messages.
func (b *Board) touch(g *group, id queue.UUID, given, more bool) {
	*g.mark(id)++
	e := g.entries[id]
	switch {
	case e == nil && more:
		b.enter(g, id)
	case e == nil:
	case e.state == ready:
		b.wakeFor(e)
	case e.state == timed && given && (more || e.dirty):
		b.makeReady(e)
	case e.state == timed && given:
		b.remove(e)
	default:
		e.dirty = true
		e.given = e.given || given
	}
}

// found takes what a sweep has seen that began when g's marks were since. Of partitions that
// are on the board already it can only know that they are not leased any more; and of one
// to which something happened meanwhile it does not know that it still is.
func (b *Board) found(g *group, pending []queue.Claimable, since *marks, now time.Duration) {
	for _, p := range pending {
		e := g.entries[p.Partition]
		switch {
		case e != nil && e.state == timed && !e.undue && p.In == 0:
			b.makeReady(e) // another process has given it back
			continue
		case e != nil:
			continue
		}
		if p.In == 0 || *g.mark(p.Partition) != *since.of(p.Partition) {
			b.enter(g, p.Partition)
		} else if e := b.enterTrying(g, p.Partition); e != nil {
			b.wait(e, now+p.In)
		}
	}
}

// expire makes those ready whose time has come.
func (b *Board) expire(now time.Duration) {
	for len(b.due) > 0 && b.due[0].due <= now {
		b.makeReady(b.due[0])
	}
}

// dueHeap orders entries by their time.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.place = len(*h)
	*h = append(*h, e)
}
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.place = -1
	return e
}
