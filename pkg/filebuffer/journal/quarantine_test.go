package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

// damaged is a journal of n segments with a record each, in whose second one a byte is
// changed, and the log of who opens it.
func damaged(t *testing.T, n int) (fs *faultfs.FS, o journal.Options, log *bytes.Buffer) {
	t.Helper()
	fs, log = faultfs.New(), &bytes.Buffer{}
	o = journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10}
	j := mustOpen(t, o)
	for range n {
		mustAppend(t, j, group(3, 280))
	}
	must(t, j.Close())
	content := fs.Content(secondName)
	content[500] ^= 1
	fs.Put(secondName, content)
	o.Log = zerolog.New(log)
	return fs, o, log
}

const secondName = dir + "/00000000000000000004.queend"

func seqs(all []journal.Record) string {
	s := ""
	for _, rec := range all {
		s += fmt.Sprint(rec.Seq, " ")
	}
	return s
}

func TestDamageIsSetAsideOnceAndSaidLoudly(t *testing.T) {
	t.Parallel()
	f := func(n int, kill bool) {
		t.Helper()
		fs, o, log := damaged(t, n)
		want := "1 2 3 4 6 7 8 9 "
		j := mustOpen(t, o)
		for range 3 {
			if got := seqs(readAll(t, j)); got != want[:len(want)-6*(3-n)] {
				t.Fatal(got)
			}
		}
		said := strings.Count(log.String(), "DAMAGE")
		if s := j.Stats(); s.Quarantined != 1 || s.QuarantinedBytes != 312 || said != 1 || s.Errors != 0 {
			t.Fatalf("%+v, said %d times", s, said)
		}
		if kill {
			fs.Kill()
		} else {
			must(t, j.Close())
		}
		j = mustOpen(t, o)
		if s := j.Stats(); s.Quarantined != 1 || s.QuarantinedBytes != 312 {
			t.Fatalf("%+v", s)
		}
		readAll(t, j)
		must(t, j.Release(100))
		if s := j.Stats(); s.Quarantined != 1 || s.Segments != 0 {
			t.Fatalf("%+v", s)
		}
		if len(fs.Content(dir+"/quarantine/00000000000000000004.queend@344.bad")) != 312 {
			t.Fatal(fs.Names())
		}
		if said := strings.Count(log.String(), "DAMAGE"); said != 1 {
			t.Fatal(said)
		}
	}
	f(2, false)
	f(2, true)
	f(3, false)
	f(3, true)
}

func TestDamageThatCannotBeCopiedKeepsItsSegment(t *testing.T) {
	t.Parallel()
	for _, op := range []faultfs.Op{faultfs.MakeDir, faultfs.Create, faultfs.Write, faultfs.Sync, faultfs.Rename, faultfs.SyncDir} {
		fs, o, _ := damaged(t, 3)
		j := mustOpen(t, o)
		fs.Break(op, syscall.ENOSPC)
		if got := seqs(readAll(t, j)); got != "1 2 3 4 6 7 8 9 " {
			t.Fatal(got)
		}
		if s := j.Stats(); s.Quarantined != 1 || s.Errors == 0 {
			t.Fatalf("%v: %+v", op, s)
		}
		if op == faultfs.MakeDir || op == faultfs.Rename || op == faultfs.SyncDir {
			if err := j.Release(9); err == nil {
				t.Fatal(op, "it is neither moved nor kept")
			}
		}
		fs.Heal()
		must(t, j.Release(9))
		kept := fs.Content(dir + "/quarantine/00000000000000000004.queend.bad")
		if len(kept) < 900 || fs.Content(secondName) != nil || j.Stats().Segments != 0 {
			t.Fatal(op, fs.Names())
		}
	}
}

func TestASegmentWithoutARecordIsSetAside(t *testing.T) {
	t.Parallel()
	f := func(content []byte, aside int) {
		t.Helper()
		fs, o, log := damaged(t, 3)
		name := dir + "/00000000000000000010.queend"
		fs.Put(name, content)
		j := mustOpen(t, o)
		if s := j.Stats(); s.Last != 9 || s.Quarantined != aside || s.Segments != 3 {
			t.Fatalf("%+v", s)
		}
		if said := strings.Count(log.String(), "DAMAGE"); said != aside || fs.Content(name) != nil {
			t.Fatal(log)
		}
		if first := mustAppend(t, j, group(1, 1)); first != 10 {
			t.Fatal(first)
		}
		if got := seqs(readAll(t, j)); got != "1 2 3 4 6 7 8 9 10 " {
			t.Fatal(got)
		}
	}
	f(nil, 0)
	f([]byte("rubbish"), 1)
	f(make([]byte, 1<<10), 1)
	f(header(1, 10), 1)
	f(header(1, 11), 1)
}

func TestASegmentThatIsGoneIsSaid(t *testing.T) {
	t.Parallel()
	fs, o, log := damaged(t, 3)
	j := mustOpen(t, o)
	must(t, fs.Remove(secondName))
	if got := seqs(readAll(t, j)); got != "1 2 3 7 8 9 " {
		t.Fatal(got)
	}
	if !strings.Contains(log.String(), "DAMAGE") {
		t.Fatal(log)
	}
	must(t, j.Release(9))
	if s := j.Stats(); s.Segments != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestASegmentThatIsReleasedWhileItIsReadIsPassedOver(t *testing.T) {
	t.Parallel()
	fs, o, log := damaged(t, 3)
	j := mustOpen(t, o)
	r := j.Reader()
	if rec, err := r.Next(); err != nil || rec.Seq != 1 {
		t.Fatal(rec, err)
	}
	must(t, j.Release(6))
	for _, seq := range []uint64{2, 3, 7, 8, 9} {
		if rec, err := r.Next(); err != nil || rec.Seq != seq {
			t.Fatal(rec, err)
		}
	}
	if strings.Contains(log.String(), "DAMAGE") {
		t.Fatal(log, fs.Names())
	}
}

func TestASegmentThatIsReleasedBeforeItIsOpenedIsPassedOver(t *testing.T) {
	t.Parallel()
	_, o, log := damaged(t, 3)
	j := mustOpen(t, o)
	r := j.Reader()
	if rec, err := r.Next(); err != nil || rec.Seq != 1 {
		t.Fatal(rec, err)
	}
	must(t, r.Close())
	must(t, j.Release(4))
	for _, seq := range []uint64{4, 6, 7} {
		if rec, err := r.Next(); err != nil || rec.Seq != seq {
			t.Fatal(rec, err)
		}
	}
	if said := strings.Count(log.String(), "DAMAGE"); said != 1 {
		t.Fatal(log)
	}
}

func TestSegmentsThatCannotBeRemovedAreRemovedLater(t *testing.T) {
	t.Parallel()
	fs, o, _ := damaged(t, 4)
	fs.Break(faultfs.Remove, syscall.EIO)
	j := mustOpen(t, o)
	if err := j.Release(8); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	fs.Kill()
	fs.Put(dir+"/00000000000000000003.queend.tmp", nil)
	j = mustOpen(t, o)
	if s := j.Stats(); s.Segments != 4 || s.First != 9 {
		t.Fatalf("%+v", s)
	}
	if got := seqs(readAll(t, j)); got != "9 10 11 12 " {
		t.Fatal(got)
	}
	fs.Heal()
	must(t, j.Release(9))
	if s := j.Stats(); s.Segments != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestDamageInALargeSegmentIsPassedOverWhicheverReadFails(t *testing.T) {
	t.Parallel()
	f := func(end string, change func(content []byte) []byte, want string) {
		t.Helper()
		fs := faultfs.New()
		o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 20}
		j := mustOpen(t, o)
		mustAppend(t, j, group(9, 100<<10))
		mustAppend(t, j, group(1, 500<<10))
		if end == "closed" {
			must(t, j.Close())
		}
		fs.Kill()
		name := firstName
		fs.Put(name, change(fs.Content(name)))
		for n := 1; n < 40; n++ {
			fs.Fail(faultfs.Read, n, faultfs.Before, syscall.EIO)
			j, err := journal.Open(o)
			if err != nil {
				j = mustOpen(t, o)
			}
			r := j.Reader()
			got := ""
			for {
				rec, err := r.Next()
				if err == io.EOF {
					break
				}
				if err == nil {
					got += fmt.Sprint(rec.Seq, " ")
				} else if !errors.Is(err, syscall.EIO) {
					t.Fatal(err)
				}
			}
			if got != want {
				t.Fatalf("read %d fails: %s, not %s", n, got, want)
			}
			if s := j.Stats(); s.Quarantined != 1 {
				t.Fatalf("%+v", s)
			}
			fs.Heal()
			fs.Kill()
		}
	}
	const frame = 32 + 100<<10
	for _, end := range []string{"closed", "killed"} {
		f(end, func(b []byte) []byte { b[32] ^= 1; return b }, "2 3 4 5 6 7 8 9 10 ")
		f(end, func(b []byte) []byte { clear(b[32+100 : 32+5*frame]); return b }, "6 7 8 9 10 ")
		f(end, func(b []byte) []byte { clear(b[32+6*frame:]); return b }, "1 2 3 4 5 6 10 ")
		f(end, func(b []byte) []byte { return b[:32+6*frame] }, "1 2 3 4 5 6 10 ")
	}
}

func TestASegmentThatIsCutWhileItIsReadIsDamaged(t *testing.T) {
	t.Parallel()
	f := func(n int, want string) {
		t.Helper()
		fs, o, log := damaged(t, 3)
		j := mustOpen(t, o)
		fs.Put(secondName, fs.Content(secondName)[:n])
		if got := seqs(readAll(t, j)); got != want {
			t.Fatal(n, got)
		}
		if !strings.Contains(log.String(), "DAMAGE") || j.Stats().Quarantined == 0 {
			t.Fatal(n, log)
		}
	}
	f(0, "1 2 3 7 8 9 ")
	f(31, "1 2 3 7 8 9 ")
	f(32, "1 2 3 7 8 9 ")
	f(343, "1 2 3 7 8 9 ")
	f(344, "1 2 3 4 7 8 9 ")
	f(800, "1 2 3 4 7 8 9 ")
}

func TestAReaderMayBeClosedAndGoesOn(t *testing.T) {
	t.Parallel()
	_, o, _ := damaged(t, 3)
	j := mustOpen(t, o)
	r := j.Reader()
	got := ""
	for range 8 {
		rec, err := r.Next()
		must(t, err)
		got += fmt.Sprint(rec.Seq, " ")
		must(t, r.Close())
	}
	if got != "1 2 3 4 6 7 8 9 " {
		t.Fatal(got)
	}
}

// A frame inside a payload is not found, even where the one around it is damaged: its
// number does not fit, or what is around it is text, which cannot hold one.
func TestARecordThatLooksLikeAFrameIsNone(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10}
	j := mustOpen(t, o)
	inner := append(make([]byte, 64), journal.AppendFrame(nil, journal.Frame{Seq: 500, Payload: []byte("forged")})...)
	mustAppend(t, j, [][]byte{[]byte("one"), inner, []byte("three")})
	must(t, j.Close())
	content := fs.Content(firstName)
	content[32+40+50] ^= 1
	fs.Put(firstName, content)
	if got := seqs(readAll(t, mustOpen(t, o))); got != "1 3 " {
		t.Fatal(got)
	}
}

func TestTheQuarantineIsBounded(t *testing.T) {
	t.Parallel()
	fs, o, log := damaged(t, 3)
	_ = fs.MakeDir(dir + "/quarantine")
	huge := &hugeFS{FS: fs}
	o.FS = huge
	j := mustOpen(t, o)
	if got := seqs(readAll(t, j)); got != "1 2 3 4 6 7 8 9 " {
		t.Fatal(got)
	}
	if s := j.Stats(); s.Quarantined != 2 || !strings.Contains(log.String(), "the quarantine is full") {
		t.Fatalf("%+v %s", s, log)
	}
	if fs.Content(dir+"/quarantine/00000000000000000004.queend@344.bad") != nil {
		t.Fatal(fs.Names())
	}
}

// hugeFS has a large file in the quarantine.
type hugeFS struct{ *faultfs.FS }

func (f *hugeFS) ReadDir(dir string) ([]journal.Entry, error) {
	entries, err := f.FS.ReadDir(dir)
	if strings.HasSuffix(dir, "/quarantine") {
		entries = append(entries, journal.Entry{Name: "old.bad", Bytes: journal.QuarantineBytesMax})
	}
	return entries, err
}
