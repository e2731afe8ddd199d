package journal

import (
	"errors"
	"io"
	"io/fs"
	"sort"
	"time"
)

// Reader reads the records in their order. For one goroutine at a time; there may be
// several readers.
type Reader struct {
	j    *Journal
	from uint64 // records before it are passed over

	seg     *segment
	file    File // seg's, nil until it is opened
	scan    scan
	passing bool // what of seg cannot be read is passed over
}

// Reader returns a reader that begins with the first record that is not released.
func (j *Journal) Reader() *Reader {
	j.mu.Lock()
	defer j.mu.Unlock()
	return &Reader{j: j, from: j.released + 1}
}

// ReaderFrom returns a reader that begins with a record, or the first one behind it that is not
// released. It reads the segment of that record from its beginning.
func (j *Journal) ReaderFrom(seq uint64) *Reader {
	r := j.Reader()
	r.from = max(r.from, seq)
	return r
}

// Next returns the next record. io.EOF says that there is none now: later there may
// be. Damage is no error: it is set aside, and what is behind it comes next. Any other
// error says that the disk cannot be read now, or, when it is a *VersionError, that the
// segment is not ours to read; Next may be called again, after PassOver or as it is.
func (r *Reader) Next() (Record, error) {
	for {
		if r.seg == nil && !r.advance() {
			return Record{}, io.EOF
		}
		last, end := r.j.extent(r.seg)
		if r.scan.prev >= last {
			if !r.advance() {
				return Record{}, io.EOF
			}
			continue
		}
		f, ok, err := r.read(last, end)
		if err != nil {
			return Record{}, err
		}
		if ok && f.seq >= r.from {
			return Record{Seq: f.seq, Time: time.Unix(0, f.time), Kind: f.kind, Payload: f.payload}, nil
		}
	}
}

// read reads the next frame of the segment, whose last record and end these are. When
// it is not ok there is none, and scan.prev is last.
func (r *Reader) read(last uint64, end int64) (f frame, ok bool, err error) {
	if r.file == nil {
		if err := r.open(); err != nil {
			return frame{}, false, err
		}
		if r.file == nil {
			r.scan.prev = last
			return frame{}, false, nil
		}
	}
	r.scan.end = end
	before := r.scan
	f, bad, err := r.scan.next()
	if err != nil && err != io.EOF {
		return frame{}, false, r.j.failed("read", r.seg.name(), err)
	}
	if ok = err == nil && f.seq <= last; !ok {
		// The segment ends here, before all that should be in it was found.
		bad.Lost = last - before.prev
		r.scan.prev = last
	}
	if !bad.empty() {
		if err := r.damaged(bad); err != nil {
			r.scan = before // it is not safe yet to go on
			return frame{}, false, err
		}
	}
	return f, ok, nil
}

// open opens the segment. Without an error and without a file there is none: it was
// released meanwhile, or somebody took it away, which is said.
func (r *Reader) open() error {
	f, err := r.j.fs.Open(r.j.path(r.seg.name()))
	if errors.Is(err, fs.ErrNotExist) {
		if r.j.has(r.seg) {
			r.j.counts.errors.Add(1)
			r.j.sayDamage(r.seg, Region{Lost: r.seg.last - r.scan.prev})
		}
		return nil
	}
	if r.passing && isUnreadable(err) {
		return r.j.keepUnread(r.seg, Region{Bytes: r.scan.end, Lost: r.seg.last - r.scan.prev}, r.j.failed("open", r.seg.name(), err))
	}
	if err != nil {
		return r.j.failed("open", r.seg.name(), err)
	}
	if r.passing {
		f = &holey{File: f}
		r.scan.chunk = nil // there may be holes in it of which this file knows nothing
	}
	ok, err := checkSegmentHeader(f, r.seg.base)
	if err != nil {
		_ = f.Close()
		var version *VersionError
		if errors.As(err, &version) {
			return err
		}
		return r.j.failed("read", r.seg.name(), err)
	}
	if r.scan.f == nil {
		r.scan = newScan(f, r.seg.base, 0)
	}
	r.scan.f, r.file = f, f
	if !ok && r.holey().unread() == nil { // a hole goes on behind the header, where the records are
		r.j.setAside(r.seg, f, Region{Bytes: segmentHeaderBytes})
	}
	return nil
}

// advance goes to the segment behind the one that was read, if there is one.
func (r *Reader) advance() bool {
	s := r.j.behind(r.seg, r.from, r.scan.prev)
	if s == nil {
		return false
	}
	if s == r.seg {
		return true // it has grown since
	}
	_ = r.Close()
	r.seg, r.scan, r.passing = s, scan{prev: s.base - 1}, false
	return true
}

// extent is the last record of a segment and where its frames end, both as of now.
func (j *Journal) extent(s *segment) (last uint64, end int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return s.last, s.end
}

// has tells whether a segment is still there.
func (j *Journal) has(s *segment) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range j.segs {
		if t == s {
			return true
		}
	}
	return false
}

// behind is the segment behind s, or the one with record from when s is nil; nil when
// there is none. It is s itself when that has records behind prev: it may have got them,
// and the next segment have begun, since it was looked at.
func (j *Journal) behind(s *segment, from, prev uint64) *segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s != nil && s.last > prev {
		return s
	}
	i := sort.Search(len(j.segs), func(i int) bool {
		if s == nil {
			return j.segs[i].last >= from
		}
		return j.segs[i].base > s.base
	})
	if i == len(j.segs) {
		return nil
	}
	return j.segs[i]
}

// Close closes the file that the reader has open. It may be read from again.
func (r *Reader) Close() error {
	f := r.file
	r.file = nil
	if f == nil {
		return nil
	}
	return f.Close()
}
