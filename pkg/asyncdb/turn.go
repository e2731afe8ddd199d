package asyncdb

import (
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// This file has the push lanes of a process go one after another where they would wait
// for each other's locks anyway.
//
// Two batches that push to the same partition are serial: the second waits in PostgreSQL
// until the first is committed. What it carries was fixed when it was sent; what arrives
// meanwhile waits for the commit after. If it is not sent before the first is committed, it
// takes all that has come until then: the same commits carry more rows each, and no
// server process sleeps on a lock. So a lane that has something to send takes a turn, and
// waits while a lane that came before has a partition in common with it.
//
// Nothing but speed depends on it: the locks in PostgreSQL keep the order. So a lane does
// not wait for long, a batch of many partitions is full enough and takes no turn, and one
// that has been under way for long is in nobody's way any more.

// turns are the lanes that have a batch in flight or wait to send one, in the order in
// which they came.
type turns struct {
	mu    sync.Mutex
	line  []*turn
	lanes atomic.Int32 // that take turns; one alone need not
}

// turn is one lane's place in the line.
type turn struct {
	store *Store
	seats seats
	going bool          // it may send
	since time.Duration // since then
}

const (
	// turnWait is how long a lane waits for its turn at most: what is in its way may be a
	// batch of another size, or a server that does not answer. It is less where a push has
	// little time.
	turnWait = 10 * time.Millisecond

	// turnMax is how long a batch may be under way and others wait for it.
	turnMax = 100 * time.Millisecond

	// turnSeats is how many partitions a batch may have that takes a turn.
	turnSeats = 256
)

// seats are partitions, by a hash each.
type seats struct {
	all  []uint64   // sorted, once each
	bits [16]uint64 // of all, to know soon that two sets have nothing in common
}

var seatSeed = maphash.MakeSeed()

// take adds the partitions of an op; settle ends that.
func (s *seats) take(op *queue.Op) {
	var last *queue.Item
	for i := range op.Items {
		it := &op.Items[i]
		if last != nil && string(last.Partition) == string(it.Partition) && string(last.Queue) == string(it.Queue) {
			continue
		}
		last = it
		s.all = append(s.all, maphash.Bytes(seatSeed, it.Queue)+31*maphash.Bytes(seatSeed, it.Partition))
	}
}

func (s *seats) settle() {
	slices.Sort(s.all)
	s.all = slices.Compact(s.all)
	clear(s.bits[:])
	for _, h := range s.all {
		s.bits[h>>6&15] |= 1 << (h & 63)
	}
}

// meet says whether two sets have something in common.
func (s *seats) meet(o *seats) bool {
	common := uint64(0)
	for i := range s.bits {
		common |= s.bits[i] & o.bits[i]
	}
	if common == 0 {
		return false
	}
	for a, b := s.all, o.all; len(a) > 0 && len(b) > 0; {
		switch {
		case a[0] == b[0]:
			return true
		case a[0] < b[0]:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return false
}

// lock does not sleep: it is held for a moment, and a loop sleeps nowhere but in its poller.
func (t *turns) lock() {
	for !t.mu.TryLock() {
		runtime.Gosched()
	}
}

// isFree says whether nobody in a part of the line is in the way of a lane.
func isFree(line []*turn, mine *turn, now time.Duration) bool {
	for _, before := range line {
		if !(before.going && now-before.since > turnMax) && before.seats.meet(&mine.seats) {
			return false
		}
	}
	return true
}

// join puts a lane at the end of the line. It says whether it may send.
func (t *turns) join(mine *turn, now time.Duration) bool {
	t.lock()
	defer t.mu.Unlock()
	mine.going, mine.since = isFree(t.line, mine, now), now
	t.line = append(t.line, mine)
	return mine.going
}

// may says whether a lane that stands in the line may send. late: it does, in any case.
func (t *turns) may(mine *turn, now time.Duration, late bool) bool {
	t.lock()
	defer t.mu.Unlock()
	if !mine.going && late {
		mine.going, mine.since = true, now
	}
	return mine.going
}

// leave takes a lane out of the line, and tells those who may send now.
func (t *turns) leave(mine *turn, now time.Duration) {
	var told [16]*Store
	next := told[:0]
	t.lock()
	kept := t.line[:0]
	for _, other := range t.line {
		if other != mine {
			kept = append(kept, other)
		}
	}
	t.line[len(kept)] = nil
	t.line = kept
	for i, other := range t.line {
		if !other.going && other.seats.meet(&mine.seats) && isFree(t.line[:i], other, now) {
			other.going, other.since = true, now
			next = append(next, other.store)
		}
	}
	t.mu.Unlock()
	for _, s := range next {
		s.sv.Post(s.turnFn)
	}
}

// mayLoad says whether the lane may send a batch of what waits. If not, it stands in the
// line, and goes on when it is told or has waited long enough.
func (s *Store) mayLoad(now time.Duration) bool {
	switch {
	case s.inLine:
		return s.db.turns.may(&s.turn, now, now >= s.turnTill)
	case !s.work.Turns || s.db.turns.lanes.Load() < 2:
		return true
	}
	s.turn = turn{store: s, seats: seats{all: s.turn.seats.all[:0]}}
	for rows, ops := 0, s.gather.ops[s.gather.head:]; len(ops) > 0 && rows < s.gather.rowsCap; ops = ops[1:] {
		s.turn.seats.take(ops[0])
		rows += ops[0].Rows()
	}
	if s.turn.seats.settle(); len(s.turn.seats.all) > turnSeats {
		return true
	}
	s.inLine, s.lineAt, s.turnTill = true, now, now+min(turnWait, s.db.config.FailoverTimeout/32)
	if s.db.turns.join(&s.turn, now) {
		return true
	}
	s.stats.Turns.Add(1)
	s.armTurn()
	return false
}

// leaveLine ends the lane's turn, if it has one.
func (s *Store) leaveLine() {
	if s.inLine {
		s.inLine = false
		s.db.turns.leave(&s.turn, s.sv.Now())
	}
}

// myTurn goes on with what waits for the lane's turn, which has come.
func (s *Store) myTurn() {
	if s.state == idle && s.inLine && !s.closed {
		s.advance(s.sv.Now())
	}
}

// armTurn sets the timer for the end of the wait. It is apart from the lane's other timer,
// which would have to be set anew after each.
func (s *Store) armTurn() {
	if !s.turnArmed {
		s.turnArmed = true
		s.sv.After(max(s.turnTill-s.sv.Now(), 0), s.turnTickFn)
	}
}

// turnTick goes on if the lane has waited long enough.
func (s *Store) turnTick() {
	s.turnArmed = false
	if s.state != idle || !s.inLine || s.closed {
		return
	}
	now := s.sv.Now()
	if now < s.turnTill {
		s.armTurn()
		return
	}
	s.advance(now)
	if s.state == idle && !s.inLine && !s.closed { // all that waited was given up
		s.arm(s.probeAt())
	}
}
