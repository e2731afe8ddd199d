package asyncdb

import (
	"bytes"
	"errors"
	"sync/atomic"
	"time"
)

// This file is about which server a connection leads to. After a failover an old primary
// may stay reachable: it is read-only, and what it says is what was true before. A write
// is refused there, and its lane looks for another server; but an ack of a lease that was
// made since would be answered by its old rows, without a write, and wrongly.
//
// So a lane leaves a server when another lane has found a newer one, and when its own says
// that it has become read-only. What a server says that is being left is not believed: the
// step counts as unknown and runs again on the next connection.

// instance is a PostgreSQL server, as one of its connections has seen it when it could be
// written to.
type instance struct {
	id   string    // differs between servers, and between two starts of one
	seen time.Time // it said so then
}

// primary is the server that was seen last. Any goroutine.
type primary struct{ at atomic.Pointer[instance] }

// found takes what a new connection has seen; changed: it leads to another server than
// those before.
func (p *primary) found(s *instance) (changed bool) {
	for {
		old := p.at.Load()
		if old != nil && !s.seen.After(old.seen) {
			return false
		}
		if p.at.CompareAndSwap(old, s) {
			return old != nil && old.id != s.id
		}
	}
}

// OnMoved has f called when connections begin to lead to another server than before, on
// any goroutine; it must not block. Whoever connects to the same database in another way
// leaves the old server then. Before the first Store is made.
func (db *Database) OnMoved(f func()) { db.onMoved = append(db.onMoved, f) }

// arrived is called when the lane of a number has a new connection.
func (db *Database) arrived(id int, at *instance) {
	if !db.primary.found(at) {
		return
	}
	behind := 0
	db.mu.Lock()
	for other, s := range db.stores {
		switch l := db.lanes[other]; {
		case other == id:
		case l == laneConnected:
			behind++
			s.sv.Post(s.leaveFn)
		case l == laneAside:
			s.sv.Post(s.leaveFn)
		}
	}
	db.mu.Unlock()
	if behind > 0 { // else it was away, and is back
		db.config.Log.Warn().Int("lanes", behind).Msg("PostgreSQL is another server now; connections that lead to the old one are replaced")
	}
	for _, f := range db.onMoved {
		f()
	}
}

// leaveAgain is how soon a lane may go back to a server that it has left: with two servers
// that can both be written to, which is a mistake in the cluster, lanes would follow each
// other to and fro without a pause.
const leaveAgain = 5 * time.Second

var errLeft = errors.New("the server is not the primary any more")

// left says that the lane's connection leads to a server that is to be left. There is a
// connection.
func (s *Store) left(now time.Duration) bool {
	if s.conn.readOnly || s.conn.standby {
		return true
	}
	newest := s.db.primary.at.Load()
	mine := s.conn.link.instance.id
	back := newest != nil && (newest.id == s.leftFrom || mine == s.leftFrom)
	return newest != nil && newest.id != mine && (!back || now-s.leftAt >= leaveAgain)
}

// leave closes a connection that leads to such a server, and gets another. A step whose
// answer has just come is one that nothing is known of.
func (s *Store) leave(now time.Duration) {
	s.leftAt, s.leftFrom, s.leftShut = now, s.conn.link.instance.id, s.conn.readOnly || s.conn.standby
	s.events().Moves.Add(1)
	s.hangUp(errLeft, now)
}

// leaveIfIdle is leave for a lane that nothing will make look in the near future.
func (s *Store) leaveIfIdle() {
	if now := s.sv.Now(); s.state == idle && !s.closed && s.left(now) {
		s.leave(now)
	}
}

// parameter takes a ParameterStatus: of the settings that are reported, two say that the
// server cannot be written to (PostgreSQL 14 and newer; manual, section "Asynchronous
// Operations" of the chapter on the protocol). They come before the answer of the step in
// which they were found changed.
func (c *conn) parameter(body []byte) error {
	name, rest, ok := bytes.Cut(body, []byte{0})
	value, end, closed := bytes.Cut(rest, []byte{0})
	if !ok || !closed || len(end) > 0 {
		return errFrameBody
	}
	switch string(name) {
	case "default_transaction_read_only":
		c.readOnly = string(value) == "on"
	case "in_hot_standby":
		c.standby = string(value) == "on"
	}
	return nil
}
