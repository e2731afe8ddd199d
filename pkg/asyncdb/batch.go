package asyncdb

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// Batch is the conversation of some ops with PostgreSQL, as a lane sees it. For a push
// it is *queue.Batch, where the contract of each method is written. A lane has three
// and uses them in turn: one is in flight while another is answered, and one may follow it.
type Batch interface {
	rows
	Reset()
	Add(op *queue.Op)
	Ops() []*queue.Op
	Rows() int
	Bytes() int
	Step(now time.Duration) []queue.Statement
	StepDone(err *queue.SQLError, now time.Duration) queue.Verdict
	Unknown()
	Expire(now time.Duration) []*queue.Op
	Decided() []*queue.Op
	Fail(f queue.Fault)
	MayBeStored() bool
}

// gather holds the ops that wait for their lane, in the order they came, and decides
// what is fired together and what is refused at the door.
//
// Fire or hold: while the lane is busy ops gather, and the lane takes them all when
// it is free; on an idle lane they wait for the end of the loop's pass, so that what
// one pass has read goes together. No timer: an op on an idle server is sent in the
// pass that it came in.
//
// It is pure: the time is passed in.
type gather struct {
	limits Limits

	ops   []*queue.Op // ops[head:] wait
	head  int
	rows  int // items of what waits
	bytes int // and their costs

	// mixed: deadlines do not rise in the order of the ops, as they do when every op is
	// given the same time. Then all must be looked at to find those that are due.
	mixed bool

	held      int // ops that were accepted and are not completed: waiting or in a batch
	heldBytes int // and their costs

	// rowsCap is how many rows a batch may have now. It begins at BatchRowsMax, is halved
	// when the server's statement time-out cut a batch (a batch that never ends within the
	// time-out would be tried again for ever), and grows back with full batches that
	// succeed. A slow answer alone does not lower it: behind a long way to the server,
	// smaller batches would only carry less.
	rowsCap int

	// batchTime is the mean time of a batch, from its first statement to its last answer
	// (exponentially weighted). 0: no batch yet.
	batchTime time.Duration
}

// rowsCapMin is the smallest batch that rowsCap falls to.
const rowsCapMin = 16

// refusal is why an op is not taken. The zero refusal takes it.
type refusal string

const (
	accepted       refusal = ""
	refusedBytes   refusal = "too much waits for PostgreSQL already, try again in a second"
	refusedWait    refusal = "PostgreSQL is too slow for what waits already, try again in a second"
	refusedAway    refusal = "PostgreSQL is away, try again in a second"
	refusedUnknown refusal = "PostgreSQL is away; the messages may have been stored: push them again with the same transactionId"
	refusedClosed  refusal = "the server is stopping, try again in a second"
	refusedLate    refusal = "PostgreSQL did not answer in time, try again in a second"
)

func newGather(l Limits) gather { return gather{limits: l, rowsCap: l.BatchRowsMax} }

// admit says whether op may wait, now. busy is how long the batch in flight has been
// there, negative when the lane is free; behind it are so many more.
//
// An op that can go with the next batch of a free lane is always taken, whatever
// batchTime says: or one slow batch would close the door for ever, since only batches
// teach batchTime better.
func (g *gather) admit(op *queue.Op, now, busy time.Duration, behind int) refusal {
	if g.held > 0 && g.heldBytes+op.Cost > g.limits.BacklogBytesMax {
		return refusedBytes
	}
	ahead := g.batches(op)
	if busy < 0 && ahead == 1 || op.Deadline == 0 {
		return accepted
	}
	wait := time.Duration(ahead+behind) * g.batchTime
	switch {
	case busy < 0:
	case busy < g.batchTime:
		wait += g.batchTime - busy
	default:
		wait += busy // overdue: it may take as long again
	}
	if wait > op.Deadline-now {
		return refusedWait
	}
	return accepted
}

// batches is how many batches it takes until op, which would wait last, is stored.
func (g *gather) batches(op *queue.Op) int {
	rows, bytes := g.rows+op.Rows(), g.bytes+op.Cost
	if rows <= g.rowsCap && bytes <= g.limits.BatchBytesMax || g.waiting() == 0 {
		return 1 // which is alone, whatever its size, if nothing waits
	}
	return max(ceil(rows, g.rowsCap), ceil(bytes, g.limits.BatchBytesMax))
}

func ceil(n, unit int) int { return (n + unit - 1) / unit }

// waiting is how many ops wait.
func (g *gather) waiting() int { return len(g.ops) - g.head }

// push lets op wait.
func (g *gather) push(op *queue.Op) {
	n := g.waiting()
	if n == 0 {
		g.ops, g.head, g.mixed = g.ops[:0], 0, false
	} else if last := g.ops[len(g.ops)-1]; op.Deadline != 0 && (last.Deadline == 0 || op.Deadline < last.Deadline) {
		g.mixed = true // 0 is none, and so the latest
	}
	if len(g.ops) == cap(g.ops) && g.head >= n {
		copy(g.ops, g.ops[g.head:])
		clear(g.ops[n:])
		g.ops, g.head = g.ops[:n], 0
	}
	g.ops = append(g.ops, op)
	g.rows += op.Rows()
	g.bytes += op.Cost
	g.held++
	g.heldBytes += op.Cost
}

// pop takes out the op that has waited longest. One must wait.
func (g *gather) pop() *queue.Op {
	op := g.ops[g.head]
	g.ops[g.head] = nil
	g.head++
	g.rows -= op.Rows()
	g.bytes -= op.Cost
	return op
}

// fill moves waiting ops into an empty batch, as many as one batch may have: at least
// one, if one waits. One that is larger than a batch goes alone.
func (g *gather) fill(b Batch, now time.Duration) {
	for g.waiting() > 0 {
		op := g.ops[g.head]
		if n := b.Rows(); n > 0 && (n+op.Rows() > g.rowsCap || b.Bytes()+op.Cost > g.limits.BatchBytesMax) {
			return
		}
		op.Sent = now
		b.Add(g.pop())
	}
}

// expire takes out the ops whose deadline has come and appends them to late.
func (g *gather) expire(now time.Duration, late []*queue.Op) []*queue.Op {
	for n := g.waiting(); n > 0; n-- {
		switch op := g.ops[g.head]; {
		case op.Deadline != 0 && op.Deadline <= now:
			late = append(late, g.pop())
		case g.mixed: // to the end; when all have been there, their order is as before
			g.held--
			g.heldBytes -= op.Cost
			g.push(g.pop())
		default:
			return late
		}
	}
	return late
}

// soonest is the first deadline of all that wait; 0: there is none.
func (g *gather) soonest() time.Duration {
	wait := g.ops[g.head:]
	if !g.mixed {
		wait = wait[:min(1, len(wait))]
	}
	return earlier(0, wait)
}

// earlier is the first of a deadline and those of ops; 0 is none.
func earlier(first time.Duration, ops []*queue.Op) time.Duration {
	for _, op := range ops {
		if op.Deadline != 0 && (first == 0 || op.Deadline < first) {
			first = op.Deadline
		}
	}
	return first
}

// done forgets an op that is about to be completed.
func (g *gather) done(op *queue.Op) {
	g.held--
	g.heldBytes -= op.Cost
	if g.held < 0 || g.heldBytes < 0 {
		panic("BUG: an op was completed that was not held")
	}
}

// learn hears that a batch of so many rows took so long and was decided.
func (g *gather) learn(took time.Duration, rows int) {
	if g.batchTime == 0 {
		g.batchTime = took
	} else {
		g.batchTime += (took - g.batchTime) / 4
	}
	if rows >= g.rowsCap {
		g.rowsCap = min(g.rowsCap+max(g.rowsCap/4, 1), g.limits.BatchRowsMax)
	}
}

// cut hears that the server's statement time-out ended a batch of so many rows.
func (g *gather) cut(rows int) {
	g.rowsCap = max(min(rows, g.rowsCap)/2, min(rowsCapMin, g.limits.BatchRowsMax))
}
