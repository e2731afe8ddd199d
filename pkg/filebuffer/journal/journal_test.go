package journal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

// groups makes n payloads of a size.
func group(n, size int) [][]byte {
	g := make([][]byte, n)
	for i := range g {
		g[i] = bytes.Repeat([]byte{byte('a' + i%26)}, size)
	}
	return g
}

func mustOpen(t testing.TB, o journal.Options) *journal.Journal {
	t.Helper()
	j, err := journal.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func mustAppend(t testing.TB, j *journal.Journal, payloads [][]byte) uint64 {
	t.Helper()
	first, err := j.Append(1, payloads)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecordsComeBackInOrderAfterReopening(t *testing.T) {
	t.Parallel()
	o := journal.Options{Dir: t.TempDir() + "/state/buffers", SegmentBytes: 8 << 10, Log: zerolog.New(zerolog.NewTestWriter(t))}
	n := 0
	for range 5 {
		j := mustOpen(t, o)
		for range 30 {
			n++
			if first := mustAppend(t, j, [][]byte{[]byte(fmt.Sprint("record ", n)), make([]byte, 300)}); first != uint64(2*n-1) {
				t.Fatal(first)
			}
		}
		must(t, j.Close())
		must(t, j.Close())
	}
	j := mustOpen(t, o)
	r := j.Reader()
	for i := 1; i <= n; i++ {
		rec, err := r.Next()
		if err != nil || string(rec.Payload) != fmt.Sprint("record ", i) || rec.Kind != 1 || rec.Seq != uint64(2*i-1) || time.Since(rec.Time) > time.Hour {
			t.Fatal(i, rec, err)
		}
		if rec, err = r.Next(); err != nil || len(rec.Payload) != 300 {
			t.Fatal(i, rec, err)
		}
		must(t, j.Release(rec.Seq))
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
	if s := j.Stats(); s.Segments != 0 || s.Bytes != 0 || s.Records != 0 || s.Quarantined != 0 || s.Errors != 0 || s.TornTails != 0 {
		t.Fatalf("%+v", s)
	}
	must(t, r.Close())
	must(t, r.Close())
	must(t, j.Close())
	j = mustOpen(t, o)
	if first := mustAppend(t, j, group(1, 1)); first != uint64(2*n+1) {
		t.Fatal("numbers are given again:", first)
	}
	must(t, j.Close())
}

func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	t.Parallel()
	o := journal.Options{Dir: t.TempDir() + "/a/b"}
	j := mustOpen(t, o)
	mustAppend(t, j, group(1, 10))
	mode := func(path string, want os.FileMode) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Fatal(path, info.Mode(), err)
		}
	}
	mode(o.Dir, 0o700)
	mode(filepath.Dir(o.Dir), 0o700)
	files, _ := filepath.Glob(o.Dir + "/*")
	if len(files) != 3 {
		t.Fatal(files)
	}
	for _, f := range files {
		mode(f, 0o600)
	}
	must(t, j.Close())
}

func TestADirectoryBelongsToOneProcess(t *testing.T) {
	t.Parallel()
	o := journal.Options{Dir: t.TempDir()}
	j := mustOpen(t, o)
	_, err := journal.Open(o)
	var locked *journal.LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Fatal(err)
	}
	must(t, os.WriteFile(o.Dir+"/lock", []byte("nobody"), 0o600))
	if _, err = journal.Open(o); !errors.As(err, &locked) || !strings.Contains(err.Error(), "another process") {
		t.Fatal(err)
	}
	must(t, j.Close())
	must(t, mustOpen(t, o).Close())
}

func TestReadersSeeWhatIsDurableAndNoMore(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	j := mustOpen(t, journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10})
	r := j.Reader()
	eof := func() {
		t.Helper()
		if rec, err := r.Next(); err != io.EOF {
			t.Fatal(rec, err)
		}
	}
	eof()
	for i := range 3 {
		mustAppend(t, j, group(2, 100))
		for k := range 2 {
			if rec, err := r.Next(); err != nil || rec.Seq != uint64(2*i+k+1) {
				t.Fatal(rec, err)
			}
		}
		eof()
		fs.Fail(faultfs.Sync, 1, faultfs.Before, syscall.EIO)
		fs.Fail(faultfs.Sync, 2, faultfs.Before, syscall.EIO)
		if _, err := j.Append(1, group(5, 100)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		eof()
	}
	if s := j.Stats(); s.Abandoned != 3 || s.Errors != 6 || s.Appends != 3 {
		t.Fatalf("%+v", s)
	}
	if first := mustAppend(t, j, nil); first != 7 {
		t.Fatal(first)
	}
}

func TestAFailedSyncIsMadeUpForInANewSegment(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	j := mustOpen(t, journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10})
	mustAppend(t, j, group(3, 100))
	fs.Fail(faultfs.Sync, 1, faultfs.Before, syscall.EIO)
	if first := mustAppend(t, j, group(3, 100)); first != 4 {
		t.Fatal(first)
	}
	if s := j.Stats(); s.Segments != 2 || s.Abandoned != 1 {
		t.Fatalf("%+v", s)
	}
	if n := len(fs.Content(firstName)); n != 32+3*136 {
		t.Fatal("the abandoned segment is not cut:", n)
	}
	fs.PowerCut(chance(1))
	if n := len(readAll(t, mustOpen(t, journal.Options{Dir: dir, FS: fs}))); n != 6 {
		t.Fatal(n)
	}
}

// A segment that could not be published may be there all the same, and makes void what
// the one before it would get afterwards.
func TestWhatFollowsAFailedSegmentIsNotVoid(t *testing.T) {
	t.Parallel()
	f := func(op faultfs.Op, how faultfs.How) {
		t.Helper()
		fs := faultfs.New()
		o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10}
		j := mustOpen(t, o)
		mustAppend(t, j, group(3, 100))
		fs.Break(faultfs.Remove, syscall.EIO)
		fs.Fail(op, 1, how, syscall.EIO)
		fs.Fail(op, 2, how, syscall.EIO)
		if _, err := j.Append(1, group(5, 1000)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		fs.Heal()
		if first := mustAppend(t, j, [][]byte{[]byte("small")}); first != 4 {
			t.Fatal(first)
		}
		fs.Kill()
		all := readAll(t, mustOpen(t, o))
		if len(all) != 4 || string(all[3].Payload) != "small" {
			t.Fatal(op, seqs(all), fs.Names())
		}
	}
	f(faultfs.Rename, faultfs.Before)
	f(faultfs.Rename, faultfs.After)
	f(faultfs.SyncDir, faultfs.Before)
}

func TestWhatIsLeftOfAnAbandonedEndIsNeverRead(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10}
	j := mustOpen(t, o)
	mustAppend(t, j, group(3, 100))
	fs.Fail(faultfs.Sync, 1, faultfs.Before, syscall.EIO)
	fs.Fail(faultfs.Truncate, 1, faultfs.Before, syscall.EIO)
	mustAppend(t, j, group(2, 100))
	fs.Kill()
	f := func(want string) {
		t.Helper()
		if got := seqs(readAll(t, mustOpen(t, o))); got != want {
			t.Fatal(got)
		}
		fs.Kill()
		got := ""
		must(t, journal.Read(dir, fs, func(r journal.Record) error {
			got += fmt.Sprint(r.Seq, " ")
			return nil
		}))
		if got != want {
			t.Fatal(got)
		}
	}
	f("1 2 3 4 5 ")
	content := fs.Content(firstName)
	content[32+2*136+50] ^= 1 // the last record before that end
	fs.Put(firstName, content)
	f("1 2 4 5 ")
}

func TestALargeRecordSurvives(t *testing.T) {
	t.Parallel()
	o := journal.Options{Dir: t.TempDir()}
	j := mustOpen(t, o)
	sizes := []int{10, 20 << 20, 1000, 64 << 20, 0, 5}
	for _, size := range sizes {
		mustAppend(t, j, group(1, size))
	}
	must(t, j.Close())
	j = mustOpen(t, o)
	for i, rec := range readAll(t, j) {
		if len(rec.Payload) != sizes[i] || bytes.Count(rec.Payload, []byte("a")) != sizes[i] {
			t.Fatal(i, len(rec.Payload))
		}
	}
	if s := j.Stats(); s.Records != uint64(len(sizes)) || s.Quarantined != 0 {
		t.Fatalf("%+v", s)
	}
	must(t, j.Close())
	if _, err := j.Append(1, group(1, 1)); !errors.Is(err, journal.ErrClosed) {
		t.Fatal(err)
	}
	if err := j.Release(1); !errors.Is(err, journal.ErrClosed) {
		t.Fatal(err)
	}
}

func TestATooLargeRecordIsRefused(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, journal.Options{Dir: dir, FS: faultfs.New()})
	// Never touched, so it takes no memory.
	huge, err := syscall.Mmap(-1, 0, journal.PayloadBytesMax+1, syscall.PROT_READ, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	must(t, err)
	defer func() { must(t, syscall.Munmap(huge)) }()
	if _, err := j.Append(1, [][]byte{nil, huge}); !errors.Is(err, journal.ErrTooLarge) {
		t.Fatal(err)
	}
	if s := j.Stats(); s.Records != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestTheBoundIsKeptAndAReleaseMakesRoom(t *testing.T) {
	t.Parallel()
	f := func(allocates bool, segment, most int64, n, size int) {
		t.Helper()
		fs := faultfs.New()
		if !allocates {
			fs.Break(faultfs.Allocate, syscall.EOPNOTSUPP)
		}
		j := mustOpen(t, journal.Options{Dir: dir, FS: fs, SegmentBytes: segment, BytesMax: most})
		r := j.Reader()
		for round := range 4 {
			appended := 0
			for ; ; appended++ {
				_, err := j.Append(1, group(n, size))
				if errors.Is(err, journal.ErrFull) {
					break
				}
				must(t, err)
				if s := j.Stats(); s.Bytes > most {
					t.Fatalf("%+v", s)
				}
			}
			if j.Stats().Records != uint64(appended*n) {
				t.Fatalf("%+v", j.Stats())
			}
			// The half is used at least, small as the segments are.
			if int64(appended*n*(size+32)) < most/2 {
				t.Fatal("it is full with", appended, "groups in round", round)
			}
			for range appended * n {
				rec, err := r.Next()
				must(t, err)
				must(t, j.Release(rec.Seq))
			}
			if _, err := r.Next(); err != io.EOF {
				t.Fatal(err)
			}
		}
		must(t, j.Close())
		if s := j.Stats(); s.Bytes != 0 || s.Segments != 0 {
			t.Fatalf("%+v", s)
		}
	}
	for _, allocates := range []bool{true, false} {
		f(allocates, 4<<10, 64<<10, 1, 100)
		f(allocates, 4<<10, 64<<10, 10, 1000)
		f(allocates, 1<<20, 64<<10, 1, 100)
		f(allocates, 64<<10, 64<<10, 3, 5000)
		f(allocates, 0, 1<<20, 7, 3000)
	}
}

func TestASmallGroupStillFitsWhereALargeOneDoesNot(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	j := mustOpen(t, journal.Options{Dir: dir, FS: fs, SegmentBytes: 8 << 10, BytesMax: 10 << 10})
	mustAppend(t, j, group(1, 1000))
	if _, err := j.Append(1, group(1, 100<<10)); !errors.Is(err, journal.ErrFull) {
		t.Fatal(err)
	}
	mustAppend(t, j, group(1, 1000))
	if s := j.Stats(); s.Segments != 1 || s.Errors != 0 {
		t.Fatalf("%+v", s)
	}
	mustAppend(t, j, group(1, 7500)) // with what the first one does not need
	if s := j.Stats(); s.Segments != 2 || s.Bytes > 10<<10 {
		t.Fatalf("%+v", s)
	}
}

func TestADiskThatIsNearlyFullIsUsed(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	fs.Room(1 << 20)
	j := mustOpen(t, journal.Options{Dir: dir, FS: fs, BytesMax: 1 << 40})
	n := 0
	for ; ; n++ {
		_, err := j.Append(1, group(1, 1000))
		if err != nil {
			if !errors.Is(err, journal.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 800 {
		t.Fatal("it is full with", n)
	}
	for _, name := range fs.Names() {
		if strings.HasSuffix(name, ".tmp") {
			t.Fatal(name, "is left")
		}
	}
	if all := readAll(t, j); len(all) != n {
		t.Fatal(len(all), n)
	}
	fs.Room(2 << 20)
	mustAppend(t, j, group(1, 1000))
}

// What a failed write has left may be found at Open, also if there is no room for another.
func TestItIsNotFullWhereSomethingMayHaveBeenWritten(t *testing.T) {
	t.Parallel()
	f := func(most int64, size int, spoil func(fs *faultfs.FS), found string) {
		t.Helper()
		fs := faultfs.New()
		o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 8 << 10, BytesMax: most}
		j := mustOpen(t, o)
		mustAppend(t, j, group(1, 1000))
		fs.Break(faultfs.Truncate, syscall.EIO)
		fs.Break(faultfs.Remove, syscall.EIO)
		spoil(fs)
		if _, err := j.Append(1, group(2, size)); err == nil || errors.Is(err, journal.ErrFull) != (found == "1 ") {
			t.Error(found, err)
		}
		fs.Heal()
		fs.Kill()
		if got := seqs(readAll(t, mustOpen(t, o))); got != found {
			t.Error(got, found)
		}
	}
	f(10<<10, 1000, func(fs *faultfs.FS) { fs.Fail(faultfs.Sync, 1, faultfs.Before, syscall.EIO) }, "1 2 3 ")
	f(10<<10, 5000, func(*faultfs.FS) {}, "1 ")
	f(1<<20, 5000, func(fs *faultfs.FS) { fs.Break(faultfs.SyncDir, syscall.ENOSPC) }, "1 2 3 ")
	f(1<<20, 5000, func(fs *faultfs.FS) { fs.Break(faultfs.Write, syscall.ENOSPC) }, "1 ")
	f(1<<20, 1000, func(fs *faultfs.FS) { fs.Break(faultfs.Write, syscall.ENOSPC) }, "1 ")
	f(10<<10, 1000, func(fs *faultfs.FS) { fs.Fail(faultfs.Write, 1, faultfs.Half, syscall.ENOSPC) }, "1 2 ")
}

func TestTheBoundIsAPartOfWhatIsFree(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	fs.Room(1_000_000)
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 100_000}
	j := mustOpen(t, o)
	if s := j.Stats(); s.BytesMax < 799_000 || s.BytesMax > 800_000 {
		t.Fatalf("%+v", s)
	}
	for range 3 {
		mustAppend(t, j, group(1, 90_000))
	}
	must(t, j.Close())
	j = mustOpen(t, o) // a fifth of what is there already was free too
	if s := j.Stats(); s.BytesMax < 853_000 || s.BytesMax > 855_000 {
		t.Fatalf("%+v", s)
	}
}

func TestManySegmentsAreNotReadAtOpen(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10}
	j := mustOpen(t, o)
	const n = 1000
	for range n {
		mustAppend(t, j, group(1, 900))
	}
	must(t, j.Close())
	before := fs.Total()
	j = mustOpen(t, o)
	if s := j.Stats(); s.Segments != n || s.Records != n {
		t.Fatalf("%+v", s)
	}
	if calls := fs.Total() - before; calls > 3*256+30 {
		t.Fatal(calls, "calls")
	}
	if all := readAll(t, j); len(all) != n {
		t.Fatal(len(all))
	}
}

// header makes a segment's header.
func header(version uint32, base uint64) []byte {
	b := append(make([]byte, 0, 32), "queend\r\n"...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, base)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func TestAnUnknownVersionIsRefusedAndKept(t *testing.T) {
	t.Parallel()
	f := func(base uint64) {
		t.Helper()
		s := newSpecimen(t, 4<<10, 10, func(int) int { return 50 }, "older")
		fs := s.with(s.content)
		name := fmt.Sprintf("%s/%020d.queend", dir, base)
		content := append(header(2, base), "what a later version writes"...)
		fs.Put(name, content)
		before := fs.Names()
		_, err := journal.Open(journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10})
		var version *journal.VersionError
		if !errors.As(err, &version) || version.Version != 2 || !strings.Contains(err.Error(), "version 2") {
			t.Fatal(err)
		}
		if !bytes.Equal(fs.Content(name), content) || fmt.Sprint(before) != fmt.Sprint(fs.Names()) {
			t.Fatal(fs.Names())
		}
		if _, err = journal.Open(journal.Options{Dir: dir, FS: fs}); !errors.As(err, &version) {
			t.Fatal("the lock is kept:", err)
		}
		err = journal.Read(dir, fs, func(journal.Record) error { return nil })
		if !errors.As(err, &version) {
			t.Fatal(err)
		}
	}
	f(1)
	f(11)
	f(12)
}

func TestAnUnknownVersionAmongManyIsRefusedWhenItIsRead(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10}
	j := mustOpen(t, o)
	for range 300 {
		mustAppend(t, j, group(1, 900))
	}
	must(t, j.Close())
	fs.Put(fmt.Sprintf("%s/%020d.queend", dir, 150), header(3, 150))
	j = mustOpen(t, o)
	r := j.Reader()
	for i := range 149 {
		if rec, err := r.Next(); err != nil || rec.Seq != uint64(i+1) {
			t.Fatal(rec, err)
		}
	}
	for range 2 {
		var version *journal.VersionError
		if rec, err := r.Next(); !errors.As(err, &version) {
			t.Fatal(rec, err)
		}
	}
}

func TestFilesThatAreNotOursAreLeftAlone(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10}
	_ = fs.MakeDir(dir)
	_ = fs.MakeDir(dir + "/00000000000000000009.queend")
	names := []string{"failover_1.buf", "failover_1.buf.tmp", "1.queend", "00000000000000000000.queend", "99999999999999999999.queend",
		"00000000000000000001.queend.bak", "0000000000000000000x.queend", "+0000000000000000001.queend"}
	for _, name := range names {
		fs.Put(dir+"/"+name, []byte("theirs"))
	}
	fs.Put(dir+"/00000000000000000005.queend.tmp", []byte("ours, and never finished"))
	j := mustOpen(t, o)
	mustAppend(t, j, group(3, 10))
	must(t, j.Release(3))
	must(t, j.Close())
	for _, name := range names {
		if string(fs.Content(dir+"/"+name)) != "theirs" {
			t.Fatal(name)
		}
	}
	if fs.Content(dir+"/00000000000000000005.queend.tmp") != nil {
		t.Fatal("what was never finished is kept")
	}
}

// What is there is read again; a disk that is full does not keep us from starting.
func TestABrokenPositionOnAFullDiskIsNoReasonNotToOpen(t *testing.T) {
	fs := faultfs.New()
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10}
	j := mustOpen(t, o)
	mustAppend(t, j, group(3, 100))
	must(t, j.Close())
	fs.Put(dir+"/position", []byte("broken"))
	fs.Break(faultfs.Write, syscall.ENOSPC)
	j = mustOpen(t, o)
	if n := j.Stats().Records; n != 3 {
		t.Errorf("%d records are there", n)
	}
	fs.Heal()
	must(t, j.Release(3))
	must(t, j.Close())
	j = mustOpen(t, o)
	if n := j.Stats().Records; n != 0 {
		t.Errorf("%d records are there after the disk had room again", n)
	}
	must(t, j.Close())
}

// position makes a position file.
func position(released uint64) []byte {
	b := binary.LittleEndian.AppendUint64([]byte("position"), released)
	return append(binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), 0, 0, 0, 0)
}

func TestALyingPositionIsHarmless(t *testing.T) {
	t.Parallel()
	f := func(content []byte, first uint64) {
		t.Helper()
		fs := faultfs.New()
		o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10}
		j := mustOpen(t, o)
		for range 10 {
			mustAppend(t, j, group(1, 900))
		}
		must(t, j.Release(4))
		must(t, j.Close())
		fs.Put(dir+"/position", content)
		j = mustOpen(t, o)
		if s := j.Stats(); s.First != first || s.Last != 10 {
			t.Fatalf("%+v", s)
		}
		if all := readAll(t, j); len(all) != int(10-first+1) || all[0].Seq != first {
			t.Fatal(all)
		}
		for range 30 { // until the numbers reach the lie
			mustAppend(t, j, group(1, 900))
		}
		fs.Kill()
		if s := mustOpen(t, o).Stats(); s.First != first || s.Last != 40 {
			t.Fatalf("%+v", s)
		}
	}
	f(position(4), 5)
	f(position(7), 8)
	f(position(0), 5)
	f(position(3), 5)
	f(position(11), 5)
	f(position(20), 5)
	f(position(1<<62), 5)
	f(position(math.MaxUint64), 5)
	f(position(7)[:20], 5)
	f(bytes.Replace(position(7), []byte("position"), []byte("Position"), 1), 5)
	f(nil, 5)
	flipped := position(7)
	flipped[9] ^= 4
	f(flipped, 5)
}

func TestAnEmptyDirectoryGoesOnCounting(t *testing.T) {
	t.Parallel()
	f := func(content []byte, next uint64) {
		t.Helper()
		fs := faultfs.New()
		_ = fs.MakeDir(dir)
		fs.Put(dir+"/position", content)
		j := mustOpen(t, journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10})
		if first := mustAppend(t, j, group(1, 1)); first != next {
			t.Fatal(first)
		}
	}
	f(position(41), 42)
	f(position(0), 1)
	f(position(1<<62), 1)
	f(position(math.MaxUint64), 1)
	f([]byte("rubbish"), 1)
}

func TestAReleaseIsKnownAfterARestart(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10}
	j := mustOpen(t, o)
	mustAppend(t, j, group(20, 100))
	mustAppend(t, j, group(20, 100))
	f := func(through, first uint64) {
		t.Helper()
		must(t, j.Release(through))
		if s := j.Stats(); s.First != first || s.Last != 40 || s.Records != 41-first {
			t.Fatalf("%+v", s)
		}
		fs.Kill()
		j = mustOpen(t, o)
		if rec, err := j.Reader().Next(); first <= 40 && (err != nil || rec.Seq != first) || first > 40 && err != io.EOF {
			t.Fatal(rec, err)
		}
	}
	f(0, 1)
	f(5, 6)
	f(3, 6)
	f(20, 21)
	f(39, 40)
	f(1000, 41)
	if s := j.Stats(); s.Segments != 0 || s.Bytes != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestAReleaseThatFailsIsRepeated(t *testing.T) {
	t.Parallel()
	f := func(op faultfs.Op) {
		t.Helper()
		fs := faultfs.New()
		o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10}
		j := mustOpen(t, o)
		for range 4 {
			mustAppend(t, j, group(1, 900))
		}
		fs.Break(op, syscall.EIO)
		if err := j.Release(3); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		fs.Heal()
		must(t, j.Release(3))
		if s := j.Stats(); s.Segments != 1 || s.First != 4 {
			t.Fatalf("%+v", s)
		}
		fs.Kill()
		if s := mustOpen(t, o).Stats(); s.First != 4 {
			t.Fatalf("%+v", s)
		}
	}
	f(faultfs.Write)
	f(faultfs.Remove)
	f(faultfs.SyncDir)
}

func TestAppendReadAndReleaseRunBesideEachOther(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, journal.Options{Dir: t.TempDir(), SegmentBytes: 16 << 10})
	const n = 600
	var all sync.WaitGroup
	all.Go(func() {
		for i := range n {
			if _, err := j.Append(1, group(1+i%5, 200)); err != nil {
				t.Error(err)
			}
		}
	})
	read := make(chan uint64, 100)
	all.Go(func() {
		defer close(read)
		r := j.Reader()
		defer r.Close()
		for seq := uint64(1); seq <= n/5*15; {
			rec, err := r.Next()
			if err == io.EOF {
				time.Sleep(100 * time.Microsecond)
				continue
			}
			if err != nil || rec.Seq != seq {
				t.Error(rec, err)
				return
			}
			read <- seq
			seq++
		}
	})
	all.Go(func() {
		for seq := range read {
			if err := j.Release(seq); err != nil {
				t.Error(err)
			}
			_ = j.Stats()
		}
	})
	all.Wait()
	must(t, j.Close())
	if s := j.Stats(); s.Records != 0 || s.Segments != 0 || s.Bytes != 0 || s.Errors != 0 || s.Appends != n {
		t.Fatalf("%+v", s)
	}
}

func TestTwoAppendsAtOnceAreABug(t *testing.T) {
	t.Parallel()
	fs := faultfs.New()
	var j *journal.Journal
	bug := ""
	o := journal.Options{Dir: dir, FS: fs, Now: func() time.Time {
		func() {
			defer func() { bug = fmt.Sprint(recover()) }()
			_, _ = j.Append(1, group(1, 1))
		}()
		return time.Unix(0, 0)
	}}
	j = mustOpen(t, o)
	mustAppend(t, j, group(1, 1))
	if !strings.Contains(bug, "BUG: two appends") {
		t.Fatal(bug)
	}
}
