// Package filebuffer keeps pushes on disk while PostgreSQL cannot take them, and delivers
// them when it can: once each, and in the order in which they were accepted. It is a store
// around a store (one Store per loop) and one Buffer per process behind them.
//
// It is no second queue: nothing is popped from here, and it decides nothing about
// messages. What a record says is put into the very statements of a push, with the ids that
// the push was given when it was accepted, so that what was stored before, or twice, is
// found by PostgreSQL's own unique key.
//
// # The way of a push
//
//	Do ─▶ is one of its partitions gated? ─no─▶ the store behind ─▶ answered
//	            │ yes                              │ queue.Outage: PostgreSQL is away
//	            ▼                                  ▼
//	       is the buffer closing? ─no──▶ gate its partitions, wait for the writer
//	            │ yes                              │
//	            ▼                                  ▼ one write and one fdatasync for all that wait
//	       held in memory for a moment        answered `buffered`
//	                                               │
//	                         drain: oldest first, in large batches ─▶ the replay store
//
// A partition is gated while messages of it are on disk, or about to be: what is pushed
// into it then goes the same way, behind them. Everything is gated until the directory was
// read at the start, and in maintenance mode.
//
// # Closing
//
// A partition that is pushed into without pause would never be without something on disk.
// So when the drain has caught up the buffer closes: what would be written is held in
// memory instead, for the time of a batch or two, until the disk is empty; then it goes the
// direct way, in its order. If that takes longer than HoldMax, it is written after all.
//
// # Who runs where
//
// Do, Cancel and OpDone run on the store's loop and touch no file. One goroutine writes, one
// drains. What they share is behind one lock that is held for map operations.
package filebuffer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// Limits of this room.
const (
	// WaitingBytesMaxDefault bounds the cost of pushes that wait for the disk. Beyond it they
	// are refused (503); a single larger one is taken when no other waits.
	WaitingBytesMaxDefault = 64 << 20

	// GatedPartitionsMax bounds the partitions that are remembered as having messages on disk.
	// Beyond it all partitions are gated until the buffer is empty.
	GatedPartitionsMax = 500_000

	// HoldMax is how long a push is held in memory for the buffer to become empty; then it
	// is written.
	HoldMax = 300 * time.Millisecond

	// HeldBytesMax bounds the cost of what one loop holds so.
	HeldBytesMax = 16 << 20

	// WriteTimeout is how long a push waits for the disk. Then its client hears 503 and that
	// the messages may be delivered.
	WriteTimeout = 2 * time.Second

	// groupBytesMax bounds what one write and one fdatasync carry.
	groupBytesMax = 8 << 20
)

// The journal's kinds of records.
const (
	kindPush = 1 // a push (queue.AppendRecord)
	kindMark = 2 // nothing: it stands behind what Queen's server has left (backlog.go)
)

// Options of a Buffer. The zero value of a field takes its default.
type Options struct {
	Dir             string
	BytesMax        int64         // of all segments; journal.Options says more
	SegmentBytes    int64         // journal.SegmentBytesDefault
	WaitingBytesMax int           // WaitingBytesMaxDefault
	Sealer          *queue.Sealer // encrypts what is on disk, and opens it; nil: no key was given
	Wait            bool          // another process has the directory, and will give it up: wait for that in the background
	Now             func() time.Duration
	Log             zerolog.Logger

	behindMax int // BehindPartitionsMax

	// Of tests.
	fs       journal.FS
	noLeases bool                                // it cannot be asked who writes to a file
	open     func(name string) (*os.File, error) // Queen's files, in the place of os.Open
}

// Buffer is the file buffer of a process. Its methods are for any goroutine.
type Buffer struct {
	o     Options
	stats Stats

	// clear says that no push need ask the gate. It is true only while nothing is gated.
	clear atomic.Bool

	// delivering says that the drain has stored a batch since it began, and has met no trouble
	// since; it begins anew when the buffer was empty, or in maintenance mode. It changes it.
	delivering atomic.Bool

	// crowded says that pushes come faster than the drain can catch up with. Those into
	// gated partitions are held for HoldMax before they are written, so that their
	// producers leave it room; until the buffer is empty.
	crowded atomic.Bool

	mu           sync.Mutex
	journal      *journal.Journal // nil: not open yet, or closed
	broken       error            // what the last write said; nil: it went well
	maintenance  bool
	gate         gate
	waiting      []*entry // for the writer, in order
	waitingBytes int
	writing      []*entry // with the writer now
	encoded      bool     // those are in bytes: their ops are not read any more
	closing      bool
	groups       atomic.Uint64 // written; changed under the lock
	stores       []*Store

	writerWake chan struct{}
	drainWake  chan struct{}
	scanned    chan struct{}   // closed when what was on disk at the start is in the gate
	unfound    []run           // but for these: the scan's, and then the drain's
	foundSince map[uint64]bool // of these
	opened     chan struct{}   // closed when the journal is open
	stop       context.CancelFunc
	ctx        context.Context // of the drain and the scan
	ended      atomic.Bool     // Close was called: the writer ends when nothing waits
	writer     sync.WaitGroup
	drainer    sync.WaitGroup
	poison     poison
	behind     behind  // what stayed behind when the process before ended; the scan's, and then the drain's
	queens     *queens // what Queen's server has left; nil: nothing
	complaint  complaint
	since      atomic.Int64 // the buffer was not empty since then (loop clock); 0: it is
	said       uint64       // the drain's: messages delivered when it last said that all are
}

// entry is a push on its way to the disk.
type entry struct {
	op    *queue.Op // nil: answered
	store *Store
	at    time.Duration
	err   error
}

// Open takes the directory, makes it if need be, and begins to write what the stores
// give. What is on disk from before is delivered once Drain was called, and so is what
// Queen's server has left. It does not read the directory whole, so that a start takes no
// longer with a backlog.
func Open(o Options) (*Buffer, error) {
	if o.WaitingBytesMax == 0 {
		o.WaitingBytesMax = WaitingBytesMaxDefault
	}
	if o.open == nil {
		o.open = os.Open
	}
	if o.behindMax == 0 {
		o.behindMax = BehindPartitionsMax
	}
	b := &Buffer{
		o: o, gate: newGate(), poison: poison{dir: o.Dir},
		writerWake: make(chan struct{}, 1), drainWake: make(chan struct{}, 1),
		scanned: make(chan struct{}), opened: make(chan struct{}),
	}
	b.clear.Store(true)
	b.ctx, b.stop = context.WithCancel(context.Background())
	err := b.open()
	var locked *journal.LockedError
	if errors.As(err, &locked) && o.Wait {
		o.Log.Info().Str("dir", o.Dir).Msg("the file buffer's directory belongs to the queend that is being replaced; waiting for it")
		b.writer.Go(b.openLater)
		return b, nil
	}
	if err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

func (b *Buffer) open() error {
	j, err := journal.Open(journal.Options{
		Dir: b.o.Dir, FS: b.o.fs, SegmentBytes: b.o.SegmentBytes, BytesMax: b.o.BytesMax, Log: b.o.Log, Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("cannot open the file buffer: %w", err)
	}
	b.private()
	if err := b.poison.open(); err != nil {
		_ = j.Close()
		return fmt.Errorf("cannot open the file buffer: %w", err)
	}
	if b.queens, err = b.findQueens(); err != nil {
		return errors.Join(err, b.poison.close(), j.Close())
	}
	if err := b.openBehind(j); err != nil {
		return errors.Join(err, b.poison.close(), j.Close())
	}
	b.sayRoom(j)
	end := j.Stats().Last // what is written from here on is put into the gate by who writes it
	b.mu.Lock()
	b.journal = j
	b.gate.all++ // until the scan has ended
	for key := range b.behind.partitions {
		b.gate.pinned[key] = true
	}
	b.clear.Store(false)
	b.mu.Unlock()
	close(b.opened)
	b.writer.Go(b.write)
	b.drainer.Go(func() { b.scan(end) })
	return nil
}

// openLater opens as soon as the directory is given up.
func (b *Buffer) openLater() {
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
		err := b.open()
		var locked *journal.LockedError
		switch {
		case err == nil:
			b.o.Log.Info().Str("dir", b.o.Dir).Msg("the file buffer is ours now")
			return
		case !errors.As(err, &locked):
			b.o.Log.Error().Err(err).Msg("there is no file buffer: pushes hear 503 while PostgreSQL is away")
			b.mu.Lock()
			b.broken = err
			b.mu.Unlock()
			return
		}
	}
}

// SetMaintenance switches maintenance mode: while it is on all pushes go to disk, and
// nothing is drained.
func (b *Buffer) SetMaintenance(on bool) {
	b.mu.Lock()
	if b.maintenance == on {
		b.mu.Unlock()
		return
	}
	b.maintenance = on
	b.closing = false
	b.crowded.Store(false)
	if on {
		b.gate.all++
		b.clear.Store(false)
	} else {
		b.gate.all--
	}
	b.lift()
	b.mu.Unlock()
	b.flushAll()
	wake(b.drainWake)
}

// lift opens the gate if there is nothing on disk nor on its way there. The lock is held.
func (b *Buffer) lift() {
	if b.gate.empty() && len(b.waiting) == 0 && len(b.writing) == 0 {
		b.clear.Store(true)
	}
}

// flushAll has all loops go on with what they hold.
func (b *Buffer) flushAll() {
	b.mu.Lock()
	stores := b.stores
	b.mu.Unlock()
	for _, s := range stores {
		s.sv.Post(s.flushFn)
	}
}

// StopDrain has the drain end after the batch that is under way. Of a nil Buffer too.
func (b *Buffer) StopDrain() {
	if b != nil {
		b.stop()
		wake(b.drainWake)
	}
}

// Close ends the drain after the batch that is under way, writes what waits, and closes
// the journal. All pushes must be answered, the stores behind it be closed, and the loops
// still run. Of a nil Buffer too.
func (b *Buffer) Close() error {
	if b == nil {
		return nil
	}
	b.StopDrain()
	b.drainer.Wait()
	b.ended.Store(true)
	wake(b.writerWake)
	b.writer.Wait()
	b.mu.Lock()
	j := b.journal
	b.journal = nil
	b.mu.Unlock()
	if j == nil {
		return nil
	}
	return errors.Join(b.poison.close(), j.Close())
}

// wake makes whoever waits for c look again.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
