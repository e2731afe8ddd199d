package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"
)

// groupBytesKeptMax bounds the memory for encoding that is kept from group to group.
const groupBytesKeptMax = 4 << 20

// smallestSegmentBytes is the least that is preallocated on a disk which is nearly full,
// unless a group needs more.
const smallestSegmentBytes = 64 << 10

// appender is what only the goroutine has that appends.
type appender struct {
	busy     atomic.Bool
	cur      *segment // that takes what comes; nil: the next group begins one
	file     File     // cur's
	capacity int64    // of cur
	buf      []byte   // the group: a segment's header, then frames
}

// Append appends records of one kind, as one group: one write, one fdatasync. When it
// returns nil they are durable, and first is the first one's number, the others
// following. The payloads are the caller's again.
//
// With an error none of them will be read, unless the process ends before the next
// Append that goes well: then some may be found at Open. Each Append tries afresh.
func (j *Journal) Append(kind uint8, payloads [][]byte) (first uint64, err error) {
	a := &j.appender
	if !a.busy.CompareAndSwap(false, true) {
		panic("BUG: two appends at once")
	}
	defer a.busy.Store(false)
	for _, p := range payloads {
		if len(p) > PayloadBytesMax {
			return 0, ErrTooLarge
		}
	}
	j.mu.Lock()
	first = j.next
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return 0, ErrClosed
	}
	if len(payloads) == 0 {
		return first, nil
	}
	a.encode(first, kind, j.now().UnixNano(), payloads)
	if err = j.write(first, uint64(len(payloads))); err != nil {
		return 0, err
	}
	j.counts.appends.Add(1)
	if cap(a.buf) > groupBytesKeptMax {
		a.buf = nil
	}
	return first, nil
}

// encode makes the group, with room for a segment's header in front.
func (a *appender) encode(first uint64, kind uint8, now int64, payloads [][]byte) {
	size := int64(segmentHeaderBytes)
	for _, p := range payloads {
		size += frameBytes(len(p))
	}
	a.buf = slices.Grow(a.buf[:0], int(size))[:segmentHeaderBytes]
	for i, p := range payloads {
		a.buf = appendFrame(a.buf, frame{kind: kind, seq: first + uint64(i), time: now, payload: p})
	}
}

// write makes the group durable: in the segment that is there when it fits, else in a
// new one; and when that fails, once again in another new one. With ErrFull none of it is
// there: what the first attempt may have left is not the second's to deny.
func (j *Journal) write(first, n uint64) error {
	err := j.extend(n)
	if err == errNoFit {
		err = j.begin(first, n)
	}
	if err == nil || errors.Is(err, ErrFull) {
		return err
	}
	again := j.begin(first, n)
	switch {
	case again == nil:
		return nil
	case errors.Is(err, errUnwritten):
		return fmt.Errorf("%w; and again: %w", err, again)
	}
	return fmt.Errorf("%w; and again: %v", err, again)
}

// errNoFit: the group needs another segment.
var errNoFit = errors.New("no fit")

// extend writes the group behind what the segment has.
func (j *Journal) extend(n uint64) error {
	a := &j.appender
	frames := a.buf[segmentHeaderBytes:]
	if a.cur == nil || !j.fits(int64(len(frames))) {
		return errNoFit
	}
	err := j.failed("write", a.cur.name(), writeFull(a.file, frames, a.cur.end))
	if err == nil {
		err = j.failed("sync", a.cur.name(), a.file.Sync())
	}
	if err != nil {
		j.abandon(err)
		return err
	}
	j.counts.syncs.Add(1)
	j.mu.Lock()
	a.cur.end += int64(len(frames))
	a.cur.last += n
	j.next += n
	j.resize(a.cur, max(a.cur.size, a.cur.end))
	j.mu.Unlock()
	return nil
}

// fits tells whether so much, and a seal, can be written to the segment.
func (j *Journal) fits(n int64) bool {
	a := &j.appender
	end := a.cur.end + n + sealBytes
	if end > a.capacity {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes+max(0, end-a.cur.size) <= j.bytesMax
}

// resize notes what a segment takes on disk. Journal.mu is held.
func (j *Journal) resize(s *segment, size int64) {
	j.bytes += size - s.size
	s.size = size
}

// begin makes a new segment with the group in it. It has its name only when it is
// durable; when it cannot be made so, its name is free or has a file that the next one
// takes the place of.
func (j *Journal) begin(first, n uint64) error {
	a := &j.appender
	size, err := j.room(int64(len(a.buf)) + sealBytes)
	if err != nil {
		return err
	}
	s := &segment{base: first, last: first + n - 1, end: int64(len(a.buf)), growing: true}
	f, err := j.create(s.name() + newSuffix)
	if err != nil {
		return err
	}
	if s.size, err = j.fill(f, s, size); err != nil {
		_ = f.Close()
		_ = j.fs.Remove(j.path(s.name() + newSuffix))
		return err
	}
	if err := j.publish(s.name()); err != nil {
		_ = f.Close()
		// It may be there under its name all the same, where it makes void what the segment
		// before it would get now under the same numbers. So that one is not continued, and
		// the next one is made in this one's place.
		if a.cur != nil {
			j.abandon(err)
		}
		_ = j.fs.Remove(j.path(s.name() + newSuffix))
		_ = j.fs.Remove(j.path(s.name()))
		return err
	}
	j.counts.syncs.Add(1)
	j.retire()
	a.cur, a.file, a.capacity = s, f, size
	j.mu.Lock()
	j.segs = append(j.segs, s)
	j.next += n
	j.bytes += s.size
	j.mu.Unlock()
	return nil
}

// room is how large a new segment may be that needs so much at least. Where there is
// not enough, the end of the last one and what is released are given up for it.
func (j *Journal) room(need int64) (int64, error) {
	a := &j.appender
	size := func() int64 {
		j.mu.Lock()
		defer j.mu.Unlock()
		return min(max(j.segmentBytes, need), j.bytesMax-j.bytes)
	}
	if n := size(); n >= need && n >= min(smallestSegmentBytes, j.segmentBytes) {
		return n, nil
	}
	j.mu.Lock()
	unused, done := int64(0), j.released == j.next-1
	if a.cur != nil {
		unused = a.cur.size - a.cur.end
	}
	enough := need <= j.bytesMax-j.bytes+unused
	j.mu.Unlock()
	if enough || done {
		j.retire()
	}
	_ = j.sweep() // what fails is counted, and repeated with each release
	if n := size(); n >= need {
		return n, nil
	}
	return 0, fmt.Errorf("%w: %d bytes of %d are used", ErrFull, j.Stats().Bytes, j.bytesMax)
}

// create makes a file. What an earlier attempt has left under its name goes.
func (j *Journal) create(name string) (File, error) {
	f, err := j.fs.Create(j.path(name))
	if errors.Is(err, fs.ErrExist) {
		if err = j.fs.Remove(j.path(name)); err == nil {
			f, err = j.fs.Create(j.path(name))
		}
	}
	return f, j.full(j.failed("create", name, err))
}

// fill makes a file a segment with the group in it, and returns its size.
func (j *Journal) fill(f File, s *segment, size int64) (int64, error) {
	a := &j.appender
	name := s.name() + newSuffix
	putSegmentHeader(a.buf, s.base)
	size, err := j.allocate(f, size, s.end+sealBytes)
	if err != nil {
		return 0, j.full(j.failed("preallocate", name, err))
	}
	if err := writeFull(f, a.buf, 0); err != nil {
		return 0, j.full(j.failed("write", name, err))
	}
	if err := f.Sync(); err != nil {
		return 0, j.full(j.failed("sync", name, err))
	}
	return max(size, s.end), nil
}

// allocate takes the space of a segment; less than it should when there is not more,
// and none in a file system that does not know how, which then says with each write
// whether it has room.
func (j *Journal) allocate(f File, size, need int64) (int64, error) {
	for {
		err := f.Allocate(size)
		switch least := max(need, smallestSegmentBytes); {
		case err == nil:
			return size, nil
		case isUnsupported(err):
			return 0, nil
		case isFull(err) && size > least:
			size = max(size/2, least)
		default:
			return 0, err
		}
	}
}

// publish gives a new segment its name.
func (j *Journal) publish(name string) error {
	if err := j.fs.Rename(j.path(name+newSuffix), j.path(name)); err != nil {
		return j.full(j.failed("rename", name+newSuffix, err))
	}
	// It has its name; that there is no room does not take it away.
	return j.failed("sync the directory of", name, j.fs.SyncDir(j.dir))
}

// full says of an error what it means.
func (j *Journal) full(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// abandon gives the segment up at its durable end: of what was written behind that
// nothing is believed.
func (j *Journal) abandon(why error) {
	j.counts.abandoned.Add(1)
	j.log.Warn().Err(why).Str("segment", j.appender.cur.name()).Int64("end", j.appender.cur.end).
		Msg("journal: segment abandoned, going on in a new one")
	j.retire()
}

// retire ends the segment, if there is one, and gives back what is preallocated. When
// that fails, it is as good and takes more room.
func (j *Journal) retire() {
	a := &j.appender
	if a.cur == nil {
		return
	}
	size := a.cur.size
	if j.failed("truncate", a.cur.name(), a.file.Truncate(a.cur.end)) == nil {
		size = a.cur.end
	}
	_ = j.failed("close", a.cur.name(), a.file.Close())
	j.mu.Lock()
	j.resize(a.cur, size)
	a.cur.growing = false
	j.mu.Unlock()
	a.cur, a.file = nil, nil
}

// seal ends the newest segment so that it can be told whether all of it is there.
func (j *Journal) seal() error {
	a := &j.appender
	if a.cur == nil {
		return nil
	}
	s, f := a.cur, a.file
	seal := appendFrame(nil, frame{seal: true, seq: s.last + 1, time: j.now().UnixNano()})
	err := j.failed("write", s.name(), writeFull(f, seal, s.end))
	if err == nil {
		j.mu.Lock()
		s.end += sealBytes
		j.mu.Unlock()
		err = j.failed("truncate", s.name(), f.Truncate(s.end))
	}
	if err == nil {
		err = j.failed("sync", s.name(), f.Sync())
	}
	_ = f.Close()
	j.mu.Lock()
	j.resize(s, s.end)
	s.growing = false
	j.mu.Unlock()
	a.cur, a.file = nil, nil
	return err
}
