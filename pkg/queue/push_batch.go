package queue

import (
	"bytes"
	"hash/maphash"
	"slices"
)

// The statements of a push, by their place in their step.
const (
	resolveQueues = iota
	resolvePartitions
	resolveHeads
	resolveIDs
)

// gathering is what is left to do for the group at work, made anew for each step from
// what its items say.
type gathering struct {
	unknown  []*hint // partitions to resolve first, each once
	suspects []*hint // partitions that may be locked, each once
	rows     []row   // what to insert, sorted by partition and id
	dups     []row   // what is in rows already, of the same or of another op
	heads    []head  // the distinct partitions of rows, sorted

	seen   []int32 // hash table: 1 + index into rows by (partition, transaction)
	insert int     // the place of push_insert in its step
	counts int     // the place of push_count in its step; 0: it is not there
	stored int64   // rows, as push_insert's tag says
	made   int64   // heads, as push_heads's tag says
}

// row is one item that is to be inserted. Its op may be given back while the step is in
// flight, so that all that is needed then is here; the item is found by itemOf.
type row struct {
	partition UUID // where, as the hint says
	id        UUID
	at        *hint
	entry     int32
	item      int32
	other     UUID // in a push, a duplicate's first row; asking for winners, the id that is there already
	won       bool // there is one
}

// head is a partition and what a push changes of it.
type head struct {
	at   *hint
	id   UUID
	n    int
	last UUID
	seq  int64 // the number of its last message: expected before a push that is stored early, or told after one
	told bool
}

// Buffers that grew beyond these are given back when the batch is reset.
const (
	rowsKeptMax  = 8192
	bytesKeptMax = 4 << 20
)

func (g *gathering) reset() {
	clear(g.unknown)
	clear(g.suspects)
	clear(g.rows)
	clear(g.dups)
	clear(g.heads)
	g.unknown, g.suspects, g.rows, g.dups, g.heads, g.stored, g.made = g.unknown[:0], g.suspects[:0], g.rows[:0], g.dups[:0], g.heads[:0], 0, 0
}

// shrink gives back what a large batch has needed.
func (b *Batch) shrink() {
	g := &b.gather
	if cap(g.rows) > rowsKeptMax {
		g.rows, g.seen, g.heads = nil, nil, nil
	}
	if cap(g.dups) > rowsKeptMax {
		g.dups = nil
	}
	for i := range b.buf {
		if cap(b.buf[i]) > bytesKeptMax {
			b.buf[i] = nil
		}
	}
}

// collect finds what is left to do for group g. With unknown partitions it stops at
// these.
func (b *Batch) collect(g *group) {
	b.gather.reset()
	mark, pending := b.h.nextMark(), 0
	for i := g.lo; i < g.hi; i++ {
		if !b.entries[i].decided {
			pending += b.look(i, mark)
		}
	}
	if len(b.gather.unknown) > 0 {
		slices.SortFunc(b.gather.unknown, func(a, b *hint) int {
			if c := cmpString(a.queue, b.queue); c != 0 {
				return c
			}
			return cmpString(a.partition, b.partition)
		})
		return
	}
	b.resizeSeen(pending)
	for i := g.lo; i < g.hi; i++ {
		if !b.entries[i].decided && !b.refuseHeld(i) {
			b.takeRows(i)
		}
	}
	// Ids rise in the order in which the requests came, and created_at is the same for
	// all rows of a partition: so that order becomes the order of delivery.
	slices.SortFunc(b.gather.rows, func(a, b row) int {
		if c := bytes.Compare(a.partition[:], b.partition[:]); c != 0 {
			return c
		}
		return bytes.Compare(a.id[:], b.id[:])
	})
	for i := range b.gather.rows {
		r := &b.gather.rows[i]
		if n := len(b.gather.heads); n == 0 || b.gather.heads[n-1].id != r.partition {
			b.gather.heads = append(b.gather.heads, head{at: r.at, id: r.partition})
		}
		h := &b.gather.heads[len(b.gather.heads)-1]
		h.n++
		h.last = r.id
	}
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// look finds entry i's partitions, and seals its payloads where that is wanted.
func (b *Batch) look(i int, mark uint64) (pending int) {
	op := b.entries[i].op
	var at *hint
	for j := range op.Items {
		it := &op.Items[j]
		if it.Status != Pending {
			continue
		}
		pending++
		if it.at == nil {
			// Mostly all items of a request go to one partition.
			if at == nil || string(it.Queue) != at.queue || string(it.Partition) != at.partition {
				at = b.h.get(it.Queue, it.Partition)
			}
			it.at = at
		}
		at = it.at
		switch {
		case !at.known:
			if at.mark != mark {
				at.mark, at.staged = mark, false
				b.gather.unknown = append(b.gather.unknown, at)
			}
		case at.encrypted && b.c.Sealer != nil && it.sealed == nil:
			from := len(op.sealed)
			var err error
			if op.sealed, err = b.c.Sealer.Seal(op.sealed, it.Payload); err != nil {
				b.decide(i, Fault{Internal, err.Error()})
				return 0
			}
			it.sealed, it.sealedHere = whole(op.sealed[from:]), true
		}
	}
	return pending
}

// takeRows makes rows of entry i's pending items; what repeats one of them goes to
// the duplicates.
func (b *Batch) takeRows(i int) {
	g, op := &b.gather, b.entries[i].op
	for j := range op.Items {
		it := &op.Items[j]
		if it.Status != Pending {
			continue
		}
		r := row{partition: it.at.id, id: it.ID, at: it.at, entry: int32(i), item: int32(j)}
		// A transaction id that we made is in no other item.
		if it.GivenTransaction {
			if first := b.repeats(&r, it.TransactionID); first != nil {
				r.other = first.id
				g.dups = append(g.dups, r)
				continue
			}
		}
		g.rows = append(g.rows, r)
	}
}

// seed makes it impossible to choose transaction ids that fall together in the table.
var seed = maphash.MakeSeed()

// resizeSeen empties the table for up to n rows.
func (b *Batch) resizeSeen(n int) {
	size := 16
	for size < 2*n {
		size *= 2
	}
	if size <= cap(b.gather.seen) {
		b.gather.seen = b.gather.seen[:size]
		clear(b.gather.seen)
	} else {
		b.gather.seen = make([]int32, size)
	}
}

// repeats returns the row that has r's partition and transaction id already, or makes
// r known as that row: r must then be the next to be appended to rows.
func (b *Batch) repeats(r *row, transaction []byte) *row {
	g := &b.gather
	mask := len(g.seen) - 1
	for i := int(transactionHash(r, transaction)) & mask; ; i = (i + 1) & mask {
		if g.seen[i] == 0 {
			g.seen[i] = int32(len(g.rows) + 1)
			return nil
		}
		other := &g.rows[g.seen[i]-1]
		if other.partition == r.partition && bytes.Equal(b.itemOf(other).TransactionID, transaction) {
			return other
		}
	}
}

// itemOf is a row's item, nil when its op was given back.
func (b *Batch) itemOf(r *row) *Item {
	e := &b.entries[r.entry]
	if e.op == nil {
		return nil
	}
	return &e.op.Items[r.item]
}

// begin empties the statements and makes at least n buffers for params.
func (b *Batch) begin(n int) {
	b.stmts, b.params = b.stmts[:0], b.params[:0]
	for len(b.buf) < n {
		b.buf = append(b.buf, nil)
	}
	// All params are in one array that does not move while statements point into it.
	b.params = slices.Grow(b.params, 2*pushParams)
}

// statement appends a statement. Its params are the buffers with these numbers.
func (b *Batch) statement(name string, bufs ...int) {
	from := len(b.params)
	for _, i := range bufs {
		b.params = append(b.params, b.buf[i])
	}
	b.stmts = append(b.stmts, Statement{Name: name, Params: b.params[from:len(b.params):len(b.params)]})
}

// resolve asks for the unknown partitions and makes those that are not there, with
// their queues and heads. It is one transaction, so that nothing is left half made.
func (b *Batch) resolve() []Statement {
	unknown := b.gather.unknown
	b.begin(3)
	queues, partitions, distinct := b.buf[0][:0], b.buf[1][:0], b.buf[2][:0]
	n := 0
	for i, at := range unknown {
		if i == 0 || unknown[i-1].queue != at.queue {
			n++
		}
	}
	distinct = array(distinct, oidText, n, false)
	queues = array(queues, oidText, len(unknown), false)
	partitions = array(partitions, oidText, len(unknown), false)
	for i, at := range unknown {
		if i == 0 || unknown[i-1].queue != at.queue {
			distinct = element(distinct, at.queue)
		}
		queues = element(queues, at.queue)
		partitions = element(partitions, at.partition)
	}
	b.buf[0], b.buf[1], b.buf[2] = queues, partitions, distinct
	b.statement("push_queues", 2)
	b.statement("push_partitions", 0, 1)
	b.statement("push_heads", 0, 1)
	b.statement("push_ids", 0, 1)
	for i := range b.stmts {
		b.stmts[i].Unnamed = true // planned for the tables as they are now; this is rare
	}
	return b.stmts
}

// resolveRow takes (ordinality, partition id, encrypted).
func (b *Batch) resolveRow(values [][]byte) {
	i := int8Column(values[0]) - 1
	at := b.gather.unknown[i]
	at.staged, at.stagedID, at.stagedEncrypted = true, uuidColumn(values[1]), boolColumn(values[2])
}

// resolved: the partitions are there.
func (b *Batch) resolved(g *group) {
	b.h.made += b.gather.made
	missing := false
	for _, at := range b.gather.unknown {
		if !at.staged {
			missing = true // deleted between two statements
			continue
		}
		at.known, at.id, at.encrypted, at.counted = true, at.stagedID, at.stagedEncrypted, false
		if at.encrypted && b.c.Sealer == nil {
			b.c.warn(at.queue)
		}
	}
	if missing {
		b.stale(g)
	}
}

// analyze has the prepared statements planned again when the table of heads has grown
// twice as large by our doing: a plan that reads a table of ten rows from end to end is
// the best there is, and ruinous for ten thousand.
func (b *Batch) analyze() []Statement {
	b.h.made, b.h.analyzeAt = 0, 2*b.h.analyzeAt
	b.begin(0)
	b.statement("push_analyze")
	b.stmts[0].Unnamed = true
	return b.stmts
}

// winners asks who has the transaction ids already. It is never a prepared statement:
// a plan that was made while messages was small can read a whole partition per row.
func (b *Batch) winners() []Statement {
	g := &b.gather
	n := len(g.rows) + len(g.dups)
	b.begin(2)
	parts := array(b.buf[0][:0], oidUUID, n, false)
	transactions := array(b.buf[1][:0], oidText, n, false)
	for _, rows := range [][]row{g.rows, g.dups} {
		for i := range rows {
			parts = uuidElement(parts, &rows[i].partition)
			transactions = element(transactions, b.itemOf(&rows[i]).TransactionID)
		}
	}
	b.buf[0], b.buf[1] = parts, transactions
	b.statement("push_winners", 0, 1)
	b.stmts[0].Unnamed = true
	return b.stmts
}

// winnersRow takes (ordinality, message id).
func (b *Batch) winnersRow(values [][]byte) {
	g := &b.gather
	i := int8Column(values[0]) - 1
	r := &g.dups
	if i < len(g.rows) {
		r = &g.rows
	} else {
		i -= len(g.rows)
	}
	(*r)[i].won, (*r)[i].other = true, uuidColumn(values[1])
}

// winnersFound: what is there already is decided, the rest can be pushed.
func (b *Batch) winnersFound(g *group) {
	found := false
	for _, rows := range [][]row{b.gather.rows, b.gather.dups} {
		for i := range rows {
			r := &rows[i]
			if !r.won {
				continue
			}
			found = true
			it := b.itemOf(r)
			if it == nil {
				continue
			}
			it.WinnerID = r.other
			if r.other == it.ID {
				// Our own earlier try, whose answer was lost, was committed.
				it.Status, it.PartitionID = Queued, r.partition
			} else {
				it.Status = Duplicate
			}
		}
	}
	collided := g.collided
	g.winners, g.collided = false, false
	switch {
	case found:
		g.met, g.vain = true, 0
		b.h.storm = stormBatches
	case collided:
		if g.vain++; g.vain > vainMax && !b.halve(g) {
			b.giveUp(g, "PostgreSQL reports a duplicate that cannot be found", "push the messages again")
		}
	}
}

// push stores the rows. The heads are locked by being moved, in their order, as push_plan
// has it; or first, by a statement of its own, where what is inserted depends on more than
// the heads: a statement sees what was there when it began, and of the rows that it has
// waited for what they are then (manual, "Read Committed Isolation Level").
func (b *Batch) push(lockFirst bool) []Statement {
	g := &b.gather
	g.stored = 0
	b.begin(pushParams)
	b.appendHeads()
	b.appendQueues()
	b.appendRows()
	if !b.c.locksFirst() {
		b.statement("push_plan") // before each push_insert: a plan is kept, and a pooler shares it
	}
	if lockFirst {
		b.statement("push_lock", headPartition)
	}
	g.insert = len(b.stmts)
	if b.c.Sealer == nil {
		b.statement(b.c.insert(), plainParams[:]...)
	} else {
		b.statement(b.c.insert(), sealedParams[:]...)
	}
	if g.counts = 0; b.wantsCounts() {
		g.counts = len(b.stmts)
		b.statement("push_count", headPartition)
		b.stmts[g.counts].Unnamed = true // it is rare
	}
	return b.stmts
}

// appendHeads makes the params that say which heads are moved, and how.
func (b *Batch) appendHeads() {
	heads, p := b.gather.heads, b.buf
	n := len(heads)
	p[headPartition] = array(p[headPartition][:0], oidUUID, n, false)
	p[headCount] = array(p[headCount][:0], oidInt4, n, false)
	p[headLast] = array(p[headLast][:0], oidUUID, n, false)
	for i := range heads {
		h := &heads[i]
		p[headPartition] = uuidElement(p[headPartition], &h.id)
		p[headCount] = int4Element(p[headCount], h.n)
		p[headLast] = uuidElement(p[headLast], &h.last)
	}
}

// appendRows makes the params that are the messages.
func (b *Batch) appendRows() {
	g, p := &b.gather, b.buf
	n := len(g.rows)
	traces, seals, producers := 0, 0, 0 // rows that have one
	for i := range g.rows {
		it := b.itemOf(&g.rows[i])
		if it.HasTrace {
			traces++
		}
		if b.sealed(g.rows[i].at) {
			seals++
		}
		if it.ProducerSub != nil {
			producers++
		}
	}
	p[rowHead] = array(p[rowHead][:0], oidInt4, n, false)
	p[rowRank] = array(p[rowRank][:0], oidInt4, n, false)
	p[rowID] = array(p[rowID][:0], oidUUID, n, false)
	p[rowTransaction] = array(p[rowTransaction][:0], oidText, n, false)
	p[rowTrace] = array(p[rowTrace][:0], oidUUID, allOrNone(n, traces), traces < n)
	p[rowPayload] = array(p[rowPayload][:0], oidText, n, false)
	p[rowSealed] = array(p[rowSealed][:0], oidBool, allOrNone(n, seals), false)
	p[rowProducer] = array(p[rowProducer][:0], oidText, allOrNone(n, producers), producers < n)
	head, rank := 0, 0
	for i := range g.rows {
		r := &g.rows[i]
		it := b.itemOf(r)
		if rank++; i == 0 || g.rows[i-1].partition != r.partition {
			head, rank = head+1, 1
		}
		p[rowHead] = int4Element(p[rowHead], head)
		p[rowRank] = int4Element(p[rowRank], rank)
		p[rowID] = uuidElement(p[rowID], &r.id)
		p[rowTransaction] = element(p[rowTransaction], it.TransactionID)
		if it.HasTrace {
			p[rowTrace] = uuidElement(p[rowTrace], &it.TraceID)
		} else if traces > 0 {
			p[rowTrace] = nullElement(p[rowTrace])
		}
		sealed := b.sealed(r.at)
		if sealed {
			p[rowPayload] = element(p[rowPayload], it.sealed)
		} else {
			p[rowPayload] = element(p[rowPayload], it.Payload)
		}
		if seals > 0 {
			p[rowSealed] = boolElement(p[rowSealed], sealed)
		}
		if it.ProducerSub != nil {
			p[rowProducer] = element(p[rowProducer], it.ProducerSub)
		} else if producers > 0 {
			p[rowProducer] = nullElement(p[rowProducer])
		}
	}
}

// allOrNone is how long an array for n rows is of which some have what it is for, and most
// have not: without any it is empty.
func allOrNone(n, some int) int {
	if some == 0 {
		return 0
	}
	return n
}

// IsLast says that nothing is left to do when the step that Step has returned last is
// committed.
func (b *Batch) IsLast() bool { return b.kind == pushStep && len(b.groups) == 1 }

// The params of push_insert, $1 to $11, the two more of push_insert_sealed, and the one more of
// push_early_insert and push_move, by their place in buf.
const (
	headPartition = iota
	headCount
	headLast
	rowHead
	rowRank
	rowID
	rowTransaction
	rowTrace
	rowPayload
	rowSealed
	rowProducer
	queueName
	queueSealed
	headSeq
	pushParams
)

var (
	plainParams = [...]int{headPartition, headCount, headLast,
		rowHead, rowRank, rowID, rowTransaction, rowTrace, rowPayload, rowSealed, rowProducer}
	sealedParams = [...]int{headPartition, headCount, headLast,
		rowHead, rowRank, rowID, rowTransaction, rowTrace, rowPayload, rowSealed, rowProducer, queueName, queueSealed}
	earlyParams = [...]int{headPartition, headSeq,
		rowHead, rowRank, rowID, rowTransaction, rowTrace, rowPayload, rowSealed, rowProducer}
)

// sealed says whether the payloads for a partition are sent encrypted.
func (b *Batch) sealed(at *hint) bool { return at.encrypted && b.c.Sealer != nil }

// appendQueues says of which queues we assume what about encryption. Without a key it
// makes no difference to us, and nothing is said.
func (b *Batch) appendQueues() {
	if b.c.Sealer == nil {
		return
	}
	heads, n := b.gather.heads, 0
	// Neighbours of one queue need one entry; more would do no harm.
	differs := func(i int) bool {
		return i == 0 || heads[i-1].at.queue != heads[i].at.queue || heads[i-1].at.encrypted != heads[i].at.encrypted
	}
	for i := range heads {
		if differs(i) {
			n++
		}
	}
	names, flags := array(b.buf[queueName][:0], oidText, n, false), array(b.buf[queueSealed][:0], oidBool, n, false)
	for i := range heads {
		if differs(i) {
			names, flags = element(names, heads[i].at.queue), boolElement(flags, heads[i].at.encrypted)
		}
	}
	b.buf[queueName], b.buf[queueSealed] = names, flags
}

// pushed: the rows are stored.
func (b *Batch) pushed(g *group) {
	if b.gather.stored != int64(len(b.gather.rows)) {
		// Somebody has put something (a trigger, a rule) on the table that keeps rows from
		// being stored. Others are, and all are counted: no answer would be right.
		b.uncount()
		b.decideAll(g, Fault{Internal, "queen.messages did not take what it should; is there a trigger on it?"})
		return
	}
	b.moved()
	for i := range b.gather.rows {
		r := &b.gather.rows[i]
		if it := b.itemOf(r); it != nil {
			it.Status, it.PartitionID, it.WinnerID = Queued, r.partition, r.id
		}
	}
	for i := range b.gather.dups {
		r := &b.gather.dups[i]
		if it := b.itemOf(r); it != nil {
			it.Status, it.WinnerID = Duplicate, r.other
		}
	}
}
