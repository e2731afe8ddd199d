// Package asyncdb speaks PostgreSQL's wire protocol without ever blocking: bytes in,
// bytes out. It lives on an event loop that it does not know: the loop reads and
// writes the socket, this room says what to write and what the bytes mean.
//
// It is not a driver for general use: it sends the statements that a Batch asks for,
// and has no queries, rows or transactions to offer. It knows no HTTP and no SQL
// (package schema has that), and it never decides whether a push is a duplicate or an
// error (package queue does).
//
// # One lane per loop
//
// A Store belongs to one loop and has one lane: one connection, on which one batch is
// in flight at a time. While it is, arriving ops gather, and the lane takes them all
// when it is free (batch.go). So an idle server answers after one round trip and a
// commit, a busy one puts more rows under each commit, no timer is needed for either,
// and the order of a client's requests is kept without effort. A second lane or more
// depth buys nothing: PostgreSQL runs the statements of a connection one after another,
// and two batches of one process would wait for each other's partition locks.
//
//	       dialed            Defer, ready            Sync answered
//	down ─────────▶ idle ───────────────▶ busy ─┬──────────────────▶ idle, or busy with the next
//	 ▲               │  nothing heard for a      │ again, after a while
//	 │               │  time: a probe            ├──────────────────▶ resting ──▶ busy
//	 └───────────────┴───────────────────────────┴─ connection lost, hung, or closed by us
//
// # Connecting
//
// A goroutine of its own does what may block (dial.go): names are resolved, pgconn
// speaks TLS and authentication, settings are checked, statements are prepared. Then the
// socket is given to the loop, and from there this package cuts the messages (frame.go)
// and knows whose they are (pipeline.go). With TLS, two goroutines copy between the TLS
// connection and one end of a socketpair, whose other end the loop gets (relay.go).
//
// # What a client notices
//
// Nothing of one lost connection to a healthy server: its batch runs again on the next
// connection, with the same ids, so that what a lost COMMIT did is found and not done
// twice. When PostgreSQL is known to be away (an attempt to connect failed, a step hung,
// an error said so) new ops get Unavailable at once, and those accepted before wait for
// the reconnection until their deadline, not longer. Every op is completed by its
// Deadline, give or take a pass of the loop.
package asyncdb

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// Services is what a Store is given by the loop that it lives on.
type Services struct {
	// Attach hands a connected socket to the loop; any goroutine. The callbacks run on the
	// loop: opened first, then data for what arrives (the slice is the loop's, valid during
	// the call), then closed, once, whoever closed it; or closed alone when the loop could
	// not take it. write takes what it is given before it returns, keeps unsent bytes in
	// memory and never blocks; it and close run on the loop and may call closed before
	// they return.
	Attach func(nc net.Conn, opened func(write func([]byte) error, close func()), data func([]byte), closed func(error))

	Post  func(func())                       // any goroutine: run on the loop
	After func(d time.Duration, fire func()) // on the loop: run on the loop in d
	Defer func(func())                       // on the loop: run at the end of this pass
	Now   func() time.Duration               // any goroutine: monotonic
}

// Store implements queue.Store for one loop. Do and Cancel run on that loop and may
// complete the op before they return.
type Store struct {
	db *Database
	sv Services
	id int // among the stores of the database, for the log

	stats Stats

	// All below belongs to the loop.

	state    state
	conn     *conn // nil while down
	pipeline pipeline
	gather   gather

	current  Batch         // what is worked on; stays when its connection is lost
	spare    Batch         // what was answered last
	working  bool          // current holds ops that are not decided
	rerun    bool          // current has lost a connection on its way
	firedAt  time.Duration // current's first step was sent
	sentAt   time.Duration // the step in flight was sent
	heardAt  time.Duration // something was last heard from the server
	restTill time.Duration // resting: current goes on then

	armed   bool          // fire is deferred to the end of this pass
	timerAt time.Duration // a timer is set for then; 0: none
	fireFn  func()        // fire, as a value that is made once
	out     []byte        // scratch: the bytes of one step
	parsed  []bool        // scratch: its statements that are sent with a Parse
	late    []*queue.Op   // scratch: ops whose deadline came

	away       bool          // PostgreSQL is known to be away
	suspect    bool          // it answered, and said that it cannot; nothing was committed since
	downSince  time.Duration // down: since then
	dialing    bool
	dialAt     time.Duration         // down and not dialing: the next attempt
	dialFn     func(context.Context) // connectAndAttach; ends in conn.opened or dialFailed, on the loop
	attempts   int                   // connections tried since one was good for something
	stopDial   context.CancelFunc
	preparedAt time.Duration // the last time that a batch found its prepared statements gone; 0: never
	inline     bool          // statements are sent whole, prepared ones do not last here

	closing bool
	closed  bool
	end     chan struct{}  // closed when the store has ended
	helpers sync.WaitGroup // goroutines that dial and copy
}

type state uint8

const (
	down    state = iota // no connection; a goroutine is at it, or a timer
	idle                 // nothing in flight
	busy                 // a step is in flight
	probing              // a Sync alone is in flight
	resting              // current waits before it tries again; nothing in flight
)

// outBytesKept is the largest buffer for a step that is kept for the next.
const outBytesKept = 4 << 20

// expireAhead is how much before its deadline an op is given up, so that a burst of
// deadlines is one pass over the ops and an answer still leaves in time.
const expireAhead = 5 * time.Millisecond

// Store makes the store of one loop and begins to connect. newBatch is called twice; both
// batches are of that loop. Any goroutine; the loop must run, or begin to run soon.
func (db *Database) Store(sv Services, newBatch func() Batch) *Store {
	s := db.newStore(sv, newBatch)
	sv.Post(func() {
		s.downSince = sv.Now()
		s.dial(s.downSince)
	})
	return s
}

func (db *Database) newStore(sv Services, newBatch func() Batch) *Store {
	s := &Store{
		db: db, sv: sv, id: db.enlist(),
		gather:  newGather(db.config.Limits),
		current: newBatch(), spare: newBatch(),
		end: make(chan struct{}),
	}
	s.fireFn, s.dialFn = s.fire, s.connectAndAttach
	return s
}

// Stats returns the store's counters; any goroutine.
func (s *Store) Stats() *Stats { return &s.stats }

// Do implements queue.Store.
func (s *Store) Do(op *queue.Op) {
	now := s.sv.Now()
	switch {
	case s.closing:
		s.refuse(op, queue.Unavailable, refusedClosed)
		return
	case s.knownAway(now):
		s.stats.Unavailable.Add(1)
		s.refuse(op, queue.Unavailable, refusedAway)
		return
	case op.Deadline != 0 && op.Deadline <= now:
		s.stats.Expired.Add(1)
		s.refuse(op, queue.Unavailable, refusedLate)
		return
	}
	inFlight := time.Duration(-1)
	if s.working {
		inFlight = now - s.firedAt
	}
	if why := s.gather.admit(op, now, inFlight); why != accepted {
		s.stats.Overloaded.Add(1)
		s.refuse(op, queue.Overloaded, why)
		return
	}
	s.gather.push(op)
	s.stats.Ops.Add(1)
	s.gauge()
	if op.Deadline != 0 {
		s.arm(op.Deadline - expireAhead)
	}
	if s.state == idle && !s.armed {
		s.armed = true
		s.sv.Defer(s.fireFn)
	}
}

// Cancel implements queue.Store: an op that was not sent yet is dropped.
func (s *Store) Cancel(op *queue.Op) {
	if s.gather.take(op) {
		s.stats.Cancelled.Add(1)
		op.Fault = queue.Fault{Code: queue.Unavailable, Message: string(refusedGone)}
		s.complete(op, s.sv.Now())
		s.gauge()
		s.endIfDone()
	}
}

func (s *Store) refuse(op *queue.Op, code queue.Code, why refusal) {
	op.Fault = queue.Fault{Code: code, Message: string(why)}
	op.Done.OpDone(op)
}

// knownAway says that an op need not wait: the last that was heard of PostgreSQL is
// that it is not there, or it has not been there for longer than an op can hope.
func (s *Store) knownAway(now time.Duration) bool {
	return s.away || s.state == down && now-s.downSince > s.db.config.FailoverTimeout/2
}

// complete hands an accepted op back. The store has forgotten it; its owner may use it
// again during the call.
func (s *Store) complete(op *queue.Op, now time.Duration) {
	s.gather.done(op)
	op.Answered = now
	op.Done.OpDone(op)
}

// completeAll hands back a list of ops that a batch gave, which is the batch's memory:
// nothing that is called from here touches a batch.
func (s *Store) completeAll(ops []*queue.Op, now time.Duration) {
	for _, op := range ops {
		s.complete(op, now)
	}
	s.gauge()
}

func (s *Store) gauge() {
	s.stats.WaitingOps.Store(int64(s.gather.live))
	s.stats.HeldBytes.Store(int64(s.gather.heldBytes))
}

// fire runs at the end of a pass in which ops came to an idle lane.
func (s *Store) fire() {
	s.armed = false
	if s.state == idle {
		s.advance(s.sv.Now())
	}
}

// advance sends the next step: of current if that has more to do, else of a batch of
// what waits. The lane is connected and nothing is in flight. Ops are completed after
// the next step is on its way, so that PostgreSQL works while answers are written.
func (s *Store) advance(now time.Duration) {
	s.state = idle
	for s.working || s.load(now) {
		if statements := s.current.Step(now); statements != nil {
			s.send(statements, now)
			if s.working {
				s.completeAll(s.current.Decided(), now)
			}
			return
		}
		done := s.retire(now)
		sent := false
		if s.load(now) {
			if statements := s.current.Step(now); statements != nil {
				s.send(statements, now)
				sent = true
			}
		}
		s.completeAll(done.Ops(), now)
		done.Reset()
		if sent || !s.working {
			break // what came meanwhile goes with the end of the pass
		}
	}
	s.endIfDone()
}

// load makes current a batch of what waits; false: nothing waits.
func (s *Store) load(now time.Duration) bool {
	if s.gather.live == 0 {
		return false
	}
	s.gather.fill(s.current, now)
	s.working, s.rerun, s.firedAt = true, false, now
	s.stats.InFlightRows.Store(int64(s.current.Rows()))
	s.gauge()
	return true
}

// retire takes current, which is decided, off the lane; the caller completes its ops
// and resets it before the lane can retire another.
func (s *Store) retire(now time.Duration) (done Batch) {
	done = s.current
	s.current, s.spare = s.spare, done
	s.working = false
	rows, took := done.Rows(), now-s.firedAt
	if !s.rerun { // else the time is that of an outage
		s.gather.learn(took, rows)
	}
	s.stats.InFlightRows.Store(0)
	s.stats.Batches.Add(1)
	s.stats.Rows.Add(uint64(rows))
	s.stats.BatchRows.Observe(uint64(rows))
	s.stats.BatchNanos.Observe(uint64(took))
	return done
}

// send writes one step to the connection: all statements and one Sync.
func (s *Store) send(statements []queue.Statement, now time.Duration) {
	out, parsed, lead := s.out[:0], s.parsed[:0], 0
	if s.conn.link.lax {
		lead = 1
		out = appendParse(out, durable)
		out = appendBind(out, "", nil)
		out = appendExecute(out)
		parsed = append(parsed, true)
	}
	for i := range statements {
		st := &statements[i]
		whole := st.Unnamed || s.inline || s.conn.link.inline
		name := st.Name
		if whole {
			name = ""
			out = appendParse(out, s.db.statement(st.Name))
		}
		out = appendBind(out, name, st.Params)
		out = appendExecute(out)
		parsed = append(parsed, whole)
	}
	out = appendSync(out)
	s.out, s.parsed = keep(out, outBytesKept), parsed
	s.pipeline.begin(s.current, lead, parsed)
	s.state, s.sentAt = busy, now
	s.stats.Steps.Add(1)
	s.arm(now + s.db.config.HungAfter)
	s.write(s.conn, out, now)
}

// answered takes the end of the step in flight: committed, or rolled back with e.
func (s *Store) answered(e *queue.SQLError, now time.Duration) {
	if s.state == probing {
		s.proven()
		s.advance(now)
		return
	}
	s.state = idle
	s.stats.StepNanos.Observe(uint64(now - s.sentAt))
	if e == nil {
		s.proven()
		s.current.StepDone(nil, now)
		s.advance(now)
		return
	}
	s.failed(e, now)
}

// failed does what the batch's verdict on an error says.
func (s *Store) failed(e *queue.SQLError, now time.Duration) {
	s.stats.Errors[queue.Classify(e.Code)].Add(1)
	if e.Code == queryCanceled {
		s.gather.cut(s.current.Rows())
	}
	verdict := s.current.StepDone(e, now)
	if verdict.Action != queue.Away {
		s.proven()
	}
	switch verdict.Action {
	case queue.Continue:
		s.advance(now)
	case queue.Wait:
		s.stats.Retries.Add(1)
		s.state, s.restTill = resting, now+verdict.After
		s.arm(s.restTill)
		s.completeAll(s.current.Decided(), now)
	case queue.Prepare:
		s.prepareAgain(e, now)
	case queue.Away:
		// The server answers, and says that it cannot. Another connection may lead to another
		// host, or find this one mended.
		s.away, s.suspect = true, true
		s.hangUp(serverError(e), now)
		s.completeAll(s.current.Decided(), now)
	default:
		panic("BUG: a batch gave an unknown verdict")
	}
	s.endIfDone()
}

// prepareAgainWithin is how soon a second loss of prepared statements says that they do
// not last here.
const prepareAgainWithin = time.Minute

// prepareAgain gets prepared statements back. A new connection has them anew; if they are
// lost again soon, they do not last on this way to the server (a pooler that deals out
// server connections by the transaction), and statements are sent whole from then on.
func (s *Store) prepareAgain(e *queue.SQLError, now time.Duration) {
	again := s.preparedAt != 0 && now-s.preparedAt < prepareAgainWithin
	s.preparedAt = now
	if again && !s.inline {
		s.inline = true
		s.db.config.Log.Warn().Int("lane", s.id).Str("sqlstate", e.Code).
			Msg("prepared statements do not last on this connection (a pooler in transaction mode?); statements are sent whole from now on, which costs PostgreSQL a plan each")
		s.advance(now)
		return
	}
	s.hangUp(serverError(e), now)
	s.completeAll(s.current.Decided(), now)
}

// arm sets a timer for at, unless one is set for an earlier time. There is about one
// timer at any time, whatever the number of ops.
func (s *Store) arm(at time.Duration) {
	if s.timerAt != 0 && s.timerAt <= at || s.closed {
		return
	}
	s.timerAt = at
	s.sv.After(max(at-s.sv.Now(), 0), func() {
		if s.timerAt == at { // else an earlier timer has taken its place
			s.timerAt = 0
			s.tick()
		}
	})
}

// tick does what is due, and sets the timer for what comes next.
func (s *Store) tick() {
	if s.closed {
		return
	}
	now := s.sv.Now()
	s.expire(now)
	switch {
	case (s.state == busy || s.state == probing) && now >= s.sentAt+s.db.config.HungAfter:
		s.hung(now)
	case s.state == resting && now >= s.restTill:
		s.advance(now)
	case s.state == idle && now >= s.heardAt+s.db.config.ProbeAfter:
		s.probe(now)
	case s.state == down && !s.dialing && now >= s.dialAt:
		s.dial(now)
	}
	if s.endIfDone(); s.closed {
		return
	}
	var inFlight []*queue.Op
	if s.working {
		inFlight = s.current.Ops()
	}
	if first := s.gather.soonest(inFlight); first != 0 {
		s.arm(first - expireAhead)
	}
	switch s.state {
	case busy, probing:
		s.arm(s.sentAt + s.db.config.HungAfter)
	case resting:
		s.arm(s.restTill)
	case idle:
		s.arm(s.heardAt + s.db.config.ProbeAfter)
	case down:
		if !s.dialing {
			s.arm(s.dialAt)
		}
	}
}

// expire gives up the ops whose deadline has come, wherever they are. One that is in
// flight is answered Unavailable though it may be committed in a moment; the client's
// next try finds it by its transaction id.
func (s *Store) expire(now time.Duration) {
	by := now + expireAhead
	s.late = s.gather.expire(by, s.late[:0])
	for _, op := range s.late {
		op.Fault = queue.Fault{Code: queue.Unavailable, Message: string(refusedLate)}
	}
	if s.working {
		s.late = append(s.late, s.current.Expire(by)...) // they have their fault
		if s.state == down && len(s.current.Ops()) == 0 {
			s.abandon()
		}
	}
	s.stats.Expired.Add(uint64(len(s.late)))
	s.completeAll(s.late, now)
	clear(s.late)
}

// abandon forgets a batch whose every op was given up while there is no connection.
func (s *Store) abandon() {
	s.current.Reset()
	s.working = false
	s.stats.InFlightRows.Store(0)
}

// Close ends the store: new ops are refused, those accepted before are worked on until
// ctx ends, then given up; the connection says good-bye. It waits for all that. Any
// goroutine but the loop's, which must still run; once.
func (s *Store) Close(ctx context.Context) error {
	s.sv.Post(func() {
		s.closing = true
		s.endIfDone()
	})
	var err error
	select {
	case <-s.end:
	case <-ctx.Done():
		err = fmt.Errorf("ops were given up: %w", ctx.Err())
		s.sv.Post(func() {
			s.giveUp()
			s.endIfDone()
		})
		<-s.end
	}
	s.helpers.Wait()
	return err
}

// giveUp completes every op that is still here.
func (s *Store) giveUp() {
	if s.closed {
		return
	}
	now := s.sv.Now()
	fault := queue.Fault{Code: queue.Unavailable, Message: string(refusedClosed)}
	for op := s.gather.pop(); op != nil; op = s.gather.pop() {
		op.Fault = fault
		s.complete(op, now)
	}
	if s.working {
		s.current.Fail(fault)
		s.completeAll(s.current.Ops(), now)
		s.abandon()
	}
}

// endIfDone ends the store when it is closing and nothing is left to do.
func (s *Store) endIfDone() {
	if !s.closing || s.closed || s.gather.held > 0 {
		return
	}
	s.closed = true
	if s.stopDial != nil {
		s.stopDial()
	}
	if c := s.conn; c != nil {
		s.conn = nil
		c.bye()
	}
	s.pipeline.drop()
	s.state = down
	s.db.leave(s.id)
	close(s.end)
}
