package asyncdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/queue"
)

// conn is one connection of a lane, from the moment it was dialed. All its methods run
// on the loop. Once gone it is dead to its store, whatever the loop still calls: a
// loop's descriptor is used again soon, and bytes of an old connection must never be
// taken for those of a new one.
type conn struct {
	store *Store
	link  link
	write func([]byte) error // nil until opened
	shut  func()
	cut   cutter
	gone  bool

	readOnly, standby bool // the server says so of itself

	voids int // steps in a row that followed one that was committed, and did not find it so
}

// SQLSTATEs that this package itself acts on (manual, appendix "PostgreSQL Error
// Codes"); all others are queue.Classify's.
const (
	queryCanceled     = "57014"
	lockNotAvailable  = "55P03"
	protocolViolation = "08P01"
	readOnly          = "25006"
	duplicatePrepared = "42P05"
)

var errHung = errors.New("the server did not answer in time")

// errStuck ends an attempt to connect before which another should not have come through.
var errStuck = errors.New("cannot connect to PostgreSQL: no answer, while a later attempt has one")

// opened is called when the loop has taken the socket.
func (c *conn) opened(write func([]byte) error, shut func()) {
	s := c.store
	c.write, c.shut = write, shut
	s.dialEnded(nil)
	if s.closed {
		c.bye()
		return
	}
	now := s.sv.Now()
	s.conn, s.state, s.heardAt = c, idle, now
	s.away = false
	s.events().Connects.Add(1)
	if !s.suspect {
		s.db.laneUp(s.id, c.link.about)
		if !s.leftShut { // others need not hurry to a server that may say the same again
			s.db.dials.passed(s.dialAt)
			s.db.reachable()
		}
	}
	s.db.arrived(s.id, c.link.instance)
	s.arm(s.probeAt())
	s.advance(now)
}

// data takes what arrived. b is the loop's and valid during the call.
func (c *conn) data(b []byte) {
	s := c.store
	if c.gone {
		return
	}
	now := s.sv.Now()
	s.heardAt = now
	c.cut.begin(b)
	for {
		kind, body, err := c.cut.next()
		if err == nil && kind != 0 {
			err = s.frame(c, kind, body, now)
		}
		if c.gone {
			return
		}
		if err != nil {
			s.db.config.Log.Error().Err(err).Int("lane", s.id).Msg("PostgreSQL's answer makes no sense; its connection is closed")
			s.lost(c, err, now)
			return
		}
		if kind == 0 {
			break
		}
	}
	c.cut.end()
	if s.pipeline.told && s.pipeline.hasBegun() {
		s.follow(now)
	}
}

// closedBy is called when the socket is closed, whoever closed it.
func (c *conn) closedBy(err error) {
	if c.gone {
		return
	}
	s := c.store
	if err == nil {
		err = io.EOF
	}
	if c.write == nil { // the loop could not take it
		c.gone = true
		s.dialFailed(fmt.Errorf("cannot give the connection to its loop: %w", err))
		return
	}
	s.lost(c, fmt.Errorf("the connection was closed: %w", err), s.sv.Now())
}

// bye closes the connection in an orderly way. Nothing may be in flight.
func (c *conn) bye() {
	c.gone = true
	_ = c.write(appendTerminate(nil)) // as good as it can
	c.shut()
}

// write sends bytes; the connection may be gone when it returns.
func (s *Store) write(c *conn, b []byte, now time.Duration) {
	if err := c.write(b); err != nil {
		s.lost(c, fmt.Errorf("cannot write: %w", err), now)
	}
}

// frame takes one message of the server.
func (s *Store) frame(c *conn, kind byte, body []byte, now time.Duration) error {
	switch kind {
	case kindError:
		e, fatal, err := decodeError(body)
		switch {
		case err != nil:
			return err
		case fatal:
			// The server is about to close the connection. Whether the step was committed is
			// not known: a COMMIT may have been done already when the backend was told to stop.
			s.lost(c, serverError(e), now)
			return nil
		}
		return s.pipeline.failed(e)
	case kindNotice:
		e, _, err := decodeError(body)
		if err != nil {
			return err
		}
		s.stats.Notices.Add(1)
		s.db.config.Log.Debug().Int("lane", s.id).Str("sqlstate", e.Code).Msg(brief(e.Message))
		return nil
	case kindParameter:
		return c.parameter(body)
	case kindNotification:
		return nil
	}
	ready, err := s.pipeline.frame(kind, body)
	if err != nil {
		return err
	}
	if ready {
		s.answered(s.pipeline.err, now)
	}
	return nil
}

// decodeError decodes an ErrorResponse or a NoticeResponse; fatal: the connection ends
// with it.
func decodeError(body []byte) (e *queue.SQLError, fatal bool, err error) {
	var m pgproto3.ErrorResponse
	if err := m.Decode(body); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errFrameBody, err)
	}
	severity := or(m.SeverityUnlocalized, m.Severity)
	return &queue.SQLError{
		Severity: severity, Code: m.Code, Message: m.Message, Detail: m.Detail,
		Schema: m.SchemaName, Table: m.TableName, Constraint: m.ConstraintName,
	}, severity == "FATAL" || severity == "PANIC", nil
}

// serverError makes a Go error of what the server said.
func serverError(e *queue.SQLError) error { return (*statementError)(e) }

type statementError queue.SQLError

func (e *statementError) Error() string {
	return e.Severity + ": " + e.Message + " (SQLSTATE " + e.Code + ")"
}

// SQLState returns the error's SQLSTATE, as pgconn's errors do.
func (e *statementError) SQLState() string { return e.Code }

// probeAt is when the server is asked if it stays silent: after ProbeAfter, or up to a third
// sooner, so that idle lanes ask together. A process that is woken seven times a second in
// place of once costs a percent of a core (what the runtime does around each waking).
func (s *Store) probeAt() time.Duration {
	after := s.db.config.ProbeAfter
	return (s.heardAt + after).Truncate(after / 3)
}

// probe asks an idle server for a sign of life.
func (s *Store) probe(now time.Duration) {
	s.pipeline.begin(nil, 0, nil)
	s.state, s.sentAt, s.hungAt = probing, now, now+s.db.config.HungAfter
	s.arm(s.hungAt)
	s.write(s.conn, appendSync(s.out[:0]), now)
}

// proven says that the connection was good for something: the next one that is lost is
// replaced at once.
func (s *Store) proven() {
	s.attempts, s.leftShut = 0, false
	if s.suspect {
		s.suspect = false
		s.db.laneUp(s.id, s.conn.link.about)
	}
}

// hung closes a connection on which a step has waited too long. The server may be
// stopped, or the way to it cut without a word; either way it counts as away until a
// connection says otherwise.
func (s *Store) hung(now time.Duration) {
	s.events().Hangs.Add(1)
	if o := s.owner; o != nil {
		ends := o.early == moving
		s.lost(s.conn, errHung, now)
		if ends { // it is the lane that has waited
			o.hung(now)
		}
		return
	}
	s.away = true
	s.db.hung(now)
	s.lost(s.conn, errHung, now)
	s.giveBack(now)
}

// hangUp closes a connection on which nothing is in flight, and gets another.
func (s *Store) hangUp(why error, now time.Duration) {
	c := s.conn
	s.forget(c, why, now)
	c.bye()
}

// lost takes the end of a connection. What was in flight on it may be committed or not;
// the batch runs again on the next connection.
func (s *Store) lost(c *conn, why error, now time.Duration) {
	if c.gone {
		return
	}
	s.forget(c, why, now)
	c.shut()
}

// unknown tells the batch that the answer to its step will never come.
func (s *Store) unknown() {
	s.stats.Unknowns.Add(1)
	s.current.Unknown()
}

// forget makes the lane one without a connection, and begins to get another.
func (s *Store) forget(c *conn, why error, now time.Duration) {
	s.undoEarly(now)
	c.gone = true
	s.conn = nil
	if s.owner != nil {
		s.pipeline.drop()
		s.owner.helpLost()
	}
	if s.pipeline.busy() {
		s.pipeline.drop()
		if s.state == busy && s.failure == nil {
			s.unknown()
		}
	}
	if s.failure != nil && !s.void && queue.Classify(s.failure.Code) == queue.ClassUnknown {
		s.unknown()
	}
	s.forgetNext()
	s.leaveLine() // what it was at may go on in the server, and the locks know
	s.state, s.downSince, s.rerun = down, now, true
	s.events().Losses.Add(1)
	s.db.laneDown(s.id, why)
	if s.working { // as always while something follows a batch that is in flight
		s.sv.Defer(s.answerDecided)
	}
	s.redial(now)
	s.armGiveBack()
	if s.hasty {
		s.sv.Defer(s.refuseUnconnected)
	}
}

// answerDecided completes what the end of a connection has decided: ops that are not to run
// again. They must not wait for the next connection, and no deadline is theirs any more.
// It runs at the end of the pass, since whoever lost the connection may be inside a write.
func (s *Store) answerDecided() {
	if s.closed || s.state != down {
		return // the next step has answered them
	}
	for _, b := range s.atWork() {
		if b != nil {
			s.completeAll(b.Decided(), s.sv.Now())
		}
	}
	s.abandon()
	s.endIfDone()
}

// Reconnecting waits reconnectFirst after a first failure, twice as long after each
// further one, at most reconnectMax, each time less a random part, so that many lanes
// and servers do not knock at once. A connection that was good for something is replaced
// without waiting.
const (
	reconnectFirst = 50 * time.Millisecond
	reconnectMax   = 2 * time.Second
)

// dialAgain makes the next attempt, unless others see to it. Where there are several hosts
// an attempt may take long because the first is gone, and come through at the next one: then
// each lane makes its own.
func (s *Store) dialAgain(now time.Duration) {
	if wait := s.db.dials.wait(now); wait > 0 && !s.db.manyHosts {
		s.dialAt = now + min(wait, dialLook)
		return
	}
	s.dial(now)
}

// redial sets the time of the next attempt, or makes it at once.
func (s *Store) redial(now time.Duration) {
	switch {
	case s.attempts > 0:
		s.dialAt = now + backoff(s.attempts, rand.Float64())
		if s.owner != nil {
			s.dialAt += (s.dialAt - now) * helperPatience
		}
	case s.suspect || s.leftShut:
		s.dial(now) // it is no silence that has brought us here, and nobody will call
	default:
		s.dialAgain(now)
	}
	if !s.dialing {
		s.arm(s.dialAt)
	}
}

// dialSoon makes the next attempt now: another lane has come through. An attempt that was
// there before that one's is given a moment more, and up.
func (s *Store) dialSoon() {
	switch begun := s.dialAt; {
	case s.state != down || s.closed:
	case !s.dialing:
		s.dial(s.sv.Now())
	case s.db.dials.isStuck(begun):
		s.sv.After(dialEvery, func() {
			if s.dialing && s.dialAt == begun && !s.closed {
				s.attempts = 0 // the next one need not wait
				s.stopDial()
			}
		})
	}
}

// helperPatience is how many times longer a helper waits: without it nothing is missing, and it
// may be that there is no connection left for it.
const helperPatience = 10

// events are the counters of what becomes of connections: a helper's count as its owner's.
func (s *Store) events() *Stats {
	if s.owner != nil {
		return &s.owner.stats
	}
	return &s.stats
}

// backoff is how long to wait after so many attempts; chance is in [0, 1).
func backoff(attempts int, chance float64) time.Duration {
	d := reconnectMax
	if attempts < 7 {
		d = min(reconnectFirst<<(attempts-1), reconnectMax)
	}
	return d - time.Duration(chance*float64(d)/2)
}

// dialEnded: the attempt to connect is over, nil: well.
func (s *Store) dialEnded(why error) {
	s.stopDial()
	s.dialing, s.stopDial = false, nil
	s.db.dials.end(why != nil && isSilence(why))
}

// dialFailed takes the failure of an attempt to connect.
func (s *Store) dialFailed(why error) {
	s.dialEnded(why)
	if s.closed {
		return
	}
	if errors.Is(why, context.Canceled) {
		why = errStuck
	}
	s.away = true
	s.events().ConnectFailures.Add(1)
	s.db.laneDown(s.id, why)
	now := s.sv.Now()
	s.redial(now)
	s.giveBack(now)
}
