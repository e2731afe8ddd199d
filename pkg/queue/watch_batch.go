package queue

import "time"

// WatchBatch is the conversation of some Watch ops with PostgreSQL: one step, whatever
// they ask. It reads; what it writes is of no use after a crash or can be written again,
// so a step whose answer was lost is simply sent again. See Batch for how a store drives it.
type WatchBatch struct {
	roll
	stmts []Statement
	whose []watched // per statement
	buf   []byte    // the params' memory of one step
	subs  []groupStart
	alone int // ops are asked one by one from here on, after an error; -1: all at once
	sent  bool
	lost  bool
}

// watched says what a statement is to which op.
type watched struct {
	entry int
	what  watchedWhat
}

type watchedWhat uint8

const (
	noRows watchedWhat = iota
	checkRows
	sweepRows
	queuesRows
	flagsRows
)

// NewWatchBatch returns an empty batch, to be used again and again.
func NewWatchBatch() *WatchBatch { return &WatchBatch{roll: newRoll(""), alone: -1} }

// PreparedWatch are the statements of a WatchBatch that are worth preparing.
func PreparedWatch() []string {
	return []string{"watch_check", "watch_here", "watch_lax", "watch_empty", "system_state_read"}
}

// Reset makes the batch empty.
func (b *WatchBatch) Reset() {
	b.roll.reset()
	clear(b.stmts)
	b.stmts, b.whose, b.alone, b.sent, b.lost = b.stmts[:0], b.whose[:0], -1, false, false
	if cap(b.buf) > bytesKeptMax {
		b.buf = nil
	}
}

// Add takes an op into the batch; only before the first Step.
func (b *WatchBatch) Add(op *Op) { b.add(op) }

// Step returns the statements to send now; nil: every op is decided.
func (b *WatchBatch) Step(time.Duration) []Statement {
	b.begun = true
	clear(b.stmts)
	b.stmts, b.whose, b.buf = b.stmts[:0], b.whose[:0], b.buf[:0]
	checked := -1 // all checks of a step are one: what is new to one is new to all
	// Where a group begins must not be forgotten in a crash; the rest may.
	lax, flags := b.begins(), false
	for i := range b.entries {
		e := &b.entries[i]
		if e.decided || e.op == nil || b.alone >= 0 && len(b.stmts) > 0 {
			continue
		}
		w := &e.op.Watch
		w.Heard, w.Pending, w.Queues, w.More, w.Flags = w.Heard[:0], w.Pending[:0], w.Queues[:0], false, Flags{}
		if !lax && (w.Kind == WatchTell || w.Kind == WatchLeave || len(w.Empty) > 0) {
			lax = true
			b.ask(i, noRows, "watch_lax")
		}
		switch w.Kind {
		case WatchTell:
			b.ask(i, noRows, "watch_here", b.uuid(w.Process), b.text(w.Worker))
			if len(w.Tell) > 0 {
				b.tell(i, w)
			}
			if w.Tidy {
				b.ask(i, noRows, "watch_tidy")
			}
			fallthrough
		case WatchCheck:
			if len(w.Empty) > 0 {
				b.empty(i, w)
			}
			if checked < 0 {
				checked = i
				since := b.text(w.Since)
				if w.Since == "" {
					since = nil
				}
				b.ask(i, checkRows, "watch_check", since, b.uuid(w.Process))
			}
			if !flags && w.asksForFlags() {
				flags = true
				b.ask(i, flagsRows, "system_state_read")
			}
		case WatchSweep:
			b.ask(i, sweepRows, "watch_sweep", b.text(w.Queue), b.text(w.Group.Name), b.uuid(w.After), b.int4(w.Partitions))
		case WatchQueues:
			b.ask(i, queuesRows, "watch_queues", b.bytesOrNull(w.Namespace), b.bytesOrNull(w.Task), b.int4(QueuesMax))
		case WatchLeave:
			b.ask(i, noRows, "watch_leave", b.uuid(w.Process))
		case WatchBegin:
			// It is in the statement of all that begin; in a step of its own, when others have
			// failed, it is that one's only op.
		default:
			panic("BUG: a watch of an unknown kind")
		}
	}
	b.sent = len(b.stmts) > 0
	if !b.sent {
		return nil
	}
	return b.stmts
}

func (b *WatchBatch) ask(i int, what watchedWhat, name string, params ...[]byte) {
	b.stmts = append(b.stmts, Statement{Name: name, Params: params, Unnamed: what == sweepRows || name == "pop_subscribe"})
	b.whose = append(b.whose, watched{i, what})
}

// tell appends watch_tell.
func (b *WatchBatch) tell(i int, w *WatchRequest) {
	n := len(w.Tell)
	queues, parts := array(nil, oidText, n, false), array(nil, oidUUID, n, false)
	names, groups := array(nil, oidText, n, true), array(nil, oidText, n, true)
	orNull := func(dst []byte, text string) []byte {
		if text == "" {
			return nullElement(dst)
		}
		return element(dst, text)
	}
	for j := range w.Tell {
		t := &w.Tell[j]
		queues, parts = element(queues, t.Queue), uuidElement(parts, &t.Partition)
		names, groups = orNull(names, t.Name), orNull(groups, t.Group)
	}
	b.ask(i, noRows, "watch_tell", b.uuid(w.Process), queues, parts, names, groups)
}

// begins appends pop_subscribe for all ops that want it: one statement, so that their rows
// are locked in one order. false: there is none.
func (b *WatchBatch) begins() bool {
	b.subs = b.subs[:0]
	first := 0
	for i := range b.entries {
		e := &b.entries[i]
		if e.decided || e.op == nil {
			continue
		}
		if e.op.Watch.Kind == WatchBegin {
			if len(b.subs) == 0 {
				first = i
			}
			b.subs = append(b.subs, e.op.Watch.start())
		}
		if b.alone >= 0 {
			break // the others have a step of their own
		}
	}
	if len(b.subs) == 0 {
		return false
	}
	params := make([][]byte, startParams)
	appendStarts(params, b.subs)
	b.ask(first, noRows, "pop_subscribe", params...)
	return true
}

// start is what is to be written down.
func (w *WatchRequest) start() groupStart {
	s := groupStart{group: w.Group.Name}
	switch w.Scope {
	case OnePartition:
		s.queue, s.partition = w.Queue, w.Part
	case OneQueue:
		s.queue = w.Queue
	case ManyQueues:
		s.inMany(w.Namespace, w.Task)
	}
	if !s.from(w.Subscription) {
		panic("BUG: a group that begins at the beginning is to be written down")
	}
	return s
}

// empty appends watch_empty.
func (b *WatchBatch) empty(i int, w *WatchRequest) {
	queues, groups := array(nil, oidText, len(w.Empty), false), array(nil, oidText, len(w.Empty), false)
	for _, g := range w.Empty {
		queues, groups = element(queues, g.Queue), element(groups, g.Name)
	}
	b.ask(i, noRows, "watch_empty", queues, groups)
}

// The params, in the batch's memory. A growing buffer leaves the old one to those that
// point into it.

func (b *WatchBatch) kept(from int) []byte { return whole(b.buf[from:]) }

func (b *WatchBatch) text(s string) []byte {
	from := len(b.buf)
	b.buf = append(b.buf, s...)
	if len(s) == 0 {
		return []byte{}
	}
	return b.kept(from)
}

func (b *WatchBatch) bytesOrNull(s []byte) []byte {
	if s == nil {
		return nil
	}
	return b.text(string(s))
}

func (b *WatchBatch) uuid(u UUID) []byte {
	from := len(b.buf)
	b.buf = append(b.buf, u[:]...)
	return b.kept(from)
}

func (b *WatchBatch) int4(n int) []byte {
	from := len(b.buf)
	b.buf = append(b.buf, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	return b.kept(from)
}

// Row takes one DataRow of statement #stmt of this step.
func (b *WatchBatch) Row(stmt int, values [][]byte) {
	who := b.whose[stmt]
	e := &b.entries[who.entry]
	switch who.what {
	case checkRows:
		for i := who.entry; i < len(b.entries); i++ {
			o := b.entries[i].op
			if o == nil || b.entries[i].decided || o.Watch.Kind != WatchCheck && o.Watch.Kind != WatchTell {
				continue
			}
			o.Watch.heard(values)
			if b.alone >= 0 {
				break
			}
		}
	case flagsRows:
		for i := who.entry; i < len(b.entries); i++ {
			if o := b.entries[i].op; o != nil && !b.entries[i].decided && o.Watch.asksForFlags() {
				o.Watch.Flags = Flags{Push: boolColumn(values[0]), Pop: boolColumn(values[1]), Known: true}
			}
			if b.alone >= 0 {
				break
			}
		}
	case sweepRows:
		if e.op != nil {
			e.op.Watch.swept(values)
		}
	case queuesRows:
		if e.op != nil {
			e.op.Watch.Queues = append(e.op.Watch.Queues, string(values[0]))
		}
	}
}

func (w *WatchRequest) asksForFlags() bool {
	return w.Kind == WatchTell || w.Kind == WatchCheck && w.Since == ""
}

// heard takes (snapshot, others, queue, partition, name, group), the last four null when
// nothing was told.
func (w *WatchRequest) heard(values [][]byte) {
	w.Snapshot, w.Others = string(values[0]), boolColumn(values[1])
	if values[2] != nil {
		w.Heard = append(w.Heard, Told{Queue: string(values[2]), Partition: uuidColumn(values[3]), Name: string(values[4]), Group: string(values[5])})
	}
}

// swept takes (partition, ms, null), or at last (null, null, the last partition).
func (w *WatchRequest) swept(values [][]byte) {
	if values[0] == nil {
		if values[2] != nil {
			w.Next, w.More = uuidColumn(values[2]), true
		}
		return
	}
	w.Pending = append(w.Pending, Claimable{uuidColumn(values[0]), time.Duration(int8Column(values[1])) * time.Millisecond})
}

// Tag takes the row count of a statement; none matters.
func (b *WatchBatch) Tag(int, int64) {}

// StepDone says that the Sync was answered.
func (b *WatchBatch) StepDone(err *SQLError, now time.Duration) Verdict {
	if !b.sent {
		panic("BUG: a step is done that was not begun")
	}
	b.sent = false
	if err == nil {
		b.lost = false
		for _, w := range b.whose {
			b.decide(w.entry, Fault{})
		}
		if b.alone < 0 { // all of them, also those that shared a check
			for i := range b.entries {
				b.decide(i, Fault{})
			}
		}
		return Verdict{}
	}
	v := Verdict{Class: Classify(err.Code)}
	switch v.Class {
	case ClassAway, ClassSetup:
		v.Action = Away
	case ClassLost:
		if v.Action = Prepare; b.lost {
			v.Action = Away
		}
		b.lost = !b.lost
	default:
		if b.alone < 0 && len(b.entries) > 1 {
			b.alone = 0 // so that the error is one op's alone
			return v
		}
		i := b.whose[0].entry
		if v.Class == ClassData {
			b.decide(i, Fault{Invalid, err.Message})
		} else if v.After = b.retry(i, i+1, now, "PostgreSQL did not answer", err); v.After > 0 {
			v.Action = Wait
		}
	}
	return v
}

// Unknown says that the step's answer will never come; it is sent again.
func (b *WatchBatch) Unknown() { b.sent = false }

// Expire gives back the ops whose Deadline has passed.
func (b *WatchBatch) Expire(now time.Duration) []*Op {
	return b.expire(now, "PostgreSQL did not answer in time")
}

// Fail decides every op that is not decided yet.
func (b *WatchBatch) Fail(f Fault) {
	for i := range b.entries {
		b.decide(i, f)
	}
}
