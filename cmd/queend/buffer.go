package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/admindb"
	"github.com/queend/queend/pkg/api"
	"github.com/queend/queend/pkg/filebuffer"
	"github.com/queend/queend/pkg/longpoll"
	"github.com/queend/queend/pkg/loop"
	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// openBuffer takes the file buffer's directory, unless there is to be no buffer.
func (s *server) openBuffer() error {
	c := s.config
	if c.Buffer.MaxBytes == "0" {
		s.log.Warn().Msg("FILE_BUFFER_MAX_BYTES=0: there is no file buffer, pushes hear 503 while PostgreSQL is away")
		return nil
	}
	dir, err := c.BufferDir()
	if err != nil {
		return err
	}
	s.buffer, err = filebuffer.Open(filebuffer.Options{
		Dir: dir, BytesMax: c.bufferBytesMax(), SegmentBytes: int64(c.Buffer.Segment), Sealer: s.sealer,
		WaitingBytesMax: int(c.Statements.Backlog), Wait: bool(c.Listener.HandOver), Now: s.loops.Loops()[0].Now, Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("%w; FILE_BUFFER_DIR names another directory, FILE_BUFFER_MAX_BYTES=0 does without", err)
	}
	return nil
}

// buffered puts the file buffer of one loop around a store.
func (s *server) buffered(l *loop.Loop, inner queue.Store) queue.Store {
	if s.buffer == nil {
		return &unlessStopped{&s.pushesStopped, inner}
	}
	return s.buffer.Store(filebuffer.Services{
		Post: l.Post, Now: l.Now,
		After: func(d time.Duration, f func()) { l.After(d, f) },
	}, inner)
}

// unlessStopped is a store without a buffer around it, which has no place for pushes in
// maintenance mode.
type unlessStopped struct {
	stopped *atomic.Bool
	queue.Store
}

func (s *unlessStopped) Do(op *queue.Op) {
	if s.stopped.Load() {
		op.Fault = queue.Fault{Code: queue.Outage, Message: "maintenance mode is on, and there is no file buffer to keep messages meanwhile"}
		op.Done.OpDone(op)
		return
	}
	s.Store.Do(op)
}

// drainBuffer begins to deliver what is on disk, by the replay lane. What it stores passes
// the long poll like any push.
func (s *server) drainBuffer(l *loop.Loop, poll *longpoll.Store, replay queue.Store) {
	if s.buffer != nil {
		s.buffer.Drain(filebuffer.Replay{Store: poll.Around(replay), Post: l.Post, Now: l.Now})
	}
}

// readFlags learns whether this is maintenance mode, before pushes find their way to
// PostgreSQL, and has the buffer follow from then on.
func (s *server) readFlags(ctx context.Context) error {
	for {
		read := make(chan error, 1)
		taken := s.admin.Load().Do(func(session *admindb.Session) {
			push, pop, err := api.ReadMaintenance(session)
			if err == nil {
				s.board.SetFlags(&push, &pop)
			}
			read <- err
		})
		if taken {
			select {
			case err := <-read:
				if err == nil {
					s.board.OnFlags(s.follow)
					return nil
				}
				s.log.Debug().Err(err).Msg("cannot read whether this is maintenance mode; trying again")
			case <-ctx.Done():
				return errStopped
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errStopped
		}
	}
}

// follow does what the maintenance flags say. It does not wait.
func (s *server) follow(push, pop bool) {
	if was := s.pushesStopped.Swap(push); was != push {
		if push {
			s.log.Warn().Msg("maintenance mode is on: all pushes are written to disk")
		} else {
			s.log.Info().Msg("maintenance mode is off: what was written to disk is stored")
		}
		if s.buffer != nil {
			s.buffer.SetMaintenance(push)
		}
	}
	if was := s.popsStopped.Swap(pop); was != pop {
		s.log.Warn().Bool("on", pop).Msg("pop maintenance mode was switched")
	}
}

// bufferUsable says whether pushes can be written to disk.
func (s *server) bufferUsable() bool { return s.buffer != nil && s.buffer.Usable() }

// bufferStatus is the buffer as the administrative routes show it.
func (s *server) bufferStatus() api.BufferStatus {
	status := api.BufferStatus{DatabaseHealthy: s.databaseUp()}
	if s.buffer == nil {
		return status
	}
	b := s.buffer.Status()
	status.Healthy = b.Usable
	status.Buffered, status.Pending, status.Failed = b.Buffered, b.Pending, b.Poisoned
	status.FailedBytes = b.PoisonBytes
	if b.PoisonBytes > 0 {
		status.FailedFiles = 1
	}
	status.Bytes, status.OldestAge = b.Journal.Bytes, b.For
	status.Drained, status.DrainRate, status.KeyMissing = int64(b.Drained), float64(b.Rate), b.KeyMissing
	return status
}

// BufferDir is where the file buffer is.
func (s *ServeCommand) BufferDir() (string, error) {
	dir := s.Buffer.Dir
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	switch {
	case dir != "":
	case bool(s.Local.Postgres):
		data, err := s.DataDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(filepath.Dir(data), "buffers")
	case state != "":
		dir = filepath.Join(state, "buffers")
	case os.Geteuid() == 0:
		dir = "/var/lib/queen/buffers" // where Queen's server has its own
	default:
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("cannot tell where to keep the file buffer, give FILE_BUFFER_DIR: %w", err)
		}
		dir = filepath.Join(home, ".local", "share", "queend", "buffers")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot resolve FILE_BUFFER_DIR %q: %w", dir, err)
	}
	return dir, nil
}

// exportBuffer names what the buffer counts.
func exportBuffer(set *metrics.Set, buffer *filebuffer.Buffer) {
	if buffer == nil {
		return
	}
	s := buffer.Stats()
	gauge := func(name, help string, of func() float64) { set.Gauge(name, help, of) }
	counter := func(name, help string, of func() float64) { set.Counter(name, help, of) }
	status := func(of func(filebuffer.Status) float64) func() float64 {
		return func() float64 { return of(buffer.Status()) }
	}
	one := func(is bool) float64 {
		if is {
			return 1
		}
		return 0
	}
	gauge("queend_buffer_usable", "Whether pushes can be written to disk while PostgreSQL is away.", status(func(s filebuffer.Status) float64 { return one(s.Usable) }))
	gauge("queend_buffer_key_missing", "Whether the drain stands still before messages that were encrypted with another key than this process has.", func() float64 { return one(s.KeyMissing.Load()) })
	gauge("queend_buffer_pending_messages", "Messages on disk that wait for PostgreSQL.", func() float64 { return float64(s.Pending.Load()) })
	gauge("queend_buffer_behind_messages", "Of the messages on disk, those of partitions that another session holds locked in PostgreSQL.", func() float64 { return float64(s.Behind.Load()) })
	gauge("queend_buffer_behind_partitions", "These partitions.", func() float64 { return float64(s.BehindPartitions.Load()) })
	gauge("queend_buffer_held_requests", "Pushes held in memory while the buffer closes.", func() float64 { return float64(s.Held.Load()) })
	gauge("queend_buffer_bytes", "Bytes of the buffer's segments, preallocated space included.", status(func(s filebuffer.Status) float64 { return float64(s.Journal.Bytes) }))
	gauge("queend_buffer_bytes_max", "What they may be at most.", status(func(s filebuffer.Status) float64 { return float64(s.Journal.BytesMax) }))
	gauge("queend_buffer_segments", "Segments of the buffer.", status(func(s filebuffer.Status) float64 { return float64(s.Journal.Segments) }))
	gauge("queend_buffer_age_seconds", "Time since which the buffer is not empty.", status(func(s filebuffer.Status) float64 { return s.For.Seconds() }))
	gauge("queend_buffer_drain_rate", "Messages that the buffer delivers a second, of late.", func() float64 { return float64(s.Rate.Load()) })
	counter("queend_buffer_messages_total", "Messages that were written to disk.", func() float64 { return float64(s.Buffered.Load()) })
	counter("queend_buffer_drained_total", "Messages that were delivered from disk.", func() float64 { return float64(s.Drained.Load()) })
	counter("queend_buffer_taken_total", "Messages taken over from files that Queen's server had left.", func() float64 { return float64(s.Taken.Load()) })
	counter("queend_buffer_taken_torn_bytes_total", "Bytes of such files that made no sense and were not delivered; the files are kept in taken/.", func() float64 { return float64(s.TornBytes.Load()) })
	counter("queend_buffer_poisoned_total", "Buffered messages that PostgreSQL refused, or that could not be read; they are set aside.", func() float64 { return float64(s.Poisoned.Load()) })
	counter("queend_buffer_quarantined_total", "Damaged regions of segments that were set aside.", status(func(s filebuffer.Status) float64 { return float64(s.Journal.Quarantined) }))
	counter("queend_buffer_batches_total", "Transactions of the drain.", func() float64 { return float64(s.Batches.Load()) })
	counter("queend_buffer_retries_total", "Transactions of the drain that were tried again.", func() float64 { return float64(s.Retries.Load()) })
	counter("queend_buffer_syncs_total", "Times that the buffer waited for the disk.", status(func(s filebuffer.Status) float64 { return float64(s.Journal.Syncs) }))
	counter("queend_buffer_write_errors_total", "Writes to the buffer that failed.", func() float64 { return float64(s.WriteErrors.Load()) })
	counter("queend_buffer_read_errors_total", "Tries to read what waits on disk that failed; the drain stands still meanwhile.", func() float64 { return float64(s.ReadErrors.Load()) })
	counter("queend_buffer_overloaded_total", "Pushes refused because too much waits for the disk.", func() float64 { return float64(s.Overloaded.Load()) })
	counter("queend_buffer_refused_total", "Pushes refused because they could not be buffered.", func() float64 { return float64(s.Refused.Load()) })
}
