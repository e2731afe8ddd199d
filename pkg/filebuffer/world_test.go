package filebuffer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
	"github.com/queend/queend/pkg/queue"
)

// world is some loops, a PostgreSQL and a disk around a Buffer, in memory and in virtual
// time, that a test moves by hand. The buffer and its journal are real, and so are their
// two goroutines: after each move the world waits until they have nothing left to do. It
// lives in a bubble of package synctest.
type world struct {
	start  time.Time
	dir    string // of the files that are not the journal's: they are real
	fs     *faultfs.FS
	disk   *disk
	b      *Buffer
	o      Options
	random *rand.Rand // for what a power cut leaves
	errs   []string
	lives  int
	cost   int    // of each push at least
	unread string // the next process waits for this file
	hole   string // of this file the disk does not give the second page

	anyGiven bool // also transactions that no client has named are expected

	loops  []*fakeLoop
	lanes  []*fakeLane     // one for each loop
	replay *fakeLane       // on loop 0; nil: nothing is drained yet
	away   bool            // PostgreSQL is, for all
	locked map[string]bool // partitions, by somebody in PostgreSQL
	pg     fakePG

	falling bool // ids fall within a push
	winners bool // duplicates are looked for before partitions are locked

	pushes  []*push
	byTx    map[string]*sent
	excused map[string]bool // producer/partition: see push
}

// sent is a message and what its producer knows.
type sent struct {
	tx, partition, payload string
	producer, n            int
	again                  bool // another was pushed before with its transaction
	answer                 answer
	text                   string
}

type answer uint8

const (
	unanswered answer = iota
	stored            // queued or buffered
	refusedIt         // and surely not stored
	refusedMaybe
)

// push is an op of a producer.
type push struct {
	w        *world
	op       queue.Op
	producer int
	loop     int
	life     int
	messages []*sent
	ended    int
	at       time.Duration
	took     time.Duration
	then     func()
}

func newWorld(t testing.TB, loops int, change ...func(*Options)) *world {
	w := emptyWorld(t, change...)
	w.boot(loops)
	return w
}

// emptyWorld is one before its first process.
func emptyWorld(t testing.TB, change ...func(*Options)) *world {
	dir, err := os.MkdirTemp("", "filebuffer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{
		start: time.Now(), dir: dir, fs: faultfs.New(), random: rand.New(rand.NewPCG(1, 2)),
		byTx: map[string]*sent{}, excused: map[string]bool{}, locked: map[string]bool{},
		pg: fakePG{order: map[string][]string{}, has: map[string]bool{}},
	}
	w.o = Options{Dir: dir, BytesMax: 1 << 30, SegmentBytes: 8 << 10, Now: w.now}
	for _, f := range change {
		f(&w.o)
	}
	return w
}

func (w *world) errorf(format string, args ...any) {
	if len(w.errs) < 20 {
		w.errs = append(w.errs, fmt.Sprintf(format, args...))
	}
}

func (w *world) now() time.Duration { return time.Hour + time.Since(w.start) }

// boot starts a process on what is on the disk. Its ids begin anywhere: the clock was set.
func (w *world) boot(loops int) {
	w.lives++
	w.disk = &disk{FS: w.fs, hole: w.hole}
	if w.unread != "" {
		w.disk.hang()
		w.disk.unread = w.unread
	}
	w.loops, w.lanes, w.replay = nil, nil, nil
	for i := range loops {
		l := &fakeLoop{w: w, life: w.lives, ids: uint64(w.random.IntN(50))}
		w.loops = append(w.loops, l)
		w.lanes = append(w.lanes, &fakeLane{w: w, loop: i, life: w.lives})
	}
	w.o.fs = w.disk
	b, err := Open(w.o)
	if err != nil {
		w.errorf("it does not open: %v", err)
		panic(errStopWorld)
	}
	w.b = b
	for i, l := range w.loops {
		l.store = b.Store(Services{Post: l.post, After: l.after, Now: w.now}, w.lanes[i])
	}
}

var errStopWorld = errors.New("the world cannot go on")

// drain begins to deliver.
func (w *world) drain() {
	w.replay = &fakeLane{w: w, life: w.lives, replays: true, away: w.away}
	w.b.Drain(Replay{Store: w.replay, Post: w.loops[0].post, Now: w.now})
}

// fakeLoop is a loop.
type fakeLoop struct {
	w     *world
	life  int
	store *Store
	ids   uint64

	mu     sync.Mutex
	posts  []func()
	timers []fakeTimer
}

type fakeTimer struct {
	at time.Duration
	f  func()
}

func (l *fakeLoop) post(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posts = append(l.posts, f)
}

func (l *fakeLoop) after(d time.Duration, f func()) {
	l.timers = append(l.timers, fakeTimer{l.w.now() + d, f})
}

// run runs what was posted and what is due; false: there was nothing.
func (l *fakeLoop) run() (ran bool) {
	l.mu.Lock()
	posts := l.posts
	l.posts = nil
	l.mu.Unlock()
	for _, f := range posts {
		f()
		ran = true
	}
	now := l.w.now()
	for i := 0; i < len(l.timers); {
		if t := l.timers[i]; t.at <= now {
			l.timers = slices.Delete(l.timers, i, i+1)
			t.f()
			ran, i = true, 0
			continue
		}
		i++
	}
	return ran
}

// settle lets happen what is to happen now. PostgreSQL does nothing by itself.
func (w *world) settle() {
	for range 10_000 {
		synctest.Wait()
		if w.disk.cut.Load() {
			w.powerCut()
			continue
		}
		ran := false
		for _, l := range w.loops {
			ran = l.run() || ran
		}
		if !ran {
			return
		}
	}
	w.errorf("it never comes to rest")
	panic(errStopWorld)
}

// sleep lets time pass.
func (w *world) sleep(d time.Duration) {
	for ; d > 0; d -= 10 * time.Millisecond {
		time.Sleep(min(d, 10*time.Millisecond))
		w.settle()
	}
}

// all are the lanes of this life.
func (w *world) all() []*fakeLane {
	if w.replay == nil {
		return w.lanes
	}
	return append(slices.Clone(w.lanes), w.replay)
}

// flow has PostgreSQL do and answer all that it was asked.
func (w *world) flow() {
	for range 10_000 {
		w.settle()
		busy := false
		for _, l := range w.all() {
			if len(l.sent) > 0 {
				l.happen(len(l.sent))
				busy = true
			}
			for len(l.done) > 0 {
				l.answer()
				busy = true
			}
		}
		if !busy {
			return
		}
	}
	w.errorf("the flow never ends")
	panic(errStopWorld)
}

// outage takes PostgreSQL away for all lanes, or brings it back.
func (w *world) outage(on bool) {
	w.away = on
	for _, l := range w.all() {
		l.goAway(on)
	}
}

// kill ends the process; what its clients did not hear they never will.
func (w *world) kill() {
	w.end()
	w.fs.Kill()
}

// powerCut ends the machine.
func (w *world) powerCut() {
	loops := len(w.loops)
	w.end()
	w.fs.PowerCut(w.random)
	w.fs.Room(0) // a full disk is no way to begin
	w.reboot(loops)
}

// end takes everything from the process, and then lets its goroutines end.
func (w *world) end() {
	w.disk.dead.Store(true)
	w.disk.let()
	old, replay := w.b, w.replay
	w.lives++ // its loops and lanes are nobody's now
	closed := make(chan struct{})
	loop := w.loops[0]
	go func() {
		_ = old.Close()
		close(closed)
	}()
	for {
		// The drain's batch, if there is one, ends, so that the goroutine does.
		synctest.Wait()
		loop.mu.Lock()
		posts := loop.posts
		loop.posts = nil
		loop.mu.Unlock()
		for _, f := range posts {
			f()
		}
		if replay != nil {
			for _, op := range append(replay.done, replay.sent...) {
				op.Fault = queue.Fault{Code: queue.Outage, Message: "the process has ended"}
				op.Done.OpDone(op)
			}
			replay.done, replay.sent = nil, nil
		}
		select {
		case <-closed:
			return
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

// reboot starts the next process.
func (w *world) reboot(loops int) {
	w.boot(loops)
	for _, l := range w.lanes {
		l.away = w.away
	}
	w.drain()
}

// close ends the process as it should.
func (w *world) close() {
	w.settle()
	closed := make(chan error, 1)
	go func() { closed <- w.b.Close() }()
	for {
		w.flow()
		select {
		case err := <-closed:
			if err != nil {
				w.errorf("it is not closed: %v", err)
			}
			w.settle()
			return
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

// push has a producer push messages on a loop, one to each partition that is named; after = the
// name is the transaction of a message that is pushed again.
func (w *world) push(producer, loop int, partitions ...string) *push {
	p := &push{w: w, producer: producer, loop: loop, life: w.lives, at: w.now()}
	l, lane := w.loops[loop], w.lanes[loop]
	before := false
	for _, name := range partitions {
		n := len(w.byTx)
		m := &sent{tx: fmt.Sprintf("tx-%d-%d", producer, n), partition: strings.TrimPrefix(name, "!"), producer: producer, n: n}
		m.payload = fmt.Sprintf(`{"n":%d}`, n)
		if name[0] == '!' { // PostgreSQL will refuse it
			m.payload = fmt.Sprintf(`{"bad":%d}`, n)
		}
		if tx, again := strings.CutPrefix(name, "="); again {
			first := *w.byTx[tx]
			m, first.again = &first, true
		} else {
			w.byTx[m.tx] = m
		}
		p.messages = append(p.messages, m)
		it := queue.Item{
			Queue: []byte("q"), Partition: []byte(m.partition), TransactionID: []byte(m.tx), GivenTransaction: true,
			Payload: []byte(m.payload),
		}
		l.ids++
		binary.BigEndian.PutUint64(it.ID[:], l.ids)
		if w.falling {
			binary.BigEndian.PutUint64(it.ID[:], l.ids+uint64(len(partitions)-2*len(p.op.Items)))
		}
		it.ID[15], it.ID[14] = byte(loop), byte(w.lives)
		p.op.Items = append(p.op.Items, it)
		before = before || lane.has(m.partition)
	}
	p.op.Cost = max(200*len(partitions), w.cost)
	p.op.Accepted, p.op.Deadline = w.now(), w.now()+2*time.Second
	p.op.Done = p
	w.pushes = append(w.pushes, p)
	l.store.Do(&p.op)
	if before && p.ended == 0 && !slices.Contains(lane.sent, &p.op) {
		// It goes to disk, and one before it of this loop is on its direct way: who does not
		// wait for an answer before he pushes again may find them in another order.
		for _, m := range p.messages {
			w.excused[fmt.Sprintf("%d/%s", producer, m.partition)] = true
		}
	}
	return p
}

// OpDone implements queue.Completer.
func (p *push) OpDone(op *queue.Op) {
	w := p.w
	if op != &p.op {
		panic("BUG: an op of somebody else is done")
	}
	if p.life != w.lives {
		return // the process is dead, and so is the connection
	}
	if p.ended++; p.ended > 1 {
		w.errorf("push %s ended %d times", p.messages[0].tx, p.ended)
	}
	p.took = w.now() - p.at
	for i, m := range p.messages {
		it := &op.Items[i]
		switch f := op.Fault; {
		case string(it.TransactionID) != m.tx:
			w.errorf("%s is answered as %s", m.tx, it.TransactionID)
		case f.Code == queue.Outage:
			w.errorf("%s hears of the outage itself", m.tx)
		case f.Code != queue.OK && strings.Contains(f.Message, "may"):
			m.answer, m.text = refusedMaybe, f.Message
		case f.Code != queue.OK:
			m.answer, m.text = refusedIt, f.Message
			if it.Status == queue.Queued { // the same was decided before
				m.answer = refusedMaybe
			}
		case it.Status == queue.Queued, it.Status == queue.Buffered, it.Status == queue.Duplicate:
			m.answer, m.text = stored, ""
			if it.Status == queue.Buffered {
				m.text = "buffered"
			}
		case it.Status == queue.Failed:
			m.answer, m.text = refusedIt, it.Error
		default:
			w.errorf("%s is answered undecided", m.tx)
		}
	}
	// The op is its owner's again, who uses it for something else.
	for i := range op.Items {
		it := &op.Items[i]
		for _, b := range [][]byte{it.Queue, it.Partition, it.TransactionID, it.Payload} {
			for j := range b {
				b[j] = '#'
			}
		}
		*it = queue.Item{}
	}
	op.Items = op.Items[:0]
	if p.then != nil {
		p.then()
	}
}

// is says how a push of one message ended.
func (p *push) is(want answer, text string) {
	if p.ended != 1 || p.messages[0].answer != want || !strings.Contains(p.messages[0].text, text) {
		p.w.errorf("%s ended %d times: %d %q, not %d %q", p.messages[0].tx, p.ended, p.messages[0].answer, p.messages[0].text, want, text)
	}
}

// fakeLane is a lane to PostgreSQL: ops happen in batches, and are answered later.
type fakeLane struct {
	w       *world
	loop    int
	life    int
	replays bool
	away    bool
	giving  bool
	sent    []*queue.Op
	done    []*queue.Op
}

const (
	saidAway  = "PostgreSQL is away, try again in a second"
	saidMaybe = "PostgreSQL is away; the messages may have been stored: push them again with the same transactionId"
	saidLate  = "PostgreSQL did not answer in time; the messages may have been stored: push them again with the same transactionId"
)

func (l *fakeLane) Do(op *queue.Op) {
	for i := range op.Items {
		if m := l.w.byTx[string(op.Items[i].TransactionID)]; m == nil {
			l.w.errorf("PostgreSQL is asked to store %q, which nobody has pushed", op.Items[i].TransactionID)
		}
	}
	switch {
	case l.giving:
		l.sent = append(l.sent, op) // behind those before it
	case l.away:
		op.Fault = queue.Fault{Code: queue.Outage, Message: saidAway}
		op.Done.OpDone(op)
	default:
		l.sent = append(l.sent, op)
	}
}

func (l *fakeLane) Cancel(*queue.Op) {}

// has says whether a message for a partition is on its way.
func (l *fakeLane) has(partition string) bool {
	for _, op := range append(slices.Clone(l.sent), l.done...) {
		for i := range op.Items {
			if string(op.Items[i].Partition) == partition {
				return true
			}
		}
	}
	return false
}

// happen stores the first n ops in one transaction; those that cannot be, not.
func (l *fakeLane) happen(n int) {
	var items []*queue.Item
	for _, op := range l.sent[:n] {
		if l.w.refuses(op) {
			continue
		}
		bad := false
		for i := range op.Items {
			bad = bad || op.Items[i].Status == queue.Pending && bytes.Contains(op.Items[i].Payload, []byte("bad"))
		}
		for i := range op.Items {
			it := &op.Items[i]
			switch {
			case it.Status != queue.Pending:
			case bad:
				it.Status, it.Error = queue.Failed, "invalid input syntax"
			default:
				items = append(items, it)
			}
		}
	}
	slices.SortStableFunc(items, func(a, b *queue.Item) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for _, it := range items {
		l.w.pg.store(l.w, it)
		it.Status, it.WinnerID = queue.Queued, it.ID
	}
	l.done = append(l.done, l.sent[:n]...)
	l.sent = slices.Delete(l.sent, 0, n)
}

const saidLocked = "another session holds it locked"

// refuses fails an op that is for a locked partition. Duplicates may be known by then.
func (w *world) refuses(op *queue.Op) (refused bool) {
	for i := range op.Items {
		it := &op.Items[i]
		refused = refused || it.Status == queue.Pending && w.locked[string(it.Partition)]
	}
	for i := range op.Items {
		it := &op.Items[i]
		if refused && w.winners && it.Status == queue.Pending && w.pg.has[string(it.TransactionID)] {
			it.Status = queue.Duplicate
		}
		it.Locked = it.Status == queue.Pending && w.locked[string(it.Partition)]
	}
	if refused {
		op.Fault = queue.Fault{Code: queue.Unavailable, Message: saidLocked}
	}
	return refused
}

// answer gives the first answer back.
func (l *fakeLane) answer() {
	op := l.done[0]
	l.done = slices.Delete(l.done, 0, 1)
	op.Done.OpDone(op)
}

// goAway gives all back: what happened and was not answered is not known to have.
func (l *fakeLane) goAway(on bool) {
	if l.away = on; !on {
		return
	}
	l.giving = true
	give := func(op *queue.Op, sentence string) {
		op.Fault = queue.Fault{Code: queue.Outage, Message: sentence}
		op.Done.OpDone(op)
	}
	for len(l.done) > 0 {
		op := l.done[0]
		l.done = slices.Delete(l.done, 0, 1)
		for i := range op.Items {
			op.Items[i].Status, op.Items[i].Error = queue.Pending, ""
		}
		give(op, saidMaybe)
	}
	for len(l.sent) > 0 {
		op := l.sent[0]
		l.sent = slices.Delete(l.sent, 0, 1)
		give(op, saidAway)
	}
	l.giving = false
}

// late refuses one op whose deadline has come.
func (l *fakeLane) late(i int) {
	var op *queue.Op
	if i < len(l.done) {
		op = l.done[i]
		l.done = slices.Delete(l.done, i, i+1)
	} else {
		i -= len(l.done)
		op = l.sent[i]
		l.sent = slices.Delete(l.sent, i, i+1)
	}
	op.Fault = queue.Fault{Code: queue.Unavailable, Message: saidLate}
	op.Done.OpDone(op)
}

// fakePG has the messages of each partition in the order of delivery.
type fakePG struct {
	order map[string][]string
	has   map[string]bool

	stores int // of messages, also such that were there
}

func (pg *fakePG) store(w *world, it *queue.Item) {
	tx := string(it.TransactionID)
	m := w.byTx[tx]
	if m == nil || string(it.Queue) != "q" || string(it.Partition) != m.partition || string(it.Payload) != m.payload || !it.GivenTransaction && !w.anyGiven {
		w.errorf("%q is stored as %s/%s %s", tx, it.Queue, it.Partition, it.Payload)
		return
	}
	pg.stores++
	if !pg.has[tx] {
		pg.has[tx] = true
		pg.order[m.partition] = append(pg.order[m.partition], tx)
	}
}

// quiet brings everything back and waits until nothing is left to do.
func (w *world) quiet() {
	w.fs.Heal()
	w.fs.Room(0)
	w.disk.let()
	w.b.SetMaintenance(false)
	clear(w.locked)
	w.outage(false)
	if w.replay == nil {
		w.drain()
	}
	for range 3000 {
		w.flow()
		w.sleep(10 * time.Millisecond)
		if w.b.clear.Load() && len(w.b.drainWake) == 0 {
			break
		}
	}
	w.flow()
	w.sleep(500 * time.Millisecond)
	w.flow()
}

// consistent checks what must be true whenever nothing is on its way to the disk.
func (w *world) consistent() {
	b := w.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if pending := b.stats.Pending.Load(); len(b.waiting)+len(b.writing) == 0 && int64(b.gate.messages) != pending {
		w.errorf("%d messages wait on disk, and %d are gated", pending, b.gate.messages)
	}
	if b.clear.Load() && !b.gate.empty() {
		w.errorf("it is clear, and %d messages are gated", b.gate.messages)
	}
}

// check checks what must be true when all is quiet.
func (w *world) check() {
	b := w.b
	s := b.Status()
	b.mu.Lock()
	if !b.clear.Load() || !b.gate.empty() || len(b.gate.partitions) > 0 || b.closing || len(b.waiting)+len(b.writing) > 0 || b.waitingBytes != 0 {
		w.errorf("it is quiet and not clear: gate %d of %d partitions, all %d; closing %v, waiting %d, %d bytes",
			b.gate.messages, len(b.gate.partitions), b.gate.all, b.closing, len(b.waiting), b.waitingBytes)
	}
	for _, l := range w.loops {
		if st := l.store; len(st.held) > 0 || st.heldBytes != 0 || st.outstanding != 0 {
			w.errorf("a store holds %d (%d bytes), %d outstanding", len(st.held), st.heldBytes, st.outstanding)
		}
	}
	b.mu.Unlock()
	if s.Pending != 0 || b.stats.Held.Load() != 0 || s.Draining || s.For != 0 {
		w.errorf("it is quiet and says %+v, %d held", s, b.stats.Held.Load())
	}
	if n, of := b.stats.Behind.Load(), b.stats.BehindPartitions.Load(); n != 0 || of != 0 {
		w.errorf("%d messages of %d partitions are said to stay behind", n, of)
	}
	if _, err := os.Stat(filepath.Join(w.dir, behindFile)); err == nil {
		w.errorf("it is written down that partitions stay behind")
	}
	if r := s.Journal.Records; r != 0 {
		w.errorf("%d records are left in the journal", r)
	}
	aside := w.aside()
	for _, p := range w.pushes {
		if p.life == w.lives && p.ended != 1 {
			w.errorf("push %s ended %d times", p.messages[0].tx, p.ended)
		}
		for _, m := range p.messages {
			bad := strings.Contains(m.payload, "bad")
			switch has := w.pg.has[m.tx]; {
			case m.answer == stored && !bad && !has:
				w.errorf("%s is lost, its answer was %q", m.tx, m.text)
			case m.answer == refusedIt && has && !m.again:
				w.errorf("%s was refused (%s), and is stored", m.tx, m.text)
			case m.answer == stored && bad && aside[m.tx] == "":
				w.errorf("%s was not set aside", m.tx)
			case bad && has:
				w.errorf("%s cannot be stored, and is", m.tx)
			case !bad && aside[m.tx] != "":
				w.errorf("%s is set aside: %s", m.tx, aside[m.tx])
			}
		}
	}
	w.checkOrder()
}

// checkOrder: in each partition the messages of each producer that were answered are in the
// order in which they were pushed.
func (w *world) checkOrder() {
	for partition, order := range w.pg.order {
		last := map[int]*sent{}
		for _, tx := range order {
			m := w.byTx[tx]
			if m.answer != stored || w.excused[fmt.Sprintf("%d/%s", m.producer, partition)] {
				continue
			}
			if before := last[m.producer]; before != nil && before.n > m.n {
				w.errorf("partition %s has %s (%s) behind %s (%s)", partition, m.tx, m.text, before.tx, before.text)
			}
			last[m.producer] = m
		}
	}
}

// aside reads what was set aside: the reasons by transaction.
func (w *world) aside() map[string]string {
	all := map[string]string{}
	for _, line := range w.poisoned() {
		all[line.TransactionID] = line.Reason
	}
	return all
}

func (w *world) poisoned() (lines []Poisoned) {
	text, err := os.ReadFile(filepath.Join(w.dir, PoisonFile))
	if err != nil {
		w.errorf("%v", err)
	}
	for text := range bytes.Lines(text) {
		var line Poisoned
		if err := json.Unmarshal(text, &line); err != nil {
			w.errorf("a line of the poison file: %v: %s", err, text)
			continue
		}
		lines = append(lines, line)
	}
	return lines
}

// disk is the file system of one process: it can hang, and dies with the process.
type disk struct {
	journal.FS
	dead atomic.Bool
	cut  atomic.Bool // the power is off

	mu      sync.Mutex
	hanging chan struct{} // syncs wait for it
	unread  string        // not syncs, but reads of this file
	hole    string        // of this file the second page cannot be read
}

func (d *disk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hanging == nil {
		d.hanging = make(chan struct{})
	}
}

func (d *disk) let() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hanging != nil {
		close(d.hanging)
		d.hanging = nil
	}
}

// puncture makes a hole in a file; without a name it is whole again.
func (d *disk) puncture(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hole = name
}

// did looks at an error, and is ErrPower for a dead process.
func (d *disk) did(err error) error {
	if errors.Is(err, faultfs.ErrPower) {
		d.cut.Store(true)
	}
	return err
}

func (d *disk) open(name string, f journal.File, err error) (journal.File, error) {
	if err != nil {
		return nil, d.did(err)
	}
	return &diskFile{File: f, d: d, name: filepath.Base(name)}, nil
}

func (d *disk) Create(name string) (journal.File, error) {
	if d.dead.Load() {
		return nil, syscall.EIO
	}
	f, err := d.FS.Create(name)
	return d.open(name, f, err)
}

func (d *disk) Open(name string) (journal.File, error) {
	f, err := d.FS.Open(name)
	return d.open(name, f, err)
}

func (d *disk) OpenWrite(name string) (journal.File, error) {
	f, err := d.FS.OpenWrite(name)
	return d.open(name, f, err)
}

func (d *disk) Rename(from, to string) error {
	if d.dead.Load() {
		return syscall.EIO
	}
	return d.did(d.FS.Rename(from, to))
}

func (d *disk) Remove(name string) error {
	if d.dead.Load() {
		return syscall.EIO
	}
	return d.did(d.FS.Remove(name))
}

func (d *disk) SyncDir(dir string) error {
	if d.dead.Load() {
		return syscall.EIO
	}
	return d.did(d.FS.SyncDir(dir))
}

type diskFile struct {
	journal.File
	d    *disk
	name string
}

// wait waits while the disk hangs.
func (f *diskFile) wait(read bool) {
	f.d.mu.Lock()
	hanging := f.d.hanging
	if read != (f.d.unread != "") || read && f.d.unread != f.name {
		hanging = nil
	}
	f.d.mu.Unlock()
	if hanging != nil {
		<-hanging
	}
}

func (f *diskFile) ReadAt(b []byte, off int64) (int, error) {
	if len(b) > 64 { // more than a header, which is read when a journal is opened
		f.wait(true)
	}
	f.d.mu.Lock()
	holed := f.d.hole == f.name && off < 8<<10 && off+int64(len(b)) > 4<<10
	f.d.mu.Unlock()
	if holed && off >= 4<<10 {
		return 0, syscall.EIO
	}
	if holed {
		b = b[:4<<10-off] // what is before it comes
	}
	return f.File.ReadAt(b, off)
}

func (f *diskFile) WriteAt(b []byte, off int64) (int, error) {
	if f.d.dead.Load() {
		return 0, syscall.EIO
	}
	n, err := f.File.WriteAt(b, off)
	return n, f.d.did(err)
}

func (f *diskFile) Truncate(size int64) error {
	if f.d.dead.Load() {
		return syscall.EIO
	}
	return f.d.did(f.File.Truncate(size))
}

func (f *diskFile) Allocate(size int64) error {
	if f.d.dead.Load() {
		return syscall.EIO
	}
	return f.d.did(f.File.Allocate(size))
}

func (f *diskFile) Sync() error {
	f.wait(false)
	if f.d.dead.Load() {
		return syscall.EIO
	}
	return f.d.did(f.File.Sync())
}

// bubble runs a test in virtual time; what the world has found is the test's error.
func bubble(t *testing.T, f func(t *testing.T) *world) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if errs := guarded(func() *world { return f(t) }); len(errs) > 0 {
			t.Error(strings.Join(errs, "\n"))
		}
	})
}

func guarded(f func() *world) (errs []string) {
	w := f()
	return w.errs
}

// logText is a log that may be read while it is written.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
