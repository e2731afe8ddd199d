package journal_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

func TestRecordsComeBackInOrderAfterReopening(t *testing.T) {
	dir := t.TempDir() + "/a/b"
	o := journal.Options{Dir: dir, SegmentBytes: 8 << 10}
	open := func() *journal.Journal {
		j, err := journal.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	n := 0
	for round := 0; round < 5; round++ {
		j := open()
		var locked *journal.LockedError
		if _, err := journal.Open(o); !errors.As(err, &locked) || locked.PID == 0 {
			t.Fatal(err)
		}
		for i := 0; i < 100; i++ {
			n++
			seq, err := j.Append(7, [][]byte{[]byte(fmt.Sprint("record ", n)), make([]byte, 300)})
			if err != nil || seq != uint64(2*n-1) {
				t.Fatal(seq, err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j := open()
	r := j.Reader()
	for i := 1; i <= n; i++ {
		rec, err := r.Next()
		if err != nil || string(rec.Payload) != fmt.Sprint("record ", i) || rec.Kind != 7 || rec.Seq != uint64(2*i-1) {
			t.Fatal(i, rec, err)
		}
		if rec, err = r.Next(); err != nil || len(rec.Payload) != 300 {
			t.Fatal(i, rec, err)
		}
		if err := j.Release(rec.Seq); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
	s := j.Stats()
	if s.Segments != 0 || s.Bytes != 0 || s.Records != 0 || s.Quarantined != 0 || s.Errors != 0 || s.TornTails != 0 {
		t.Fatalf("%+v", s)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
