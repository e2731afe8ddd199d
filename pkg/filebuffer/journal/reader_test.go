package journal

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// A reader that has read a segment to its end may be slow to say so: meanwhile the segment
// gets another record, and the next one begins. What came in between is not passed over.
func TestAReaderAtTheEndOfASegmentThatGrowsReadsOn(t *testing.T) {
	j, err := Open(Options{Dir: t.TempDir(), SegmentBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	add := func(size int) {
		t.Helper()
		if _, err := j.Append(1, [][]byte{bytes.Repeat([]byte{'x'}, size)}); err != nil {
			t.Fatal(err)
		}
	}
	r := j.Reader()
	defer r.Close()
	next := func(want uint64) {
		t.Helper()
		rec, err := r.Next()
		if err != nil || rec.Seq != want {
			t.Fatalf("record %d, %v; not %d", rec.Seq, err, want)
		}
	}
	add(10)
	next(1)
	add(10)
	add(10)
	add(8 << 10) // begins another segment
	if n := j.Stats().Segments; n != 2 {
		t.Fatalf("%d segments", n)
	}
	// It has seen that there was nothing behind the first record.
	if !r.advance() {
		t.Fatal("there is more, and it does not go on")
	}
	next(2)
	next(3)
	next(4)
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}
