package queue

import "time"

// Statement is one statement to be sent. Its params are in PostgreSQL's binary
// format, nil is NULL; results are asked for in binary. Params belong to the batch
// and stay as they are until Step or Reset is called.
type Statement struct {
	Name    string   // a key of schema.Statement
	Params  [][]byte // $1, $2, …
	Unnamed bool     // parse (and so plan) anew, do not use a prepared one
}

// Action is what the store does next.
type Action uint8

const (
	Continue Action = iota // call Step again at once (it returns nil when all is decided)
	Wait                   // call Step again after Verdict.After; the connection is fine, and free meanwhile
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
//		or, when it is lost before: nothing, and Step again
//	}
//	for _, op := range b.Ops() { complete op }
//
// What is decided is always the next step only, from what the ops' items say; there
// is no other memory of how far things are, so that a step may be lost, repeated or
// rolled back at any time. The ops are worked in groups: at first all of them are
// one, in one transaction. A group whose data PostgreSQL refuses is halved until the
// guilty request is alone, the halves being worked one after the other, in order.
//
// For one group, a step is one of these (push_batch.go):
//
//	resolve ─→ analyze ─→ winners ─→ push ─→ decided
//	   ↑                     ↑         │ 23505: somebody was there first; ask who
//	   │                     └─────────┤
//	   └───────────────────────────────┘ a partition is gone, or its queue's encryption was switched
//
// When a lock was waited for in vain held comes before the next push (held.go). resolve is left out while all partitions are known, winners unless duplicates are to be
// expected, and analyze unless many partitions were made.
//
// Not for several goroutines at once.
type Batch struct {
	roll
	c *Config
	h *Hints

	groups []group // what is left to do; the last one is worked

	kind   stepKind      // of the step that Step returned last
	now    time.Duration // of Step
	gather gathering
	stmts  []Statement
	params [][]byte
	buf    [][]byte // the params' memory
	lost   bool     // the last step found its statements lost
	count  bool     // a large push tells the numbers of its heads (early.go)
}

// group is a run of entries that are worked in one transaction.
type group struct {
	lo, hi   int  // entries[lo:hi]
	winners  bool // ask for winners before the next push
	collided bool // because PostgreSQL reported a duplicate
	met      bool // a winner was found
	waited   bool // for a lock, in vain
	asked    bool // and it is known who is held
	stale    int  // so often a partition was gone
	vain     int  // so often a duplicate was reported and then not found
}

type stepKind uint8

const (
	noStep stepKind = iota
	resolveStep
	analyzeStep
	heldStep
	winnersStep
	pushStep
	earlyStep
)

// Bounds of a batch's patience. What goes on longer is answered Unavailable.
const (
	staleMax = 1 // resolve again so often when a partition is gone
	vainMax  = 3 // look again so often for a duplicate that is not there
)

// pushDoubt is what a push hears that may be stored. How it may be pushed again without being
// stored twice belongs to it.
const pushDoubt = "the messages may have been stored: push them again with the same transactionId"

// NewBatch returns an empty batch, to be used again and again.
func NewBatch(c *Config, h *Hints) *Batch {
	return &Batch{roll: newRoll(pushDoubt), c: c, h: h}
}

// Reset makes the batch empty; it forgets its ops and keeps its buffers, unless a
// large batch made them grow.
func (b *Batch) Reset() {
	b.roll.reset()
	b.groups, b.kind, b.lost, b.count = b.groups[:0], noStep, false, false
	b.gather.reset()
	b.shrink()
}

// Add takes an op into the batch; only before the first Step.
func (b *Batch) Add(op *Op) {
	b.add(op)
	if len(b.groups) == 0 {
		b.groups = append(b.groups, group{winners: b.h.storm > 0})
	}
	b.groups[0].hi++
	for i := range op.Items {
		op.Items[i].at = nil // another batch's, if the op was in one
	}
}

// Step returns the statements to send now, under one Sync; nil: every op is decided,
// its results are in its items or in its Fault. Calling it twice without sending is
// harmless.
func (b *Batch) Step(now time.Duration) []Statement {
	b.start(now)
	for len(b.groups) > 0 {
		g := &b.groups[len(b.groups)-1]
		b.collect(g)
		switch {
		case len(b.gather.unknown) > 0:
			b.kind = resolveStep
			return b.resolve()
		case len(b.gather.rows) == 0:
			b.endGroup()
			continue
		case b.h.made >= b.h.analyzeAt:
			b.kind = analyzeStep
			return b.analyze()
		case b.suspects(g):
			b.kind = heldStep
			return b.held()
		case g.winners:
			b.kind = winnersStep
			return b.winners()
		default:
			b.kind = pushStep
			return b.push(b.c.locksFirst() || b.h.lockFirst > 0)
		}
	}
	b.kind = noStep
	return nil
}

// start is what each step begins with.
func (b *Batch) start(now time.Duration) {
	if !b.begun {
		b.begun = true
		b.h.trim()
	}
	b.now = now
}

// Row takes one DataRow of statement #stmt of this step. values are valid during the
// call only; nil is NULL.
func (b *Batch) Row(stmt int, values [][]byte) {
	switch {
	case b.kind == resolveStep && stmt == resolveIDs:
		b.resolveRow(values)
	case b.kind == heldStep:
		b.heldRow(values)
	case b.kind == winnersStep:
		b.winnersRow(values)
	case b.kind == pushStep && stmt == b.gather.counts && stmt > 0:
		b.countsRow(values)
	}
}

// Tag takes the row count of statement #stmt's CommandComplete.
func (b *Batch) Tag(stmt int, rows int64) {
	switch {
	case (b.kind == pushStep || b.kind == earlyStep) && stmt == b.gather.insert:
		b.gather.stored = rows
	case b.kind == resolveStep && stmt == resolveHeads:
		b.gather.made = rows
	}
}

// StepDone says that the Sync was answered: err nil: the step is committed; else it
// is rolled back for sure, err being its first error.
func (b *Batch) StepDone(err *SQLError, now time.Duration) Verdict {
	if b.kind == noStep || len(b.groups) == 0 {
		panic("BUG: a step is done that was not begun")
	}
	kind, g := b.kind, &b.groups[len(b.groups)-1]
	b.kind = noStep
	if err == nil {
		b.lost = false
		switch kind {
		case resolveStep:
			b.resolved(g)
		case heldStep:
			if after := b.heldFound(g, now); after > 0 {
				return Verdict{Action: Wait, After: after}
			}
		case winnersStep:
			b.winnersFound(g)
		case pushStep:
			b.pushed(g)
		}
		return Verdict{}
	}

	class := Classify(err.Code)
	if kind == analyzeStep && class != ClassAway && class != ClassSetup && class != ClassLost {
		return Verdict{Class: class} // it was only to be quicker
	}
	// Only a partition that is gone leaves NULL where a push may not have it, and only
	// messages can hold a duplicate of one.
	if kind == pushStep && err.Code == "23502" {
		class = ClassStale
	}
	if class == ClassDuplicate && (kind != pushStep || err.Table != "messages") {
		class = ClassRetry
	}
	v := Verdict{Class: class}
	switch class {
	case ClassDuplicate:
		g.winners, g.collided = true, true
		b.h.storm = stormBatches
	case ClassStale:
		b.stale(g)
	case ClassData:
		if !b.halve(g) {
			b.refuse(g, err.Message)
		}
	case ClassRetry, ClassUnknown:
		if class == ClassUnknown && kind == pushStep {
			b.maybeStored(g)
		}
		if kind == pushStep {
			b.h.blocked(err.Code)
			if err.Code == lockNotAvailable {
				g.waited, g.asked = true, false
			}
		}
		if v.After = b.retry(g.lo, g.hi, now, "PostgreSQL could not store the messages", err); v.After > 0 {
			v.Action = Wait
		}
	case ClassLost:
		if v.Action = Prepare; b.lost {
			v.Action = Away // it did not help
		}
		b.lost = !b.lost
	default: // ClassAway, ClassSetup, and an error that says it is none
		v.Action = Away
	}
	return v
}

// Unknown says that the step was sent, at least in part, and its answer will never
// come: it may be committed, now or later, or not. Step then returns it again, with
// the same ids, for another connection: what the first try has stored is found by its
// id and answered `queued`.
func (b *Batch) Unknown() {
	if b.kind == pushStep && len(b.groups) > 0 {
		b.maybeStored(&b.groups[len(b.groups)-1])
	}
	b.kind = noStep
}

// maybeStored: a push of the group was sent, and nobody knows what became of it.
func (b *Batch) maybeStored(g *group) {
	b.unknown = true
	g.winners = true
	b.uncount()
	for i := g.lo; i < g.hi; i++ {
		b.entries[i].maybe = true
	}
}

// Expire decides the ops whose Deadline has passed (Deadline ≤ now, 0: none): Fault
// Unavailable. It returns them and the batch forgets them, also when a step is in
// flight: the caller completes them now. Valid until the next call of any method.
func (b *Batch) Expire(now time.Duration) []*Op {
	return b.expire(now, "PostgreSQL did not answer in time; "+pushDoubt)
}

// Fail decides every op that is not decided yet with f, as a store does that gives
// up. Step then returns nil.
func (b *Batch) Fail(f Fault) {
	for i := range b.entries {
		b.decide(i, f)
	}
	b.groups = b.groups[:0]
	b.kind = noStep
}

// endGroup ends the group that has nothing more to do.
func (b *Batch) endGroup() {
	g := b.groups[len(b.groups)-1]
	b.decideAll(&g, Fault{})
	if !g.met && b.h.storm > 0 {
		b.h.storm--
	}
	b.h.lockFirst = max(0, b.h.lockFirst-1)
	b.groups = b.groups[:len(b.groups)-1]
}

// halve sets a group aside that cannot go on as it is, and puts its halves in its
// place, the first to be worked first. false: it is a single request.
func (b *Batch) halve(g *group) bool {
	open := 0
	for i := g.lo; i < g.hi; i++ {
		if !b.entries[i].decided {
			open++
		}
	}
	if open < 2 {
		return false
	}
	half, i := open/2, g.lo
	for ; half > 0; i++ {
		if !b.entries[i].decided {
			half--
		}
	}
	winners := b.h.storm > 0
	left := group{lo: g.lo, hi: i, winners: winners}
	right := group{lo: i, hi: g.hi, winners: winners}
	b.groups = append(b.groups[:len(b.groups)-1], right, left)
	return true
}

// decideAll ends what is left of a group.
func (b *Batch) decideAll(g *group, f Fault) {
	for i := g.lo; i < g.hi; i++ {
		b.decide(i, f)
	}
}

// giveUp ends what is left of a group, for a reason that may pass.
func (b *Batch) giveUp(g *group, why, advice string) {
	for i := g.lo; i < g.hi; i++ {
		b.unavailable(i, why, advice)
	}
}

// refuse ends a request that PostgreSQL refuses: it says so in each of its items.
func (b *Batch) refuse(g *group, why string) {
	for i := g.lo; i < g.hi; i++ {
		e := &b.entries[i]
		switch {
		case e.decided:
		case e.maybe:
			// What PostgreSQL refuses now it may have taken before, or may yet take: the guilty
			// item was perhaps not sent then, as the duplicate of another request's that is
			// gone since. `failed` would say that nothing is stored.
			b.decide(i, Fault{Unavailable, "the messages may have been stored; push them again with the same transactionId (" + why + ")"})
		default:
			for j := range e.op.Items {
				if it := &e.op.Items[j]; it.Status == Pending {
					it.Status, it.Error = Failed, why
				}
			}
		}
	}
}

// stale: a partition of the group is gone, or an encryption flag was switched.
func (b *Batch) stale(g *group) {
	for i := range b.gather.rows {
		b.gather.rows[i].at.known = false
	}
	for i := range b.gather.dups {
		b.gather.dups[i].at.known = false
	}
	if g.stale++; g.stale > staleMax && !b.halve(g) {
		b.giveUp(g, "the queue was deleted or changed while the messages were pushed", "push them again")
	}
}
