package queue

import (
	"encoding/binary"
	"slices"
	"time"
)

// PopBatch is the conversation of some pops with PostgreSQL. It is pure, and a store
// drives it as it drives a Batch. All pops of a batch are claimed by one statement, if
// what they get is not too much for one:
//
//	   ┌──────── the same again: somebody was there first, or the step was full
//	   ▼                  │
//	claim ────────────────┴─▶ decided
//	   │    no cursor yet, or the group's beginning is not written down
//	   └─▶ subscribe, open, claim, in one transaction
//
// What has something for a pop is claimed in the order of its tries. A pop that has
// claimed anything is decided; the messages are in op.Pop as their rows came.
//
// However many there are and whatever they ask for, a step has a bound of bytes that
// follows what can be done in a small part of the time they have (plan). Pops share it: each
// may get fewer messages than it asked for. Where even one message each is too much, those
// that found no room are in the next step; and when a quarter of their time is over they are
// answered without messages (hurry). Nothing is leased for them then.
//
// A claim whose answer was lost may be committed. Its pop claims again under the same
// lease id, which takes back what that lease holds; and with AutoAck nobody can know,
// so that pop is answered with a fault.
//
// Not for several goroutines at once.
type PopBatch struct {
	roll
	c   *Config
	ids *IDs

	pops []popState // one for each entry
	kind popStep    // of the step that Step returned last
	last int        // the entries below are in it, if they are not decided
	work int        // see Rows

	tries   []popTry
	absent  []popLease // cursors to make before the next claim
	undo    []popLease // leases of pops that ended meanwhile
	subs    []groupStart
	settled map[string]struct{} // beginnings that are written down, by their keys
	opened  int64               // cursors made since the last analyze
	next    int64               // and at so many it is time for another one
	rate    int                 // bytes of messages that PostgreSQL and we do in a second, as it was lately
	crowd   int                 // pops of one step at most, at the moment
	bytes   int                 // of the step's messages at most
	taken   int                 // and those that its rows have brought
	count   int                 // which are so many messages
	each    int                 // and the mean of one, lately
	sentAt  time.Duration       // the step was made
	time    time.Duration       // and should take so long
	giveUp  time.Duration       // the final step is made then; 0: not known yet
	final   bool                // the step is to decide all pops: see hurry
	lost    bool                // the last step found its statements lost
	alone   bool                // one pop at a time: PostgreSQL does not like something about them

	pause       bool  // everything was locked, twice: a moment is left to who holds it
	claim, open int   // their places in the step
	made        int64 // cursors, as pop_open's tag says
	stmts       []Statement
	params      [][]byte
	buf         [][]byte
	arena       []byte // names and pieces of the step's rows
	plain       []byte // a payload that was encrypted
}

// popState is what a pop needs beside its op.
type popState struct {
	lease     [leaseIDChars]byte
	subscribe bool // write down where its group begins, whatever settled says
	rounds    int
	pauses    int // rounds in which cursors were locked
	tries     int // from here on are its tries in PopBatch.tries
	end       int

	due   time.Duration // its deadline, while its op has a later one: see Expire
	late  bool          // its op was given back while it was in flight; then what is needed of it:
	auto  bool          // AutoAck
	group string        // Group
}

// popTry is a try of the step in flight, and what its rows say.
type popTry struct {
	entry, try  int // try: in op.Pop.Tries; -1: by names
	outcome     popOutcome
	wait        time.Duration // or the place of the try that it repeats, in seconds
	more        bool
	retries     int
	id          UUID
	queue, name []byte // in the arena
	pieces      popPieces
}

// popLease is a group's cursor in a partition, and the lease that is to be given back.
type popLease struct {
	id           UUID
	group, lease string
}

// popOutcome is an outcome as pop_claim says it.
type popOutcome uint8

const (
	popNotTried popOutcome = iota
	popClaimed
	popDrained
	popLeased
	popNotDue
	popBusy
	popGone
	popAbsent
	popRepeat
	popWindow
	popUnsettled
	popFull
)

type popStep uint8

const (
	noPop popStep = iota
	claimPop
	undoPop
	analyzePop
)

// Limits of a pop.
const (
	// PopBatchMax bounds the messages of one pop; one that asks for more gets so many.
	PopBatchMax = 100_000

	// PopPartitionsMax bounds the partitions of one pop in the same way.
	PopPartitionsMax = 1000

	// PopAnswerBytesMax bounds the messages of one step, of one pop or of many, in bytes;
	// beyond it they are left for the next one. One message is always delivered. Most steps
	// have less: what can be done in popStepsPerDeadline of the time that is left, so that
	// many pops that ask for much get a part of it each, and none waits until it is too
	// late. See PopBatch.plan.
	PopAnswerBytesMax = 32 << 20

	// popShareBytesMin is what a pop may have at least of a step that it shares.
	popShareBytesMin = 16 << 10

	// popWeightMax is how many messages a pop counts at most where pops share: one that
	// asks for more may mostly find few.
	popWeightMax = 100

	popStepsPerDeadline = 20
	popTimeUsual        = 2 * time.Second // to the deadline of a pop that has none

	// Bounds of rate, and where it begins; and the smallest step that teaches something of it.
	popRateFirst     = 64 << 20
	popRateMin       = 2 * popRateCutMin
	popRateCutMin    = popStepsPerDeadline << 20 / 2 // when the server's statement time-out cuts: 1 MiB of pops that have the usual time
	popRateMax       = popStepsPerDeadline * PopAnswerBytesMax
	popRateLearnFrom = 256 << 10

	// popCrowdMax is a crowd that is not bounded. It is when a step was full: to twice those
	// that found room; each step that is not full doubles it.
	popCrowdMax = 1 << 20

	// PopFrameBytesMax is what a store must accept as one row: the largest message that a
	// push can store, encrypted, with what belongs to it.
	PopFrameBytesMax = 128 << 20

	// settledMax bounds how many groups a batch remembers to have a beginning that is
	// written down. At the bound it forgets all of them.
	settledMax = 10_000

	// PopLateMax is how long after its deadline a pop with AutoAck whose claim is in flight is
	// kept: what the claim takes is gone when it is committed, so that to give up is to
	// lose it. A long poll ends within its time and 1 s; beyond that the messages are lost.
	PopLateMax = 900 * time.Millisecond

	// popPausesMax is how often a pop looks again while all that it could have is locked by
	// somebody; then it says so.
	popPausesMax = 4
)

// NewPopBatch returns an empty batch, to be used again and again. ids are the loop's own.
func NewPopBatch(c *Config, ids *IDs) *PopBatch {
	return &PopBatch{roll: newRoll(""), c: c, ids: ids, settled: map[string]struct{}{}, next: analyzeFirst, rate: popRateFirst, crowd: popCrowdMax}
}

// PreparedPop are the statements of a PopBatch that are worth preparing on a connection.
func (c *Config) PreparedPop() []string { return []string{"pop_plan", "pop_claim"} }

// Reset makes the batch empty.
func (b *PopBatch) Reset() {
	b.roll.reset()
	clear(b.tries)
	clear(b.pops)
	b.pops, b.tries, b.absent, b.undo, b.subs = b.pops[:0], b.tries[:0], nil, nil, b.subs[:0]
	b.kind, b.work, b.lost, b.alone, b.giveUp = noPop, 0, false, false, 0
	for i := range b.buf {
		if cap(b.buf[i]) > bytesKeptMax {
			b.buf[i] = nil
		}
	}
	if cap(b.arena) > bytesKeptMax {
		b.arena = nil
	}
	if cap(b.plain) > bytesKeptMax {
		b.plain = nil
	}
	if cap(b.tries) > rowsKeptMax {
		b.tries = nil
	}
}

// Add takes an op into the batch; only before the first Step.
func (b *PopBatch) Add(op *Op) {
	b.add(op)
	var s popState
	AppendLeaseID(s.lease[:0], b.ids.Next(), op.Pop.partitions() == 1, UUID{})
	b.pops = append(b.pops, s)
	b.work += max(min(op.Pop.want(), popWeightMax)/popsPerRow, len(op.Pop.Tries), 1)
}

// popsPerRow is how many messages that are read cost about as much as one that is pushed,
// or as one partition that is tried. A pop that asks for very many gets its share of the
// step: pops that wait should rather share one than wait for each other.
const popsPerRow = 10

// Rows is how much work the batch is, as bounds on pushes count it.
func (b *PopBatch) Rows() int { return b.work }

// Step returns the statements to send now, under one Sync; nil: every op is decided.
func (b *PopBatch) Step(now time.Duration) []Statement {
	b.begun = true
	if len(b.undo) > 0 {
		return b.giveBack()
	}
	if b.opened >= b.next {
		b.opened, b.next, b.kind = 0, 2*b.next, analyzePop
		b.begin()
		b.statement("pop_analyze", true)
		return b.stmts
	}
	b.final = b.hurry(now)
	b.gatherTries()
	if len(b.tries) == 0 && len(b.subs) == 0 && len(b.absent) == 0 {
		b.kind = noPop
		return nil
	}
	b.kind = claimPop
	b.plan(now)
	b.appendStep()
	return b.stmts
}

// left is how long the pops have that are not decided, on average: of one that waits for
// messages, the time may be over in a moment, which says nothing about the others.
func (b *PopBatch) left(now time.Duration) time.Duration {
	sum, n := time.Duration(0), time.Duration(0)
	for i := range b.entries {
		if e := &b.entries[i]; !e.decided {
			n++
			if e.op.Deadline == 0 {
				sum += popTimeUsual
			} else {
				sum += max(e.op.Deadline-now, 0)
			}
		}
	}
	return sum / max(n, 1)
}

// plan decides how long the next step should take, and with that how many bytes of
// messages it may: a part of what can be done until the pops' deadline. Whoever waits for
// this batch has waited about as long as the pops in it, so the longer the line the smaller
// the steps, and it moves on in time.
func (b *PopBatch) plan(now time.Duration) {
	b.sentAt, b.time, b.taken = now, b.left(now)/popStepsPerDeadline, 0
	b.count = 0
	if b.final {
		b.time /= 16 // to see who finds no room is work too
	}
	b.bytes = min(max(int(float64(b.rate)*b.time.Seconds()), popShareBytesMin), PopAnswerBytesMax)
}

// hurry says whether the batch has used a quarter of its time: others wait for their turn too.
// Then what found the last step full is answered without messages, and told to look again
// in a moment; what was in no step yet is tried in one more.
func (b *PopBatch) hurry(now time.Duration) bool {
	if b.giveUp == 0 {
		b.giveUp = now + b.left(now)/4
	}
	return now >= b.giveUp
}

// fullAgain is how soon a pop that found no room in the last step should look again.
const fullAgain = 50 * time.Millisecond

// learn takes from a step that is done how large messages are, and how many bytes there can
// be in a second. One that
// had little to do may have been slow for other reasons: only one that took too long says
// that there should be fewer.
func (b *PopBatch) learn(now time.Duration) {
	if b.count > 0 {
		b.each += (b.taken/b.count - b.each) / 4
	}
	took := now - b.sentAt
	if b.taken < popRateLearnFrom || took <= 0 {
		return
	}
	rate := int(min(float64(b.taken)/took.Seconds(), popRateMax))
	if rate > b.rate || took > b.time {
		b.rate = max(b.rate+(rate-b.rate)/4, min(b.rate, popRateMin))
	}
}

// cut: the step was too much for the time that it may take.
func (b *PopBatch) cut() {
	b.rate, b.crowd = max(b.rate/8, popRateCutMin), max(min(b.crowd, b.last)/8, 1)
}

// share is what a pop may have of the step, by how many messages it asks for.
func (b *PopBatch) share(p *PopRequest, weights int) int {
	return max(b.bytes/weights*p.weight(), min(b.bytes, popShareBytesMin))
}

// rows is how many messages are looked at for so large a share: as many as are there
// if they are half as large as they were lately, and at least a quarter of what the smallest
// would be, which are popMessageBytes.
func (b *PopBatch) rows(share int) int {
	return max(share/min(max(b.each/2, popMessageBytes), 4*popMessageBytes), 1)
}

// weight is what a pop counts where pops share.
func (p *PopRequest) weight() int { return min(max(p.want(), 1), popWeightMax) }

// gatherTries lists what the undecided pops try, and forgets what an earlier step that
// had no effect has said. A pop that has nothing to try is decided.
func (b *PopBatch) gatherTries() {
	clear(b.tries)
	clear(b.subs)
	b.tries, b.subs, b.arena, b.last, b.pause = b.tries[:0], b.subs[:0], b.arena[:0], 0, false
	crowd := 0
	for i := range b.entries {
		e, s := &b.entries[i], &b.pops[i]
		s.tries, s.end = len(b.tries), len(b.tries)
		if e.decided {
			continue
		}
		if len(b.tries) > 0 && (b.alone || crowd >= b.crowd && !b.final) {
			return
		}
		crowd++
		b.last = i + 1
		b.pause = b.pause || s.pauses > 1
		p := &e.op.Pop
		p.forget()
		if p.Scope == OnePartition {
			p.Tries = p.Tries[:0]
			b.tries = append(b.tries, popTry{entry: i, try: -1})
		}
		for j := range p.Tries {
			p.Tries[j].Outcome, p.Tries[j].In, p.Tries[j].More = NotTried, 0, false
			b.tries = append(b.tries, popTry{entry: i, try: j})
		}
		s.end = len(b.tries)
		if wants := b.begins(i); s.end == s.tries && !wants {
			b.decide(i, Fault{})
		}
	}
}

// forget forgets what came of an attempt.
func (p *PopRequest) forget() {
	p.LeaseID, p.Messages, p.FirstQueue, p.FirstName = p.LeaseID[:0], p.Messages[:0], p.FirstQueue[:0], p.FirstName[:0]
	p.Claimed, p.Count, p.Window, p.Missing, p.Held, p.First, p.FirstExists = 0, 0, false, false, false, UUID{}, false
}

// Row takes one DataRow of statement #stmt of this step.
func (b *PopBatch) Row(stmt int, values [][]byte) {
	if b.kind != claimPop || stmt != b.claim {
		return
	}
	at := int8Column(values[0]) - 1
	t := &b.tries[at]
	place := int8Column(values[1])
	if place > 0 {
		b.count++
		b.message(t, values)
		return
	}
	t.outcome = popOutcome(int8Column(values[2]))
	if values[3] != nil {
		t.wait = time.Duration(int8Column(values[3])) * time.Microsecond
	}
	if values[4] != nil {
		t.more = boolColumn(values[4])
	}
	bytes := 0
	switch {
	case values[5] == nil:
	case place == 0:
		bytes = int8Column(values[5])
		b.taken += bytes
	default:
		t.retries = int8Column(values[5])
	}
	if values[6] != nil {
		t.id = uuidColumn(values[6])
		t.queue, t.name = b.keep(values[7]), b.keep(values[8])
	}
	if t.outcome == popClaimed {
		b.claimed(t, bytes)
	}
}

// keep copies v into the arena.
func (b *PopBatch) keep(v []byte) []byte {
	from := len(b.arena)
	b.arena = append(b.arena, v...)
	return whole(b.arena[from:])
}

// claimed: the rows that follow are the try's messages, of about so many bytes.
func (b *PopBatch) claimed(t *popTry, bytes int) {
	op := b.entries[t.entry].op
	if op == nil {
		return // its time is over: see committed
	}
	p := &op.Pop
	if !p.AutoAck && len(p.LeaseID) == 0 {
		p.LeaseID = append(p.LeaseID, b.lease(t)...)
	}
	if p.Claimed == 0 {
		p.First, p.FirstExists = t.id, true
		p.FirstQueue, p.FirstName = append(p.FirstQueue, t.queue...), append(p.FirstName, t.name...)
	}
	p.Claimed++
	p.room(min(bytes, PopAnswerBytesMax))
	b.arena, t.pieces = appendPopPieces(b.arena, p.Group, p.LeaseID, t.queue, t.name, &t.id, t.retries)
}

// lease is the id under which a try was claimed.
func (b *PopBatch) lease(t *popTry) []byte {
	id := b.pops[t.entry].lease
	if id[leaseVariantAt] == leaseSingle {
		text := t.id.Append(make([]byte, 0, leaseIDChars))
		copy(id[leasePartitionAt:], text[:leaseIDChars-leasePartitionAt])
	}
	return id[:]
}

// message takes a message's row.
func (b *PopBatch) message(t *popTry, values [][]byte) {
	op := b.entries[t.entry].op
	if op == nil {
		return
	}
	id, transaction, producer, created, trace, payload := uuidColumn(values[6]), values[7], values[8], values[9], values[10], values[11]
	if b.c.Sealer != nil {
		if plain, ok := b.c.Sealer.Open(b.plain[:0], payload); ok {
			b.plain, payload = plain, plain
		}
	}
	dst := op.Pop.Messages
	if op.Pop.Count++; op.Pop.Count > 1 {
		dst = append(dst, ',')
	}
	dst = append(dst, t.pieces.head...)
	dst = appendTime(dst, int64(binary.BigEndian.Uint64(created)))
	dst = append(dst, `","data":`...)
	dst = append(dst, payload...)
	dst = append(dst, `,"id":"`...)
	dst = id.Append(dst)
	dst = append(dst, t.pieces.middle...)
	if producer == nil {
		dst = append(dst, "null"...)
	} else {
		dst = appendJSONString(dst, producer)
	}
	dst = append(dst, t.pieces.tail...)
	if trace == nil {
		dst = append(dst, "null"...)
	} else {
		u := uuidColumn(trace)
		dst = append(dst, '"')
		dst = u.Append(dst)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"transactionId":`...)
	dst = appendJSONString(dst, transaction)
	op.Pop.Messages = append(dst, '}')
}

// Tag takes the row count of statement #stmt's CommandComplete.
func (b *PopBatch) Tag(stmt int, rows int64) {
	if b.kind == claimPop && stmt == b.open {
		b.made = rows
	}
}

// StepDone says that the Sync was answered: err nil: the step is committed; else it is
// rolled back for sure.
func (b *PopBatch) StepDone(err *SQLError, now time.Duration) Verdict {
	kind := b.kind
	if kind == noPop {
		panic("BUG: a step is done that was not begun")
	}
	b.landed()
	if err == nil {
		b.lost = false
		switch kind {
		case claimPop:
			b.learn(now)
			b.final = b.final || now >= b.giveUp
			b.committed()
		case undoPop:
			b.undo = b.undo[:0]
		}
		return Verdict{}
	}
	class := Classify(err.Code)
	v := Verdict{Class: class}
	if kind == claimPop {
		b.forget()
		if len(b.tries) == 0 {
			b.absent = b.absent[:0] // whoever looks there next makes them
		}
		if class == ClassUnknown {
			b.maybeClaimed()
		}
	}
	switch class {
	case ClassLost:
		if v.Action = Prepare; b.lost {
			v.Action = Away // it did not help
		}
		b.lost = !b.lost
	case ClassAway, ClassSetup, ClassNone:
		v.Action = Away
	case ClassData:
		if kind == claimPop {
			b.refuse(err)
		}
	default: // what may pass: a deadlock, a time-out, a partition that is deleted at this moment
		if kind != claimPop {
			break
		}
		if err.Code == "57014" {
			b.cut()
		}
		if v.After = b.retry(0, b.last, now, "PostgreSQL could not look for messages", err); v.After > 0 {
			v.Action = Wait
		}
	}
	if kind == undoPop && v.Action == Continue {
		b.undo = b.undo[:0] // the leases end by themselves
	}
	return v
}

// forget: what the rows have said is not so.
func (b *PopBatch) forget() {
	for i := range b.entries[:b.last] {
		if e := &b.entries[i]; !e.decided {
			e.op.Pop.forget()
		}
	}
}

// refuse: PostgreSQL does not like a value that was sent, or finds data of its own that it
// cannot read. Whose it is is seen when each pop is alone.
func (b *PopBatch) refuse(err *SQLError) {
	open, first := 0, -1
	for i := range b.entries[:b.last] {
		if !b.entries[i].decided {
			if open++; first < 0 {
				first = i
			}
		}
	}
	if open == 1 {
		b.decide(first, Fault{Internal, err.Message})
	}
	b.alone = true
}

// Unknown says that the step was sent, at least in part, and its answer will never come.
func (b *PopBatch) Unknown() {
	if b.kind == claimPop {
		b.cut() // it may have been that
		b.forget()
		b.maybeClaimed()
	}
	b.landed()
}

// popLost is what a pop with AutoAck hears whose claim may have been committed in vain.
const popLost = "messages may have been acknowledged that nobody has received"

// maybeClaimed: a claim was sent, and nobody knows what became of it.
func (b *PopBatch) maybeClaimed() {
	b.unknown = true
	for i := range b.entries[:b.last] {
		e := &b.entries[i]
		if e.decided || b.pops[i].end == b.pops[i].tries {
			continue
		}
		e.maybe = true
		if e.op.Pop.AutoAck {
			e.op.Pop.Lost = true
			b.decide(i, Fault{Unavailable, "the connection to PostgreSQL was lost; " + popLost})
		}
	}
}

// Expire decides the ops whose Deadline has passed and gives them back. What is claimed
// for them by the step in flight is given back too; with AutoAck nothing can be, and their
// Deadline is put off until the step is done, by PopLateMax at most; then they hear that
// messages may be lost.
func (b *PopBatch) Expire(now time.Duration) []*Op {
	for i := range b.entries {
		if e := &b.entries[i]; !e.decided && e.op.Deadline != 0 && e.op.Deadline <= now {
			s := &b.pops[i]
			if e.op.Pop.AutoAck && b.inFlight(i) && s.due == 0 {
				s.due = e.op.Deadline
				if e.op.Deadline += PopLateMax; e.op.Deadline > now {
					continue
				}
			}
			e.op.Pop.Lost = e.op.Pop.AutoAck && b.inFlight(i)
			s.late, s.auto, s.group = true, e.op.Pop.AutoAck, string(e.op.Pop.Group)
		}
	}
	late := b.expire(now, "PostgreSQL did not answer in time, try again in a second")
	for _, op := range late {
		op.Pop.forget()
		if op.Pop.Lost {
			op.Fault.Message = "PostgreSQL did not answer in time; " + popLost
		}
	}
	return late
}

// inFlight says whether the step in flight may claim something for entry i.
func (b *PopBatch) inFlight(i int) bool {
	return b.kind == claimPop && i < b.last && b.pops[i].end > b.pops[i].tries
}

// landed: no step is in flight any more, and the ops have the deadlines that they came with.
func (b *PopBatch) landed() {
	b.kind = noPop
	for i := range b.pops {
		s := &b.pops[i]
		if op := b.entries[i].op; op != nil && s.due != 0 {
			op.Deadline = s.due
		}
		s.due = 0
	}
}

// Fail decides every op that is not decided yet with f.
func (b *PopBatch) Fail(f Fault) {
	for i := range b.entries {
		if e := &b.entries[i]; !e.decided {
			e.op.Pop.forget()
			b.decide(i, f)
		}
	}
	b.undo, b.absent = b.undo[:0], b.absent[:0]
	b.landed()
}

// committed: what the rows have said is true.
func (b *PopBatch) committed() {
	b.opened += b.made
	b.crowded()
	b.absent = b.absent[:0]
	for i := range b.subs {
		b.written(&b.subs[i])
	}
	for i := range b.entries[:b.last] {
		e, s := &b.entries[i], &b.pops[i]
		tries := b.tries[s.tries:s.end]
		if s.late {
			b.abandon(s, tries)
			s.late = false
		}
		if e.decided {
			continue
		}
		if e.op.Pop.Claimed == 0 && !b.final && isFull(tries) {
			continue // the next step
		}
		s.rounds++
		if e.op.Pop.Claimed > 0 || !b.again(&e.op.Pop, s, tries) {
			if e.maybe {
				b.leave(&e.op.Pop, tries)
			}
			if e.op.Pop.Claimed > 0 {
				b.openLater(&e.op.Pop, tries)
			}
			b.decidePop(i, tries)
		}
	}
}

// crowded learns from a step how many pops should be in the next one.
func (b *PopBatch) crowded() {
	served, full := 0, false
	for i := range b.tries {
		switch b.tries[i].outcome {
		case popClaimed:
			served++
		case popFull:
			full = true
		}
	}
	if full {
		b.crowd = 2 * max(served, 1)
	} else {
		b.crowd = min(2*b.crowd, popCrowdMax)
	}
}

// isFull says whether the step had no room for what a pop could have had.
func isFull(tries []popTry) bool {
	return slices.ContainsFunc(tries, func(t popTry) bool { return t.outcome == popFull })
}

// abandon: a pop's time was over while its claim was in flight.
func (b *PopBatch) abandon(s *popState, tries []popTry) {
	for i := range tries {
		if t := &tries[i]; t.outcome == popClaimed && !s.auto {
			b.undo = append(b.undo, popLease{t.id, s.group, string(b.lease(t))})
		}
	}
}

// leave: an earlier claim, whose answer was lost, may have leased what this one did not
// take.
func (b *PopBatch) leave(p *PopRequest, tries []popTry) {
	for i := range tries {
		if t := &tries[i]; t.outcome != popClaimed && t.outcome != popGone && t.outcome != popRepeat {
			b.undo = append(b.undo, popLease{t.id, string(p.Group), string(b.lease(t))})
		}
	}
}

// openLater has the cursors made that a pop did not find and did not need: nobody waits for
// them. Without that, partitions that are new would never be claimed by pops of many
// partitions that always find something else too.
func (b *PopBatch) openLater(p *PopRequest, tries []popTry) {
	for i := range tries {
		if t := &tries[i]; t.outcome == popAbsent {
			b.absent = append(b.absent, popLease{id: t.id, group: string(p.Group)})
		}
	}
}

// again says whether a pop that has claimed nothing should look once more, at once, and
// notes what is to be done before.
func (b *PopBatch) again(p *PopRequest, s *popState, tries []popTry) bool {
	again, busy := false, false
	s.subscribe = false
	for i := range tries {
		switch t := &tries[i]; t.outcome {
		case popAbsent:
			if s.rounds <= cursorsMax {
				b.absent = append(b.absent, popLease{id: t.id, group: string(p.Group)})
				again = true
			}
		case popUnsettled:
			if s.rounds <= cursorsMax+1 {
				s.subscribe, again = true, true
			}
		case popRepeat:
			switch first := b.repeated(t); first.outcome {
			case popClaimed:
				again = again || first.more && b.autoAck(first)
			case popNotTried, popAbsent, popUnsettled, popFull:
				again = again || s.rounds <= len(b.entries)+cursorsMax
			}
		case popBusy:
			busy = true
		}
	}
	if pauses := popPausesMax; !again && busy {
		if p.Wait {
			pauses = 1 // it will be told
		}
		if s.pauses < pauses {
			s.pauses++
			again = true
		}
	}
	return again
}

// repeated is the earlier try for the same cursor.
func (b *PopBatch) repeated(t *popTry) *popTry { return &b.tries[t.wait/time.Second-1] }

// cursorsMax is how often a pop makes a cursor that is deleted before it can be claimed.
const cursorsMax = 2

func (b *PopBatch) autoAck(t *popTry) bool {
	if op := b.entries[t.entry].op; op != nil {
		return op.Pop.AutoAck
	}
	return b.pops[t.entry].auto
}

// decidePop ends a pop with what was found at its tries.
func (b *PopBatch) decidePop(i int, tries []popTry) {
	p := &b.entries[i].op.Pop
	for j := range tries {
		t := &tries[j]
		out := t
		if t.outcome == popRepeat {
			out = b.repeated(t)
		}
		if t.try < 0 {
			t.try = len(p.Tries)
			p.Tries = append(p.Tries, Try{Queue: string(t.queue), Partition: t.id})
			if t.outcome == popGone {
				p.Tries = p.Tries[:0]
				p.Missing = true
				break
			}
			p.Window, p.Held = out.outcome == popWindow, false
			if !p.FirstExists {
				p.First, p.FirstExists = t.id, true
				p.FirstQueue, p.FirstName = append(p.FirstQueue, t.queue...), append(p.FirstName, t.name...)
			}
		}
		try := &p.Tries[t.try]
		try.Outcome, try.In, try.More = b.outcomeOf(t, out)
		if p.Scope == OnePartition && (try.Outcome == Leased || try.Outcome == Busy) {
			p.Held = true
		}
	}
	b.decide(i, Fault{})
}

// outcomeOf says what is known of a try; out is what it repeats, or itself.
func (b *PopBatch) outcomeOf(t, out *popTry) (o Outcome, in time.Duration, more bool) {
	switch wait := out.wait; out.outcome {
	case popClaimed:
		switch auto := b.autoAck(out); {
		case t == out && auto:
			return Claimed, 0, out.more
		case t == out:
			return Claimed, wait, out.more
		case !auto:
			return Leased, wait, false
		case out.more:
			return NotTried, 0, false
		}
		return Drained, 0, false
	case popDrained:
		return Drained, 0, false
	case popLeased:
		return Leased, max(wait, 0), false
	case popNotDue, popWindow:
		return NotDue, max(wait, 0), false
	case popFull:
		return NotDue, fullAgain, false
	case popBusy:
		return Busy, 0, false
	case popGone:
		return Gone, 0, false
	}
	return NotTried, 0, false // not tried, absent, unsettled: it has to be looked at again
}
