package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

const dir = "/buffers"

// fatal is a testing.TB or a rapid.T.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is a journal over a file system that fails, and a model of what must be in
// it. Its calls are repeated where a caller would repeat them; what they promise is
// checked at once.
type world struct {
	t    fatal
	fs   *faultfs.FS
	opts journal.Options
	j    *journal.Journal
	r    *journal.Reader

	made      int               // payloads, so that each is another one
	acked     map[uint64][]byte // records that Append said are durable, or that Open found; nil: lost before it was promised
	last      uint64            // the highest of these
	maybe     [][]byte          // what failed since
	released  uint64            // what was given to Release
	noted     uint64            // the part that a restart must know
	read      uint64            // the last record that r has returned
	clock     time.Time
	unfaulted bool // nothing but us has touched the disk, so no damage may be seen
}

func newWorld(t fatal) *world {
	w := &world{t: t, fs: faultfs.New(), acked: map[uint64][]byte{}, clock: time.Unix(1_700_000_000, 0)}
	w.fs.Room(1 << 20)
	w.opts = journal.Options{Dir: dir, FS: w.fs, SegmentBytes: 2 << 10, Now: func() time.Time {
		w.clock = w.clock.Add(time.Millisecond)
		return w.clock
	}}
	return w
}

// payload makes another payload of a size.
func (w *world) payload(size int) []byte {
	w.made++
	b := fmt.Appendf(nil, "%d ", w.made)
	for len(b) < size {
		b = append(b, byte('a'+len(b)%26))
	}
	return b
}

// tryOpen opens the journal; it may fail.
func (w *world) tryOpen() error {
	j, err := journal.Open(w.opts)
	if err == nil {
		w.j = j
		w.r = j.Reader()
		err = w.adopt()
	}
	return err
}

// open opens the journal, which may fail once because of a fault.
func (w *world) open() {
	w.t.Helper()
	err := w.tryOpen()
	if err != nil {
		err = w.tryOpen()
	}
	if err != nil {
		w.t.Fatalf("cannot open twice: %v", err)
	}
}

// adopt finds out what Open has found beyond what was promised: nothing, or some of
// what failed.
func (w *world) adopt() error {
	w.t.Helper()
	s := w.j.Stats()
	if s.Records == 0 && s.Last < w.last {
		if w.released < w.last {
			w.t.Fatalf("records up to %d are released, %d were promised, none is there", w.released, w.last)
		}
		// All was done, and the numbers begin again.
		w.acked, w.last, w.released, w.noted, w.maybe = map[uint64][]byte{}, s.Last, s.Last, s.Last, nil
	}
	if s.Last < w.last {
		w.t.Fatalf("the journal ends with %d, %d was promised", s.Last, w.last)
	}
	w.read = s.First - 1
	if w.read < w.noted || w.read > w.released {
		w.t.Fatalf("the journal begins with %d, up to %d is released and up to %d that is known", s.First, w.released, w.noted)
	}
	w.released = w.read
	r := w.j.Reader()
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, faultfs.ErrPower) {
			return err
		}
		if err != nil || rec.Seq <= w.last {
			continue
		}
		if !w.oneOfMaybe(rec.Payload) {
			w.t.Fatalf("record %d was never appended, or has been taken back: %.20q", rec.Seq, rec.Payload)
		}
		w.acked[rec.Seq] = bytes.Clone(rec.Payload)
	}
	_ = r.Close()
	// What failed and is not there may still come back with the power, until the next Append
	// that goes well: that its file was taken back is on the disk by then.
	w.last = s.Last
	return nil
}

func (w *world) oneOfMaybe(payload []byte) bool {
	for _, p := range w.maybe {
		if bytes.Equal(p, payload) {
			return true
		}
	}
	return false
}

// append appends a group of payloads of these sizes.
func (w *world) append(sizes ...int) error {
	w.t.Helper()
	group := make([][]byte, len(sizes))
	for i, size := range sizes {
		group[i] = w.payload(size)
	}
	first, err := w.j.Append(7, group)
	if err != nil {
		w.maybe = append(w.maybe, group...)
		return err
	}
	if first != w.last+1 {
		w.t.Fatalf("appended as %d, the last one was %d", first, w.last)
	}
	for _, p := range group {
		w.last++
		w.acked[w.last] = p
	}
	w.maybe = nil
	return nil
}

// next reads a record, and reports whether there was one. A fault may make it fail
// once.
func (w *world) next() bool {
	w.t.Helper()
	rec, err := w.r.Next()
	if err != nil && err != io.EOF {
		if rec, err = w.r.Next(); errors.Is(err, faultfs.ErrPower) {
			return false
		}
	}
	if err == io.EOF {
		for seq := w.read + 1; seq <= w.last; seq++ {
			if w.acked[seq] != nil {
				w.t.Fatalf("record %d is not read, the reader is at its end", seq)
			}
		}
		return false
	}
	if err != nil {
		w.t.Fatalf("cannot read twice: %v", err)
	}
	if rec.Seq <= w.read || rec.Seq > w.last {
		w.t.Fatalf("record %d is read behind %d, the last one is %d", rec.Seq, w.read, w.last)
	}
	for seq := w.read + 1; seq < rec.Seq; seq++ {
		if w.acked[seq] != nil {
			w.t.Fatalf("record %d is passed over, %d is read behind %d", seq, rec.Seq, w.read)
		}
	}
	if !bytes.Equal(rec.Payload, w.acked[rec.Seq]) || rec.Kind != 7 {
		w.t.Fatalf("record %d is %.20q, it was %.20q", rec.Seq, rec.Payload, w.acked[rec.Seq])
	}
	w.read = rec.Seq
	return true
}

// drain reads all that there is.
func (w *world) drain() {
	w.t.Helper()
	for w.next() {
	}
}

// release releases what was read, but for the last keep records.
func (w *world) release(keep uint64) error {
	w.t.Helper()
	through := w.read - min(w.read, keep)
	if through <= w.released {
		return nil
	}
	err := w.j.Release(through)
	w.released = through
	if w.noted = through; err != nil {
		w.noted = 0 // half of a position may have been written over the last one: then all that is there is read again
	}
	return err
}

// check looks at everything from the outside.
func (w *world) check() {
	w.t.Helper()
	s := w.j.Stats()
	if s.Last != w.last || s.First > s.Last+1 || s.Records != s.Last+1-s.First {
		w.t.Fatalf("%+v, the last one was %d", s, w.last)
	}
	if s.Bytes > s.BytesMax {
		w.t.Fatalf("%d bytes, %d at most", s.Bytes, s.BytesMax)
	}
	segments := 0
	for _, name := range w.fs.Names() {
		if strings.HasSuffix(name, ".queend") {
			segments++
		}
	}
	if s.Segments != segments {
		w.t.Fatalf("%d segments are counted, %d are there", s.Segments, segments)
	}
	if w.unfaulted && (s.Quarantined != 0 || s.Errors != 0 || s.Abandoned != 0) {
		w.t.Fatalf("%+v, and there was no fault", s)
	}
}

// damage changes a byte of a record, if it is still there and not the last one.
func (w *world) damage(seq uint64) {
	for _, name := range w.fs.Names() {
		content := w.fs.Content(name)
		if i := bytes.Index(content, w.acked[seq]); seq > w.released && seq < w.last && len(w.acked[seq]) > 1 && i > 0 {
			content[i] ^= 0x10
			w.fs.Put(name, content)
			w.acked[seq] = nil
			w.unfaulted = false
		}
	}
}

// chance is a source of it with a seed.
func chance(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

// scenario lives through all that a journal does. It ends early when the power is off.
func (w *world) scenario() {
	w.t.Helper()
	step := func(err error) {}
	for life := range 3 {
		if err := w.tryOpen(); err != nil {
			if err = w.tryOpen(); err != nil {
				return
			}
		}
		for i := range 8 {
			sizes := [][]int{{10}, {300, 0, 7}, {100, 900}, {1200}, {40, 41, 42, 43}, {3000}, {8, 500}, {700, 1}}[i]
			step(w.append(sizes...))
			if i%3 == 1 {
				for range 4 {
					w.next()
				}
				step(w.release(2))
			}
		}
		if life == 1 {
			w.drain()
			step(w.release(0))
			step(w.append(20, 20))
		}
		if life != 1 || w.j.Close() != nil {
			w.fs.Kill()
		}
		w.damage(w.last - w.last/8)
	}
}

// finish checks that all is there after the last fault, and that the journal works.
func (w *world) finish() {
	w.t.Helper()
	w.fs.Heal()
	w.open()
	w.drain()
	for range 3 {
		if err := w.append(100, 1000, 10); err != nil {
			w.t.Fatalf("the fault is over: %v", err)
		}
		w.drain()
	}
	if err := w.release(1); err != nil {
		w.t.Fatalf("the fault is over: %v", err)
	}
	w.check()
	if err := w.j.Close(); err != nil {
		w.t.Fatalf("the fault is over: %v", err)
	}
	w.open()
	w.drain()
	w.check()
}

func TestScenario(t *testing.T) {
	w := newWorld(t)
	w.unfaulted = true
	w.scenario()
	w.finish()
	t.Log(w.fs.Total(), "calls")
	for _, op := range faultfs.Ops() {
		t.Log(op, w.fs.Calls(op))
	}
}
