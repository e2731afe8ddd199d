package filebuffer

import (
	"errors"
	"io"
	"math"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// The drain's measures.
const (
	// windowRowsMax and windowBytesMax bound what one transaction of the drain stores; a
	// larger record goes alone. A server that does not manage so much gets less, down to
	// windowRowsMin.
	windowRowsMax  = 1000
	windowRowsMin  = 10
	windowBytesMax = 1 << 20

	// A drain begins with windowRowsCalm: a server that has just been started is slow at
	// first. While others push, who wait for it, it has no more than its pace needs.
	windowRowsCalm = 200

	// paceTimes is how many times as fast as others push the drain is to deliver, with some
	// room above twice: when of what it delivers more than half comes back, it is crowded.
	paceTimes = 2.5

	// closeRows is how small a batch must be that has read to the end, for the buffer to
	// close behind it, if it is expected to take no longer than closeTime: who comes then is
	// held until it is done.
	closeRows = 300
	closeTime = 40 * time.Millisecond

	// closeEnds is after how many batches in a row that have read to the end it closes
	// whatever their size.
	closeEnds = 3

	// crowdedRows is how much must wait for it to matter that more comes than the drain can
	// catch up with: it is to be at least twice as fast.
	crowdedRows = 2 * windowRowsMax

	// dueRate, in messages a second, and dueTime beyond them are what a backlog is to be
	// delivered within. As long as it will be, others have the rest of PostgreSQL.
	dueRate = 10_000
	dueTime = 4 * time.Second

	// restMax is how long the drain rests between two batches while others push.
	restMax = 50 * time.Millisecond

	// replayTimeout is the deadline of a batch of the drain, on top of what its size is
	// allowed.
	replayTimeout = 10 * time.Second

	// retryPause is how long the drain waits when a batch could not be stored.
	retryPause = 100 * time.Millisecond

	// sayEvery is how often a long drain says how far it is.
	sayEvery = 5 * time.Second
)

// Replay is where the drain stores: a store of some loop, and that loop.
type Replay struct {
	Store queue.Store
	Post  func(func())
	Now   func() time.Duration
}

// Drain begins to deliver what is on disk, once. Before it nothing leaves the disk: the
// tables may not be there yet, or it is not known yet whether this is maintenance mode.
func (b *Buffer) Drain(r Replay) {
	b.drainer.Go(func() { b.drain(r) })
}

// scan puts what is on disk at the start into the gate: the records up to end.
func (b *Buffer) scan(end uint64) {
	defer close(b.scanned)
	r := reading{b: b, reader: b.journal.Reader()}
	var op queue.Op
	n, at := 0, b.journal.Stats().First
	var oldest time.Time
	for b.ctx.Err() == nil {
		rec, err := r.next()
		if err == nil && rec.Seq <= end && end > 0 {
			b.missing(at, rec.Seq)
			at = rec.Seq + 1
			if n == 0 {
				oldest = rec.Time
			}
			n += b.found(&op, rec)
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			b.pause(time.Second)
			continue
		}
		b.missing(at, end+1)
		break
	}
	if b.queens != nil {
		if n == 0 {
			oldest = time.Now()
		}
		n += b.queens.scan()
	}
	if b.ctx.Err() != nil {
		return // it is not known what is there: everything stays gated
	}
	b.mu.Lock()
	b.gate.all--
	b.lift()
	b.mu.Unlock()
	if n > 0 {
		b.waitsSince(max(time.Since(oldest), 0))
		b.o.Log.Info().Int("messages", n).Str("dir", b.o.Dir).Msg("messages wait on disk from before; they are delivered first")
	}
}

// found puts a record into the gate, and says how many messages it holds. op is scratch.
func (b *Buffer) found(op *queue.Op, rec journal.Record) int {
	op.Items = op.Items[:0]
	if rec.Kind != kindPush || queue.PeekRecord(op, rec.Payload) != nil {
		return 0 // the drain sets it aside
	}
	if op.Items = b.behind.left(rec.Seq, op.Items); rec.Seq <= b.behind.through {
		for i := range op.Items {
			b.behind.count(b.behind.of(&op.Items[i]), 1)
		}
	}
	b.stats.Pending.Add(int64(len(op.Items)))
	b.mu.Lock()
	b.gate.add(op.Items)
	b.mu.Unlock()
	return len(op.Items)
}

// drainer is the goroutine that delivers.
type drainer struct {
	b       *Buffer
	to      Replay
	disk    backlog
	main    intake               // of disk
	behind  *behind              // partitions whose messages are left where they are
	op      queue.Op             // the window
	peek    queue.Op             // scratch
	last    uint64               // the last record in it
	rows    int                  // that it may have now
	row     time.Duration        // that one of its rows took, in the last batch
	leaving int                  // so many partitions of it more stay behind
	leaves  bool                 // some of its messages do
	stands  complaint            // that nothing is delivered because of a lock
	due     time.Duration        // when it is to be done; counted anew after trouble
	in      map[string]*inWindow // the partitions in it
	left    []*late              // of each message of the last record that stays behind; scratch
	key     []byte               // scratch
	keyDue  time.Duration        // when it is to be said, again, that a key is missing
	done    chan struct{}
	ends    int  // so many windows in a row have read to the end
	seen    came // by the end of the last batch
	waits   bool // trouble was met and said
	careful bool // PostgreSQL has not managed what it was given, in this outage
	rate    rate

	unreleased complaint // that it cannot be let go of what was delivered
}

func (b *Buffer) drain(to Replay) {
	for _, c := range []chan struct{}{b.opened, b.scanned} {
		select {
		case <-c:
		case <-b.ctx.Done():
			return
		}
	}
	d := &drainer{b: b, to: to, disk: b.backlog(), behind: &b.behind, done: make(chan struct{}, 1), in: map[string]*inWindow{}}
	d.main.next = d.disk.next
	d.begin()
	for b.ctx.Err() == nil {
		if !b.mayDrain() {
			<-b.drainWaker()
			d.begin() // what came meanwhile came to stay
			continue
		}
		if d.isBehind() {
			d.goBack()
			continue
		}
		groups := b.groups.Load()
		end := d.fill(&d.main)
		if d.last == 0 {
			if end {
				switch b.emptied(groups, d.behind) {
				case writing:
					<-b.drainWaker()
				case empty:
					<-b.drainWaker()
					d.begin()
				case others:
					d.await()
				}
			}
			continue
		}
		if d.ends++; !end {
			d.ends = 0
		}
		if end && d.mayClose() {
			b.close()
		}
		began, rows := b.o.Now(), d.rows
		d.deliver(&d.main)
		if rest := d.rest(b.o.Now()-began, d.rows < rows); rest > 0 {
			b.pause(rest)
		}
	}
	// Not deferred: a panic may have come with the lock held, and is to be heard of.
	b.delivering.Store(false)
	b.reopen()
	b.flushAll() // what is held waits for nothing now
	d.note(true)
}

// begin begins to count, and to see how much PostgreSQL takes.
func (d *drainer) begin() {
	d.rate.begin(d.b)
	d.rows, d.row, d.careful, d.seen = windowRowsCalm, 0, false, d.b.came()
	d.b.delivering.Store(false)
}

// mayClose says whether the buffer may close behind the window, which has read to the end.
func (d *drainer) mayClose() bool {
	n := len(d.op.Items)
	return n > 0 && d.b.delivering.Load() && (d.ends >= closeEnds || n <= closeRows && time.Duration(n)*d.row <= closeTime)
}

// came is what others have pushed, in messages, by a moment.
type came struct {
	at   time.Duration
	all  uint64
	back uint64 // of these to disk: the drain will have them too
}

func (b *Buffer) came() came {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := came{at: b.o.Now(), back: b.stats.Buffered.Load()}
	c.all = c.back
	for _, s := range b.stores {
		c.all += s.passed.Load()
	}
	return c
}

// rest leaves room for live pushes, if any came: it says how long to do nothing after a batch,
// mostly as long as that took, and has no more taken the next time than is needed. Unless they
// wait for the drain's end, it would not keep its pace with what comes back to disk, or would
// be late. cut: PostgreSQL has not managed as much.
func (d *drainer) rest(took time.Duration, cut bool) time.Duration {
	b := d.b
	b.mu.Lock()
	held := b.closing || b.crowded.Load()
	b.mu.Unlock()
	n, now := len(d.op.Items), b.came()
	since := max(now.at-d.seen.at, 1)
	all, back := now.all-d.seen.all, now.back-d.seen.back
	d.seen = now
	rest := min(took, restMax, cycle(n, back, since)-took)
	share := all > 0 && !held && rest > 0 && inTime(n, took, int(b.stats.waiting()), d.due-now.at)
	d.careful = d.careful || cut
	if !cut && n >= d.rows {
		need := cycle(n, all, since)
		d.rows = nextRows(d.rows, share && need >= took+rest, need/2 >= took+rest, d.careful)
	}
	if !share {
		return 0
	}
	return rest
}

// cycle is how long so many rows may take, rest and all, to be paceTimes as many as came
// since.
func cycle(rows int, came uint64, since time.Duration) time.Duration {
	if came == 0 {
		return math.MaxInt64
	}
	return time.Duration(float64(since) * float64(rows) / (paceTimes * float64(came)))
}

// inTime says whether so many messages are delivered within until, when batches of rows
// take took, and there is a rest after each.
func inTime(rows int, took time.Duration, left int, until time.Duration) bool {
	each := took + min(took, restMax)
	return float64(left)*float64(each) <= float64(rows)*float64(until)
}

// nextRows is how many rows a transaction may have after one of rows. share: others push
// meanwhile, and with so many it may give way to them; spare: half as many would do. careful:
// PostgreSQL did not manage as much as it was given, once.
func nextRows(rows int, share, spare, careful bool) int {
	switch {
	case share && rows >= windowRowsCalm && spare:
		return max(rows/2, windowRowsCalm)
	case share && rows >= windowRowsCalm:
		return rows
	case careful:
		return min(rows+max(rows/4, 1), windowRowsMax)
	}
	return min(2*rows, windowRowsMax)
}

// drainWaker is readable when there may be something to do, or nothing ever again.
func (b *Buffer) drainWaker() <-chan struct{} {
	select {
	case <-b.ctx.Done():
		c := make(chan struct{})
		close(c)
		return c
	default:
		return b.drainWake
	}
}

func (b *Buffer) mayDrain() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.maintenance
}

// close has what comes held in memory: the drain is about to catch up.
func (b *Buffer) close() {
	b.mu.Lock()
	b.closing = !b.maintenance
	b.mu.Unlock()
}

// ending is what follows when the drain has read to the end.
type ending int

const (
	more    ending = iota // there is more on disk already
	writing               // there will be; its end wakes the drain
	empty                 // nothing is there, and the gate is lifted
	others                // nothing but what stays behind, whose partitions are gated
)

// emptied lifts the gate, if nothing has come since so many groups had been written.
func (b *Buffer) emptied(groups uint64, left *behind) ending {
	b.mu.Lock()
	if b.groups.Load() != groups {
		b.mu.Unlock()
		return more
	}
	if len(b.waiting)+len(b.writing) > 0 {
		b.mu.Unlock()
		return writing
	}
	// What was counted and not found at its time is damaged, and set aside.
	b.gate.restrict(left)
	b.stats.Pending.Store(int64(left.messages))
	b.delivering.Store(false)
	holding := b.crowded.Swap(false) || b.closing
	b.closing = false
	b.lift()
	b.mu.Unlock()
	b.stats.Rate.Store(0)
	if holding {
		b.flushAll()
	}
	if left.any() {
		return others
	}
	if since := b.since.Swap(0); since != 0 {
		drained := b.stats.Drained.Load()
		b.o.Log.Info().Uint64("messages", drained-b.said).Stringer("after", (b.o.Now() - time.Duration(since)).Round(time.Millisecond)).
			Msg("everything that was buffered is delivered")
		b.said = drained
	}
	return empty
}

// isBehind says whether it is time to go back to what stays behind. It always is while there is
// something that Queen's server has left, which may be for the same partitions: going back ends
// early for maintenance mode.
func (d *drainer) isBehind() bool {
	return d.behind.any() && (d.b.o.Now() >= d.behind.due || d.disk.queens != nil)
}

// await waits until there is something new, or it is time to go back.
func (d *drainer) await() {
	select {
	case <-d.b.drainWaker():
		d.begin()
	case <-time.After(d.behind.due - d.b.o.Now()):
	}
}

// unreadable sets a record aside that is whole, and makes no sense. false: it was told to
// stop.
func (d *drainer) unreadable(rec *journal.Record, err error) bool {
	return d.set(Poisoned{Time: rec.Time.UTC(), Reason: err.Error(), Record: rec.Payload})
}

// deliver stores the window, whatever it takes, and lets go of its records. false: it was told
// to stop.
func (d *drainer) deliver(from *intake) bool {
	b := d.b
	d.op.Items = plant(b, d.op.Items)
	d.leaving, d.leaves = 0, false
	aside := b.stats.Poisoned.Load()
	if len(d.op.Items) > 0 && !d.store(d.op.Items, d.op.Cost) {
		return false
	}
	if !from.back {
		d.behind.through = d.last
	}
	n := d.settle(from)
	d.note(false)
	d.release()
	d.disk.stored(d.main.ahead != nil)
	b.roomMade()
	b.stats.Drained.Add(uint64(max(n-int(b.stats.Poisoned.Load()-aside), 0)))
	d.rate.add(n, b)
	return true
}

// release lets go of the records that nothing waits in.
func (d *drainer) release() {
	if err := d.b.journal.Release(d.behind.released()); err != nil && d.unreleased.mayBegin(d.b.o.Now()) {
		d.b.o.Log.Warn().Err(err).Msg("the file buffer cannot let go of what was delivered; it would be looked at again at the next start")
	}
}

// roomMade: some of what was on disk is no longer needed. A buffer that was full is thought to
// have room then; if it has none, the next push that needs it says so again.
func (b *Buffer) roomMade() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.broken, journal.ErrFull) {
		b.broken = nil
	}
}

// store stores messages in one transaction; those that PostgreSQL refuses are halved until
// the guilty one is alone. false: it was told to stop.
func (d *drainer) store(items []queue.Item, cost int) bool {
	for try := 0; ; try++ {
		if items = d.without(items); len(items) == 0 {
			return true
		}
		var op queue.Op
		op.Items, op.Cost = items, cost
		began := d.b.o.Now()
		d.submit(&op)
		if op.Fault.Code == queue.OK {
			d.row = (d.b.o.Now() - began) / time.Duration(len(items))
			break
		}
		if refused(op.Fault.Code) {
			for i := range items {
				if items[i].Status == queue.Pending {
					items[i].Status, items[i].Error = queue.Failed, op.Fault.Message
				}
			}
			break
		}
		d.b.stats.Retries.Add(1)
		if op.Fault.Code == queue.Unavailable {
			locked := last(items, func(it *queue.Item) bool { return it.Locked })
			free := items[:len(items)-len(locked)]
			leave := d.leave(locked)
			switch {
			case len(locked) == 0:
			case len(free) > 0 && !d.store(free, cost):
				return false
			case leave:
				return true
			default:
				items = locked
			}
		}
		d.trouble(op.Fault.Message)
		if d.b.ctx.Err() != nil {
			return false
		}
		for i := range items {
			if items[i].Status == queue.Failed { // by a transaction of which that was not the end
				items[i].Status, items[i].Error = queue.Pending, ""
			}
		}
		if op.Fault.Code == queue.Unavailable && len(items) > 1 {
			// PostgreSQL is there, and did not manage. Less at once does more.
			d.rows = max(min(d.rows, len(items))/2, windowRowsMin)
			half := len(items) / 2
			return d.store(items[:half], cost) && d.store(items[half:], cost)
		}
	}
	d.isGood()
	d.b.stats.Batches.Add(1)
	bad := last(items, func(it *queue.Item) bool { return it.Status == queue.Failed })
	switch len(bad) {
	case 0:
		return true
	case 1:
		if len(items) > 1 {
			break // perhaps it alone would do
		}
		return d.set(poisoned(&bad[0], bad[0].Error, time.Now()))
	}
	for i := range bad {
		bad[i].Status, bad[i].Error = queue.Pending, ""
	}
	if len(bad) == 1 {
		return d.store(bad, cost)
	}
	half := len(bad) / 2
	return d.store(bad[:half], cost) && d.store(bad[half:], cost)
}

// isGood says that PostgreSQL takes what is on disk: what is there now has its time from then on.
func (d *drainer) isGood() {
	if !d.b.delivering.Swap(true) {
		d.due = d.b.o.Now() + dueTime + time.Duration(d.b.stats.waiting())*(time.Second/dueRate)
	}
	d.waits = false
}

// last brings some items behind the others, and returns them. Else the order stays.
func last(items []queue.Item, is func(*queue.Item) bool) []queue.Item {
	var those []queue.Item
	n := 0
	for i := range items {
		if is(&items[i]) {
			those = append(those, items[i])
			continue
		}
		items[n] = items[i]
		n++
	}
	copy(items[n:], those)
	return items[n:]
}

// refused says that trying again would change nothing.
func refused(code queue.Code) bool {
	return code == queue.Invalid || code == queue.TooLarge || code == queue.Internal
}

// submit gives an op to the replay store and waits for its end.
func (d *drainer) submit(op *queue.Op) {
	d.to.Post(func() {
		now := d.to.Now()
		op.Accepted, op.Decoded = now, now
		op.Deadline = now + replayTimeout + queue.Allowance(len(op.Items), op.Cost)
		op.Done = d
		d.to.Store.Do(op)
	})
	<-d.done
}

// OpDone implements queue.Completer; it runs on the replay's loop.
func (d *drainer) OpDone(*queue.Op) { d.done <- struct{}{} }

// set puts a line into the poison file, whatever it takes. false: it was told to stop, and
// what is not there must stay where it was.
func (d *drainer) set(line Poisoned) bool {
	d.b.stats.Poisoned.Add(1)
	d.b.o.Log.Error().Str("reason", line.Reason).Str("queue", line.Queue).Str("partition", line.Partition).
		Str("transactionId", line.TransactionID).Str("file", PoisonFile).Msg("a buffered message cannot be stored; it is set aside")
	for d.b.ctx.Err() == nil {
		err := d.b.poison.add(line)
		if err == nil {
			return true
		}
		d.trouble("the poison file cannot be written: " + err.Error())
	}
	return false
}

// trouble says, once, why the drain does not go on, and waits a moment.
func (d *drainer) trouble(sentence string) {
	d.b.delivering.Store(false)
	d.b.crowded.Store(false)
	d.rate.begin(d.b)
	if !d.waits {
		d.waits = true
		d.b.o.Log.Debug().Str("reason", sentence).Msg("the drain waits")
	}
	d.b.reopen()
	d.b.flushAll()
	d.b.pause(retryPause)
	d.seen = d.b.came() // what came during it tells nothing
}

// pause waits, or until the buffer is closed.
func (b *Buffer) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-b.ctx.Done():
	}
}

// rate is how fast the drain is, and says so now and then.
type rate struct {
	from, saidAt time.Duration
	n            int
	came         uint64 // messages buffered when it began
}

func (r *rate) begin(b *Buffer) {
	now := b.o.Now()
	*r = rate{from: now, saidAt: now, came: b.stats.Buffered.Load()}
}

func (r *rate) add(n int, b *Buffer) {
	now := b.o.Now()
	r.n += n
	if d := now - r.from; d >= time.Second {
		came := b.stats.Buffered.Load()
		b.stats.Rate.Store(int64(float64(r.n) / d.Seconds()))
		if uint64(r.n) < 2*(came-r.came) && b.stats.waiting() > crowdedRows {
			b.crowded.Store(true)
		}
		r.from, r.n, r.came = now, 0, came
	}
	if now-r.saidAt >= sayEvery {
		r.saidAt = now
		if left := b.stats.waiting(); left > 0 {
			b.o.Log.Info().Int64("left", left).Int64("per_second", b.stats.Rate.Load()).Msg("delivering what was buffered")
		}
	}
}
