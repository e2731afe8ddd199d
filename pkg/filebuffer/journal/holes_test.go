package journal_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

// badDisk does not give some bytes of one file while it is bad.
type badDisk struct {
	*faultfs.FS
	name     string
	from, to int64
	bad      atomic.Bool
	closed   bool // the file cannot even be opened
}

type badFile struct {
	journal.File
	disk *badDisk
}

func (d *badDisk) Open(name string) (journal.File, error) {
	if d.bad.Load() && d.closed && name == d.name {
		return nil, syscall.EIO
	}
	f, err := d.FS.Open(name)
	if err != nil || name != d.name {
		return f, err
	}
	return badFile{f, d}, nil
}

func (f badFile) ReadAt(b []byte, off int64) (int, error) {
	d := f.disk
	if !d.bad.Load() || off >= d.to || off+int64(len(b)) <= d.from {
		return f.File.ReadAt(b, off)
	}
	if off >= d.from {
		return 0, syscall.EIO
	}
	return f.File.ReadAt(b[:d.from-off], off) // what is before it comes
}

// holed is a journal of three segments with ten records of about 2 KiB each; of the second
// one the disk does not give some bytes.
func holed(t *testing.T, from, to int64) (d *badDisk, o journal.Options, log *bytes.Buffer) {
	t.Helper()
	d, log = &badDisk{FS: faultfs.New(), name: dir + "/00000000000000000011.queend", from: from, to: to}, &bytes.Buffer{}
	o = journal.Options{Dir: dir, FS: d, SegmentBytes: 16 << 10}
	j := mustOpen(t, o)
	for range 3 {
		mustAppend(t, j, group(10, 2<<10))
	}
	must(t, j.Close())
	o.Log = zerolog.New(log)
	d.bad.Store(true)
	return d, o, log
}

const (
	before11 = "1 2 3 4 5 6 7 8 9 10 "
	behind20 = "21 22 23 24 25 26 27 28 29 30 "
)

func TestReadPassesOverWhatTheDiskDoesNotGiveAndSaysSoAtTheEnd(t *testing.T) {
	t.Parallel()
	f := func(from, to int64, want string, closed bool) {
		t.Helper()
		d, _, _ := holed(t, from, to)
		d.closed = closed
		got := ""
		err := journal.Read(dir, d, func(rec journal.Record) error {
			got += seqs([]journal.Record{rec})
			return nil
		})
		var unread *journal.UnreadError
		if !errors.As(err, &unread) || len(unread.Segments) != 1 || !errors.Is(unread.Segments[filepath.Base(d.name)], syscall.EIO) {
			t.Fatal(err)
		}
		if !strings.Contains(err.Error(), filepath.Base(d.name)) || got != before11+want+behind20 {
			t.Fatal(err, got)
		}
		end := errors.New("enough")
		if err := journal.Read(dir, d, func(rec journal.Record) error {
			if rec.Seq == 25 {
				return end
			}
			return nil
		}); err != end {
			t.Fatal(err)
		}
		found := ""
		must(t, journal.Inspect(dir, d, func(info journal.SegmentInfo) {
			if (info.Err != nil) != (info.Name == filepath.Base(d.name)) || info.Done != 0 {
				t.Errorf("%+v", info)
			}
			found += info.Name[18:20] + " "
		}))
		if found != "01 11 21 " {
			t.Fatal(found)
		}
	}
	f(8<<10, 12<<10, "11 12 13 17 18 19 20 ", false)
	f(0, 4<<10, "13 14 15 16 17 18 19 20 ", false)
	f(0, 1<<20, "", false)
	f(0, 1<<20, "", true)
}
