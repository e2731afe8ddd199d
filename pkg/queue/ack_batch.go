package queue

import (
	"bytes"
	"slices"
	"time"
)

// AckBatch is the conversation of acks, lease extensions and releases with PostgreSQL; its
// methods are those of Batch, where the contract is written.
//
// Acks are read, worked out and written: what an ack means is computed here
// (ack_rules.go), and a statement writes the rows that are still what was read, comparing
// and setting. What was not written any more is read again. So no lock is held between
// two statements, and the rules are in one place.
//
//	extend ─→ release ─→ read ─→ write ─→ decided
//	                      ↑        │ somebody was faster at some rows: these again
//	                      └────────┘
//
// A read seeks the messages behind the cursors, where there are many of each: mostly all
// are acknowledged in order. Where they are not, it is done again, by their names.
//
// The requests of a batch that touch one (partition, group) are worked one after the
// other on the row as the one before leaves it: each is a call of its own, and one write
// carries them all.
//
// An answer that was lost is settled by reading: a row that is exactly what was to be
// written was written.
//
// Not for several goroutines at once.
type AckBatch struct {
	roll
	work ackWork

	kind   ackStep // of the step that Step returned last
	ready  bool    // work has statements that write what was read
	rounds int     // so often some row was not what was read
	alone  bool    // PostgreSQL refused what was sent: one request at a time
	lost   bool    // the last step found its statements lost
	leases leaseWork

	searched bool // the messages were not those behind the cursors: they are sought one by one
	rest     int  // so many reads seek them one by one at once
	pause    int  // since so many were in vain lately
}

type ackStep uint8

const (
	noAckStep ackStep = iota
	ackReadStep
	ackWriteStep
	extendStep
	releaseStep
)

// ackRoundsMax is how often a batch begins again because others were faster. Each time
// some other has got further.
const ackRoundsMax = 100

const (
	ackDoubt   = "the acknowledgments may have been taken"
	ackExpired = "PostgreSQL did not answer in time; " + ackDoubt
)

// NewAckBatch returns an empty batch, to be used again and again.
func NewAckBatch() *AckBatch { return &AckBatch{roll: newRoll(ackDoubt)} }

// Reset makes the batch empty; it forgets its ops and keeps its buffers, unless a large
// batch made them grow.
func (b *AckBatch) Reset() {
	b.roll.reset()
	b.work.reset()
	b.leases.reset()
	b.kind, b.ready, b.rounds, b.alone, b.lost, b.searched = noAckStep, false, 0, false, false, false
}

// Add takes an op into the batch; only before the first Step.
func (b *AckBatch) Add(op *Op) {
	b.add(op)
	for i := range op.Acks {
		op.Acks[i].done, op.Acks[i].maybe = false, false
	}
	clear(op.Freed)
	op.Freed = op.Freed[:0]
}

// Step returns the statements to send now, under one Sync; nil: every op is decided.
func (b *AckBatch) Step(now time.Duration) []Statement {
	b.begun = true
	if b.ready {
		b.kind = ackWriteStep
		return b.work.stmts
	}
	if s := b.leases.extend(&b.roll); s != nil {
		b.kind = extendStep
		return s
	}
	if s := b.leases.release(&b.roll); s != nil {
		b.kind = releaseStep
		return s
	}
	b.collect()
	if len(b.work.refs) > 0 {
		b.kind = ackReadStep
		if b.seeksNext() {
			return b.work.readNext()
		}
		return b.work.read()
	}
	b.kind = noAckStep
	return nil
}

// ackNextMin is how many messages of each cursor there must be, on average, for them to be
// sought behind it; and ackPauseMax bounds how many reads do not try after one in vain: as
// many as have been in vain lately, twice as many each time.
const (
	ackNextMin  = 8
	ackPauseMax = 64
)

// seeksNext says whether the messages are likely to be those behind the cursors.
func (b *AckBatch) seeksNext() bool {
	w := &b.work
	if b.searched || b.unknown || b.rounds > 0 || len(w.refs) < ackNextMin*len(w.chains) {
		return false
	}
	if b.rest > 0 {
		b.rest--
		return false
	}
	return !slices.ContainsFunc(w.refs, func(r ackRef) bool { return r.ack.nowhere })
}

// allNext says whether they were.
func (b *AckBatch) allNext() bool {
	w := &b.work
	if !w.next {
		return true
	}
	if slices.ContainsFunc(w.refs, func(r ackRef) bool { return !r.found }) {
		b.pause = min(max(2*b.pause, 1), ackPauseMax)
		b.searched, b.rest = true, b.pause
		return false
	}
	b.pause = 0
	return true
}

// collect finds the acks that are not done, and decides the ops that have none.
func (b *AckBatch) collect() {
	w := &b.work
	w.begin()
	for i := range b.entries {
		e := &b.entries[i]
		if e.decided || e.op.Verb != Ack || b.alone && len(w.refs) > 0 {
			continue
		}
		n := len(w.refs)
		for j := range e.op.Acks {
			a := &e.op.Acks[j]
			switch {
			case a.done:
			case !a.IsPartition:
				a.Success, a.Dead, a.Released, a.Why, a.done = false, false, No, notUUID, true
			default:
				w.refs = append(w.refs, ackRef{entry: int32(i), item: int32(j), ack: a})
			}
		}
		if len(w.refs) == n {
			b.decide(i, Fault{})
		}
	}
	w.sort()
}

// Row takes one DataRow of statement #stmt of this step.
func (b *AckBatch) Row(stmt int, values [][]byte) {
	switch b.kind {
	case ackReadStep:
		b.work.row(stmt, values)
	case ackWriteStep:
		if stmt == planFirst {
			return
		}
		b.work.chains[b.work.writes[int8Column(values[0])-1]].written = true
	case extendStep:
		b.leases.extendRow(stmt, values)
	case releaseStep:
		b.leases.releaseRow(stmt, values)
	}
}

// Tag takes the row count of a statement; none is needed.
func (b *AckBatch) Tag(int, int64) {}

// StepDone says that the Sync was answered: err nil: the step is committed; else it is
// rolled back for sure.
func (b *AckBatch) StepDone(err *SQLError, now time.Duration) Verdict {
	if b.kind == noAckStep {
		panic("BUG: a step is done that was not begun")
	}
	kind := b.kind
	b.kind, b.ready = noAckStep, false
	if err == nil {
		b.lost = false
		switch kind {
		case ackReadStep:
			if b.allNext() {
				b.found()
			}
		case ackWriteStep:
			b.written()
		case extendStep:
			if !b.leases.extended(&b.roll) {
				b.again()
			}
		case releaseStep:
			b.leases.released(&b.roll)
		}
		return Verdict{}
	}
	b.seekByName(kind)
	v := Verdict{Class: Classify(err.Code)}
	switch v.Class {
	case ClassStale: // a partition went while its dead letter was written: its messages are not there any more
		b.again()
	case ClassData:
		if open := b.open(); open > 1 && !b.alone {
			b.alone = true
		} else {
			b.refuse(Fault{Internal, err.Message})
		}
	case ClassRetry, ClassUnknown, ClassDuplicate:
		if v.Class == ClassUnknown {
			b.inDoubt(kind)
		}
		if v.After = b.retry(0, len(b.entries), now, "PostgreSQL could not take the acknowledgments", err); v.After > 0 {
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

// seekByName: a step of that kind has failed. Whatever it was, the next read is not the
// same: it may be that what is behind a cursor takes too long to be passed.
func (b *AckBatch) seekByName(kind ackStep) {
	if kind == ackReadStep && b.work.next {
		b.searched = true
	}
}

// Unknown says that the step was sent, at least in part, and its answer will never come.
func (b *AckBatch) Unknown() {
	b.seekByName(b.kind)
	b.inDoubt(b.kind)
	b.kind, b.ready = noAckStep, false
}

// inDoubt: what the step of this kind asked for may be done. Extending and releasing are
// simply done again.
func (b *AckBatch) inDoubt(kind ackStep) {
	if kind != ackWriteStep {
		return
	}
	b.unknown = true
	w := &b.work
	w.inDoubt()
	for i := range w.refs {
		r := &w.refs[i]
		e := &b.entries[r.entry]
		// What was refused, or changes nothing, was not in the write.
		if r.ack == nil || e.op == nil || e.decided || !r.ack.Success || w.chains[r.chain].written {
			continue
		}
		r.ack.maybe, e.maybe = true, true
	}
}

// Expire decides the ops whose Deadline has passed and gives them back, also when a step
// is in flight.
func (b *AckBatch) Expire(now time.Duration) []*Op { return b.expire(now, ackExpired) }

// Fail decides every op that is not decided yet with f.
func (b *AckBatch) Fail(f Fault) {
	for i := range b.entries {
		b.decide(i, f)
	}
	b.kind, b.ready = noAckStep, false
}

// open is how many ops are not decided.
func (b *AckBatch) open() int {
	n := 0
	for i := range b.entries {
		if !b.entries[i].decided {
			n++
		}
	}
	return n
}

// refuse ends the first request that is at work, which PostgreSQL refuses.
func (b *AckBatch) refuse(f Fault) {
	for i := range b.entries {
		if !b.entries[i].decided {
			b.decide(i, f)
			return
		}
	}
}

const (
	contended = "others change these partitions all the time"
	tryAgain  = "try again in a second"
)

// again counts a round in which some row was not what was read.
func (b *AckBatch) again() {
	if b.rounds++; b.rounds > ackRoundsMax {
		for i := range b.entries {
			b.unavailable(i, contended, tryAgain)
		}
	}
}

// found: the rows were read. Each chain is worked out; what changes nothing is done.
func (b *AckBatch) found() {
	w := &b.work
	w.orderRefs()
	for i := range w.refs {
		r := &w.refs[i]
		if e := &b.entries[r.entry]; e.op == nil || e.decided {
			r.ack = nil
		}
		// The messages of a partition that was deleted are swept later.
		r.found = r.found && w.chains[r.chain].known
	}
	for i := range w.chains {
		c := &w.chains[i]
		if w.settled(c) {
			c.written = true
			continue
		}
		c.now, c.effect = c.read, effect{dead: c.effect.dead[:0]}
		refs := w.refs[c.lo:c.hi]
		for lo := 0; lo < len(refs); {
			hi := lo + 1
			for hi < len(refs) && refs[hi].entry == refs[lo].entry {
				hi++
			}
			c.now.acknowledge(refs[lo:hi], c.retryLimit, b.entries[refs[lo].entry].maybe, &c.effect)
			lo = hi
		}
		for j := range refs {
			if a := refs[j].ack; a != nil {
				a.Known, a.Queue, a.PartitionName = c.known, c.queue, c.partition
			}
		}
		c.written = !c.changes() && len(c.effect.dead) == 0
	}
	if b.ready = w.write(); !b.ready {
		b.finish()
	}
}

// written: the write was committed; rows that were not what was read are read again.
func (b *AckBatch) written() {
	w := &b.work
	w.doubt = w.doubt[:0]
	missed := false
	for i := range w.chains {
		c := &w.chains[i]
		// What is not in the write has had its dead letters written.
		missed = missed || !c.written && c.changes()
		c.written = c.written || !c.changes()
	}
	b.finish()
	if missed {
		b.again()
	}
}

// finish marks what the chains have done, and says what it made claimable.
func (b *AckBatch) finish() {
	w := &b.work
	for i := range w.chains {
		c := &w.chains[i]
		if !c.written {
			continue
		}
		told := !c.frees()
		for j := c.lo; j < c.hi; j++ {
			r := &w.refs[j]
			e := &b.entries[r.entry]
			if r.ack == nil || e.op == nil || e.decided {
				continue
			}
			r.ack.done, e.partly = true, true
			if !told {
				told = true
				e.op.Freed = append(e.op.Freed, c.freed())
			}
		}
	}
}

// ackWork is the acks at work and what was read of their rows. It is made anew for each
// read. Transactions use it too.
type ackWork struct {
	refs   []ackRef
	chains []chain
	writes []int32 // the chains that are in the write, by their ordinal
	next   bool    // what is read are the messages behind the cursors

	doubt []doubted // what a write whose answer was lost was to leave

	stmts  []Statement
	params [][]byte
	buf    [][]byte
}

// chain is one (partition, group) and the refs to it: refs[lo:hi].
type chain struct {
	id     UUID
	group  string
	lo, hi int
	behind int // so many of them were found behind the cursor, from lo on

	known            bool // there is such a partition
	queue, partition string
	retryLimit       int
	read, now        cursor
	head             place // the partition's newest message
	effect           effect
	strict           bool // it is compared also if nothing changes
	written          bool
	settled          bool // it is as an earlier write, whose answer was lost, was to leave it
}

type doubted struct {
	id    UUID
	group string
	now   cursor
	last  int32 // the last entry whose acks are in it
}

// changes says whether the row is to be written.
func (c *chain) changes() bool {
	return c.strict || !c.now.same(&c.read) || c.effect.messages+c.effect.batches > 0
}

// frees says whether the partition can be claimed and could not before, or not what is
// behind its lease now. It is said of a drained one too: what is pushed next is claimable at
// once, and what was pushed since the head was read is.
func (c *chain) frees() bool {
	return c.known && !c.now.live && (c.settled || c.read.leased() || c.now.at != c.read.at)
}

func (c *chain) freed() Freed {
	return Freed{Queue: c.queue, Group: c.group, Partition: c.id, Drained: !c.head.after(c.now.at)}
}

func (w *ackWork) reset() {
	w.begin()
	w.doubt, w.stmts, w.params = w.doubt[:0], w.stmts[:0], w.params[:0]
	if cap(w.refs) > rowsKeptMax {
		w.refs, w.chains, w.writes, w.doubt = nil, nil, nil, nil
	}
	for i := range w.buf {
		if cap(w.buf[i]) > bytesKeptMax {
			w.buf[i] = nil
		}
	}
}

func (w *ackWork) begin() {
	clear(w.refs)
	clear(w.chains)
	w.refs, w.chains, w.writes, w.next = w.refs[:0], w.chains[:0], w.writes[:0], false
}

// sort brings the refs to one (partition, group) together, in the order of their requests,
// and makes the chains.
func (w *ackWork) sort() {
	slices.SortFunc(w.refs, func(a, b ackRef) int {
		if c := bytes.Compare(a.ack.Partition[:], b.ack.Partition[:]); c != 0 {
			return c
		}
		if c := bytes.Compare(a.ack.Group, b.ack.Group); c != 0 {
			return c
		}
		if a.entry != b.entry {
			return int(a.entry - b.entry)
		}
		return int(a.item - b.item)
	})
	for i := range w.refs {
		r := &w.refs[i]
		n := len(w.chains)
		if n == 0 || w.chains[n-1].id != r.ack.Partition || w.chains[n-1].group != string(r.ack.Group) {
			w.chains = append(w.chains, chain{id: r.ack.Partition, group: string(r.ack.Group), lo: i})
			n++
		}
		w.chains[n-1].hi = i + 1
		r.chain = int32(n - 1)
	}
}

// orderRefs puts each request's refs to one (partition, group) in the order of their
// messages, now that it is known.
func (w *ackWork) orderRefs() {
	slices.SortFunc(w.refs, func(a, b ackRef) int {
		switch {
		case a.chain != b.chain:
			return int(a.chain - b.chain)
		case a.entry != b.entry:
			return int(a.entry - b.entry)
		}
		if c := a.at.compare(b.at); c != 0 {
			return c
		}
		return int(a.item - b.item)
	})
}

// settled says whether a write whose answer was lost is what was read, and was for these acks:
// where requests are worked one by one, the next one's find the row as that write left it too.
func (w *ackWork) settled(c *chain) bool {
	for i := range w.doubt {
		d := &w.doubt[i]
		if d.id == c.id && d.group == c.group && w.refs[c.hi-1].entry <= d.last && c.read.there && d.now.same(&c.read) {
			c.now, c.settled = d.now, true
			return true
		}
	}
	return false
}

// inDoubt keeps what the write in flight is to leave. A row that it only compares would look
// the same without it, and is no proof.
func (w *ackWork) inDoubt() {
	w.doubt = w.doubt[:0]
	for _, i := range w.writes {
		if c := &w.chains[i]; !c.now.same(&c.read) {
			w.doubt = append(w.doubt, doubted{c.id, c.group, c.now, w.refs[c.hi-1].entry})
		}
	}
}

// The statements of a read, by their place in their step.
const (
	planFirst = iota
	readMessages
	readGroups
)

// read asks where the messages are and how far the groups.
func (w *ackWork) read() []Statement {
	w.statements(4)
	n := len(w.refs)
	parts, transactions := array(w.buf[0][:0], oidUUID, n, false), array(w.buf[1][:0], oidText, n, false)
	for i := range w.refs {
		a := w.refs[i].ack
		parts = uuidElement(parts, &a.Partition)
		if a.nowhere {
			transactions = element(transactions, "")
		} else {
			transactions = element(transactions, a.TransactionID)
		}
	}
	w.buf[0], w.buf[1] = parts, transactions
	w.cursors()
	w.statement("pop_plan", false)
	w.statement("ack_messages", true, 0, 1)
	w.statement("ack_groups", false, 2, 3)
	return w.stmts
}

// readNext asks the same, of as many messages behind each cursor as there are refs to it.
func (w *ackWork) readNext() []Statement {
	w.statements(4)
	w.next = true
	counts := array(w.buf[0][:0], oidInt4, len(w.chains), false)
	for i := range w.chains {
		counts = int4Element(counts, w.chains[i].hi-w.chains[i].lo)
	}
	w.buf[0] = counts
	w.cursors()
	w.statement("pop_plan", false)
	w.statement("ack_next", false, 2, 3, 0)
	w.statement("ack_groups", false, 2, 3)
	return w.stmts
}

// cursors encodes the chains' partitions and groups.
func (w *ackWork) cursors() {
	n := len(w.chains)
	parts, groups := array(w.buf[2][:0], oidUUID, n, false), array(w.buf[3][:0], oidText, n, false)
	for i := range w.chains {
		parts, groups = uuidElement(parts, &w.chains[i].id), element(groups, w.chains[i].group)
	}
	w.buf[2], w.buf[3] = parts, groups
}

// row takes a row of one of the reads.
func (w *ackWork) row(stmt int, v [][]byte) {
	if stmt == planFirst {
		return
	}
	i := int8Column(v[0]) - 1
	if stmt == readMessages {
		if w.next {
			c := &w.chains[i]
			if i = c.lo + c.behind; i == c.hi || !bytes.Equal(w.refs[i].ack.TransactionID, v[4]) {
				return // not what is sought, or not in order
			}
			c.behind++
		}
		r := &w.refs[i]
		r.found, r.at = true, place{int64(int8Column(v[1])), uuidColumn(v[2])}
		if v[3] != nil {
			r.seq = int64(int8Column(v[3]))
		}
		return
	}
	c := &w.chains[i]
	c.known, c.queue, c.partition, c.retryLimit = true, string(v[1]), string(v[2]), int4Column(v[3])
	c.read = cursor{
		there: boolColumn(v[4]), at: placeColumns(v[5], v[6]), hasEnd: v[7] != nil, hasWorker: v[8] != nil, worker: string(v[8]), live: boolColumn(v[9]),
		size: int4Column(v[10]), acked: int4Column(v[11]), retries: int4Column(v[12]),
		hasLast: v[13] != nil && v[14] != nil, last: placeColumns(v[13], v[14]),
	}
	if c.read.hasEnd {
		c.read.expires = int64(int8Column(v[7]))
	}
	c.head = placeColumns(v[15], v[16])
}

// The params of ack_write and ack_write_dead, $1 to $25, by their place in buf.
const (
	writePartition = iota
	writeGroup
	wasAt
	wasID
	wasWorker
	wasExpires
	wasAcked
	wasRetries
	mustLive
	nowAt
	nowID
	nowSeq
	leaseEnds
	nowAcked
	nowRetries
	moreMessages
	moreBatches
	writeParams

	deadPartition = iota - 1
	deadGroup
	deadAt
	deadID
	deadError
	deadRetries
	deadOnce
	deadBase
	deadParams
)

// write makes the statement that writes what was worked out; false: there is nothing.
func (w *ackWork) write() bool {
	dead := w.changesParams()
	if len(w.writes) == 0 && dead == 0 {
		return false
	}
	w.statement("pop_plan", false)
	if dead == 0 {
		w.statement("ack_write", false, firstNumbers[:writeParams]...)
	} else {
		w.statement("ack_write_dead", true, firstNumbers[:deadParams]...)
	}
	return true
}

var deadTypes = [deadParams - writeParams]uint32{oidUUID, oidText, oidTimestamptz, oidUUID, oidText, oidInt4, oidBool, oidInt8}

var firstNumbers = func() (n [deadParams]int) {
	for i := range n {
		n[i] = i
	}
	return n
}()

// changesParams encodes the rows to write and their dead letters, and returns how many of
// those there are.
func (w *ackWork) changesParams() (dead int) {
	w.statements(deadParams)
	w.writes = w.writes[:0]
	for i := range w.chains {
		c := &w.chains[i]
		dead += len(c.effect.dead)
		if !c.written && c.changes() {
			w.writes = append(w.writes, int32(i))
		}
	}
	p := w.buf
	n := len(w.writes)
	for i, oid := range [writeParams]uint32{
		oidUUID, oidText, oidTimestamptz, oidUUID, oidText, oidTimestamptz, oidInt4, oidInt4, oidBool,
		oidTimestamptz, oidUUID, oidInt8, oidBool, oidInt4, oidInt4, oidInt4, oidInt4,
	} {
		p[i] = array(p[i][:0], oid, n, true)
	}
	for _, i := range w.writes {
		c := &w.chains[i]
		was, now := &c.read, &c.now
		p[writePartition] = uuidElement(p[writePartition], &c.id)
		p[writeGroup] = element(p[writeGroup], c.group)
		p[wasAt], p[wasID] = placeTime(p[wasAt], was.at), uuidElement(p[wasID], &was.at.id)
		if was.hasWorker {
			p[wasWorker] = element(p[wasWorker], was.worker)
		} else {
			p[wasWorker] = nullElement(p[wasWorker])
		}
		if was.hasEnd {
			p[wasExpires] = longElement(p[wasExpires], was.expires)
		} else {
			p[wasExpires] = nullElement(p[wasExpires])
		}
		p[wasAcked], p[wasRetries] = int4Element(p[wasAcked], was.acked), int4Element(p[wasRetries], was.retries)
		p[mustLive] = boolElement(p[mustLive], c.effect.mustLive)
		p[nowAt], p[nowID] = placeTime(p[nowAt], now.at), uuidElement(p[nowID], &now.at.id)
		p[nowSeq] = longElement(p[nowSeq], now.seq)
		p[leaseEnds] = boolElement(p[leaseEnds], !now.leased())
		p[nowAcked], p[nowRetries] = int4Element(p[nowAcked], now.acked), int4Element(p[nowRetries], now.retries)
		p[moreMessages], p[moreBatches] = int4Element(p[moreMessages], c.effect.messages), int4Element(p[moreBatches], c.effect.batches)
	}
	if dead == 0 {
		return 0
	}
	for i, oid := range deadTypes {
		p[writeParams+i] = array(p[writeParams+i][:0], oid, dead, false)
	}
	base := int64(0)
	for i := range w.chains {
		c := &w.chains[i]
		of := int64(0)
		if !c.written && c.changes() {
			base++
			of = base
		}
		for j := range c.effect.dead {
			d := &c.effect.dead[j]
			p[deadPartition], p[deadGroup] = uuidElement(p[deadPartition], &c.id), element(p[deadGroup], c.group)
			p[deadAt], p[deadID] = longElement(p[deadAt], d.ref.at.at), uuidElement(p[deadID], &d.ref.at.id)
			p[deadError], p[deadRetries] = element(p[deadError], d.reason), int4Element(p[deadRetries], d.retries)
			p[deadOnce], p[deadBase] = boolElement(p[deadOnce], d.once), longElement(p[deadBase], of)
		}
	}
	return dead
}

// statements empties the statements and makes at least n buffers for params.
func (w *ackWork) statements(n int) {
	w.stmts, w.params = w.stmts[:0], w.params[:0]
	for len(w.buf) < n {
		w.buf = append(w.buf, nil)
	}
	// All params are in one array that does not move while statements point into it.
	w.params = slices.Grow(w.params, 2*deadParams)
}

// statement appends a statement whose params are the buffers with these numbers.
//
// Those that are prepared read tables by keys that only one index has, and pop_plan sees to
// it that they do: a plan of the first day, when the tables were empty, is as good as any.
// Where two indexes would do, anew: such a plan could be bound to the wrong one.
func (w *ackWork) statement(name string, anew bool, bufs ...int) {
	from := len(w.params)
	for _, i := range bufs {
		w.params = append(w.params, w.buf[i])
	}
	w.stmts = append(w.stmts, Statement{Name: name, Params: w.params[from:len(w.params):len(w.params)], Unnamed: anew})
}

// PreparedAck are the statements of an AckBatch that are worth preparing on a connection.
func (c *Config) PreparedAck() []string {
	return []string{"pop_plan", "ack_next", "ack_groups", "ack_write", "lease_extend", "lease_release"}
}
