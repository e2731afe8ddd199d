package queue

import (
	"encoding/binary"
	"slices"
	"time"
)

// groupStart is where a group begins in a queue, or in one of its partitions, or in the
// queues of a namespace and a task, as it is to be written down.
type groupStart struct {
	group, queue, partition, namespace, task string
	mode                                     string
	at                                       time.Time // zero: now
}

func (s *groupStart) key() string {
	// No name holds a NUL.
	return s.group + "\x00" + s.queue + "\x00" + s.partition + "\x00" + s.namespace + "\x00" + s.task
}

// from says where a subscription begins. false: at the beginning, which is not written down.
func (s *groupStart) from(sub Subscription) bool {
	switch sub.Mode {
	case SubscribeNew:
		s.mode = "new"
	case SubscribeAt:
		s.mode, s.at = "timestamp", sub.At
	}
	return s.mode != ""
}

// inMany makes s the beginning in the queues of a namespace and a task, which may be none
// yet. Empty is any; all queues have a form of their own, since without a name it would be
// the beginning in the queue whose name is empty.
func (s *groupStart) inMany(namespace, task []byte) {
	if s.namespace, s.task = string(namespace), string(task); s.namespace+s.task == "" {
		s.partition, s.namespace, s.task = "*", "*", "*"
	}
}

// partitions is how many partitions a pop may claim.
func (p *PopRequest) partitions() int {
	if p.Scope == OnePartition {
		return 1
	}
	return min(max(p.Partitions, 1), PopPartitionsMax)
}

// want is how many messages it may take.
func (p *PopRequest) want() int { return min(max(p.Batch, 0), PopBatchMax) }

// Elsewhere says that a group that is new should not begin at the beginning.
func (p *PopRequest) Elsewhere() bool {
	return p.Subscription.Mode != SubscribeAll && string(p.Group) != QueueMode
}

// begins lists where entry i's group begins, unless it is known to be written down. false:
// nothing is to be written.
func (b *PopBatch) begins(i int) bool {
	p, s := &b.entries[i].op.Pop, &b.pops[i]
	if !p.Elsewhere() {
		return false
	}
	from := len(b.subs)
	add := func(sub groupStart) {
		sub.group = string(p.Group)
		sub.from(p.Subscription)
		if _, known := b.settled[sub.key()]; !known || s.subscribe {
			b.subs = append(b.subs, sub)
		}
	}
	switch p.Scope {
	case OnePartition:
		add(groupStart{queue: string(p.Queue), partition: string(p.Partition)})
	case OneQueue:
		add(groupStart{queue: string(p.Queue)})
	case ManyQueues:
		var many groupStart
		many.inMany(p.Namespace, p.Task)
		add(many)
	}
	return len(b.subs) > from
}

// written remembers that a beginning is written down. If somebody deletes it, a claim
// that misses it says so.
func (b *PopBatch) written(s *groupStart) {
	if len(b.settled) >= settledMax {
		clear(b.settled)
	}
	b.settled[s.key()] = struct{}{}
}

// appendStep makes the statements of a claim.
func (b *PopBatch) appendStep() {
	b.begin()
	b.claim, b.open, b.made = -1, -1, 0
	if b.pause {
		b.statement("pop_pause", true)
	}
	if len(b.subs) > 0 {
		b.appendSubscribe()
	}
	if len(b.absent) > 0 {
		b.open = len(b.stmts)
		b.appendLeases("pop_open", b.absent, openParts, openGroups)
	}
	if len(b.tries) > 0 {
		b.statement("pop_plan", false)
		b.claim = len(b.stmts)
		b.appendClaim()
	}
}

// The buffers of a step's params, by their place in buf: pop_claim's $1 to $12 first.
const (
	claimRequest = iota
	claimPartition
	claimQueue
	claimName
	claimGroup
	claimWant
	claimPartitions
	claimAuto
	claimLease
	claimElsewhere
	claimShare
	claimBytes
	openParts
	openGroups
	openLeases
	subGroups
	subQueues
	subPartitions
	subNamespaces
	subTasks
	subModes
	subTimes
	popParams
)

// begin empties the step.
func (b *PopBatch) begin() {
	b.stmts, b.params = b.stmts[:0], b.params[:0]
	if b.buf == nil {
		b.buf = make([][]byte, popParams)
	}
	// All params are in one array that does not move while statements point into it.
	b.params = slices.Grow(b.params, popParams)
}

// statement appends a statement. Its params are the buffers with these numbers.
func (b *PopBatch) statement(name string, unnamed bool, bufs ...int) {
	from := len(b.params)
	for _, i := range bufs {
		b.params = append(b.params, b.buf[i])
	}
	b.stmts = append(b.stmts, Statement{Name: name, Params: b.params[from:len(b.params):len(b.params)], Unnamed: unnamed})
}

func (b *PopBatch) appendSubscribe() {
	appendStarts(b.buf[subGroups:subTimes+1], b.subs)
	b.statement("pop_subscribe", true, subGroups, subQueues, subPartitions, subNamespaces, subTasks, subModes, subTimes)
}

// appendStarts puts the params of pop_subscribe into bufs, of which there are as many.
func appendStarts(bufs [][]byte, subs []groupStart) {
	n := len(subs)
	for i, of := range [...]func(*groupStart) string{
		func(s *groupStart) string { return s.group },
		func(s *groupStart) string { return s.queue },
		func(s *groupStart) string { return s.partition },
		func(s *groupStart) string { return s.namespace },
		func(s *groupStart) string { return s.task },
		func(s *groupStart) string { return s.mode },
	} {
		bufs[i] = array(bufs[i][:0], oidText, n, false)
		for j := range subs {
			bufs[i] = element(bufs[i], of(&subs[j]))
		}
	}
	const oidTime = 1184 // timestamptz
	times := array(bufs[startParams-1][:0], oidTime, n, true)
	for j := range subs {
		if at := subs[j].at; at.IsZero() {
			times = nullElement(times)
		} else {
			times = binary.BigEndian.AppendUint32(times, 8)
			times = binary.BigEndian.AppendUint64(times, uint64(at.UnixMicro()-epochMicros))
		}
	}
	bufs[startParams-1] = times
}

// startParams is how many params pop_subscribe has.
const startParams = 7

// appendLeases appends a statement about cursors: their partitions and groups, and if it
// wants them their leases.
func (b *PopBatch) appendLeases(name string, list []popLease, bufs ...int) {
	n := len(list)
	parts, groups := array(b.buf[openParts][:0], oidUUID, n, false), array(b.buf[openGroups][:0], oidText, n, false)
	leases := array(b.buf[openLeases][:0], oidText, n, false)
	for i := range list {
		l := &list[i]
		parts, groups, leases = uuidElement(parts, &l.id), element(groups, l.group), element(leases, l.lease)
	}
	b.buf[openParts], b.buf[openGroups], b.buf[openLeases] = parts, groups, leases
	b.statement(name, true, bufs...)
}

// giveBack ends the leases of pops that ended meanwhile.
func (b *PopBatch) giveBack() []Statement {
	b.kind = undoPop
	b.begin()
	b.appendLeases("pop_undo", b.undo, openParts, openGroups, openLeases)
	return b.stmts
}

func int8Element(dst []byte, n int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 8)
	return binary.BigEndian.AppendUint64(dst, uint64(n))
}

// popMessageBytes is what a message counts beside its payload, as pop_claim has it too.
const popMessageBytes = 512

func (b *PopBatch) appendClaim() {
	p, n := b.buf, len(b.tries)
	byName, weights := false, 0
	for i := range b.tries {
		t := &b.tries[i]
		byName = byName || t.try < 0
		if i == 0 || b.tries[i-1].entry != t.entry {
			weights += b.entries[t.entry].op.Pop.weight()
		}
	}
	p[claimRequest] = array(p[claimRequest][:0], oidInt4, n, false)
	p[claimPartition] = array(p[claimPartition][:0], oidUUID, n, byName)
	p[claimQueue] = array(p[claimQueue][:0], oidText, n, true)
	p[claimName] = array(p[claimName][:0], oidText, n, true)
	p[claimGroup] = array(p[claimGroup][:0], oidText, n, false)
	p[claimWant] = array(p[claimWant][:0], oidInt4, n, false)
	p[claimPartitions] = array(p[claimPartitions][:0], oidInt4, n, false)
	p[claimAuto] = array(p[claimAuto][:0], oidBool, n, false)
	p[claimLease] = array(p[claimLease][:0], oidText, n, false)
	p[claimElsewhere] = array(p[claimElsewhere][:0], oidBool, n, false)
	p[claimShare] = array(p[claimShare][:0], oidInt8, n, false)
	for i := range b.tries {
		t := &b.tries[i]
		r := &b.entries[t.entry].op.Pop
		p[claimRequest] = int4Element(p[claimRequest], t.entry)
		if t.try < 0 {
			p[claimPartition] = nullElement(p[claimPartition])
			p[claimQueue], p[claimName] = element(p[claimQueue], r.Queue), element(p[claimName], r.Partition)
		} else {
			p[claimPartition] = uuidElement(p[claimPartition], &r.Tries[t.try].Partition)
			p[claimQueue], p[claimName] = nullElement(p[claimQueue]), nullElement(p[claimName])
		}
		p[claimGroup] = element(p[claimGroup], r.Group)
		share := b.share(r, weights)
		p[claimWant] = int4Element(p[claimWant], min(r.want(), b.rows(share)))
		p[claimPartitions] = int4Element(p[claimPartitions], r.partitions())
		p[claimAuto] = boolElement(p[claimAuto], r.AutoAck)
		p[claimLease] = element(p[claimLease], b.pops[t.entry].lease[:])
		p[claimElsewhere] = boolElement(p[claimElsewhere], r.Elsewhere())
		p[claimShare] = int8Element(p[claimShare], share)
	}
	p[claimBytes] = binary.BigEndian.AppendUint64(p[claimBytes][:0], uint64(b.bytes))
	b.statement("pop_claim", false, claimRequest, claimPartition, claimQueue, claimName, claimGroup,
		claimWant, claimPartitions, claimAuto, claimLease, claimElsewhere, claimShare, claimBytes)
}
