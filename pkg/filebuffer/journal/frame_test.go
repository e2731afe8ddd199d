package journal_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"testing"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

func TestTheFrameOnDisk(t *testing.T) {
	f := func(frame journal.Frame, want string) {
		t.Helper()
		if got := hex.EncodeToString(journal.AppendFrame(nil, frame)); got != want {
			t.Fatalf("%s\nnot %s", got, want)
		}
	}
	f(journal.Frame{Kind: 7, Seq: 0x0102030405060708, Time: 0x1112131415161718, Payload: []byte("hello, world")},
		"ff5144fe"+"01"+"00"+"07"+"00"+"0c000000"+"d384730f"+"0807060504030201"+"1817161514131211"+"68656c6c6f2c20776f726c64"+"00000000")
	f(journal.Frame{Seal: true, Seq: 1},
		"ff5144fe"+"01"+"01"+"00"+"00"+"00000000"+"f46e8258"+"0100000000000000"+"0000000000000000")
}

// FuzzFrame decodes bytes as one frame, and as a whole segment.
func FuzzFrame(f *testing.F) {
	var segment []byte
	for i, p := range []string{"", "a", "12345678", "longer than the others"} {
		frame := journal.AppendFrame(nil, journal.Frame{Kind: uint8(i), Seq: uint64(i + 1), Time: 1e18, Payload: []byte(p)})
		f.Add(frame)
		segment = append(segment, frame...)
	}
	f.Add(segment)
	f.Add(segment[8:])
	f.Add(append(bytes.Clone(segment[:50]), segment[64:]...))
	f.Add(append(bytes.Clone(segment), journal.AppendFrame(nil, journal.Frame{Seal: true, Seq: 5})...))
	f.Add([]byte{0xFF, 'Q', 'D', 0xFE, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if fr, ok := journal.DecodeFrame(b); ok {
			if fr.Bytes > int64(len(b)) || fr.Bytes%8 != 0 || cap(fr.Payload) != len(fr.Payload) {
				t.Fatalf("%+v", fr)
			}
			if again := journal.AppendFrame(nil, fr); !bytes.Equal(again, b[:fr.Bytes]) {
				t.Fatalf("%x is encoded as %x", b[:fr.Bytes], again)
			}
		}
		fs := faultfs.New()
		_ = fs.MakeDir(dir)
		fs.Put(firstName, append(header(1, 1), b...))
		inspected := inspect(t, fs)
		j, err := journal.Open(journal.Options{Dir: dir, FS: fs, SegmentBytes: 4 << 10})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		r, last, n := j.Reader(), uint64(0), 0
		for {
			rec, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil || rec.Seq <= last || rec.Seq > last+1+uint64(len(b)) {
				t.Fatal(rec, err)
			}
			last = rec.Seq
			n++
		}
		s := j.Stats() // a seal says how many there were, of which some may be damaged
		if s.Last < last || s.Last > last && s.Quarantined == 0 || s.Errors != 0 {
			t.Fatalf("%+v, the last one was %d", s, last)
		}
		if len(inspected) != 1 || inspected[0].Records != n || inspected[0].Last != last || inspected[0].Err != nil {
			t.Fatalf("%+v, %d were read up to %d", inspected, n, last)
		}
		if first := mustAppend(t, j, group(1, 1)); first != s.Last+1 {
			t.Fatal(first, s.Last)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("the bytes have changed")
		}
	})
}

// inspect collects what Inspect finds.
func inspect(t testing.TB, fs journal.FS) (all []journal.SegmentInfo) {
	t.Helper()
	must(t, journal.Inspect(dir, fs, func(info journal.SegmentInfo) { all = append(all, info) }))
	return all
}

func TestInspectSaysWhatIsThere(t *testing.T) {
	fs := faultfs.New()
	now := time.Unix(1000, 0)
	o := journal.Options{Dir: dir, FS: fs, SegmentBytes: 1 << 10, Now: func() time.Time { now = now.Add(time.Second); return now }}
	j := mustOpen(t, o)
	for range 6 {
		mustAppend(t, j, group(2, 200))
	}
	must(t, j.Release(1))
	f := func(i int, records int, first, last uint64, damaged int, torn int64, sealed bool) {
		t.Helper()
		all := inspect(t, fs)
		if len(all) != 3 {
			t.Fatalf("%+v", all)
		}
		s := all[i]
		if s.Records != records || s.First != first || s.Last != last || len(s.Damaged) != damaged || s.TornTail != torn ||
			s.Sealed != sealed || s.Released != 1 || s.Err != nil {
			t.Fatalf("%+v", s)
		}
		if s.Oldest != time.Unix(1000+int64(first+1)/2, 0) || s.Newest != time.Unix(1000+int64(last+1)/2, 0) {
			t.Fatalf("%+v", s)
		}
	}
	change := func(name string, at int) {
		content := fs.Content(dir + "/" + name)
		content[at] ^= 1
		fs.Put(dir+"/"+name, content)
	}
	read := func(want string) {
		t.Helper()
		got := ""
		must(t, journal.Read(dir, fs, func(r journal.Record) error {
			got += " " + string(rune('a'+r.Seq))
			return nil
		}))
		if got != want {
			t.Fatal(got)
		}
	}
	f(0, 4, 1, 4, 0, 0, false)
	f(1, 4, 5, 8, 0, 0, false)
	f(2, 4, 9, 12, 0, 0, false)
	read(" c d e f g h i j k l m")
	must(t, j.Close())
	f(2, 4, 9, 12, 0, 0, true)
	fs.Put(dir+"/00000000000000000013.queend", append(header(1, 13), journal.AppendFrame(nil, journal.Frame{Seq: 13})...))
	if all := inspect(t, fs); len(all) != 4 || !all[2].Sealed || all[1].Sealed || all[3].Records != 1 || all[3].Sealed {
		t.Fatalf("%+v", all)
	}
	must(t, fs.Remove(dir+"/00000000000000000013.queend"))
	change("00000000000000000001.queend", 32+232+50)     // record 2
	change("00000000000000000005.queend", 3)             // the header
	change("00000000000000000005.queend", 32+3*232+50)   // record 8, the last one
	change("00000000000000000009.queend", 32+4*232+32-1) // the seal
	f(0, 3, 1, 4, 1, 0, false)
	f(1, 3, 5, 7, 2, 0, false)
	f(2, 4, 9, 12, 0, 32, false)
	read(" d e f g h j k l m")
	stop := io.ErrUnexpectedEOF
	if err := journal.Read(dir, fs, func(journal.Record) error { return stop }); err != stop {
		t.Fatal(err)
	}
	for _, op := range []faultfs.Op{faultfs.ReadDir, faultfs.Open} {
		fs.Fail(op, 1, faultfs.Before, stop)
		if err := journal.Inspect(dir, fs, func(journal.SegmentInfo) {}); err != stop {
			t.Fatal(err)
		}
	}
	fs.Fail(faultfs.Read, 1, faultfs.Before, stop)
	if err := journal.Inspect(dir, fs, func(journal.SegmentInfo) {}); err != stop {
		t.Fatal(err)
	}
	for n := range 2 {
		fs.Fail(faultfs.Read, 2+n, faultfs.Before, stop)
		if all := inspect(t, fs); len(all) != 3 || all[0].Err != stop || all[1].Err != nil {
			t.Fatalf("%+v", all)
		}
	}
	fs.Fail(faultfs.Open, 4, faultfs.Before, os.ErrNotExist) // released just now
	if all := inspect(t, fs); len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	if err := journal.Inspect("/nowhere", nil, nil); err == nil {
		t.Fatal("there is no such directory")
	}
}
