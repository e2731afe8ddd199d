package journal_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

const (
	headerBytes = 32
	sealBytes   = 32
)

// specimen is a directory, as a journal left it, whose first segment is to be damaged.
type specimen struct {
	t       *testing.T
	bytes   int64 // the segment's
	records [][]byte
	ends    []int // of the frames
	content []byte
	files   map[string][]byte // all of them
}

const firstName = dir + "/00000000000000000001.queend"

// newSpecimen writes n records to the first segment of a journal. Then the journal is
// closed, or the process is killed; or one record more goes to a second segment.
func newSpecimen(t *testing.T, segmentBytes int64, n int, size func(i int) int, end string) *specimen {
	t.Helper()
	s := &specimen{t: t, bytes: segmentBytes, files: map[string][]byte{}}
	fs := faultfs.New()
	j := s.open(fs)
	at := headerBytes
	for i := range n {
		s.records = append(s.records, bytes.Repeat([]byte{byte('0' + i)}, size(i)))
		at += 32 + (size(i)+7)&^7
		s.ends = append(s.ends, at)
		if _, err := j.Append(1, s.records[i:]); err != nil {
			t.Fatal(err)
		}
	}
	switch end {
	case "closed":
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	case "killed":
	case "older":
		s.records = append(s.records, make([]byte, segmentBytes))
		if _, err := j.Append(1, s.records[n:]); err != nil {
			t.Fatal(err)
		}
	}
	fs.Kill()
	for _, name := range fs.Names() {
		s.files[name] = fs.Content(name)
	}
	s.content = s.files[firstName]
	if segments := j.Stats().Segments; segments != 1 && end != "older" || s.content == nil {
		t.Fatal("the records need", segments, "segments")
	}
	return s
}

func (s *specimen) open(fs *faultfs.FS) *journal.Journal {
	s.t.Helper()
	j, err := journal.Open(journal.Options{Dir: dir, FS: fs, SegmentBytes: s.bytes, BytesMax: 1 << 30})
	if err != nil {
		s.t.Fatal(err)
	}
	return j
}

// with is a file system with the specimen's files, but for the first segment.
func (s *specimen) with(content []byte) *faultfs.FS {
	fs := faultfs.New()
	_ = fs.MakeDir(dir)
	for name, b := range s.files {
		fs.Put(name, b)
	}
	fs.Put(firstName, content)
	return fs
}

// readAll reads all there is.
func readAll(t *testing.T, j *journal.Journal) (all []journal.Record) {
	t.Helper()
	r := j.Reader()
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rec)
	}
}

// expect checks that exactly these records are read, and that the journal then goes
// on.
func (s *specimen) expect(tag string, fs *faultfs.FS, want func(i int) bool) journal.Stats {
	s.t.Helper()
	j := s.open(fs)
	got := readAll(s.t, j)
	for i, payload := range s.records {
		if !want(i) {
			continue
		}
		if len(got) == 0 || got[0].Seq != uint64(i+1) || !bytes.Equal(got[0].Payload, payload) {
			s.t.Fatalf("%s: record %d is not read", tag, i+1)
		}
		got = got[1:]
	}
	if len(got) > 0 {
		s.t.Fatalf("%s: record %d is read too", tag, got[0].Seq)
	}
	return j.Stats()
}

func TestATruncatedSegmentKeepsItsWholeFrames(t *testing.T) {
	t.Parallel()
	size := func(i int) int { return i * 5 % 130 }
	f := func(end string, torn func(content []byte, n int) []byte) {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			s := newSpecimen(t, 8<<10, 64, size, end)
			for n := 0; n < s.ends[63]; n += stride {
				tag := fmt.Sprint("cut at ", n)
				left := torn(s.content, n)
				fs := s.with(left)
				whole := func(i int) bool { return i == 64 || bytes.HasPrefix(left, s.content[:s.ends[i]]) }
				stats := s.expect(tag, fs, whole)
				if end == "older" {
					if stats.Quarantined == 0 || stats.TornTails != 0 {
						t.Fatalf("%s: %+v", tag, stats)
					}
					continue
				}
				end := headerBytes // of the last whole frame
				for i := 0; i < 64 && whole(i); i++ {
					end = s.ends[i]
				}
				torn := len(bytes.TrimRight(left, "\x00")) > end
				if end > headerBytes && (stats.Quarantined != 0 || (stats.TornTails == 1) != torn) {
					t.Fatalf("%s: torn %v, %+v", tag, torn, stats)
				}
				fs.Kill()
				s.goesOn(tag, fs)
			}
		})
	}
	truncated := func(content []byte, n int) []byte { return content[:n] }
	f("killed", truncated)
	f("closed", truncated)
	f("older", truncated)
	f("killed", func(content []byte, n int) []byte { // the space was preallocated
		return append(slices.Clone(content[:n]), make([]byte, len(content)-n)...)
	})
	f("killed", func(content []byte, n int) []byte { // garbage follows
		return append(slices.Clone(content[:n]), bytes.Repeat([]byte{0xFF, 'Q'}, 100)...)
	})
}

// goesOn appends to what is left, opens it again and reads it.
func (s *specimen) goesOn(tag string, fs *faultfs.FS) {
	s.t.Helper()
	j := s.open(fs)
	before := len(readAll(s.t, j))
	if _, err := j.Append(1, [][]byte{[]byte("more")}); err != nil {
		s.t.Fatalf("%s: %v", tag, err)
	}
	fs.Kill()
	all := readAll(s.t, s.open(fs))
	if len(all) != before+1 || string(all[before].Payload) != "more" || all[before].Seq != uint64(before+1) {
		s.t.Fatalf("%s: %d records were there, %d are now", tag, before, len(all))
	}
}

func TestEachFlippedBitIsDetected(t *testing.T) {
	t.Parallel()
	size := func(i int) int { return i * 7 % 60 }
	f := func(end string) {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			const n = 60
			s := newSpecimen(t, 4<<10, n, size, end)
			if s.ends[n-1] < 3500 {
				t.Fatal("the segment is too empty:", s.ends[n-1])
			}
			flipped := slices.Clone(s.content)
			harmless := 0
			for bit := 0; bit < len(s.content)*8; bit += stride {
				flipped[bit/8] ^= 1 << (bit % 8)
				s.flip(end, bit, flipped, &harmless)
				flipped[bit/8] ^= 1 << (bit % 8)
			}
			t.Log(len(s.content)*8/stride, "bits,", harmless, "beside the frames")
		})
	}
	f("killed")
	f("closed")
	f("older")
}

// flip checks what is found in the segment when this bit is flipped.
func (s *specimen) flip(end string, bit int, flipped []byte, harmless *int) {
	s.t.Helper()
	tag := fmt.Sprintf("byte %d bit %d", bit/8, bit%8)
	last := s.ends[len(s.ends)-1]
	hit, _ := slices.BinarySearch(s.ends, bit/8+1)
	inHeader, inFrame := bit/8 < headerBytes, bit/8 >= headerBytes && bit/8 < last
	fs := s.with(flipped)
	stats := s.expect(tag, fs, func(i int) bool { return !inFrame || i != hit })
	torn, aside := uint64(0), 0
	switch {
	case inHeader:
		aside = 1
	case inFrame && (end != "killed" || hit < len(s.ends)-1):
		aside = 1
	case inFrame:
		torn = 1 // nothing tells this from a write that was not finished
	default:
		*harmless++
		if end != "older" {
			torn = 1 // in the seal, or in what was never written
		}
	}
	if stats.Quarantined != aside || stats.TornTails != torn {
		s.t.Fatalf("%s: %d aside, %d torn tails, not %d and %d", tag, stats.Quarantined, stats.TornTails, aside, torn)
	}
	if aside == 1 {
		s.kept(tag, fs, flipped, bit/8)
	}
}

// kept checks that the damaged byte and those around it are in quarantine.
func (s *specimen) kept(tag string, fs *faultfs.FS, flipped []byte, at int) {
	s.t.Helper()
	for _, name := range fs.Names() {
		var base, offset int
		if _, err := fmt.Sscanf(name, dir+"/quarantine/%d.queend@%d.bad", &base, &offset); err != nil {
			continue
		}
		content := fs.Content(name)
		if at < offset || at >= offset+max(1, len(content)) || !bytes.Equal(content, flipped[offset:offset+len(content)]) {
			s.t.Fatalf("%s: %s is not what was there", tag, name)
		}
		return
	}
	s.t.Fatalf("%s: nothing is in quarantine: %s", tag, strings.Join(fs.Names(), " "))
}
