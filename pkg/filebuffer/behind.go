package filebuffer

import (
	"bytes"
	"math"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// This file lets the drain go on while a session holds partitions locked in PostgreSQL: what
// waits on disk for them stays behind, and the rest is delivered. Now and then the drain goes
// back to the first of these messages, and delivers those of partitions that are free again,
// up to where it has come; from then on the partition is as any other. It keeps nothing of
// them in memory but where they begin.

const (
	// BehindPartitionsMax bounds the partitions that stay behind. With more locked the drain
	// waits.
	BehindPartitionsMax = 10_000

	// behindEvery is how often the drain goes back, at most; if that takes long, it goes on for
	// some times as long, behindShare, before it goes back again, but for no longer than
	// behindRarely.
	behindEvery  = time.Second
	behindShare  = 10
	behindRarely = 10 * time.Second

	// behindGap is how many records are read for nothing rather than to look for the place
	// behind them.
	behindGap = 1000
)

// behind are the partitions that stay behind. The scan has it first, and then the drain.
type behind struct {
	through    uint64           // the drain has come to the end of this record
	partitions map[string]*late // by queue, NUL, partition
	messages   int              // that wait for them, up to through, as far as they were counted
	due        time.Duration    // when to go back
	noted      bool             // there is a file that says so
	notedAt    time.Duration    // when it was written down
	noting     time.Duration    // how long that took
	told       bool             // that there are some
	complaint  complaint
	key        []byte // scratch
}

// late is a partition that stays behind.
type late struct {
	first  uint64 // the record with the first message that waits
	skip   int    // so many of the partition's messages in it do not
	n      int    // of behind.messages
	locked bool   // still, since the drain has gone back this time
	seen   int    // messages of first, while they are counted
}

func newBehind() behind { return behind{partitions: map[string]*late{}} }

func (s *behind) any() bool { return len(s.partitions) > 0 }

// of is a message's partition, if it stays behind.
func (s *behind) of(it *queue.Item) *late {
	s.key = appendKey(s.key[:0], it)
	return s.partitions[string(s.key)]
}

// add has a partition stay behind, whose first message that waits is behind skip others in a
// record.
func (s *behind) add(it *queue.Item, first uint64, skip int) *late {
	l := &late{first: first, skip: skip, locked: true}
	s.partitions[string(appendKey(nil, it))] = l
	return l
}

// count counts a message that waits.
func (s *behind) count(l *late, n int) {
	l.n += n
	s.messages += n
}

// left removes from the messages of a record those that are delivered, if some are behind.
func (s *behind) left(seq uint64, items []queue.Item) []queue.Item {
	if seq > s.through {
		return items
	}
	return s.waiting(seq, items)
}

// waiting removes from the messages of a record up to through those that do not wait. The
// messages of one record must come at once.
func (s *behind) waiting(seq uint64, items []queue.Item) []queue.Item {
	for i := range items {
		if l := s.of(&items[i]); l != nil {
			l.seen = 0
		}
	}
	return keep(items, func(it *queue.Item) bool {
		l := s.of(it)
		return l != nil && l.waits(seq)
	})
}

// waits says whether the next message of the partition waits, in this record.
func (l *late) waits(seq uint64) bool {
	if seq == l.first {
		l.seen++
		return l.seen > l.skip
	}
	return seq > l.first
}

// keep removes the messages that are not wanted, in place.
func keep(items []queue.Item, wanted func(*queue.Item) bool) []queue.Item {
	kept := items[:0]
	for i := range items {
		if wanted(&items[i]) {
			kept = append(kept, items[i])
		}
	}
	clear(items[len(kept):])
	return kept
}

// released is up to which record nothing waits.
func (s *behind) released() uint64 { return min(s.through, s.first(true)-1) }

func (s *behind) gauge(stats *Stats) {
	stats.Behind.Store(int64(s.messages))
	stats.BehindPartitions.Store(int64(len(s.partitions)))
}

// first is the first record that one of the partitions waits for, with or without those that
// were found locked this time.
func (s *behind) first(locked bool) uint64 {
	first := uint64(math.MaxUint64)
	for _, l := range s.partitions {
		if locked || !l.locked {
			first = min(first, l.first)
		}
	}
	return first
}

// goBack delivers what stays behind and is not locked any more.
func (d *drainer) goBack() {
	b, s := d.b, d.behind
	began := b.o.Now()
	for _, l := range s.partitions {
		l.locked = false
	}
	at := uint64(0)   // what is not locked is delivered up to here
	from := uint64(0) // the reader began here; 0: there is none yet
	disk := reading{b: b}
	in := &intake{back: true, next: func() (journal.Record, error) {
		rec, err := disk.nextThrough(s.through)
		if err == nil {
			b.foundLate(rec)
		}
		return rec, err
	}}
	for b.ctx.Err() == nil && b.mayDrain() {
		first := s.first(false)
		if first > s.through {
			break // all is delivered, or locked
		}
		if from == 0 || first > max(at, from)+behindGap {
			disk.close() // else it is kept: it may have to pass over what cannot be read
			disk.reader, in.ahead, from = b.journal.ReaderFrom(first), nil, first
		}
		end := d.fill(in)
		if d.last != 0 {
			if !d.deliver(in) {
				break // stopping
			}
			at = d.last
		}
		if end {
			at = s.through
		}
		s.advance(at)
	}
	disk.close()
	d.free()
	d.note(true)
	d.release()
	s.due = b.o.Now() + min(max(behindEvery, behindShare*(b.o.Now()-began)), behindRarely)
}

// advance says that what is not locked is delivered up to a record.
func (s *behind) advance(at uint64) {
	for _, l := range s.partitions {
		if !l.locked && l.first <= at {
			l.first, l.skip = at+1, 0
		}
	}
}

// free has partitions that have caught up go on with the others.
func (d *drainer) free() {
	b, s := d.b, d.behind
	b.mu.Lock()
	for key, l := range s.partitions {
		if l.locked || l.first <= s.through {
			continue
		}
		b.gate.drop(key, l.n) // what was counted and not found again is damaged
		b.gate.unpin(key)
		b.stats.Pending.Add(-int64(l.n))
		s.count(l, -l.n)
		delete(s.partitions, key)
	}
	b.mu.Unlock()
	s.gauge(&b.stats)
	if !s.any() && s.told {
		s.told = false
		b.o.Log.Info().Msg("no partition that messages wait for on disk is locked in PostgreSQL any more")
	}
}

// settle lets go of what a window has delivered, and of what not: somebody holds its partition.
// It says how many messages wait no longer.
func (d *drainer) settle(in *intake) (n int) {
	b, s := d.b, d.behind
	d.divide()
	var left *queue.Item
	b.mu.Lock()
	for i := range d.op.Items {
		it := &d.op.Items[i]
		l, w := s.of(it), d.window(it)
		if w.stays(it) {
			left = it
			switch {
			case l == nil:
				first, skip := w.waits()
				l = s.add(it, first, skip)
				b.gate.pin(it)
			case !l.locked:
				first, skip := w.waits()
				if l.first == first {
					skip += l.skip
				}
				l.first, l.skip, l.locked = first, skip, true
			}
			if !in.back {
				s.count(l, 1)
			}
			continue
		}
		if in.back {
			if l.n == 0 {
				continue // it was not found when it was counted
			}
			s.count(l, -1)
		}
		b.gate.remove(d.op.Items[i : i+1])
		n++
	}
	b.mu.Unlock()
	b.stats.Pending.Add(-int64(n))
	s.gauge(&b.stats)
	if left != nil && !in.back {
		d.sayBehind(left)
	}
	return n
}

// divide finds, for each partition in the window, what is done and what stays behind: its first
// message that was not stored, and all that follow that, whatever became of them. Such a one may
// have been found to be there already before the partition was found to be locked; it is
// delivered again, which its transaction id tells (unless the message that was there has been
// deleted meanwhile: then it is stored). Ids tell which follow: the window is no longer in its
// order. Where they do not rise all of the partition's messages stay.
func (d *drainer) divide() {
	for i := range d.op.Items {
		it := &d.op.Items[i]
		if it.Status != queue.Pending {
			continue
		}
		if w := d.window(it); !w.waiting || bytes.Compare(it.ID[:], w.first[:]) < 0 {
			w.waiting, w.first = true, it.ID
		}
	}
	for i := range d.op.Items {
		if it := &d.op.Items[i]; !d.window(it).stays(it) {
			d.window(it).done++
		}
	}
}

// stays says whether a message of the partition stays behind.
func (w *inWindow) stays(it *queue.Item) bool {
	return w.waiting && (w.falls || bytes.Compare(it.ID[:], w.first[:]) >= 0)
}

// sayBehind says, now and then, that partitions stay behind, and names one.
func (d *drainer) sayBehind(it *queue.Item) {
	s, now := d.behind, d.b.o.Now()
	if s.due < now {
		s.due = now + behindEvery
	}
	if !s.complaint.mayBegin(now) {
		return
	}
	s.told = true
	d.b.o.Log.Warn().Int("partitions", len(s.partitions)).Int("messages", s.messages).Str("queue", string(it.Queue)).Str("partition", string(it.Partition)).
		Msg("another session holds partitions locked in PostgreSQL (see pg_locks): what waits on disk for them waits on, and the rest is delivered")
}

// leave has messages of the window stay behind, unless their partitions, which are held, would be
// too many. What Queen's server has left has no place of its own in the journal to go back to.
func (d *drainer) leave(locked []queue.Item) bool {
	if len(locked) == 0 {
		return false
	}
	fresh := map[*inWindow]bool{}
	for i := range locked {
		if w := d.window(&locked[i]); !w.left && d.behind.of(&locked[i]) == nil {
			fresh[w] = true
		}
	}
	if d.disk.queens != nil || len(d.behind.partitions)+d.leaving+len(fresh) > d.b.o.behindMax {
		d.sayStands(&locked[0])
		return false
	}
	d.leaving += len(fresh)
	d.leaves = true
	for i := range locked {
		d.window(&locked[i]).left = true
	}
	return true
}

// sayStands says, now and then, that nothing is delivered because of a lock, and names one.
func (d *drainer) sayStands(it *queue.Item) {
	if d.stands.mayBegin(d.b.o.Now()) {
		d.b.o.Log.Warn().Str("queue", string(it.Queue)).Str("partition", string(it.Partition)).
			Msg("another session holds a partition locked in PostgreSQL (see pg_locks), and what waits on disk behind its messages is not delivered meanwhile")
	}
}

// without brings those messages to the end of items whose partitions have some that stay behind,
// and returns the others.
func (d *drainer) without(items []queue.Item) []queue.Item {
	if !d.leaves {
		return items
	}
	return items[:len(items)-len(last(items, func(it *queue.Item) bool { return it.Status == queue.Pending && d.window(it).left }))]
}

// window is a message's partition in the window.
func (d *drainer) window(it *queue.Item) *inWindow {
	d.key = appendKey(d.key[:0], it)
	return d.in[string(d.key)]
}
