package journal_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

// patiently reads all that there is, and passes over what fails again.
func patiently(t *testing.T, r *journal.Reader) (got []journal.Record, failed int) {
	t.Helper()
	for {
		rec, err := r.Next()
		switch {
		case err == io.EOF:
			return got, failed
		case err == nil:
			got = append(got, rec)
		case !errors.Is(err, syscall.EIO) || failed > 20:
			t.Fatal(err)
		default:
			failed++
			r.PassOver()
		}
	}
}

func TestAroundWhatTheDiskDoesNotGiveAllIsReadAndTheSegmentIsKept(t *testing.T) {
	t.Parallel()
	f := func(from, to int64, want string, closed bool) {
		t.Helper()
		d, o, log := holed(t, from, to)
		d.closed = closed
		j := mustOpen(t, o)
		content := bytes.Clone(d.Content(d.name))
		for range 2 { // the scan, and the drain
			if got, _ := patiently(t, j.Reader()); seqs(got) != before11+want+behind20 {
				t.Fatal(seqs(got))
			}
		}
		if said := strings.Count(log.String(), "UNREADABLE"); said != 1 || strings.Contains(log.String(), "DAMAGE") || j.Stats().Quarantined != 1 {
			t.Fatalf("%d times: %s %+v", said, log, j.Stats())
		}
		must(t, j.Release(30))
		kept := dir + "/quarantine/00000000000000000011.queend.bad"
		if !bytes.Equal(d.Content(kept), content) || d.Content(d.name) != nil || j.Stats().Segments != 0 {
			t.Fatal(d.Names())
		}
		// One day the disk gives it again.
		d.bad.Store(false)
		must(t, d.MakeDir("/again"))
		d.Put("/again/"+filepath.Base(d.name), d.Content(kept))
		all := ""
		must(t, journal.Read("/again", d.FS, func(rec journal.Record) error {
			all += seqs([]journal.Record{rec})
			return nil
		}))
		if all != "11 12 13 14 15 16 17 18 19 20 " {
			t.Fatal(all)
		}
	}
	f(8<<10, 12<<10, "11 12 13 17 18 19 20 ", false)
	f(0, 4<<10, "13 14 15 16 17 18 19 20 ", false)
	f(16<<10, 1<<20, "11 12 13 14 15 16 17 ", false)
	f(0, 1<<20, "", false)
	f(0, 1<<20, "", true)
}

func TestADiskThatGivesItAgainInTimeLosesNothing(t *testing.T) {
	t.Parallel()
	d, o, log := holed(t, 8<<10, 12<<10)
	r := mustOpen(t, o).Reader()
	got := ""
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			d.bad.Store(false)
			continue
		}
		got += seqs([]journal.Record{rec})
	}
	if got != before11+"11 12 13 14 15 16 17 18 19 20 "+behind20 || strings.Contains(log.String(), "UNREADABLE") {
		t.Fatal(got, log)
	}
}

// A process that dies in between, and finds the disk healed, has released what it has not
// read: the segment is kept nonetheless.
func TestASegmentThatWasPassedOverIsKeptAfterARestart(t *testing.T) {
	t.Parallel()
	for _, healed := range []bool{false, true} {
		d, o, _ := holed(t, 8<<10, 12<<10)
		j := mustOpen(t, o)
		patiently(t, j.Reader())
		must(t, j.Release(17))
		d.Kill()
		d.bad.Store(!healed)
		j = mustOpen(t, o)
		if got, _ := patiently(t, j.Reader()); seqs(got) != "18 19 20 "+behind20 {
			t.Fatal(seqs(got))
		}
		must(t, j.Release(30))
		if d.Content(dir+"/quarantine/00000000000000000011.queend.bad") == nil {
			t.Fatal(d.Names())
		}
	}
}

func TestWhatCannotBeKeptIsNotPassedOver(t *testing.T) {
	t.Parallel()
	for _, op := range []faultfs.Op{faultfs.MakeDir, faultfs.Create, faultfs.Sync, faultfs.Rename, faultfs.SyncDir} {
		d, o, _ := holed(t, 8<<10, 12<<10)
		j := mustOpen(t, o)
		r := j.Reader()
		d.Break(op, syscall.EROFS)
		got := ""
		for failed := 0; failed < 5; {
			rec, err := r.Next()
			if err != nil {
				failed++
				r.PassOver()
				continue
			}
			got += seqs([]journal.Record{rec})
		}
		if got != before11+"11 12 13 " {
			t.Fatal(op, got)
		}
		d.Heal()
		if rest, _ := patiently(t, r); seqs(rest) != "17 18 19 20 "+behind20 {
			t.Fatal(op, seqs(rest))
		}
	}
}

// Nothing but the disk's own errors makes a segment unreadable: there may be too many open
// files for a while.
func TestOnlyTheDisksErrorsArePassedOver(t *testing.T) {
	t.Parallel()
	fs, o, _ := damaged(t, 3)
	r := mustOpen(t, o).Reader()
	fs.Break(faultfs.Read, syscall.EMFILE)
	for range 5 {
		if _, err := r.Next(); !errors.Is(err, syscall.EMFILE) {
			t.Fatal(err)
		}
		r.PassOver()
	}
	fs.Heal()
	if got, failed := patiently(t, r); seqs(got) != "1 2 3 4 6 7 8 9 " || failed != 0 {
		t.Fatal(seqs(got))
	}
}
