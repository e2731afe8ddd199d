package filebuffer

import (
	"slices"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// groupEvery is how often groups are written while the drain delivers, at most; a timer may
// make twice as much of it. A group of one or two pushes costs as much as one of twenty, and
// then that is taken from the drain, and from those who push; during an outage nobody else
// wants it.
const groupEvery = 500 * time.Microsecond

// write is the goroutine that writes. All pushes that wait go together: one write, one
// fdatasync, and one post to each loop.
func (b *Buffer) write() {
	var records records
	var began time.Time // the last group
	for {
		if b.delivering.Load() {
			time.Sleep(groupEvery - time.Since(began))
		}
		began = time.Now()
		group := b.take()
		if group == nil {
			if b.ended.Load() {
				return
			}
			<-b.writerWake
			continue
		}
		b.commit(group, records.encode(group, b.o.Sealer))
		records.shrink()
		wake(b.drainWake)
	}
}

// take takes what waits, as much as one write may carry, but at least one push.
func (b *Buffer) take() []*entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, bytes := 0, 0
	for _, e := range b.waiting {
		if n > 0 && bytes+e.op.Cost > groupBytesMax {
			break
		}
		n++
		bytes += e.op.Cost
	}
	if n == 0 {
		return nil
	}
	b.writing = append(b.writing[:0], b.waiting[:n]...)
	b.waiting = slices.Delete(b.waiting, 0, n)
	b.waitingBytes -= bytes
	b.encoded = false
	return b.writing
}

// records are the pushes of one group in bytes; the memory is used again.
type records struct {
	buf   []byte
	ends  []int
	parts [][]byte
}

// recordsBytesKept is the largest buffer that is kept for the next group.
const recordsBytesKept = 4 << 20

func (r *records) shrink() {
	if cap(r.buf) > recordsBytesKept {
		r.buf = nil
	}
}

// encode returns the records of a group; an entry that cannot be encoded has its error, and
// no record.
func (r *records) encode(group []*entry, s *queue.Sealer) [][]byte {
	r.buf, r.ends = r.buf[:0], r.ends[:0]
	for _, e := range group {
		from := len(r.buf)
		if r.buf, e.err = queue.AppendRecord(r.buf, e.op, s); e.err != nil {
			r.buf = r.buf[:from]
			continue
		}
		r.ends = append(r.ends, len(r.buf))
	}
	r.parts = r.parts[:0]
	from := 0
	for _, to := range r.ends {
		r.parts = append(r.parts, r.buf[from:to])
		from = to
	}
	return r.parts
}

// commit writes a group and has its pushes answered.
func (b *Buffer) commit(group []*entry, records [][]byte) {
	b.mu.Lock()
	b.encoded = true
	// An op may be answered from here on, when the disk takes too long; what it has put into
	// the gate is taken out of it by what the record says.
	sizes := make([]int, len(group))
	for i, e := range group {
		sizes[i] = undecided(e.op)
		if e.err != nil { // there is no record that would say it later
			b.gate.removeUndecided(e.op.Items)
		}
	}
	b.mu.Unlock()
	var err error
	if len(records) > 0 {
		if err = b.mark(); err == nil {
			_, err = b.journal.Append(kindPush, records)
		}
	}
	b.written(group, records, sizes, err)
}

func undecided(op *queue.Op) (n int) {
	for i := range op.Items {
		if op.Items[i].Status == queue.Pending {
			n++
		}
	}
	return n
}

// written hands a group back to its loops.
func (b *Buffer) written(group []*entry, records [][]byte, sizes []int, err error) {
	b.mu.Lock()
	said := b.broken
	b.broken = err
	first := false
	next := 0
	for i, e := range group {
		if e.err == nil {
			e.err = err
			if err != nil {
				b.forget(records[next])
			} else {
				pending := b.stats.Pending.Add(int64(sizes[i]))
				first = first || pending == int64(sizes[i])
				b.stats.Buffered.Add(uint64(sizes[i]))
			}
			next++
		}
		e.store.done = append(e.store.done, e)
		if !e.store.posted {
			e.store.posted = true
			e.store.sv.Post(e.store.deliverFn)
		}
	}
	clear(b.writing)
	b.writing = b.writing[:0]
	b.groups.Add(1)
	b.lift()
	why := "PostgreSQL cannot take pushes"
	if b.maintenance {
		why = "maintenance mode"
	}
	b.mu.Unlock()
	b.say(said, err, first, why)
}

// forget takes a record that was not written out of the gate.
func (b *Buffer) forget(record []byte) {
	var op queue.Op
	if queue.PeekRecord(&op, record) != nil {
		panic("BUG: a record that was just made cannot be read")
	}
	b.gate.remove(op.Items)
}

// waitsSince says that a message waits on disk, and for how long already.
func (b *Buffer) waitsSince(age time.Duration) {
	since := int64(b.o.Now() - age)
	if since == 0 {
		since = 1 // 0 is an empty buffer
	}
	b.since.Store(since)
}

// say logs what an operator must know, once: that pushes go to disk, that they cannot.
func (b *Buffer) say(before, now error, first bool, why string) {
	if first {
		b.waitsSince(0)
		b.o.Log.Warn().Str("dir", b.o.Dir).Msg(why + ": pushes are written to disk and delivered later")
	}
	if now != nil {
		b.stats.WriteErrors.Add(1)
	}
	if (before == nil) == (now == nil) || !b.complaint.mayBegin(b.o.Now()) {
		return // at its bound it takes small pushes and no large ones: that is said once
	}
	if now != nil {
		b.o.Log.Error().Err(now).Str("dir", b.o.Dir).Msg("the file buffer cannot be written: pushes that need it hear 503; what is in it stays")
	} else {
		b.o.Log.Info().Str("dir", b.o.Dir).Msg("the file buffer can be written again")
	}
}

// complaint keeps what comes and goes often out of the log. It is for one goroutine.
type complaint struct{ saidAt time.Duration }

// complainEvery is how often the log says one and the same of the buffer's disk.
const complainEvery = time.Minute

func (c *complaint) mayBegin(now time.Duration) bool {
	if c.saidAt != 0 && now-c.saidAt < complainEvery {
		return false
	}
	c.saidAt = now
	return true
}
