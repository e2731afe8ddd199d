// Package queue is the domain: what a request means, what is asked of
// PostgreSQL for it, and what the client hears. It is pure: it does no I/O, owns
// no goroutine and knows no socket. Stores (asyncdb, pooldb, the file buffer)
// drive it; the api room speaks to it in bytes.
//
// The way of a push through this room: Decode (bytes → Op), Batch.Add (ops → one
// batch), Batch.Step / Row / StepDone (the batch's conversation with PostgreSQL),
// AppendPushAnswer (Op → the answer's bytes).
package queue

import "time"

// Store runs operations. Do returns at once; the op's Done is called exactly
// once, on the loop that called Do. Cancel says that the client is gone: the
// store may stop early what has no effect yet, and still completes the op.
type Store interface {
	Do(op *Op)
	Cancel(op *Op)
}

// Completer hears that an op is done. OpDone runs on the loop that called Do.
type Completer interface{ OpDone(op *Op) }

// Verb says what an op asks for.
type Verb uint8

const (
	Push        Verb = iota
	Pop              // op.Pop
	Ack              // op.Acks, op.Group
	Extend           // op.Lease
	Transaction      // op.Operations, whose pushes are op.Items and whose acks are op.Acks
	Release          // op.Lease: gives a lease back that nobody will use
	Watch            // op.Watch: what changed that this process did not do
)

// Op is one request on its way through the stores. Its bytes do not change
// until it is done, also when its client is gone. Ops are pooled: after OpDone
// the owner may Reset and use it again.
type Op struct {
	Verb  Verb
	Items []Item // Push, Transaction: in request order; their slices point into the op's own copy of the body
	Pop   PopRequest
	Acks  []AckItem // Ack, Transaction: in request order
	Lease LeaseRequest
	Steps []TransactionStep // Transaction: its operations in order, each an item or an ack
	Watch WatchRequest

	// Freed is what a done op made claimable by ending leases or moving on: whoever
	// keeps parked pops looks there again.
	Freed []Freed

	Accepted time.Duration // loop clock: the request was complete
	Decoded  time.Duration // loop clock: decoding ended, the op was handed to the store
	Sent     time.Duration // loop clock: its first statement was sent (0: never)
	Answered time.Duration // loop clock: PostgreSQL's last word on it
	Deadline time.Duration // loop clock: the store completes the op by then, with Fault if need be

	Fault Fault     // set by the store: the whole request failed; items carry nothing
	Done  Completer // who hears of the end; see Wrap
	outer [2]Completer
	wraps int

	// Cost is what the op weighs against bounds on bytes: its body and its items.
	Cost int

	body   []byte // the only copy of the request's body; names are unescaped in place
	made   []byte // transaction ids that we made
	sealed []byte // encrypted payloads, made once
	tries  int    // retryable failures so far
	thrift thrift // of the memory for a push
}

// Item is one message of a push and, after the op is done, its answer.
type Item struct {
	Queue, Partition []byte // unescaped UTF-8, at most NameCharsMax characters, no NUL
	TransactionID    []byte // the client's, or made by us (36 characters)
	Payload          []byte // the payload's exact bytes as sent; "null" when absent
	ProducerSub      []byte // from the token's sub; nil: NULL
	TraceID          UUID
	HasTrace         bool
	GivenTransaction bool // the client named the transaction
	sealedHere       bool // its envelope was made here: by a push, or for its record
	ID               UUID // message id, given before the first attempt

	Status      Status
	PartitionID UUID   // queued: where it is
	WinnerID    UUID   // queued: ID; duplicate: the id of the message that was there first
	Error       string // failed: why
	Locked      bool   // with Fault Unavailable: another session holds its partition locked

	at     *hint  // where its partition is thought to be
	sealed []byte // the payload's envelope, once its queue was found to be encrypted
}

// Status is what became of an item.
type Status uint8

const (
	Pending Status = iota
	Queued
	Duplicate
	Failed
	Buffered // on disk, and on its way to PostgreSQL
)

// Fault says why a whole request failed. The zero Fault is no fault.
type Fault struct {
	Code    Code
	Message string // a sentence for the client
}

// Code is a stable reason; the api room maps it to a status.
type Code uint8

const (
	OK          Code = iota
	Invalid          // 400: the request cannot be stored as it is
	TooLarge         // 413
	Unavailable      // 503 + Retry-After: PostgreSQL is away or too slow
	Outage           // the same, and known to be an outage: the op's undecided messages may wait on disk
	Overloaded       // 503 + Retry-After: a bound of ours is reached
	Internal         // 500: our own fault
)

// UUID is 16 bytes, big endian as in RFC 9562.
type UUID [16]byte

// popRowsMost is what a pop counts at most, so that one that asks for many messages, and
// mostly finds few, can still share a batch.
const popRowsMost = 10

// A sweep counts as so many rows, and one more for each so many partitions: a step of
// sweeps of many groups is a fraction of a second, and not as long as a server's that hangs.
const (
	sweepRowsLeast = 10
	sweptEachRow   = 16
)

// Rows is how much work the op is, for bounds on batches: its messages or acks, those that
// it asks for, partitions that it looks at; at least 1.
func (op *Op) Rows() int {
	switch {
	case op.Verb == Pop:
		return max(min(op.Pop.Batch, popRowsMost), 1)
	case op.Verb == Watch && op.Watch.Kind == WatchSweep:
		return sweepRowsLeast + op.Watch.Partitions/sweptEachRow
	}
	return max(len(op.Items)+len(op.Acks), 1)
}

// Wrap makes c the one who hears of the end, as a store does that stands around another;
// Unwrap gives the op back to the one before.
func (op *Op) Wrap(c Completer) {
	if op.wraps == len(op.outer) {
		panic("BUG: an op is wrapped by more stores than there are")
	}
	op.outer[op.wraps] = op.Done
	op.wraps++
	op.Done = c
}

// Unwrap undoes Wrap.
func (op *Op) Unwrap() {
	op.wraps--
	op.Done, op.outer[op.wraps] = op.outer[op.wraps], nil
}

// Again makes a pop that is done ready for another attempt.
func (op *Op) Again() {
	op.Fault, op.tries = Fault{}, 0
	op.Freed = op.Freed[:0]
	op.Pop.Again()
}

// Freed is a partition that a group may find messages in now: its lease there ended, or
// its cursor moved.
type Freed struct {
	Queue     string
	Group     string
	Partition UUID
	Drained   bool // nothing was behind its cursor when that was read
}

// Changed is a partition that got messages.
type Changed struct {
	Queue     string
	Partition UUID
}

// An op that grew beyond these gives its memory back at Reset, so that the pool of
// ops holds what is usual and not what was once asked for.
const (
	opBodyKeptMax  = 256 << 10
	opItemsKeptMax = 1024
)

// Reset makes op ready for another request. It keeps its memory, unless a very large request
// made it grow, or a large one long ago: then spare is true, and whoever keeps memory beside
// the op is to let go of it too.
func (op *Op) Reset() (spare bool) {
	if spare = op.isSpare(); spare {
		op.Items, op.body, op.made, op.sealed = nil, nil, nil, nil
	}
	op.clear()
	op.Accepted, op.Decoded, op.Sent, op.Answered, op.Deadline = 0, 0, 0, 0, 0
	op.Verb, op.Done, op.outer, op.wraps = Push, nil, [2]Completer{}, 0
	if cap(op.Items) > opItemsKeptMax {
		op.Items = nil
	}
	if cap(op.Acks) > opItemsKeptMax {
		op.Acks, op.Freed, op.Steps = nil, nil, nil
	}
	for _, b := range []*[]byte{&op.body, &op.made, &op.sealed, &op.Pop.answer} {
		if cap(*b) > opBodyKeptMax {
			*b = nil
		}
	}
	return spare
}

// isSpare says that the memory for a push was much more than was needed for a while.
func (op *Op) isSpare() bool {
	return op.thrift.isSpare(
		len(op.body)+len(op.made)+len(op.sealed)+len(op.Items)*itemBytes,
		cap(op.body)+cap(op.made)+cap(op.sealed)+cap(op.Items)*itemBytes)
}

// clear forgets the request, not its times and its owner.
func (op *Op) clear() {
	op.Items, op.body, op.made, op.sealed = op.Items[:0], op.body[:0], op.made[:0], op.sealed[:0]
	op.Fault, op.Cost, op.tries = Fault{}, 0, 0
	if op.Verb == Push {
		return // what follows is large, and other verbs' alone
	}
	clear(op.Freed)
	op.Acks, op.Steps, op.Freed = op.Acks[:0], op.Steps[:0], op.Freed[:0]
	op.Pop.reset()
	op.Lease, op.Watch = LeaseRequest{}, WatchRequest{}
}

// SetProducer stamps every item with who pushed it: the token's sub. sub must stay
// as it is until the op is done.
func (op *Op) SetProducer(sub []byte) {
	for i := range op.Items {
		op.Items[i].ProducerSub = sub
	}
}
