package queue

import (
	"bytes"
	"math"
)

// This file is what an acknowledgment means: pure functions from what was read of a
// (partition, group) and what one request asks for to what is to be written. No SQL, no
// clock.

// place is where a message stands in its partition's order: created_at, in microseconds
// as PostgreSQL counts them, then id.
type place struct {
	at int64
	id UUID
}

// beginning is before all messages: the cursor of a group that has consumed none.
var beginning = place{at: math.MinInt64}

func (p place) compare(q place) int {
	switch {
	case p.at < q.at:
		return -1
	case p.at > q.at:
		return 1
	}
	return bytes.Compare(p.id[:], q.id[:])
}

func (p place) after(q place) bool { return p.compare(q) > 0 }

// cursor is a row of partition_consumers: how far a group is in a partition, and its
// lease there.
type cursor struct {
	there bool // there is a row
	at    place
	seq   int64 // of the message at, 0: unknown

	hasWorker bool
	worker    string
	hasEnd    bool // the lease says when it ends
	expires   int64
	live      bool // and it has not
	size      int  // messages delivered with it
	acked     int
	retries   int

	hasLast bool // last is the last message delivered with it that is still there; else only size is known
	last    place
}

// leased says whether a lease is written down, run out or not.
func (c *cursor) leased() bool { return c.hasWorker || c.hasEnd }

// holds says whether a lease id is good for the row.
func (c *cursor) holds(lease []byte) bool { return c.live && c.hasWorker && c.worker == string(lease) }

// end ends the lease.
func (c *cursor) end() {
	c.hasWorker, c.worker, c.hasEnd, c.expires, c.live = false, "", false, 0, false
	c.size, c.acked, c.hasLast, c.last = 0, 0, false, place{}
}

// same says whether two rows are the same in what ack_write compares.
func (c *cursor) same(d *cursor) bool {
	return c.at == d.at && c.hasWorker == d.hasWorker && c.worker == d.worker && c.hasEnd == d.hasEnd && c.expires == d.expires &&
		c.acked == d.acked && c.retries == d.retries
}

// advance moves the cursor to a message, never back. A message passed proves that what
// failed is behind us, so the count of retries begins anew.
func (c *cursor) advance(at place, seq int64) bool {
	if !at.after(c.at) {
		return false
	}
	c.at, c.seq, c.retries = at, seq, 0
	return true
}

// reached says whether all that the lease delivered is done. A lease that another program
// took may not say which message was its last.
func (c *cursor) reached() bool {
	switch {
	case !c.leased():
		return false
	case c.hasLast:
		return !c.last.after(c.at)
	}
	return c.size > 0 && c.acked >= c.size
}

// status is what a client says of a message.
type status uint8

const (
	unknownStatus status = iota
	completedStatus
	failedStatus
	retryStatus
	dlqStatus
)

func ackStatus(text []byte) status {
	switch string(text) {
	case "completed", "success":
		return completedStatus
	case "failed":
		return failedStatus
	case "retry":
		return retryStatus
	case "dlq":
		return dlqStatus
	}
	return unknownStatus
}

// ackRef is one acknowledgment at work.
type ackRef struct {
	entry, item int32
	chain       int32
	ack         *AckItem // nil: its op was given back

	found bool
	at    place
	seq   int64
}

// effect is what a request does beside moving the row.
type effect struct {
	messages, batches int
	dead              []deadLetter
	buried            map[place]struct{} // dead, once it matters whether a message is among them
	mustLive          bool               // the lease was checked: it must not have run out when the row is written
}

// bury adds a dead letter. A statement does not see the rows that it makes, so what it must
// not make twice is not asked for twice.
func (e *effect) bury(d deadLetter) {
	if d.once && e.buried == nil {
		e.buried = make(map[place]struct{}, len(e.dead)+1)
		for i := range e.dead {
			e.buried[e.dead[i].ref.at] = struct{}{}
		}
	}
	if _, known := e.buried[d.ref.at]; known {
		return
	}
	if e.buried != nil {
		e.buried[d.ref.at] = struct{}{}
	}
	e.dead = append(e.dead, d)
}

// deadLetter is a message that is given up.
type deadLetter struct {
	ref     ackRef
	reason  []byte
	retries int
	once    bool // the row will not say whether it was done: look whether it is there
}

// The sentences of an answer's error.
const (
	ackNotFound = "Message not found"
	ackNoLease  = "Invalid or expired lease"
	ackStopped  = "an earlier message of this request is to be delivered again, and this one after it"

	ackMaybe = "; it may have been taken" // behind another, of an ack that is in doubt
)

const (
	reasonExhausted = "Retries exhausted"
	reasonUnknown   = "Unknown error"
)

// acknowledge works what one request says of one (partition, group), its refs being in
// the order of their messages. c becomes the row as it is to be; each ack gets its answer.
// inDoubt: the request may have been done before, so that what the cursor has passed is
// taken to be done, also if the lease is gone. Where that cannot be seen, an ack that was in
// a lost write is not told that it was not taken.
//
//	completed, success   the cursor moves there; the lease ends at its last message
//	failed, retries left the lease ends, one retry is counted, and nothing behind it moves the cursor
//	failed, none left    a dead letter
//	retry                the lease ends, nothing is counted, and nothing behind it moves the cursor
//	dlq                  a dead letter: the message is copied and the cursor moves there
//
// All that can refuse an ack is judged first, and so is whether retries are left: a batch
// that fails as one has one retry.
func (c *cursor) acknowledge(refs []ackRef, retryLimit int, inDoubt bool, e *effect) {
	exhausted := c.retries >= retryLimit
	before := *c
	stopped := false
	for i := range refs {
		r := &refs[i]
		a := r.ack
		if a == nil {
			continue
		}
		a.Success, a.Dead, a.Released, a.Why = false, false, No, ""
		checked := len(a.LeaseID) > 0
		if !r.found {
			a.refuse(ackNotFound)
			if checked && before.holds(a.LeaseID) && c.reached() {
				c.end() // it was deleted, and it was all that was left
				c.retries, e.mustLive = 0, true
			}
			continue
		}
		s := ackStatus(a.Status)
		if checked && !before.holds(a.LeaseID) {
			if inDoubt && s != unknownStatus && !r.at.after(before.at) {
				a.Success, a.Dead = true, s == dlqStatus
			} else {
				a.refuse(ackNoLease)
			}
			continue
		}
		e.mustLive = e.mustLive || checked
		a.Success = true
		switch {
		case s == unknownStatus:
			a.Success = false
		case !c.there && (s == failedStatus || s == dlqStatus):
			a.Dead = true
			e.bury(deadLetter{*r, reasonOf(a, reasonExhausted), 0, true})
		case !c.there:
			a.Released = Unset
		case s == retryStatus:
			a.Released, stopped = Yes, true
			c.end()
		case s == failedStatus && (stopped || !exhausted):
			a.Released = Yes
			if !stopped {
				held := c.live
				if c.end(); held {
					c.retries++
					e.mustLive = true
				}
			}
			stopped = true
		case stopped:
			a.Success, a.Why = false, ackStopped
		case s == completedStatus:
			if c.pass(r, checked, e) {
				a.Released = Yes
			}
		default:
			// Queen says nothing of the lease here, though it may end.
			a.Dead = true
			e.bury(deadLetter{*r, reasonOf(a, reasonExhausted), before.retries, !r.at.after(c.at)})
			c.pass(r, checked, e)
		}
	}
}

// refuse says why an ack is not taken, now.
func (a *AckItem) refuse(why string) {
	if a.Why = why; a.maybe {
		a.Why += ackMaybe
	}
}

// pass takes a message as done. It says whether the lease ended by that.
func (c *cursor) pass(r *ackRef, checked bool, e *effect) bool {
	moved := c.advance(r.at, r.seq)
	if moved {
		e.messages++
	}
	// What was passed before counts if it came with the lease; else it may be of another one.
	if c.leased() && (moved || checked) && c.acked < c.size {
		c.acked++
	}
	if !c.reached() {
		return false
	}
	c.end()
	c.retries = 0
	e.batches++
	return true
}

func reasonOf(a *AckItem, otherwise string) []byte {
	if a.HasError {
		return a.Error
	}
	return []byte(otherwise)
}

// transact works one ack of a transaction, which all stand or fall together: failed and
// dlq are dead letters at once and end the lease. before is the row as it was read. It
// returns the answer's error, "": done. inDoubt: as above; what the cursor has passed leaves
// any lease but its own alone, which somebody may have taken after it was done.
func (c *cursor) transact(r *ackRef, before *cursor, inDoubt bool, e *effect) string {
	a := r.ack
	a.Success, a.Dead, a.Why = false, false, ""
	s := ackStatus(a.Status)
	checked := len(a.LeaseID) > 0
	switch {
	case !r.found:
		a.Why = ackNotFound
		return ackNotFound
	case checked && !before.holds(a.LeaseID) && !(inDoubt && !r.at.after(before.at)):
		a.Why = ackNoLease
		return ackNoLease
	case s != completedStatus && s != failedStatus && s != dlqStatus:
		return reasonUnknown
	}
	a.Success = true
	if inDoubt && !before.holds(a.LeaseID) && !r.at.after(before.at) {
		if s != completedStatus {
			a.Dead = true
			e.bury(deadLetter{*r, reasonOf(a, reasonUnknown), before.retries, true})
		}
		return ""
	}
	e.mustLive = e.mustLive || checked && before.live
	if s == completedStatus {
		if c.pass(r, checked, e); c.leased() && !c.hasLast && c.size == 0 {
			c.end()
		}
		return ""
	}
	a.Dead = true
	e.bury(deadLetter{*r, reasonOf(a, reasonUnknown), before.retries, !r.at.after(c.at)})
	c.pass(r, checked, e)
	c.end()
	return ""
}
