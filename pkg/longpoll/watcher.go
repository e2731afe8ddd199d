package longpoll

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// watcher is what one loop of a process does for all: it tells other processes that this
// one is there and what it did, hears what they did, and sweeps slowly for what nobody
// told. It belongs to its store's loop.
type watcher struct {
	s       *Store
	tickFn  func()
	asking  bool
	slicing bool
	onward  bool // there are more slices to look at
	failing bool
	toldAt  time.Duration
	tidyAt  time.Duration
}

// How often the watcher does what.
const (
	sliceEvery     = 100 * time.Millisecond // while the slow sweep has something to do
	tellEvery      = time.Second            // alone
	tellOftenEvery = 200 * time.Millisecond // in company, or while PostgreSQL is away
	tidyEvery      = 30 * time.Second
	slowPartitions = 1000             // of a slice of the slow sweep
	sweepAgain     = 5 * time.Second  // a group is swept again that long after the last time,
	sweepUsed      = 10 * time.Second // if it was used within this time
	noteEvery      = 30 * time.Second // that a group's parked pops find nothing
	notesMax       = 500              // at once
	filtersMax     = 100              // pops of many queues that look for new queues at once
)

func newWatcher(s *Store) *watcher {
	w := &watcher{s: s}
	w.tickFn = w.tick
	return w
}

func (w *watcher) tick() {
	s := w.s
	if s.closed {
		return
	}
	now := s.sv.Now()
	b := s.board
	b.mu.Lock()
	every := tellEvery
	if b.others || len(s.stalled) > 0 || w.failing {
		every = tellOftenEvery
	}
	b.mu.Unlock()
	// A tick that was late is nearer to the next than every.
	if !w.asking && (w.toldAt == 0 || now-w.toldAt > every*3/5) {
		w.tell(now)
	}
	if !w.slicing && !w.failing {
		w.sweep(now)
	}
	// An idle process is woken no more often than it has something to do.
	if w.onward || w.slicing {
		every = sliceEvery
	}
	// It is woken at round times, with all that is done at such.
	s.sv.After((now+every+every/2).Truncate(every)-now, w.tickFn)
}

// tell says what there is to say, and hears.
func (w *watcher) tell(now time.Duration) {
	s, b := w.s, w.s.board
	var set uint64
	w.asking, w.toldAt = true, now
	tidy := now-w.tidyAt >= tidyEvery
	if tidy {
		w.tidyAt = now
	}
	s.ask(func(op *queue.Op) {
		r := &op.Watch
		r.Kind, r.Process, r.Worker, r.Tidy = queue.WatchTell, b.self, b.worker, tidy
		b.mu.Lock()
		r.Since, set = b.position, b.flagsSet
		for t := range b.tell {
			r.Tell = append(r.Tell, t)
			delete(b.tell, t)
		}
		for _, g := range b.groups {
			if len(r.Empty) < notesMax && g.waiting.first != nil && (g.notedAt == 0 || now-g.notedAt > noteEvery) {
				g.notedAt = now
				r.Empty = append(r.Empty, g.Group)
			}
		}
		b.mu.Unlock()
	}, func(op *queue.Op) {
		w.asking = false
		if op.Fault.Code == queue.OK {
			b.heardFlags(op.Watch.Flags, set)
		}
		b.mu.Lock()
		if op.Fault.Code != queue.OK {
			w.failing = true
			for _, t := range op.Watch.Tell {
				b.told(t)
			}
			b.mu.Unlock()
			return
		}
		w.failing = false
		b.stats.Told.Add(uint64(len(op.Watch.Tell)))
		b.heard(&op.Watch)
		w.wakeFilters()
		stores := b.stores
		b.unlock()
		s.arm()
		for _, other := range stores {
			other.sv.Post(other.recoveredFn)
		}
	})
}

// wakeFilters has some of the pops of many queues look again: there may be new queues.
func (w *watcher) wakeFilters() {
	b := w.s.board
	n := 0
	for _, list := range b.filters {
		for c := list.first; c != nil && n < filtersMax; n++ {
			next := c.after
			b.wake(c)
			c = next
		}
	}
}

// sweep looks at one more slice of one group that is used.
func (w *watcher) sweep(now time.Duration) {
	s, b := w.s, w.s.board
	b.mu.Lock()
	g := b.turn(now)
	if g == nil {
		b.unlock()
		w.onward = false
		return
	}
	g.users++
	after, since := g.slow, g.marks
	w.onward = len(b.rotation) > 0
	b.unlock()
	w.slicing = true
	b.stats.Slices.Add(1)
	s.ask(func(op *queue.Op) {
		op.Watch.Kind, op.Watch.Group, op.Watch.After, op.Watch.Partitions = queue.WatchSweep, g.Group, after, slowPartitions
	}, func(op *queue.Op) {
		w.slicing = false
		b.mu.Lock()
		g.users--
		if op.Fault.Code == queue.OK {
			b.found(g, op.Watch.Pending, &since, s.sv.Now())
			if g.slow = op.Watch.Next; op.Watch.More {
				w.onward = true
			} else {
				g.slow, g.sweptAt = queue.UUID{}, s.sv.Now()
			}
		}
		b.unlock()
		s.arm()
	})
}

// turn is the group whose turn it is in the slow sweep; nil: none.
func (b *Board) turn(now time.Duration) *group {
	for range 2 {
		for n := len(b.rotation); n > 0; n = len(b.rotation) {
			g := b.rotation[n-1]
			b.rotation = b.rotation[:n-1]
			if b.groups[g.Group] == g && g.swept {
				return g
			}
		}
		for _, g := range b.groups {
			used := g.users > 0 || now-g.usedAt < sweepUsed
			if g.swept && used && (g.slow != queue.UUID{} || now-g.sweptAt >= sweepAgain) {
				b.rotation = append(b.rotation, g)
			}
		}
	}
	return nil
}

// Close ends what the store does of itself, answers the pops that wait, and lets no
// further one wait: the server is about to stop. Any goroutine.
func (s *Store) Close() {
	s.sv.Post(func() {
		s.closed = true
		for len(s.parked) > 0 {
			s.timeout(s.parked[0])
		}
		if s.watcher != nil {
			s.ask(func(op *queue.Op) {
				op.Watch.Kind, op.Watch.Process = queue.WatchLeave, s.board.self
			}, func(*queue.Op) {})
		}
	})
}
