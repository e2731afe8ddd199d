package asyncdb

import (
	"errors"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// This file has a large push stored before it is its turn, on a second connection, while the
// one before it is in flight on the first (package queue's early.go says what makes that right).
// Where the pushes of a loop are large PostgreSQL has two processes at work on them by that, and
// what is left to be done one after the other is to move the heads and to commit.
//
// The second connection is that of a store which has no ops of its own, the helper: it connects,
// is watched and is replaced as any lane's. It is made when it could first be of use. A batch that
// it stores is next; when current is answered it becomes current, and the lane's own connection
// has nothing to do until the helper has moved its heads:
//
//	          Early              rows are stored              it is its turn             committed
//	noEarly ─────────▶ storing ─────────────────▶ stored ────────────────────▶ moving ────────────▶ noEarly
//	                      └── an error, a connection that is lost, a batch before it that has failed ──▶
//
// Whatever goes wrong, the transaction is rolled back and the batch waits for its turn as any that
// follows, or is sent at once if it is; but what was lost while it was committed is unknown.

// early is how far a batch is that is stored early.
type early uint8

const (
	noEarly early = iota
	storing       // the helper stores its rows
	stored        // and has; its transaction is open
	moving        // its heads are moved, and it is committed
)

const (
	begin    = "BEGIN"
	commit   = "COMMIT"
	rollback = "ROLLBACK"
)

// notExpected is the SQLSTATE of push_move when a head is not where it was expected.
const notExpected = "22012"

// earlyPatience is how long the helper's transaction is left open for its turn to come, and how long
// its rows are waited for when that has come, which is earlyRow for each more. Somebody may wait for
// one of its messages whom the batch before it waits for; PostgreSQL does not know that this batch
// waits for that one, and would find no deadlock.
const (
	earlyPatience = 200 * time.Millisecond
	earlyRow      = 100 * time.Microsecond
)

// After one was in vain no batch is stored early for twice earlyRest batches, and for twice as many
// after each further one, earlyRestMax at most.
const (
	earlyRest    = 4
	earlyRestMax = 256
)

var errEarly = errors.New("the connection by which pushes are stored early is not waited for")

// early's part of a store: of one that has a helper, and of the helper.
type help struct {
	early  early
	helper *Store // nil: not made yet
	pause  int    // so many batches more, none is stored early
	vain   int    // so often in a row it was in vain

	owner *Store // of the helper: whom it helps
}

// hire makes the helper.
func (s *Store) hire() {
	h := s.db.newStore(s.sv, Work{NewBatch: func() Batch { return nil }, Prepare: s.work.Early, owner: s})
	s.helper = h
	s.sv.Post(func() {
		if !h.closed {
			h.dial(s.sv.Now())
		}
	})
}

// dismiss ends the helper with its owner.
func (s *Store) dismiss() {
	if s.helper != nil {
		s.helper.closing = true
		s.helper.endIfDone()
	}
}

// count has b, which is about to be sent, tell what a batch must know that is stored early behind it.
func (s *Store) count(b Batch) {
	if s.helper == nil || s.pause > 0 || !s.canFollow() {
		return
	}
	if b, ok := b.(*queue.Batch); ok {
		b.Count()
	}
}

// mayBeBefore says whether another batch may be stored early while b's next step is in flight.
// Then it must be known that this has begun: the later one's messages are to be of a later time.
func (s *Store) mayBeBefore(b Batch) bool {
	return s.helper != nil && s.helper.state != down && s.pause == 0 && queue.IsLarge(b.Rows(), len(b.Ops())) && s.canFollow()
}

// waitsForBegin says that what waits can be stored early as soon as the step in flight has begun.
func (s *Store) waitsForBegin() bool {
	return s.pipeline.told && !s.pipeline.hasBegun() && queue.IsLarge(s.gather.rows, s.gather.waiting()) && s.helper.state == idle
}

// storeEarly has the helper store next, which is filled. false: it cannot.
func (s *Store) storeEarly(now time.Duration) bool {
	if s.work.Early == nil || !queue.IsLarge(s.next.Rows(), len(s.next.Ops())) {
		return false
	}
	h := s.helper
	if h == nil {
		if !s.closing {
			s.hire()
		}
		return false
	}
	if s.pause > 0 || !s.pipeline.told || h.state != idle || h.left(now) || h.inline || h.conn.link.inline || h.conn.link.instance.id != s.conn.link.instance.id {
		return false
	}
	next, ok := s.next.(*queue.Batch)
	before, is := s.current.(*queue.Batch)
	if !ok || !is {
		return false
	}
	statements := next.Early(before, now)
	if statements == nil {
		return false
	}
	s.early = storing
	s.stats.Steps.Add(1)
	s.stats.Earlies.Add(1)
	h.lend(next, statements, envelope{begin: true}, 'T', now)
	return true
}

// lend sends a step of the owner's batch on the helper's connection. On success the server is to
// say that its transaction is in state ends.
func (s *Store) lend(b Batch, statements []queue.Statement, how envelope, ends byte, now time.Duration) {
	out, lead, allowance := s.encode(b, statements, how)
	s.pipeline.begin(b, lead, s.parsed)
	s.pipeline.ends = ends
	s.state, s.sentAt, s.hungAt = busy, now, now+s.db.config.HungAfter+allowance
	s.arm(s.hungAt)
	s.write(s.conn, out, now)
}

// turnToMove makes the batch that was stored early, or is about to be, the one that is worked on.
func (s *Store) turnToMove(now time.Duration) {
	s.takeNext(now)
	s.state = helped
	if s.early == stored {
		s.move(now)
		return
	}
	h := s.helper
	wait := earlyPatience + time.Duration(s.current.Rows())*earlyRow
	h.hungAt = min(h.hungAt, now+wait) // the lane's own connection is free meanwhile
	h.arm(h.hungAt)
}

// move has the helper end current, which it has stored.
func (s *Store) move(now time.Duration) {
	h := s.helper
	if h.left(now) { // what it says would not be believed
		s.forgetEarly(false)
		h.leave(now)
		s.goOn()
		return
	}
	s.early = moving
	s.stats.Steps.Add(1)
	h.lend(s.current, s.current.(*queue.Batch).Move(), envelope{commit: true}, 'I', now)
}

// hasHelped takes the end of the helper's step in flight.
func (s *Store) hasHelped(e *queue.SQLError, now time.Duration) {
	s.state = lent
	o := s.owner
	if s.left(now) {
		s.leave(now) // which says so to the owner
		return
	}
	s.proven()
	switch {
	case o.early == storing && e == nil:
		o.early, s.hungAt = stored, now+earlyPatience
		if o.state == helped {
			o.move(now)
		} else {
			s.arm(s.hungAt)
		}
		return
	case o.early == moving && e == nil:
		s.state = idle
		if o.left(now) { // as if the lane's own connection had brought the answer
			o.early = noEarly
			o.unknown()
			o.state = idle
			o.leave(now)
			return
		}
		o.early, o.vain, o.state = noEarly, 0, idle
		o.proven()
		o.stats.StepNanos.Observe(uint64(now - s.sentAt))
		o.current.StepDone(nil, now)
		o.advance(now)
		return
	case o.early == moving && queue.Classify(e.Code) == queue.ClassUnknown:
		o.doubtEarly()
	case o.early != noEarly:
		o.forgetEarly(o.early == moving && e.Code == notExpected)
	}
	s.undo(e, now)
	if o.state == helped {
		o.goOn()
	}
}

// inVain has fewer batches stored early.
func (s *Store) inVain() {
	s.stats.Late.Add(1)
	s.vain++
	s.pause = min(earlyRest<<min(s.vain, 16), earlyRestMax)
}

// undo ends the helper's transaction, if it has one. e, unless nil, is why: another connection may
// be better.
func (s *Store) undo(e *queue.SQLError, now time.Duration) {
	if e != nil {
		switch queue.Classify(e.Code) {
		case queue.ClassLost, queue.ClassAway, queue.ClassSetup:
			s.hangUp(serverError(e), now)
			return
		}
	}
	if s.pipeline.status == 'I' {
		s.state = idle
		return
	}
	out := appendParse(s.out[:0], rollback)
	out = appendBind(out, "", nil)
	out = appendSync(appendExecute(out))
	s.parsed = append(s.parsed[:0], true)
	s.pipeline.begin(nil, 1, s.parsed)
	s.pipeline.ends = 'I'
	s.state, s.sentAt, s.hungAt = busy, now, now+s.db.config.HungAfter
	s.arm(s.hungAt)
	s.write(s.conn, out, now)
}

// isEarly is the batch that is stored early.
func (s *Store) isEarly() *queue.Batch {
	if s.state == helped {
		return s.current.(*queue.Batch)
	}
	return s.next.(*queue.Batch)
}

// forgetEarly makes the batch that is stored early one that is not. wrong: it has expected what
// is not so.
func (s *Store) forgetEarly(wrong bool) {
	s.isEarly().Late(wrong)
	s.early = noEarly
	s.inVain()
}

// doubtEarly is forgetEarly for a batch of which nobody knows whether it is committed.
func (s *Store) doubtEarly() {
	s.early = noEarly
	s.inVain()
	s.unknown()
}

// undoEarly has what was stored early undone: what it was to come after has failed.
func (s *Store) undoEarly(now time.Duration) {
	if s.early == noEarly {
		return
	}
	h := s.helper
	if s.early == moving { // nobody knows what will be
		h.lost(h.conn, errEarly, now)
		return
	}
	s.forgetEarly(false)
	if h.state == lent {
		h.undo(nil, now)
	} else {
		h.pipeline.deafen()
	}
}

// helpLost: the helper's connection is gone, and with it what it was at. It may be called from
// inside a write of the owner's.
func (s *Store) helpLost() {
	switch s.early {
	case noEarly:
		return
	case moving:
		s.doubtEarly()
	default:
		s.forgetEarly(false)
	}
	if s.state == helped {
		s.goOn()
	}
}

// goOn sends current on the lane's own connection, at the end of this pass.
func (s *Store) goOn() {
	s.state = idle
	if !s.armed {
		s.armed = true
		s.sv.Defer(s.fireFn)
	}
}
