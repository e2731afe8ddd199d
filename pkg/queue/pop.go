package queue

import (
	"time"

	"github.com/queend/queend/pkg/offheap"
)

// QueueMode is the group of those who name none: consumers of one queue that share it.
const QueueMode = "__QUEUE_MODE__"

// PopScope says where a pop looks.
type PopScope uint8

const (
	OnePartition PopScope = iota // Queue and Partition
	OneQueue                     // any partitions of Queue
	ManyQueues                   // any queue with Namespace and Task
)

// PopRequest is what a pop asks for, where it looks, and what it found. Its slices point
// into the op's own memory.
type PopRequest struct {
	Scope            PopScope
	Queue, Partition []byte
	Namespace, Task  []byte // ManyQueues; nil: any
	Group            []byte // never empty
	Batch            int    // messages at most, over all partitions; at least 1 (OnePartition: 0 finds nothing)
	Partitions       int    // partitions at most, at least 1
	Wait, AutoAck    bool
	Timeout          time.Duration
	Subscription     Subscription

	// Client is who waits for the answer: what was claimed for one that is gone is given
	// back. nil: nobody can be gone.
	Client interface{ Gone() bool }

	// Expired and Paused say why an answer without messages is one: the long poll's time
	// is over, or pops are paused.
	Expired, Paused bool

	// Tries is where to look, in this order; each at most once per (partition, group) among
	// all ops that are under way. With OnePartition it is empty: the batch finds the
	// partition by its names, and appends what it found. A pop without tries that begins
	// elsewhere than at the beginning only has that written down.
	Tries []Try

	// What came of it; zero before each attempt.

	LeaseID     []byte          // of what was claimed; empty with AutoAck
	Claimed     int             // partitions
	Count       int             // messages
	Messages    []byte          // the elements of the answer's messages array, with commas between
	answer      []byte          // in which they mostly stand, see room
	head        int             // and what is before them there
	region      *offheap.Region // that answer is in, if it is large
	Window      bool            // OnePartition: its window is open, nothing is delivered yet
	Missing     bool            // OnePartition: there is no such partition
	Held        bool            // OnePartition: leased in this group
	First       UUID            // the first partition claimed
	FirstQueue  []byte          // and its names
	FirstName   []byte
	FirstExists bool
	Lost        bool // with a Fault: messages may have been acknowledged that nobody has received
}

// Subscription is where a group begins that is new to a queue.
type Subscription struct {
	Mode SubscriptionMode
	At   time.Time // SubscribeAt
}

// SubscriptionMode says how a new group begins.
type SubscriptionMode uint8

const (
	SubscribeAll SubscriptionMode = iota // at the beginning
	SubscribeNew                         // now
	SubscribeAt                          // at a time
)

// Try is a partition that may have messages for a pop's group, and what was found there.
type Try struct {
	Queue     string
	Partition UUID
	Taken     uint64 // the caller's own, left as it is

	Outcome Outcome
	// In is how long from now, by PostgreSQL's clock: Claimed without AutoAck, Leased: until
	// the lease ends; NotDue: until a message may be delivered.
	In   time.Duration
	More bool // Claimed: there may be more behind what was taken
}

// Outcome is what was found at a Try.
type Outcome uint8

const (
	NotTried Outcome = iota // others before it were enough
	Claimed
	Drained // nothing pending
	Leased  // somebody of the group has it, for In
	NotDue  // delayed, or its window is open, for In
	Busy    // its row is locked: somebody claims or acks it at this moment
	Gone    // no such partition any more
)

func (p *PopRequest) reset() {
	tries, lease, answer := p.Tries[:0], p.LeaseID[:0], p.answer[:0]
	if p.region != nil {
		p.region.Free()
		answer = nil
	}
	queue, name := p.FirstQueue[:0], p.FirstName[:0]
	*p = PopRequest{Tries: tries, LeaseID: lease, answer: answer, FirstQueue: queue, FirstName: name}
}

// Again makes the request ready for another attempt: what came of the last is forgotten,
// and Tries is empty.
func (p *PopRequest) Again() {
	clear(p.Tries)
	p.Tries, p.LeaseID, p.Messages, p.FirstQueue, p.FirstName = p.Tries[:0], p.LeaseID[:0], nil, p.FirstQueue[:0], p.FirstName[:0]
	p.Claimed, p.Count, p.Window, p.Missing, p.Held, p.First, p.FirstExists = 0, 0, false, false, false, UUID{}, false
	p.Lost = false
}
