package asyncdb

import (
	"strconv"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// This file has a second push batch in flight behind the first, on the same connection.
//
// Between two batches PostgreSQL would have nothing to do: until the loop has read the answer
// (it may be in the middle of reading a hundred requests), made the next batch and sent it.
// With more waiting than is in flight, the next batch need not wait for that answer, and
// PostgreSQL goes from one to the other by itself. What waits when there is less would be a
// small batch, whose commit costs as much as that of a large one: it goes on gathering.
//
// Nothing overtakes by it. A step that may be followed leaves a mark in the session, which a
// rollback takes away again, and the step behind it begins with push_after, which fails without
// that mark, and the whole step with it: then both are worked one after the other, as ever.

// followed is a batch that another's step may follow before its own is answered.
type followed interface {
	// IsLast says that the step in flight is the last of its batch if it is committed.
	IsLast() bool
}

const (
	pushMark  = "push_mark"
	pushAfter = "push_after"
)

const (
	// followRows is how many rows make a batch that is worth a commit of its own.
	followRows = 24

	// followPart is how many rows are to wait for each 100 in flight.
	followPart = 130

	// markedRows is how many rows a batch has at least that may be followed: a mark is a
	// statement more, which a few pushes would feel.
	markedRows = 8
)

// voidsMax is how many steps in a row may be void though what they followed was committed. More
// say that here nothing can follow: a pooler deals out the second step to another server
// connection.
const voidsMax = 3

// canFollow says whether steps may follow each other on this connection. With several push
// lanes it is their turns that keep PostgreSQL at work.
func (s *Store) canFollow() bool {
	return s.work.Follow && s.db.turns.lanes.Load() < 2 && !s.inline && !s.conn.link.inline && s.conn.voids < voidsMax
}

// isMarked says whether current's next step, which is about to be sent, may be followed.
func (s *Store) isMarked() bool {
	b, ok := s.current.(followed)
	return ok && s.current.Rows() >= markedRows && b.IsLast() && s.canFollow()
}

// newMark is a mark that no other step has, of whichever process: a pooler may give sessions to
// all of them. Valid until the next call.
func (s *Store) newMark() []byte {
	s.marks++
	s.markText = append(s.markText[:0], s.db.nonce...)
	s.markText = append(s.markText, '-')
	s.markText = strconv.AppendInt(s.markText, int64(s.id), 10)
	s.markText = append(s.markText, '-')
	s.markText = strconv.AppendUint(s.markText, s.marks, 10)
	return s.markText
}

// follow sends a batch of what waits behind the step in flight, if there is enough.
func (s *Store) follow(now time.Duration) {
	if s.gather.rows < followRows || s.state != busy || s.following || len(s.pipeline.mark) == 0 ||
		100*s.gather.rows < followPart*s.current.Rows() || !s.canFollow() {
		return
	}
	if s.waitsForBegin() {
		return
	}
	s.gather.fill(s.next, now)
	s.following = true
	s.weigh()
	s.gauge()
	if s.storeEarly(now) {
		return
	}
	s.count(s.next)
	statements := s.next.Step(now)
	if statements == nil {
		s.completeAll(s.next.Decided(), now)
		return // it is forgotten in its turn
	}
	mark := s.newMark()
	var out []byte
	var lead int
	tell := s.mayBeBefore(s.next)
	out, lead, s.nextMore = s.encode(s.next, statements, envelope{after: s.pipeline.mark, mark: mark, tell: tell})
	s.behind.begin(s.next, lead, s.parsed)
	s.behind.told = tell
	if b, ok := s.next.(followed); ok && b.IsLast() {
		s.behind.mark = append(s.behind.mark, mark...)
	}
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
	if s.early != noEarly {
		s.turnToMove(now)
		return true
	}
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

// nextAnswered takes the answer of next's step after the failure of current's. It has found no
// mark, had no effect, and is sent again when current is done. Any other answer is not to be
// believed.
func (s *Store) nextAnswered(now time.Duration) {
	if !s.pipeline.isVoid() {
		s.stats.Unknowns.Add(1)
		s.next.Unknown()
	}
	failure, void := s.failure, s.void
	s.failure, s.state = nil, idle
	s.refused(failure, void, now)
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
