package queue

import "time"

// Statement is one statement to be sent. Its params are in PostgreSQL's binary
// format, nil is NULL; results are asked for in binary. Params belong to the batch
// and stay as they are until StepDone, Unknown, Fail or Reset is called.
type Statement struct {
	Name    string   // a key of schema.Statement
	Params  [][]byte // $1, $2, …
	Unnamed bool     // parse (and so plan) anew, do not use a prepared one
}

// Action is what the store does next.
type Action uint8

const (
	Continue Action = iota // call Step again at once (it returns nil when all is decided)
	Wait                   // call Step again after Verdict.After; the connection is fine and free meanwhile
	Prepare                // forget this connection's prepared statements, then call Step again
	Away                   // the database is away, full, read-only or set up wrong: the step had no effect; call Step again on a good connection, or Fail
)

// Verdict is what the batch makes of a step's end.
type Verdict struct {
	Action Action
	After  time.Duration // with Wait
	Class  Class         // of the error, ClassNone without one
}

// Batch is the conversation of some ops with PostgreSQL. It is pure: a store drives
// it and does the talking:
//
//	b.Add(op) …
//	for stmts := b.Step(now); stmts != nil; stmts = b.Step(now) {
//		send all stmts and ONE Sync: they are one implicit transaction
//		for each DataRow: b.Row(i, values); for each CommandComplete: b.Tag(i, n)
//		on ReadyForQuery: verdict = b.StepDone(err, now) …
//		or, when the connection is lost after sending began: b.Unknown()
//	}
//	for _, op := range b.Ops() { complete op }
//
// Not for several goroutines at once.
type Batch struct{}

// NewBatch returns an empty batch that is used again and again.
func NewBatch(c *Config, h *Hints) *Batch { panic("TODO") }

// Reset makes the batch empty; it forgets its ops and keeps its buffers.
func (b *Batch) Reset() { panic("TODO") }

// Add takes an op into the batch; only before the first Step. An op without items
// needs no store and must not be added.
func (b *Batch) Add(op *Op) { panic("TODO") }

// Ops returns the ops of the batch in the order they were added, without those that
// Expire or Decided have given back. Valid until the next call of any method.
func (b *Batch) Ops() []*Op { panic("TODO") }

// Rows and Bytes are the sums over the ops added: items, and costs.
func (b *Batch) Rows() int { panic("TODO") }

// Bytes is described at Rows.
func (b *Batch) Bytes() int { panic("TODO") }

// Step returns the statements to send now, under one Sync; nil: every op is decided,
// its results are in its items or in its Fault.
func (b *Batch) Step(now time.Duration) []Statement { panic("TODO") }

// Row takes one DataRow of statement #stmt of this step. values are valid during the
// call only; nil is NULL.
func (b *Batch) Row(stmt int, values [][]byte) { panic("TODO") }

// Tag takes the row count of statement #stmt's CommandComplete.
func (b *Batch) Tag(stmt int, rows int64) { panic("TODO") }

// StepDone says that the Sync was answered: err nil: the step is committed; else it
// is rolled back for sure, err being its first error.
func (b *Batch) StepDone(err *SQLError, now time.Duration) Verdict { panic("TODO") }

// Unknown says that the step was sent, at least in part, and its answer will never
// come: it may be committed, now or later, or not. Step then returns it again, with
// the same ids, for another connection: what the first try has stored is found by its
// id and answered `queued`.
func (b *Batch) Unknown() { panic("TODO") }

// Expire decides the ops whose Deadline has passed (Deadline ≤ now, 0: none): Fault
// Unavailable. It returns them and the batch forgets them, also when a step is in
// flight: the caller completes them now.
func (b *Batch) Expire(now time.Duration) []*Op { panic("TODO") }

// Decided returns the ops that are decided and not yet given back, and the batch
// forgets them: so that a request need not wait for others when a batch was split.
// Optional: what is not taken here is in Ops at the end.
func (b *Batch) Decided() []*Op { panic("TODO") }

// Fail decides every op that is not decided yet with f, as a store does that gives
// up. Step then returns nil.
func (b *Batch) Fail(f Fault) { panic("TODO") }
