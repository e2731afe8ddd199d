package asyncdb

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// This file has a second push batch in flight behind the first, on the same connection.
//
// Between two batches PostgreSQL would have nothing to do: until the loop has read the answer
// (it may be in the middle of reading a hundred requests), made the next batch and sent it.
// With as much waiting as is in flight, the next batch need not wait for that answer, and
// PostgreSQL goes from one to the other by itself. What waits when there is less would be a
// small batch, whose commit costs as much as that of a large one: it goes on gathering.
//
// Nothing overtakes by it. The second step begins with push_after, which fails unless the first
// has been committed, and the whole step with it: then both are worked one after the other, as
// ever.

// followed is a batch that another's step may follow before its own is answered.
type followed interface {
	// After gives the params of push_after for the step in flight. nil: it may not be the
	// last of its batch, or there is nothing to tell its commit by. Valid until the next call
	// of any method.
	After() [][]byte
}

const pushAfter = "push_after"

const (
	// followRows is how many rows make a batch that is worth a commit of its own.
	followRows = 96

	// followPart is how many rows are to wait for each 100 in flight.
	followPart = 80
)

// voidsMax is how many steps in a row may be void though what they followed was committed. More
// say that here nothing can follow: a pooler deals out the second step to another server
// connection, where it comes too early, or the role may not see what it stores.
const voidsMax = 3

// mayFollow says whether what waits is enough to follow the step in flight. With several push
// lanes it is their turns that keep PostgreSQL at work.
func (s *Store) mayFollow() bool {
	return s.work.Follow && s.gather.rows >= followRows && s.state == busy && !s.following &&
		100*s.gather.rows >= followPart*s.current.Rows() &&
		s.db.turns.lanes.Load() < 2 && !s.inline && !s.conn.link.inline && s.conn.voids < voidsMax
}

// follow sends a batch of what waits behind the step in flight, if there is enough.
func (s *Store) follow(now time.Duration) {
	if !s.mayFollow() {
		return
	}
	b, ok := s.current.(followed)
	if !ok {
		return
	}
	after := b.After()
	if after == nil {
		return
	}
	s.gather.fill(s.next, now)
	s.following = true
	s.weigh()
	s.gauge()
	statements := s.next.Step(now)
	if statements == nil {
		s.completeAll(s.next.Decided(), now)
		return // it is forgotten in its turn
	}
	var out []byte
	var lead int
	out, lead, s.nextMore = s.encode(s.next, statements, after)
	s.behind.begin(s.next, lead, s.parsed)
	s.behind.after, s.nextSent = true, true
	s.stats.Steps.Add(1)
	s.stats.Follows.Add(1)
	s.write(s.conn, out, now)
	if s.following {
		s.completeAll(s.next.Decided(), now)
	}
}

// promote makes the step that follows the one in flight, if there is one: its batch is
// current then. Its time begins now.
func (s *Store) promote(now time.Duration) bool {
	if !s.nextSent {
		return false
	}
	s.takeNext(now)
	s.frontNext(now)
	s.follow(now)
	return true
}

// takeNext makes next the batch that is worked on; current is empty.
func (s *Store) takeNext(now time.Duration) {
	s.current, s.next = s.next, s.current
	s.working, s.following, s.rerun, s.firedAt = true, false, false, now
	s.weigh()
}

// frontNext makes next's step the one that is answered next.
func (s *Store) frontNext(now time.Duration) {
	s.pipeline, s.behind = s.behind, s.pipeline
	s.nextSent = false
	s.state, s.sentAt, s.hungAt = busy, now, now+s.db.config.HungAfter+s.nextMore
	s.arm(s.hungAt)
}

// awaitNext: current's step has failed, and before anything is done about it next's is
// answered, which fails too.
func (s *Store) awaitNext(e *queue.SQLError, now time.Duration) {
	s.failure, s.void = e, s.pipeline.isVoid()
	s.frontNext(now)
}

// nextAnswered takes the answer of next's step after the failure of current's.
func (s *Store) nextAnswered(e *queue.SQLError, now time.Duration) {
	switch {
	case s.left(now):
		s.next.Unknown()
	case e == nil: // what current wanted to store was there: by an earlier try of its own
		s.proven()
		s.next.StepDone(nil, now)
		s.next.Step(now) // which decides what is done; what it returns is asked for again
	case queue.Classify(e.Code) == queue.ClassUnknown && !s.pipeline.isVoid():
		s.next.Unknown()
	default: // it had no effect, and is sent again when current is done
	}
	failure, void := s.failure, s.void
	s.failure, s.state = nil, idle
	s.refused(failure, void, now)
	if s.following && !s.nextSent && s.state != down { // else answerDecided does
		s.completeAll(s.next.Decided(), now)
	}
}

// forgetNext is forget for next: what it had in flight may be committed or not.
func (s *Store) forgetNext() {
	if s.nextSent {
		s.behind.drop()
	}
	if s.nextSent || s.failure != nil {
		s.stats.Unknowns.Add(1)
		s.next.Unknown()
	}
	s.nextSent, s.failure = false, nil
}
