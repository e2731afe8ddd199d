package asyncdb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// Store implements queue.Store for one loop. Do and Cancel run on that loop and may
// complete the op before they return.
type Store struct {
	db   *Database
	sv   Services
	id   int // among the stores of the database, for the log
	work Work

	stats Stats

	// All below belongs to the loop.

	state    state
	conn     *conn // nil while down
	pipeline pipeline
	gather   gather

	current  Batch         // what is worked on; stays when its connection is lost
	spare    Batch         // what was answered last
	next     Batch         // what is worked on after current; follow.go
	working  bool          // current holds ops that are not decided
	rerun    bool          // current has lost a connection on its way, or rested
	firedAt  time.Duration // current's first step was sent
	sentAt   time.Duration // the step in flight was sent
	hungAt   time.Duration // the server is hung if it has not answered by then
	heardAt  time.Duration // something was last heard from the server
	restTill time.Duration // resting: current goes on then

	following bool            // next holds ops that are not decided
	nextSent  bool            // its step is in flight behind current's
	nextMore  time.Duration   // and may take so much longer than others
	behind    pipeline        // of that step
	marks     uint64          // steps that were marked
	markText  []byte          // scratch: newMark
	failure   *queue.SQLError // current's step has failed so, and next's, which is in flight yet, is to be answered first
	void      bool            // because it was never begun

	help // of a second connection

	armed   bool          // fire is deferred to the end of this pass
	timerAt time.Duration // a timer is set for then; 0: none
	fireFn  func()        // fire, as a value that is made once

	giveBackFn func()      // giveBackNow, likewise
	dialSoonFn func()      // dialSoon, likewise
	leaveFn    func()      // leaveIfIdle, likewise
	turnFn     func()      // myTurn, likewise
	turnTickFn func()      // turnTick, likewise
	out        []byte      // scratch: the bytes of one step
	parsed     []bool      // scratch: its statements that are sent with a Parse
	late       []*queue.Op // scratch: ops whose deadline came

	away       bool          // PostgreSQL is known to be away
	suspect    bool          // it answered, and said that it cannot; nothing was committed since
	downSince  time.Duration // down: since then
	dialing    bool
	dialAt     time.Duration         // down and not dialing: the next attempt
	dialFn     func(context.Context) // connectAndAttach; ends in conn.opened or dialFailed, on the loop
	attempts   int                   // connections tried since one was good for something
	stopDial   context.CancelFunc
	leftAt     time.Duration // the lane has left a server for another then; 0: never
	leftFrom   string        // that one
	leftShut   bool          // because it said that it is read-only; nothing was done elsewhere since
	preparedAt time.Duration // the last time that a batch found its prepared statements gone; 0: never
	inline     bool          // statements are sent whole, prepared ones do not last here
	prepared   map[string]bool

	turn      turn          // among the push lanes
	inLine    bool          // it has one, or waits for it
	lineAt    time.Duration // since then
	turnTill  time.Duration // it goes on by then
	turnArmed bool          // a timer is set for that

	closing bool
	hasty   bool // Hasten was called
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
	helped               // current is ended by the helper; nothing in flight here
	lent                 // a helper's: its transaction is open, and nothing in flight
)

// outBytesKept is the largest buffer for a step that is kept for the next.
const outBytesKept = 4 << 20

// expireAhead is how much before its deadline an op is given up, so that a burst of
// deadlines is one pass over the ops and an answer still leaves in time.
const expireAhead = 5 * time.Millisecond

// Work is what a store is there for.
type Work struct {
	NewBatch      func() Batch // called three times; the batches are of the store's loop
	Prepare       []string     // statements that are prepared on each connection; what is not listed is sent whole
	FrameBytesMax int          // bounds one message from the server; 0: FrameBytesMaxDefault

	// GiveBack has ops handed back with queue.Outage as soon as PostgreSQL is known to be
	// away, all that the store holds and in the order in which they came: whoever asked
	// knows another place for them. Without it they wait for the reconnection until their
	// deadline.
	GiveBack bool

	// Follow has a second batch sent behind the one in flight. For pushes.
	Follow bool

	// Early are the statements by which a second batch is stored on a connection of its own
	// while one is in flight; nil: none is. For pushes, with Follow.
	Early []string

	owner *Store // of a helper: whom it helps

	// Turns has lanes whose ops have partitions in common send one after another. For pushes.
	Turns bool
}

// Store makes a store of one loop and begins to connect. Any goroutine; the loop must run,
// or begin to run soon.
func (db *Database) Store(sv Services, work Work) *Store {
	s := db.newStore(sv, work)
	sv.Post(func() { s.dial(sv.Now()) })
	return s
}

func (db *Database) newStore(sv Services, work Work) *Store {
	work.FrameBytesMax = or(work.FrameBytesMax, FrameBytesMaxDefault)
	s := &Store{
		db: db, sv: sv, work: work,
		gather:  newGather(db.config.Limits),
		current: work.NewBatch(), spare: work.NewBatch(), next: work.NewBatch(),
		help:      help{owner: work.owner},
		downSince: sv.Now(),
		end:       make(chan struct{}),
	}
	if work.Follow {
		work.Prepare = append(slices.Clip(work.Prepare), pushMark, pushAfter)
		s.work.Prepare = work.Prepare
	}
	s.prepared = make(map[string]bool, len(work.Prepare))
	for _, name := range work.Prepare {
		s.prepared[name] = true
	}
	s.fireFn, s.dialFn, s.dialSoonFn, s.giveBackFn, s.leaveFn, s.turnFn, s.turnTickFn = s.fire, s.connectAndAttach, s.dialSoon, s.giveBackNow, s.leaveIfIdle, s.myTurn, s.turnTick
	s.id = db.enlist(s)
	if work.Turns {
		db.turns.lanes.Add(1)
	}
	return s
}

// Stats returns the store's counters; any goroutine.
func (s *Store) Stats() *Stats { return &s.stats }

// Do implements queue.Store.
func (s *Store) Do(op *queue.Op) {
	now := s.sv.Now()
	switch {
	case s.closing, s.hasty && s.state == down:
		s.refuse(op, queue.Unavailable, refusedClosed)
		return
	case s.knownAway(now):
		s.stats.Unavailable.Add(1)
		s.turnAway(op)
		return
	case s.suspected():
		// Another lane's server does not answer, and mostly it is the same. Whether it is can
		// be known in a moment, but not before this op would have to wait for it.
		s.stats.Unavailable.Add(1)
		if s.state == idle {
			s.probe(now)
		}
		s.turnAway(op)
		return
	case op.Deadline != 0 && op.Deadline <= now:
		s.stats.Expired.Add(1)
		s.refuse(op, queue.Unavailable, refusedLate)
		return
	}
	inFlight := time.Duration(-1)
	if s.working {
		inFlight = now - s.firedAt
		if s.inLine {
			inFlight = now - s.lineAt // as batchTime is
		}
	}
	behind := 0
	if s.following {
		behind = 1
	}
	if why := s.gather.admit(op, now, inFlight, behind); why != accepted {
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
	if s.state == down {
		s.armGiveBack()
	}
	switch {
	case s.state == idle && !s.armed:
		s.armed = true
		s.sv.Defer(s.fireFn)
	case s.state == busy:
		s.follow(now)
	}
}

// Cancel implements queue.Store. What was accepted is worked on whether or not its client
// still waits: its deadline is near, and to look for it among all that waits would cost
// more than to store it.
func (s *Store) Cancel(*queue.Op) {}

func (s *Store) refuse(op *queue.Op, code queue.Code, why refusal) {
	op.Fault = queue.Fault{Code: code, Message: string(why)}
	op.Done.OpDone(op)
}

// Trim lets go of memory that is kept for batches to come; of a batch at work, when it is not
// any more and Trim is called again. On the loop.
func (s *Store) Trim() {
	s.out, s.spare = nil, s.work.NewBatch()
	if s.helper != nil {
		s.helper.out = nil
	}
	if s.pipeline.busy() || s.closed {
		return // what comes in is a batch's, also of one that was given up
	}
	if !s.following {
		s.next = s.work.NewBatch()
	}
	if !s.working {
		s.current = s.work.NewBatch()
	}
}

// Away says that PostgreSQL is known to be away: an op would be turned away. On the loop.
func (s *Store) Away() bool { return s.knownAway(s.sv.Now()) || s.suspected() }

// knownAway says that an op need not wait: the last that was heard of PostgreSQL is
// that it is not there, or it has not been there for longer than an op can hope.
func (s *Store) knownAway(now time.Duration) bool {
	return s.away || s.state == down && now-s.downSince > s.db.config.FailoverTimeout/2
}

// turnAway refuses an op because PostgreSQL is away.
func (s *Store) turnAway(op *queue.Op) {
	switch {
	case !s.work.GiveBack:
		s.refuse(op, queue.Unavailable, refusedAway)
	case s.gather.held > 0 && s.state == down:
		// Those before it are about to be given back; it must not overtake them.
		s.gather.push(op)
		s.gauge()
		s.sv.Defer(s.giveBackFn)
	default:
		s.refuse(op, queue.Outage, refusedAway)
	}
}

// suspected says that a lane that holds nothing must first hear from its server: another
// one's does not answer. One that holds something takes more, which would overtake it.
func (s *Store) suspected() bool {
	return s.work.GiveBack && (s.state == idle || s.state == probing) && s.gather.held == 0 && s.heardAt < s.db.hungAt()
}

// giveBackNow is giveBack at the end of a pass, unless a connection came first.
func (s *Store) giveBackNow() {
	now := s.sv.Now()
	switch {
	case s.closed:
	case s.knownAway(now):
		s.giveBack(now)
	case s.state == idle:
		s.advance(now)
	}
}

// giveBack hands back all ops that are held, if that is wanted: those in flight first, as
// they came first. There is no connection.
func (s *Store) giveBack(now time.Duration) {
	if !s.work.GiveBack || s.state != down {
		return
	}
	s.handBack(now, func(b Batch) {
		sentence := string(refusedAway)
		if b.MayBeStored() {
			sentence = string(refusedUnknown)
		}
		b.Fail(queue.Fault{Code: queue.Outage, Message: sentence})
	})
	s.refuseWaiting(queue.Fault{Code: queue.Outage, Message: string(refusedAway)})
	s.gauge()
	s.endIfDone()
}

// complete hands an accepted op back. The store has forgotten it; its owner may use it
// again during the call.
func (s *Store) complete(op *queue.Op, now time.Duration) {
	s.gather.done(op)
	op.Answered = now
	op.Done.OpDone(op)
}

// completeAll hands back a list of ops that a batch gave, which is the batch's memory: nothing
// that is called from here makes that batch give another.
func (s *Store) completeAll(ops []*queue.Op, now time.Duration) {
	for _, op := range ops {
		s.complete(op, now)
	}
	s.gauge()
}

func (s *Store) gauge() {
	s.stats.WaitingOps.Store(int64(s.gather.waiting()))
	s.stats.HeldBytes.Store(int64(s.gather.heldBytes))
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
		select {
		case <-s.end:
		case <-time.After(closeGrace):
			return errors.New("the store cannot be closed: its loop does not run")
		}
	}
	s.helpers.Wait()
	if s.helper != nil {
		s.helper.helpers.Wait()
	}
	return err
}

// closeGrace is how long a loop that runs can need, at most, to run what was posted.
const closeGrace = 10 * time.Second

// stopping is what an op hears that a server which stops does not work on.
var stopping = queue.Fault{Code: queue.Unavailable, Message: string(refusedClosed)}

// Hasten is for a server that is about to stop, and has clients who are to hear of it at
// once: from now on nothing waits for a connection where there is none, but what may be done
// already. It is not for a store that gives back. Any goroutine.
func (s *Store) Hasten() {
	s.sv.Post(func() {
		s.hasty = true
		s.refuseUnconnected()
	})
}

// refuseUnconnected refuses what waits for a connection, if it is not to.
func (s *Store) refuseUnconnected() {
	if !s.hasty || s.closed || s.state != down {
		return
	}
	s.refuseWaiting(stopping)
	if !s.mayBeStored() {
		s.handBack(s.sv.Now(), func(b Batch) { b.Fail(stopping) })
	}
	s.gauge()
	s.endIfDone()
}

// mayBeStored says whether anything that is worked on may be done already.
func (s *Store) mayBeStored() bool {
	for _, b := range s.atWork() {
		if b != nil && b.MayBeStored() {
			return true
		}
	}
	return false
}

// refuseWaiting completes the ops that are in no batch yet.
func (s *Store) refuseWaiting(fault queue.Fault) {
	now := s.sv.Now()
	for s.gather.waiting() > 0 {
		op := s.gather.pop()
		op.Fault = fault
		s.complete(op, now)
	}
}

// giveUp completes every op that is still here.
func (s *Store) giveUp() {
	if s.closed {
		return
	}
	s.refuseWaiting(stopping)
	now := s.sv.Now()
	s.handBack(now, func(b Batch) {
		// What is in flight may be done all the same: its own sentence says so.
		s.completeAll(b.Expire(math.MaxInt64), now)
		b.Fail(stopping)
	})
}

// handBack has the batches that are worked on decided, and completes and forgets them.
func (s *Store) handBack(now time.Duration, decide func(Batch)) {
	all := s.atWork()
	s.working, s.following = false, false
	for _, b := range all {
		if b != nil {
			decide(b)
			s.completeAll(b.Ops(), now)
			b.Reset()
		}
	}
	s.weigh()
}

// endIfDone ends the store when it is closing and nothing is left to do.
func (s *Store) endIfDone() {
	if !s.closing || s.closed || s.gather.held > 0 {
		return
	}
	s.closed = true
	s.dismiss()
	s.leaveLine()
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
