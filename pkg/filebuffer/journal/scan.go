package journal

import (
	"bytes"
	"errors"
	"io"
)

// chunkBytes is how much of a file is read at once. A chunk is never written to
// again: records are parts of it.
const chunkBytes = 256 << 10

// Region is a part of a segment that is no frames.
type Region struct {
	Offset int64
	Bytes  int64
	Lost   uint64 // records that were there, as far as is known
}

func (r Region) empty() bool { return r.Bytes == 0 && r.Lost == 0 }

// scan walks the frames of one segment. It reads only, and knows no state but its own.
type scan struct {
	f      File
	off    int64  // where the next frame should begin
	end    int64  // nothing is read from here on
	good   int64  // the end of the last good frame
	prev   uint64 // the last good frame's number
	sealed bool   // the last good frame was a seal

	chunk []byte // of the file, from at on
	at    int64
}

func newScan(f File, base uint64, end int64) scan {
	return scan{f: f, off: segmentHeaderBytes, good: segmentHeaderBytes, end: end, prev: base - 1}
}

// next returns the next record's frame, and what had to be skipped before it. io.EOF is
// the end; bad says what is between the last good frame and that, zeros at the end
// left out. After another error next may be called again.
func (s *scan) next() (f frame, bad Region, err error) {
	start, prev := s.off, s.prev
	f, ok, err := s.frameAt(start, start)
	found := start
	if err == nil && !ok {
		f, found, err = s.search(start)
	}
	if err != nil && err != io.EOF {
		return frame{}, Region{}, err
	}
	bad = Region{Offset: start, Bytes: found - start}
	if err == io.EOF {
		s.off = max(s.off, s.end)
		return frame{}, bad, err
	}
	bad.Lost = f.seq - prev - 1
	s.off = found + f.bytes
	s.good = s.off
	if f.seal {
		s.prev, s.sealed = f.seq-1, true
		return frame{}, bad, io.EOF
	}
	s.prev = f.seq
	return f, bad, nil
}

// frameAt decodes the frame at off, when there is a good one that can have been there
// while those from start on are gone.
func (s *scan) frameAt(off, start int64) (frame, bool, error) {
	head, err := s.window(off, frameHeaderBytes)
	if err != nil {
		return frame{}, false, err
	}
	seq, size, ok := decodeHead(head)
	// Each frame that is gone took its room: a number that is too high for it is a lie,
	// and the length beside it need not be believed either.
	if gone := uint64(off-start) / frameHeaderBytes; !ok || seq <= s.prev || seq-s.prev-1 > gone || size > s.end-off {
		return frame{}, false, nil
	}
	whole, err := s.window(off, size)
	if err != nil {
		return frame{}, false, err
	}
	f, ok := decodeFrame(whole)
	return f, ok, nil
}

// search finds the first good frame behind start. With io.EOF there is none, and
// found is the end of the last byte that is not zero.
func (s *scan) search(start int64) (f frame, found int64, err error) {
	found = start
	for at := start; at < s.end; {
		part, err := s.window(at, chunkBytes)
		if err != nil {
			return frame{}, 0, err
		}
		if len(part) == 0 {
			break
		}
		for i := 0; ; i += len(frameMarker) {
			k := bytes.Index(part[i:], frameMarker)
			if k < 0 {
				break
			}
			i += k
			off := at + int64(i)
			if off == start || off%frameAlign != 0 {
				continue
			}
			f, ok, err := s.frameAt(off, start)
			if err != nil {
				return frame{}, 0, err
			}
			if ok {
				return f, off, nil
			}
		}
		if n := len(bytes.TrimRight(part, "\x00")); n > 0 {
			found = at + int64(n)
		}
		at += int64(len(part))
	}
	return frame{}, found, io.EOF
}

// window returns n bytes of the file from off on, or less when it ends before.
func (s *scan) window(off, n int64) ([]byte, error) {
	n = min(n, s.end-off)
	if n <= 0 {
		return nil, nil
	}
	if i := off - s.at; i >= 0 && i+n <= int64(len(s.chunk)) {
		return s.chunk[i : i+n : i+n], nil
	}
	chunk := make([]byte, min(max(n, chunkBytes), s.end-off))
	got, err := readFull(s.f, chunk, off)
	if err == io.EOF {
		s.end = off + int64(got) // somebody has cut the file
	} else if err != nil {
		return nil, err
	}
	s.chunk, s.at = chunk[:got], off
	return s.chunk[:min(n, int64(got))], nil
}

// ignoreEOF is for reads of what may be shorter.
func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
