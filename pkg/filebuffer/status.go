package filebuffer

import (
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// Stats are counters and gauges of a buffer; any goroutine.
type Stats struct {
	Buffered    atomic.Uint64 // messages that were written
	Drained     atomic.Uint64 // messages that were delivered
	Poisoned    atomic.Uint64 // messages that PostgreSQL refused, and records that could not be read
	Batches     atomic.Uint64 // of the drain
	Retries     atomic.Uint64 // batches of the drain that were tried again
	Overloaded  atomic.Uint64 // pushes refused because too much waits for the disk
	Refused     atomic.Uint64 // pushes that could not be buffered, for whatever reason: 503
	WriteErrors atomic.Uint64 // groups that could not be written
	ReadErrors  atomic.Uint64 // tries to read what waits that failed
	Taken       atomic.Uint64 // messages taken over from files that Queen has left
	TornBytes   atomic.Uint64 // of such files that made no sense
	Pending     atomic.Int64  // messages that wait on disk
	Behind      atomic.Int64  // of these, those of partitions that are locked in PostgreSQL
	Held        atomic.Int64  // pushes that are held while the buffer closes
	Rate        atomic.Int64  // messages that the drain delivers a second, of late
	KeyMissing  atomic.Bool   // the drain stands before what was encrypted with a key that is not ours

	BehindPartitions atomic.Int64 // these partitions
}

// waiting is how many messages wait for the drain alone.
func (s *Stats) waiting() int64 { return s.Pending.Load() - s.Behind.Load() }

// Status is how the buffer is now.
type Status struct {
	Usable      bool // what must be buffered can be
	Draining    bool // there is something to deliver, and nothing speaks against it
	KeyMissing  bool // this is: what waits was encrypted with a key that is not ours
	Maintenance bool
	Pending     int64 // messages that wait on disk
	Buffered    int64 // of these, those that were written since the start
	Poisoned    int64 // messages set aside since the start, and damaged regions of the journal
	PoisonBytes int64
	Drained     uint64
	Rate        int64         // messages a second
	For         time.Duration // it is not empty since; 0: it is
	Journal     journal.Stats
}

// Stats returns the buffer's counters.
func (b *Buffer) Stats() *Stats { return &b.stats }

// Status returns how the buffer is.
func (b *Buffer) Status() Status {
	b.mu.Lock()
	j, broken, maintenance := b.journal, b.broken, b.maintenance
	b.mu.Unlock()
	s := Status{
		Usable: j != nil && broken == nil, Maintenance: maintenance, Pending: b.stats.Pending.Load(),
		Drained: b.stats.Drained.Load(), Rate: b.stats.Rate.Load(), Poisoned: int64(b.stats.Poisoned.Load()),
	}
	if j != nil {
		s.Journal = j.Stats()
		s.Poisoned += int64(s.Journal.Quarantined)
		s.PoisonBytes = b.poison.bytes()
	}
	s.KeyMissing = b.stats.KeyMissing.Load()
	s.Draining = s.Pending > 0 && !maintenance && !s.KeyMissing
	s.Buffered = min(s.Pending, int64(b.stats.Buffered.Load()))
	if since := b.since.Load(); since != 0 && s.Pending > 0 {
		s.For = b.o.Now() - time.Duration(since)
	}
	return s
}

// Usable says that what must be buffered can be, as far as is known; any goroutine, cheap.
func (b *Buffer) Usable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.journal != nil && b.broken == nil
}
