package filebuffer

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// Services is what a Store is given by its loop.
type Services struct {
	Post  func(func())                       // any goroutine: run on the loop
	After func(d time.Duration, fire func()) // on the loop: run on the loop in d
	Now   func() time.Duration
}

// Store is the buffer as one loop sees it, around the store of that loop that pushes go to.
// It implements queue.Store for pushes. Do, Cancel and OpDone run on the loop.
type Store struct {
	b     *Buffer
	sv    Services
	inner queue.Store

	passed atomic.Uint64 // messages that went the direct way, to its end

	held      []*queue.Op // while the buffer closes, in order
	heldBytes int
	heldAt    time.Duration // the first of them came
	flushing  bool
	ticking   bool // the timer is set

	flushFn, deliverFn, tickFn func()

	done        []*entry // the buffer's: written, or not
	posted      bool     // the buffer's: deliver was posted
	outstanding int      // the buffer's: given and not delivered
}

// tickEvery is how often a store looks for pushes that wait too long.
const tickEvery = 100 * time.Millisecond

// Store makes a store around inner. Any goroutine, before the loop has requests.
func (b *Buffer) Store(sv Services, inner queue.Store) *Store {
	s := &Store{b: b, sv: sv, inner: inner}
	s.flushFn, s.deliverFn, s.tickFn = s.flush, s.deliver, s.tick
	b.mu.Lock()
	b.stores = append(b.stores, s)
	b.mu.Unlock()
	return s
}

// Do implements queue.Store.
func (s *Store) Do(op *queue.Op) {
	if (len(s.held) > 0 || s.flushing) && !s.passes(op) {
		s.hold(op) // behind those
		return
	}
	if s.b.clear.Load() {
		s.direct(op)
		return
	}
	s.admit(op)
}

// passes says that a push need not wait behind those that are held: they are held because
// the drain must catch up, for partitions that are not this one's.
func (s *Store) passes(op *queue.Op) bool {
	b := s.b
	if s.flushing || !b.crowded.Load() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.closing && !b.gate.holds(op.Items)
}

// Cancel implements queue.Store: what was accepted is stored, whether or not its client
// still waits.
func (s *Store) Cancel(op *queue.Op) {}

func (s *Store) direct(op *queue.Op) {
	op.Wrap(s)
	s.inner.Do(op)
}

// OpDone implements queue.Completer: the store behind has answered.
func (s *Store) OpDone(op *queue.Op) {
	op.Unwrap()
	if op.Fault.Code == queue.Outage {
		s.put(op)
		return
	}
	s.passed.Add(uint64(len(op.Items)))
	op.Done.OpDone(op)
}

// admit finds the way of a push while something is gated.
func (s *Store) admit(op *queue.Op) {
	b := s.b
	b.mu.Lock()
	switch {
	case !b.gate.holds(op.Items):
		b.mu.Unlock()
		s.direct(op)
	case b.closing, b.crowded.Load():
		b.mu.Unlock()
		s.hold(op)
	default:
		b.mu.Unlock()
		s.put(op)
	}
}

// hold keeps a push until the buffer is empty, or it takes too long.
func (s *Store) hold(op *queue.Op) {
	if len(s.held) == 0 {
		s.heldAt = s.sv.Now()
	}
	s.held = append(s.held, op)
	s.heldBytes += op.Cost
	s.b.stats.Held.Add(1)
	if s.heldBytes > HeldBytesMax && !s.flushing {
		s.b.reopen()
		s.sv.Post(s.flushFn)
	}
	s.arm()
}

// reopen ends the closing: what comes is written again.
func (b *Buffer) reopen() {
	b.mu.Lock()
	b.closing = false
	b.mu.Unlock()
}

// flush goes on with what is held: the direct way, or to disk. What comes meanwhile stands
// behind it.
func (s *Store) flush() {
	if s.flushing {
		return
	}
	b := s.b
	b.mu.Lock()
	closing := b.closing
	b.mu.Unlock()
	if closing && s.heldBytes <= HeldBytesMax && s.sv.Now()-s.heldAt < HoldMax {
		return // it was to be lifted, and closes again
	}
	s.flushing = true
	for i := 0; i < len(s.held); i++ {
		op := s.held[i]
		s.held[i] = nil
		s.heldBytes -= op.Cost
		s.b.stats.Held.Add(-1)
		b.mu.Lock()
		gated := !b.clear.Load() && b.gate.holds(op.Items)
		b.mu.Unlock()
		if gated {
			s.put(op)
		} else {
			s.direct(op)
		}
	}
	s.held = s.held[:0]
	s.flushing = false
}

// put gives a push to the writer.
func (s *Store) put(op *queue.Op) {
	b := s.b
	b.mu.Lock()
	switch {
	case b.journal == nil:
		b.mu.Unlock()
		s.refuse(op, "there is no file buffer to keep them meanwhile")
		return
	case b.waitingBytes > 0 && b.waitingBytes+op.Cost > b.o.WaitingBytesMax:
		b.mu.Unlock()
		b.stats.Overloaded.Add(1)
		s.refuse(op, "too much waits for the disk")
		return
	}
	b.gate.add(op.Items)
	b.clear.Store(false)
	b.waiting = append(b.waiting, &entry{op: op, store: s, at: s.sv.Now()})
	b.waitingBytes += op.Cost
	s.outstanding++
	b.mu.Unlock()
	wake(b.writerWake)
	s.arm()
}

// refuse answers 503.
func (s *Store) refuse(op *queue.Op, why string) {
	s.b.stats.Refused.Add(1)
	sentence := op.Fault.Message // of the outage
	if sentence == "" {
		sentence = "the messages of this partition wait on disk"
	}
	op.Fault = queue.Fault{Code: queue.Unavailable, Message: sentence + "; " + why + "; try again in a second"}
	op.Done.OpDone(op)
}

// arm sets the timer, while something may wait too long.
func (s *Store) arm() {
	if !s.ticking {
		s.ticking = true
		s.sv.After(tickEvery, s.tickFn)
	}
}

// tick gives up what waits too long.
func (s *Store) tick() {
	s.ticking = false
	now, b := s.sv.Now(), s.b
	if len(s.held) > 0 && now-s.heldAt >= HoldMax {
		b.reopen()
		s.flush()
	}
	late := s.late(now)
	for _, op := range late {
		s.refuse(op, "the disk does not answer, and the messages may be delivered later")
	}
	b.mu.Lock()
	again := s.outstanding > 0 || len(s.held) > 0
	b.mu.Unlock()
	if again {
		s.arm()
	}
}

// late takes the ops that have waited too long for the disk.
func (s *Store) late(now time.Duration) (late []*queue.Op) {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.outstanding == 0 {
		return nil
	}
	is := func(e *entry) bool { return e.store == s && e.op != nil && now-e.at > WriteTimeout }
	keep := b.waiting[:0]
	for _, e := range b.waiting {
		if !is(e) {
			keep = append(keep, e)
			continue
		}
		b.waitingBytes -= e.op.Cost
		b.gate.removeUndecided(e.op.Items)
		late = append(late, e.op)
		s.outstanding--
	}
	clear(b.waiting[len(keep):])
	b.waiting = keep
	if b.encoded {
		for _, e := range b.writing {
			if is(e) {
				late = append(late, e.op)
				e.op = nil
			}
		}
	}
	return late
}

// deliver answers what was written, and what could not be.
func (s *Store) deliver() {
	b := s.b
	b.mu.Lock()
	done := s.done
	s.done, s.posted = nil, false
	s.outstanding -= len(done)
	b.mu.Unlock()
	now := s.sv.Now()
	for _, e := range done {
		op := e.op
		if op == nil {
			continue // answered when it took too long
		}
		op.Answered = now
		if e.err != nil {
			s.refuse(op, refusal(e.err))
			continue
		}
		op.Fault = queue.Fault{}
		for i := range op.Items {
			if it := &op.Items[i]; it.Status == queue.Pending {
				it.Status = queue.Buffered
			}
		}
		op.Done.OpDone(op)
	}
}

// refusal is what a client hears of a write that failed. What the disk did with it is not
// known if the process ends before the next write goes well.
func refusal(err error) string {
	if errors.Is(err, journal.ErrFull) {
		return "the file buffer is full"
	}
	return "the file buffer cannot be written, and the messages may be delivered later"
}
