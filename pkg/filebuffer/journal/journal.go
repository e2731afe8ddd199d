// Package journal keeps records in files: appended at the end, read from the front,
// released when they are done. When Append has returned nil, what it was given
// survives a crash of the process, of the kernel and of the power.
//
// It is not a queue, and knows nothing of what the records mean. It starts no
// goroutine: the calls do their work on the caller's, and they wait for the disk, so
// that none of them belongs on an event loop. One goroutine appends, one reads with
// a Reader and releases; they do not wait for each other.
//
// # The directory
//
//	lock                         held (flock) by the process that the journal belongs to
//	position                     up to which record all is done
//	00000000000000000001.queend  a segment: a header and frames. The name is the first
//	00000000000000004711.queend  frame's sequence number
//	quarantine/…@4096.bad        bytes of a segment that were no frames, kept for a human
//	quarantine/….queend.bad      a segment that was done, of which not all could be read or copied
//	quarantine/….unread.bad      empty: a segment is to be kept so
//
// Sequence numbers rise by one from frame to frame and from segment to segment. A
// segment is made under another name, with its first records in it, synced, and only
// then renamed: so it has at least one record, whatever happens.
//
// # What is believed
//
// A segment ends where the next one begins: frames with the next one's numbers or
// higher are void. That is how a failed write is undone without writing: when
// fdatasync fails, the kernel may have dropped what it could not write and say
// nothing the next time, so nothing of that file behind the last synced byte is ever
// believed again. The segment is abandoned there, and the group is written to a new
// one which begins with the first number that was not answered.
//
// Opening reads the newest segment whole. What is behind its last good frame was
// being written when the process died: it is cut off. Bytes that are no frames but
// have good frames behind them, or that miss before the next segment begins, were
// damaged: they are set aside, said loudly, counted, and the rest is kept. A segment
// that was closed ends with a seal, so that damage of its last record is seen too.
package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

const (
	// SegmentBytesDefault is how large a segment is made when nothing is said.
	SegmentBytesDefault = 16 << 20

	// PayloadBytesMax bounds one record's payload; Append refuses a larger one with
	// ErrTooLarge.
	PayloadBytesMax = 1 << 30

	// FreePercentMax is how much of the file system's free space the journal takes
	// when it is given no bound.
	FreePercentMax = 80
)

// Options are what a journal is opened with.
type Options struct {
	// Dir is made when it is not there, for its owner alone. One process at a time
	// has it.
	Dir string

	// FS is the file system, the operating system's when nil.
	FS FS

	// SegmentBytes is how large segments are made, SegmentBytesDefault when 0. A
	// group that is larger gets a segment of its own.
	SegmentBytes int64

	// BytesMax bounds what the segments take on disk, preallocated space too; Append
	// returns ErrFull instead of going beyond. When 0: what the journal takes already and
	// FreePercentMax of what the file system has free when it is opened.
	BytesMax int64

	Log zerolog.Logger
	Now func() time.Time // the clock, time.Now when nil
}

// Record is what was appended.
type Record struct {
	Seq     uint64    // given by Append, rising by 1
	Time    time.Time // when it was appended
	Kind    uint8     // the caller's
	Payload []byte    // never changed, the reader's for as long as it likes
}

// Journal is a directory of records. Append is for one goroutine at a time, and so are
// Release and each Reader; all may be called while the others run. Stats is for any
// goroutine.
type Journal struct {
	dir          string
	fs           FS
	log          zerolog.Logger
	now          func() time.Time
	segmentBytes int64
	bytesMax     int64
	lock         io.Closer
	position     File

	appender appender

	// releasing is held while segments are taken away.
	releasing     sync.Mutex
	positionStale bool // the last write of it failed

	// mu is never held while the disk is waited for.
	mu       sync.Mutex
	segs     []*segment // by base, oldest first
	next     uint64     // the next record's
	released uint64     // records up to this one are done
	bytes    int64      // sum of the segments' sizes
	aside    map[string]int64
	closed   bool

	counts counts
}

// Open opens the journal in a directory, makes it when it is not there, and finds
// out what is in it. It reads one segment, however many there are. The error is a
// *LockedError when another process has the directory, and a *VersionError when a
// newer version has written to it; nothing is changed then.
func Open(o Options) (*Journal, error) {
	j := &Journal{
		dir:          filepath.Clean(o.Dir),
		fs:           o.FS,
		log:          o.Log,
		now:          o.Now,
		segmentBytes: cmp.Or(o.SegmentBytes, SegmentBytesDefault),
		bytesMax:     o.BytesMax,
		aside:        map[string]int64{},
	}
	if j.fs == nil {
		j.fs = OS{}
	}
	if j.now == nil {
		j.now = time.Now
	}
	if err := j.fs.MakeDir(j.dir); err != nil {
		return nil, fmt.Errorf("cannot make the directory %q: %w", j.dir, err)
	}
	lock, err := j.fs.Lock(j.path(lockName))
	if err != nil {
		var locked *LockedError
		if errors.As(err, &locked) {
			return nil, err
		}
		return nil, fmt.Errorf("cannot lock the directory %q: %w", j.dir, err)
	}
	j.lock = lock
	if err := j.recover(); err != nil {
		return nil, errors.Join(err, j.letGo())
	}
	j.log.Info().Str("dir", j.dir).Int("segments", len(j.segs)).Int64("bytes", j.bytes).
		Uint64("records", j.pending()).Int64("bytesMax", j.bytesMax).Msg("journal: open")
	return j, nil
}

// Close ends the newest segment with a seal, cuts off what was preallocated behind
// it, and gives the directory free. Nothing may be appended, read or released
// meanwhile. What it cannot do it reports; no record is lost by that.
func (j *Journal) Close() error {
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.mu.Unlock()
	if closed {
		return nil
	}
	return errors.Join(j.seal(), j.sweep(), j.position.Sync(), j.letGo())
}

// letGo closes what is open.
func (j *Journal) letGo() error {
	var err error
	if j.position != nil {
		err = j.position.Close()
	}
	return errors.Join(err, j.lock.Close())
}

// path is a file's in the directory.
func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

// pending is how many records are not released.
func (j *Journal) pending() uint64 { return j.next - j.first() }

// first is the first record that is not released; next when there is none.
func (j *Journal) first() uint64 {
	if len(j.segs) == 0 {
		return j.next
	}
	return max(j.released+1, j.segs[0].base)
}

// Stats are a journal's figures.
type Stats struct {
	Segments    int    // files
	Bytes       int64  // they take on disk, preallocated space too
	BytesMax    int64  // Append refuses to go beyond
	Records     uint64 // that are not released, with those that damage took
	First, Last uint64 // of these, First > Last when there is none

	// Since Open.
	Appends   uint64 // groups that are durable
	Syncs     uint64 // fdatasyncs of segments that went well
	Abandoned uint64 // segments that a write or a sync failed in
	Errors    uint64 // of the operating system, each failed call
	TornTails uint64 // newest segments whose end was cut off at Open

	// Files in quarantine, those of earlier times too, and the bytes in them.
	Quarantined      int
	QuarantinedBytes int64
}

// counts are those of Stats that are counted where they happen.
type counts struct {
	appends, syncs, abandoned, errors, tornTails atomic.Uint64
}

// Stats returns the figures of now. Any goroutine.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Stats{
		Segments:    len(j.segs),
		Bytes:       j.bytes,
		BytesMax:    j.bytesMax,
		Records:     j.pending(),
		First:       j.first(),
		Last:        j.next - 1,
		Appends:     j.counts.appends.Load(),
		Syncs:       j.counts.syncs.Load(),
		Abandoned:   j.counts.abandoned.Load(),
		Errors:      j.counts.errors.Load(),
		TornTails:   j.counts.tornTails.Load(),
		Quarantined: len(j.aside),
	}
	for _, n := range j.aside {
		s.QuarantinedBytes += n
	}
	return s
}

// failed counts an error of the operating system, and returns it with what we were
// doing.
func (j *Journal) failed(doing, name string, err error) error {
	if err == nil {
		return nil
	}
	j.counts.errors.Add(1)
	return fmt.Errorf("cannot %s %q: %w", doing, filepath.Join(j.dir, name), err)
}
