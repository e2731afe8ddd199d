package asyncdb

import (
	"hash/maphash"
	"runtime"
	"sync"
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
// not wait for long, and partitions are told apart by a few bits only.

// turns are the lanes that have a batch in flight or wait to send one, in the order in
// which they came.
type turns struct {
	mu   sync.Mutex
	line []*turn
}

// turn is one lane's place in the line.
type turn struct {
	store *Store
	seats seats
	going bool // it may send
}

// turnWait is how long a lane waits for its turn at most: what is in its way may be a batch of
// another size, or a server that does not answer.
const turnWait = 10 * time.Millisecond

// seats are partitions, each by a bit: two with the same bit count as one.
type seats [16]uint64

var seatSeed = maphash.MakeSeed()

// take adds the partitions of an op.
func (s *seats) take(op *queue.Op) {
	var last *queue.Item
	for i := range op.Items {
		it := &op.Items[i]
		if last != nil && string(last.Partition) == string(it.Partition) && string(last.Queue) == string(it.Queue) {
			continue
		}
		last = it
		h := maphash.Bytes(seatSeed, it.Queue) + 31*maphash.Bytes(seatSeed, it.Partition)
		s[h>>6&15] |= 1 << (h & 63)
	}
}

func (s *seats) meet(o *seats) bool {
	for i := range s {
		if s[i]&o[i] != 0 {
			return true
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

// join puts a lane at the end of the line. It says whether it may send.
func (t *turns) join(mine *turn) bool {
	t.lock()
	defer t.mu.Unlock()
	mine.going = true
	for _, before := range t.line {
		if before.seats.meet(&mine.seats) {
			mine.going = false
			break
		}
	}
	t.line = append(t.line, mine)
	return mine.going
}

// may says whether a lane that stands in the line may send. now: it does, in any case.
func (t *turns) may(mine *turn, now bool) bool {
	t.lock()
	defer t.mu.Unlock()
	mine.going = mine.going || now
	return mine.going
}

// leave takes a lane out of the line, and tells those who may send now.
func (t *turns) leave(mine *turn) {
	var told [8]*Store
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
		if other.going || !other.seats.meet(&mine.seats) {
			continue
		}
		free := true
		for _, before := range t.line[:i] {
			if before.seats.meet(&other.seats) {
				free = false
				break
			}
		}
		if free {
			other.going = true
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
	if !s.work.Turns {
		return true
	}
	if !s.inLine {
		s.turn = turn{store: s}
		for rows, ops := 0, s.gather.ops[s.gather.head:]; len(ops) > 0 && rows < s.gather.rowsCap; ops = ops[1:] {
			s.turn.seats.take(ops[0])
			rows += ops[0].Rows()
		}
		s.inLine, s.turnTill = true, now+turnWait
		s.lineAt = now
		if s.db.turns.join(&s.turn) {
			return true
		}
		s.stats.Turns.Add(1)
		s.arm(s.turnTill)
		return false
	}
	return s.db.turns.may(&s.turn, now >= s.turnTill)
}

// leaveLine ends the lane's turn, if it has one.
func (s *Store) leaveLine() {
	if s.inLine {
		s.inLine = false
		s.db.turns.leave(&s.turn)
	}
}

// myTurn goes on with what waits for the lane's turn.
func (s *Store) myTurn() {
	if s.state == idle && s.inLine && !s.closed {
		s.advance(s.sv.Now())
	}
}
