package queue

import (
	"slices"
	"time"
)

// TransactionBatch is the conversation of transactions with PostgreSQL; its methods are
// those of Batch, where the contract is written. Its ops are worked one after the other,
// each in a transaction of its own.
//
//	settle ─→ read ─→ resolve ─→ commit ─→ decided
//	            ↑                  │ some row is not what was read, a partition is gone
//	            └──────────────────┘
//
// An op that fails by its acks or by what it is has made no partition by then. settle is
// for an op whose commit was sent and whose answer was lost: a message with one of its ids
// says that it was done; without messages, rows that are all as they were to be. One of them
// may be so by somebody else's doing: then the rest is worked out again, and what was passed
// is taken to be done.
//
// Pushes are those of Batch, but that a duplicate fails the whole; acks are worked out as
// in AckBatch by other rules (cursor.transact), and their rows are compared as strictly:
// one that is not what was read fails the whole.
//
// Not for several goroutines at once.
type TransactionBatch struct {
	roll
	push *Batch  // the pushes of the op at work, which is its only one
	work ackWork // and its acks

	at      int  // the entry at work; len(entries): none
	fresh   bool // nothing is known of it yet
	judged  bool // its acks were read and worked out
	ask     bool // whether its messages are there already
	rounds  int
	lost    bool
	kind    transactionStep
	byIndex []int32 // refs by their ack's index
	stmts   []Statement
	pushing bool // the commit in flight has pushes
	doubted bool // work.doubt is of the op at work
}

type transactionStep uint8

const (
	noTransactionStep transactionStep = iota
	askStep
	ackStateStep
	placesStep
	countStep
	commitStep
)

const (
	transactionDoubt   = "the transaction may have been done"
	transactionExpired = "PostgreSQL did not answer in time; " + transactionDoubt
)

// NewTransactionBatch returns an empty batch, to be used again and again. h is the loop's.
func NewTransactionBatch(c *Config, h *Hints) *TransactionBatch {
	push := NewBatch(c, h)
	push.doubt = transactionDoubt
	return &TransactionBatch{roll: newRoll(transactionDoubt), push: push}
}

// Reset makes the batch empty; it forgets its ops and keeps its buffers, unless a large
// batch made them grow.
func (b *TransactionBatch) Reset() {
	b.roll.reset()
	b.push.Reset()
	b.work.reset()
	clear(b.stmts)
	*b = TransactionBatch{roll: b.roll, push: b.push, work: b.work, byIndex: b.byIndex, stmts: b.stmts[:0]}
}

// Add takes an op into the batch; only before the first Step.
func (b *TransactionBatch) Add(op *Op) {
	b.add(op)
	b.fresh = true
	for i := range op.Items {
		it := &op.Items[i]
		it.Status, it.PartitionID, it.WinnerID, it.Error = Pending, UUID{}, UUID{}, ""
	}
	clear(op.Freed)
	op.Freed = op.Freed[:0]
}

// Step returns the statements to send now, under one Sync; nil: every op is decided.
func (b *TransactionBatch) Step(now time.Duration) []Statement {
	b.begun = true
	for {
		for b.at < len(b.entries) && b.entries[b.at].decided {
			b.at++
			b.fresh = true
		}
		if b.at == len(b.entries) {
			b.kind = noTransactionStep
			return nil
		}
		if b.fresh {
			b.start()
		}
		if s := b.next(); s != nil {
			return s
		}
	}
}

// start begins with the next op.
func (b *TransactionBatch) start() {
	b.fresh, b.judged, b.ask, b.doubted, b.rounds = false, false, false, false, 0
	b.work.doubt = b.work.doubt[:0]
	b.push.Reset()
	b.push.h.trim()
	b.push.Add(b.entries[b.at].op)
}

// next is the op's next step; nil: it is decided, or has become closer to it.
func (b *TransactionBatch) next() []Statement {
	op := b.entries[b.at].op
	p := b.push
	g := &p.groups[0]
	if b.ask {
		// What was sent knew where its partitions are.
		if p.collect(g); len(p.gather.unknown) == 0 && len(p.gather.rows) > 0 {
			b.kind = askStep
			return p.winners()
		}
		if len(p.gather.unknown) > 0 {
			b.kind = placesStep
			return p.resolve()
		}
		b.ask = false
	}
	if !b.judged {
		if b.collect(op); len(b.work.refs) > 0 {
			b.kind = ackStateStep
			return b.work.read()
		}
		b.judge()
		return nil
	}
	p.collect(g)
	switch {
	case p.entries[0].decided:
		b.decide(b.at, op.Fault)
		return nil
	case len(p.gather.unknown) > 0:
		b.kind = placesStep
		return p.resolve()
	case p.h.made >= p.h.analyzeAt:
		b.kind = countStep
		return p.analyze()
	case len(p.gather.dups) > 0:
		b.duplicate(&op.Items[p.gather.dups[0].item], "two messages of the transaction have")
		return nil
	}
	return b.commit(op)
}

// collect finds the acks whose partition can be one.
func (b *TransactionBatch) collect(op *Op) {
	w := &b.work
	w.begin()
	for j := range op.Acks {
		if a := &op.Acks[j]; a.IsPartition {
			w.refs = append(w.refs, ackRef{entry: int32(b.at), item: int32(j), ack: a})
		}
	}
	w.sort()
	b.byIndex = slices.Grow(b.byIndex[:0], len(op.Acks))[:len(op.Acks)]
	for i := range w.refs {
		b.byIndex[w.refs[i].item] = int32(i)
	}
}

// judge works out the operations, in order, until one fails.
func (b *TransactionBatch) judge() {
	e := &b.entries[b.at]
	op, w := e.op, &b.work
	b.judged = true
	settled := 0
	for i := range w.chains {
		c := &w.chains[i]
		if b.doubted && len(op.Items) == 0 && w.settled(c) {
			settled++
		}
		c.now, c.effect = c.read, effect{}
	}
	if settled > 0 && settled == len(w.doubt) {
		b.done()
		return
	}
	for k := range op.Steps {
		st := &op.Steps[k]
		st.Error, st.Alone = "", false
		switch {
		case st.Unknown:
			st.Error = "Unknown operation type: " + string(st.Type)
		case st.IsAck:
			a := &op.Acks[st.Index]
			if !a.IsPartition {
				st.Error, st.Alone = `invalid input syntax for type uuid: "`+string(a.PartitionText)+`"`, true
				break
			}
			r := &w.refs[b.byIndex[st.Index]]
			c := &w.chains[r.chain]
			r.found = r.found && c.known
			if c.settled {
				break
			}
			if why := c.now.transact(r, &c.read, e.maybe, &c.effect); why != "" {
				st.Error = "ACK operation failed: " + why
			}
			c.strict = c.effect.mustLive
		default:
			if it := &op.Items[st.Index]; b.push.h.known(it) {
				it.PartitionID = it.at.id
			}
		}
		switch {
		case st.Error == "":
			continue
		case e.maybe:
			// The first try found nothing wrong, and may be done, also later.
			b.decide(b.at, Fault{Unavailable, transactionDoubt + " (" + st.Error + ")"})
		default:
			b.decide(b.at, Fault{})
		}
		return
	}
}

// known says whether an item's partition is known, without asking.
func (h *Hints) known(it *Item) bool {
	if it.at == nil {
		it.at = h.get(it.Queue, it.Partition)
	}
	return it.at.known
}

// duplicate ends the op: a message's transaction id is taken.
func (b *TransactionBatch) duplicate(it *Item, who string) {
	b.failWhole("duplicate transactionId: " + who + ` "` + string(it.TransactionID) + `" in queue "` + string(it.Queue) + `", partition "` + string(it.Partition) + `"`)
}

// failWhole ends the op with an error that is not one operation's.
func (b *TransactionBatch) failWhole(why string) {
	op := b.entries[b.at].op
	op.Steps[0].Error, op.Steps[0].Alone = why, true
	b.decide(b.at, Fault{})
}

// commit makes the statements that do it all; none if there is nothing to do.
func (b *TransactionBatch) commit(op *Op) []Statement {
	p, w := b.push, &b.work
	b.stmts = b.stmts[:0]
	b.pushing = len(p.gather.rows) > 0
	if b.pushing {
		b.stmts = append(b.stmts, p.push(true)...)
	}
	if dead := w.changesParams(); len(w.writes) > 0 || dead > 0 {
		b.stmts = append(b.stmts, w.transact(dead)...)
	}
	if len(b.stmts) == 0 {
		b.done()
		return nil
	}
	b.kind = commitStep
	return b.stmts
}

// transact makes the statements that write what was worked out, all of it or nothing.
func (w *ackWork) transact(dead int) []Statement {
	w.statement("pop_plan", false)
	n := 0
	for _, i := range w.writes {
		if !w.chains[i].read.there {
			n++
		}
	}
	if n > 0 {
		for len(w.buf) < deadParams+2 {
			w.buf = append(w.buf, nil)
		}
		parts, groups := array(w.buf[deadParams][:0], oidUUID, n, false), array(w.buf[deadParams+1][:0], oidText, n, false)
		for _, i := range w.writes {
			if c := &w.chains[i]; !c.read.there {
				parts, groups = uuidElement(parts, &c.id), element(groups, c.group)
			}
		}
		w.buf[deadParams], w.buf[deadParams+1] = parts, groups
		w.statement("transaction_groups", true, deadParams, deadParams+1)
	}
	if dead == 0 {
		w.statement("transaction_write", false, firstNumbers[:writeParams]...)
	} else {
		w.statement("transaction_write_dead", true, firstNumbers[:deadParams]...)
	}
	return w.stmts
}

// PreparedTransaction are the statements of a TransactionBatch that are worth preparing on
// a connection.
func (c *Config) PreparedTransaction() []string {
	all := []string{"push_lock", c.insert(), "pop_plan", "ack_groups", "transaction_write"}
	if !c.locksFirst() {
		all = append(all, "push_plan")
	}
	return all
}

// Row takes one DataRow of statement #stmt of this step.
func (b *TransactionBatch) Row(stmt int, values [][]byte) {
	if b.gone() {
		return
	}
	switch b.kind {
	case ackStateStep:
		b.work.row(stmt, values)
	case placesStep:
		if stmt == resolveIDs {
			b.push.resolveRow(values)
		}
	case askStep:
		b.push.winnersRow(values)
	}
}

// Tag takes the row count of statement #stmt's CommandComplete.
func (b *TransactionBatch) Tag(stmt int, rows int64) {
	switch {
	case b.kind == commitStep && b.pushing && stmt == b.push.gather.insert:
		b.push.gather.stored = rows
	case b.kind == placesStep && stmt == resolveHeads:
		b.push.gather.made = rows
	}
}

// gone says whether the op at work was given back.
func (b *TransactionBatch) gone() bool { return b.at >= len(b.entries) || b.entries[b.at].decided }

// StepDone says that the Sync was answered: err nil: the step is committed; else it is
// rolled back for sure.
func (b *TransactionBatch) StepDone(err *SQLError, now time.Duration) Verdict {
	if b.kind == noTransactionStep {
		panic("BUG: a step is done that was not begun")
	}
	kind := b.kind
	b.kind = noTransactionStep
	v := Verdict{}
	if err != nil {
		v.Class = Classify(err.Code)
	}
	switch {
	case err == nil:
		b.lost = false
		if !b.gone() {
			b.went(kind)
		}
		return v
	case v.Class == ClassLost:
		if v.Action = Prepare; b.lost {
			v.Action = Away // it did not help
		}
		b.lost = !b.lost
		return v
	case v.Class == ClassAway || v.Class == ClassSetup || v.Class == ClassNone:
		v.Action = Away
		return v
	case b.gone() || kind == countStep:
		return v
	}
	g := &b.push.groups[0]
	switch {
	case kind == commitStep && err.Code == divisionByZero:
		b.again()
	case v.Class == ClassDuplicate && kind == commitStep && err.Table == "messages":
		b.ask, g.collided = true, true
	case v.Class == ClassStale || kind == commitStep && err.Code == "23502":
		// The partition of a message or of a group's row is gone.
		v.Class = ClassStale
		if b.pushing {
			b.push.stale(g)
		}
		b.again()
	case v.Class == ClassData && b.entries[b.at].maybe:
		b.decide(b.at, Fault{Unavailable, transactionDoubt + " (" + err.Message + ")"})
	case v.Class == ClassData:
		b.failWhole(err.Message)
	default: // ClassRetry, ClassUnknown, or a duplicate of something else
		if v.Class == ClassUnknown {
			b.inDoubt(kind)
		}
		if kind == commitStep && b.pushing {
			b.push.h.blocked(err.Code)
		}
		b.judged = false
		if v.After = b.retry(b.at, b.at+1, now, "PostgreSQL could not do the transaction", err); v.After > 0 {
			v.Action = Wait
		}
	}
	b.follow()
	return v
}

// divisionByZero is how transaction_write says that a row is not what was read.
const divisionByZero = "22012"

// went: the step is committed.
func (b *TransactionBatch) went(kind transactionStep) {
	p := b.push
	g := &p.groups[0]
	switch kind {
	case ackStateStep:
		b.judge()
	case placesStep:
		p.resolved(g)
		b.follow()
	case askStep:
		b.asked(g)
	case commitStep:
		if b.pushing {
			p.pushed(g)
			if b.follow(); b.gone() {
				return
			}
		}
		b.done()
	}
}

// asked: it is known whose the transaction ids of the messages are.
func (b *TransactionBatch) asked(g *group) {
	op := b.entries[b.at].op
	b.ask, b.judged = false, false
	b.push.winnersFound(g)
	for i := range op.Items {
		if op.Items[i].Status == Queued { // our own earlier try was committed, as a whole
			b.done()
			return
		}
	}
	for i := range op.Items {
		if it := &op.Items[i]; it.Status == Duplicate {
			b.duplicate(it, "a message already has")
			return
		}
	}
	b.follow()
}

// follow ends the op if its pushes ended with a fault.
func (b *TransactionBatch) follow() {
	if b.gone() {
		return
	}
	if e := &b.push.entries[0]; e.decided {
		b.decide(b.at, e.op.Fault)
	}
}

// again has the op read anew, not for ever.
func (b *TransactionBatch) again() {
	b.judged = false
	if b.rounds++; b.rounds > ackRoundsMax {
		b.unavailable(b.at, contended, tryAgain)
	}
}

// done: the op at work is committed.
func (b *TransactionBatch) done() {
	op := b.entries[b.at].op
	for i := range op.Items {
		it := &op.Items[i]
		it.Status, it.WinnerID = Queued, it.ID
		if it.PartitionID == (UUID{}) && it.at != nil {
			it.PartitionID = it.at.id
		}
	}
	for i := range b.work.chains {
		if c := &b.work.chains[i]; c.frees() {
			op.Freed = append(op.Freed, c.freed())
		}
	}
	b.decide(b.at, Fault{})
}

// Unknown says that the step was sent, at least in part, and its answer will never come.
func (b *TransactionBatch) Unknown() {
	b.inDoubt(b.kind)
	b.kind = noTransactionStep
}

// inDoubt: a commit was sent, and nobody knows what became of it.
func (b *TransactionBatch) inDoubt(kind transactionStep) {
	if kind != commitStep || b.gone() {
		return
	}
	b.unknown = true
	b.entries[b.at].maybe, b.push.entries[0].maybe = true, true
	b.ask, b.judged, b.doubted = b.pushing, false, true
	b.work.inDoubt()
}

// Expire decides the ops whose Deadline has passed and gives them back, also when a step
// is in flight.
func (b *TransactionBatch) Expire(now time.Duration) []*Op {
	late := b.expire(now, transactionExpired)
	if b.at < len(b.entries) && b.entries[b.at].op == nil {
		b.push.Reset() // it must not touch the op any more
	}
	return late
}

// Fail decides every op that is not decided yet with f.
func (b *TransactionBatch) Fail(f Fault) {
	for i := range b.entries {
		b.decide(i, f)
	}
	b.kind = noTransactionStep
}
