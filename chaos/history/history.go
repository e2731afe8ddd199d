// Package history is what clients saw: every call with its start and end on one
// monotonic clock, every message that somebody meant to send, every delivery and every
// acknowledgment. It records and does not judge: package oracle does.
//
// Each worker of a load writes to a Log of its own, without locks; Merge makes one
// History of them when the workers have ended.
package history

import (
	"slices"
	"time"
)

// Clock is the one clock of a trial. Times are durations since it began; they are
// monotonic, as time.Since is.
type Clock struct{ began time.Time }

// NewClock starts a clock.
func NewClock() *Clock { return &Clock{time.Now()} }

// Now is the time since the clock began.
func (c *Clock) Now() time.Duration { return time.Since(c.began) }

// Wall is when d was, by the machine's wall clock. PostgreSQL runs on the same machine,
// so that its clock is this one, as long as nobody sets it.
func (c *Clock) Wall(d time.Duration) time.Time { return c.began.Add(d).Round(0) }

// Outcome is what a client knows of a call.
type Outcome uint8

const (
	// Unknown: the call may have been done or not: no answer, or one that says so.
	Unknown Outcome = iota
	// OK: a 2xx answer that says it was done.
	OK
	// Fail: it was certainly not done: 4xx, 503 at the door, no connection.
	Fail
)

// String is a word.
func (o Outcome) String() string { return [...]string{"unknown", "ok", "fail"}[o] }

// Message is one message that somebody meant to send, once, however often he tried.
type Message struct {
	UID       string // in the payload too: how it is known again
	Queue     string
	Partition string
	Key       string // the client's transactionId; "": the server makes one
	Payload   string // JSON, as it was sent
	Producer  string // who waits for each answer before he sends the next
	N         int    // rises with each message of Producer
	Parent    string // the message that the same transaction acknowledges; "": none
	Doomed    bool   // PostgreSQL refuses it whatever was answered: it must not be stored

	Attempts []Attempt
}

// Attempt is one try of sending a message.
type Attempt struct {
	Start, End time.Duration
	Outcome    Outcome
	Status     int    // HTTP; 0: no answer
	ID         string // the message's id, as the answer says it
	Key        string // the transactionId that the answer says
	Duplicate  bool   // the answer says that it was there
	Buffered   bool   // the answer says that it will be there
	Server     int    // which queend was asked
	Why        string // of a failure
}

// Outcome is what the sender knows after all attempts: one success is enough, and it has
// failed only if each attempt has.
func (m *Message) Outcome() Outcome {
	o := Fail
	for i := range m.Attempts {
		switch m.Attempts[i].Outcome {
		case OK:
			return OK
		case Unknown:
			o = Unknown
		}
	}
	return o
}

// AcceptedBy says that this queend answered 2xx.
func (m *Message) AcceptedBy(server int) bool {
	for i := range m.Attempts {
		if a := &m.Attempts[i]; a.Outcome == OK && a.Server == server {
			return true
		}
	}
	return false
}

// Stored says that an answer said that the message is in the database, and not that it
// will be.
func (m *Message) Stored() bool {
	for i := range m.Attempts {
		if a := &m.Attempts[i]; a.Outcome == OK && !a.Buffered {
			return true
		}
	}
	return false
}

// Delivery is one message in the answer to a pop.
type Delivery struct {
	Consumer    string
	Group       string // "" is queue mode
	Queue       string
	Partition   string
	PartitionID string
	MessageID   string
	Key         string
	Lease       string // "" with autoAck
	Payload     string
	Start, End  time.Duration // of the pop
	At          int           // position in its answer
	Auto        bool          // acknowledged by the pop
}

// Ack is one acknowledgment of one message.
type Ack struct {
	Consumer    string
	Group       string
	PartitionID string
	MessageID   string
	Lease       string // "": not checked by the server
	Status      string
	Start, End  time.Duration
	Outcome     Outcome // OK: a 2xx answer with success:true
	Refused     bool    // a 2xx answer with success:false
	Why         string
	Transaction bool
}

// Moves says that a successful acknowledgment of this status moves the cursor.
func (a *Ack) Moves() bool {
	return a.Status == "completed" || a.Status == "success" || a.Status == "dlq"
}

// Call is any request and its answer.
type Call struct {
	Route      string
	Server     int // which queend was asked
	Status     int // 0: no answer
	Start, End time.Duration
	Wait       time.Duration // of a long poll: its time-out
	RetryAfter bool
	Why        string // of a failure
}

// Log is what one worker has seen. Only that worker writes to it.
type Log struct {
	Messages   []*Message
	Deliveries []Delivery
	Acks       []Ack
	Calls      []Call
	Wrong      []string // answers that break the contract, one sentence each
}

// History is what all workers have seen.
type History struct {
	Clock *Clock
	Log
}

// Merge makes one history of the logs of workers that have ended. Deliveries, acks and
// calls are sorted by their ends.
func Merge(clock *Clock, logs ...*Log) *History {
	h := &History{Clock: clock}
	for _, l := range logs {
		h.Messages = append(h.Messages, l.Messages...)
		h.Deliveries = append(h.Deliveries, l.Deliveries...)
		h.Acks = append(h.Acks, l.Acks...)
		h.Calls = append(h.Calls, l.Calls...)
		h.Wrong = append(h.Wrong, l.Wrong...)
	}
	slices.SortStableFunc(h.Deliveries, func(a, b Delivery) int {
		if a.End != b.End {
			return int(a.End - b.End)
		}
		return a.At - b.At
	})
	slices.SortStableFunc(h.Acks, func(a, b Ack) int { return int(a.End - b.End) })
	slices.SortStableFunc(h.Calls, func(a, b Call) int { return int(a.End - b.End) })
	return h
}
