package journal

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"time"
)

// SegmentInfo is what Inspect finds in a segment.
type SegmentInfo struct {
	Name     string
	Bytes    int64  // of the file
	Base     uint64 // in its name
	First    uint64 // record that was found, 0 when there is none
	Last     uint64 // record that was found
	Records  int    // that were found
	Done     int    // of these, those that are released
	Oldest   time.Time
	Newest   time.Time
	Released uint64   // records up to this one are done, of all segments
	Sealed   bool     // it was closed, and ends with a seal
	Damaged  []Region // what is no frames
	TornTail int64    // bytes at the end of the newest segment that are no frame; of one that is being written to, they may become one
	Err      error    // that it could not be read, or not all of it; what was found is around that
}

// Inspect looks at each segment of a directory, oldest first, and changes nothing. The
// journal may be open meanwhile: what it writes to then may look torn. f is the
// operating system's file system when nil.
func Inspect(dir string, f FS, each func(SegmentInfo)) error {
	return walk(dir, f, func(info SegmentInfo) error {
		each(info)
		return nil
	}, nil)
}

// Read reads all records of a directory that are not released, oldest first, and
// changes nothing. It ends with the first error of each. Damage is passed over, and so is
// what cannot be read: then the error is an *UnreadError, when all the rest has been read.
func Read(dir string, f FS, each func(Record) error) error {
	var ended error
	unread := &UnreadError{Segments: map[string]error{}}
	err := walk(dir, f, func(info SegmentInfo) error {
		var version *VersionError
		if errors.As(info.Err, &version) {
			return version
		}
		if ended == nil && info.Err != nil {
			unread.Segments[info.Name] = info.Err
		}
		return ended
	}, func(rec Record) error {
		ended = each(rec)
		return ended
	})
	if err == nil && len(unread.Segments) > 0 {
		return unread
	}
	return err
}

// walk reads the segments of a directory.
func walk(dir string, f FS, done func(SegmentInfo) error, each func(Record) error) error {
	if f == nil {
		f = OS{}
	}
	segs, _, err := list(f, dir)
	if err != nil {
		return err
	}
	released, err := peekPosition(dir, f)
	if err != nil {
		return err
	}
	for i, s := range segs {
		newest := i == len(segs)-1
		if newest {
			s.last = ^uint64(0)
		}
		info := SegmentInfo{Name: s.name(), Bytes: s.size, Base: s.base, Released: released}
		file, err := f.Open(filepath.Join(dir, s.name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was released just now
		}
		if err == nil {
			h := &holey{File: file}
			if err = walkSegment(h, s, newest, &info, each); err == nil {
				err = h.unread()
			}
			_ = file.Close()
		}
		info.Err = err
		if err := done(info); err != nil {
			return err
		}
	}
	return nil
}

// walkSegment reads one segment, and writes down what it finds.
func walkSegment(f File, s *segment, newest bool, info *SegmentInfo, each func(Record) error) error {
	ok, err := checkSegmentHeader(f, s.base)
	if err != nil {
		return err
	}
	if !ok {
		info.Damaged = append(info.Damaged, Region{Bytes: min(segmentHeaderBytes, s.size)})
	}
	at := newScan(f, s.base, s.size)
	for newest || at.prev < s.last {
		prev := at.prev
		fr, bad, err := at.next()
		if err != nil && err != io.EOF {
			return err
		}
		ended := err == io.EOF || fr.seq > s.last
		if ended && !newest {
			bad.Lost = s.last - prev
		}
		if ended && newest && !at.sealed {
			info.TornTail = bad.Bytes
		} else if !bad.empty() {
			info.Damaged = append(info.Damaged, bad)
		}
		if ended {
			break
		}
		if err := info.add(fr, each); err != nil {
			return err
		}
	}
	if at.prev == s.last {
		// All of an older segment is there; what is behind that is void, unless it is a seal.
		if _, _, err := at.next(); err != nil && err != io.EOF {
			return err
		}
	}
	info.Sealed = at.sealed
	return nil
}

// add counts a record, and gives it to each when it is to be read.
func (info *SegmentInfo) add(f frame, each func(Record) error) error {
	at := time.Unix(0, f.time)
	if info.Records == 0 {
		info.First, info.Oldest = f.seq, at
	}
	info.Records++
	info.Last, info.Newest = f.seq, at
	if f.seq <= info.Released {
		info.Done++
		return nil
	}
	if each == nil {
		return nil
	}
	return each(Record{Seq: f.seq, Time: at, Kind: f.kind, Payload: f.payload})
}

// peekPosition reads the position of a directory, 0 when there is none.
func peekPosition(dir string, f FS) (uint64, error) {
	file, err := f.Open(filepath.Join(dir, positionName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	released, ok, err := readPosition(file)
	if err != nil || !ok {
		return 0, err
	}
	return released, nil
}
