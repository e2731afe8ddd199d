package filebuffer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
	"github.com/queend/queend/pkg/queue"
)

// queens writes a file as Queen's server does.
func (w *world) queens(name string, events ...string) {
	var b []byte
	for _, e := range events {
		b = append(binary.NativeEndian.AppendUint32(b, uint32(len(e))), e...)
	}
	w.queensBytes(name, b)
}

func (w *world) queensBytes(name string, b []byte) {
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.errorf("%v", err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		w.errorf("%v", err)
	}
}

// event is a record of Queen's for partition a; PostgreSQL is told to expect it.
func (w *world) event(n int) string {
	m := w.expect(fmt.Sprintf("tx-1-%d", n), n)
	return fmt.Sprintf(`{"failover":true,"partition":"a","payload":%s,"queue":"q","transactionId":%q}`, m.payload, m.tx)
}

func (w *world) expect(tx string, n int) *sent {
	m := &sent{tx: tx, partition: "a", payload: fmt.Sprintf(`{"n":%d}`, n), producer: 1, n: n, answer: stored}
	w.byTx[m.tx] = m
	return m
}

func queensName(n int) string { return fmt.Sprintf("%08d-0000-7000-8000-000000000000", n) }

// left lists the files in the directory that have a name of Queen's.
func (w *world) left(sub string) (names []string) {
	entries, err := os.ReadDir(filepath.Join(w.dir, sub))
	if err != nil && !os.IsNotExist(err) {
		w.errorf("%v", err)
	}
	for _, e := range entries {
		if isQueens(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestQueensFilesAreTakenOnceAndInTheOrderOfTheirNames(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		w.queens("failover_"+queensName(3)+".buf.tmp", w.event(5)) // less than 1 KiB: Queen itself drops it
		w.queens("failed/failover_"+queensName(2)+".buf", w.event(3), w.event(4))
		w.queens("qos0_"+queensName(1)+".buf", w.event(2))
		w.queens("failover_"+queensName(0)+".buf", w.event(0), w.event(1))
		w.queens("failover_" + queensName(4) + ".buf") // an empty one
		w.queens("notes.txt", "not Queen's")
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0, 1, 2, 3, 4, 5)
		if n := w.b.stats.Taken.Load(); n != 6 {
			w.errorf("%d are counted", n)
		}
		if n := len(w.left("")) + len(w.left("failed")); n != 0 {
			w.errorf("%d files are left", n)
		}
		if n := len(w.left("taken")); n != 5 {
			w.errorf("%d files are kept", n)
		}
		if _, err := os.Stat(filepath.Join(w.dir, "notes.txt")); err != nil {
			w.errorf("another file was taken: %v", err)
		}
		w.close()
		w.fs.Kill()
		w.reboot(1)
		if n := w.b.stats.Taken.Load() + uint64(w.b.stats.Pending.Load()); n != 0 {
			w.errorf("%d are taken again", n)
		}
		return w.ended()
	})
}

// What was pushed since stands behind what Queen has left.
func TestQueensMessagesComeFirst(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		w.queens("failover_"+queensName(0)+".buf", w.event(0), w.event(1))
		w.boot(1)
		w.drain()
		for range 3 {
			w.push(1, 0, "a")
		}
		w.quiet()
		w.wantOrder("a", 0, 1, 2, 3, 4)
		return w.ended()
	})
}

func TestATornFileOfQueensGivesAllBeforeTheTear(t *testing.T) {
	whole := func(w *world) []byte {
		e := w.event(0)
		return append(binary.NativeEndian.AppendUint32(nil, uint32(len(e))), e...)
	}
	f := func(name string, rest []byte) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w := emptyWorld(t)
			w.queensBytes("failover_"+queensName(0)+".buf.tmp", append(whole(w), rest...))
			w.queens("failover_"+queensName(1)+".buf", w.event(1))
			w.boot(1)
			w.drain()
			w.quiet()
			w.wantOrder("a", 0, 1)
			if len(w.errs) > 0 {
				w.errorf("%s", name)
			}
			if n := len(w.left("taken")); n != 2 {
				w.errorf("%s: %d files are kept", name, n)
			}
			return w.ended()
		})
	}
	f("half a length", []byte{9, 0})
	f("a length alone", []byte{9, 0, 0, 0})
	f("half a record", append([]byte{9, 0, 0, 0}, `{"que`...))
	f("a length of zero", []byte{0, 0, 0, 0, 1, 2, 3})
	f("a length that makes no sense", []byte{0xff, 0xff, 0xff, 0xff, 1})
}

func TestARecordOfQueensBeyondItsOwnBoundIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		m := w.expect("large", 0)
		m.payload = `"` + strings.Repeat("x", 11<<20) + `"`
		w.queens("failover_"+queensName(0)+".buf",
			`{"failover":true,"partition":"a","payload":`+m.payload+`,"queue":"q","transactionId":"large"}`, w.event(1))
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0, 1)
		return w.ended()
	})
}

// A record without a transaction id gets one, the same each time: a start that ends before
// the file is put aside takes it twice.
func TestARecordOfQueensWithoutATransactionIsTakenOnce(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		name := "failover_" + queensName(0) + ".buf"
		events := []string{
			`{"failover":true,"partition":"a","payload":{"n":0},"queue":"q"}`,
			`{"failover":true,"partition":"a","payload":{"n":1},"queue":"q"}`,
		}
		for i := range events {
			w.expect(string(transactionOf(name, i)), i)
		}
		w.queens(name, events...)
		// PostgreSQL is away, and the process ends; the file is as if it had not been taken.
		w.boot(1)
		w.outage(true)
		w.settle()
		w.kill()
		w.queens(name, events...)
		w.outage(false)
		// The fake asks that the transaction was given, which it was not.
		w.anyGiven = true
		w.reboot(1)
		if n := w.b.Status().Journal.Records; n != 4 {
			w.errorf("%d records: it was to be taken twice", n)
		}
		w.quiet()
		w.wantOrder("a", 0, 1)
		return w.ended()
	})
}

func TestWhatIsNoMessageInQueensFileIsSetAside(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		bad := []string{
			`{"queue":"q"`, `[]`, `{"partition":"a","payload":1}`, `{"queue":"q"},{"queue":"q"}`, `x`,
			`{"queue":"` + strings.Repeat("q", 300) + `"}`,
		}
		events := []string{w.event(0)}
		events = append(append(events, bad...), w.event(1))
		w.queens("failover_"+queensName(0)+".buf", events...)
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0, 1)
		lines := w.poisoned()
		if len(lines) != len(bad) || w.b.stats.Poisoned.Load() != uint64(len(bad)) {
			w.errorf("%d are set aside", len(lines))
		}
		for i, l := range lines {
			if string(l.Record) != bad[i] || !strings.HasPrefix(l.Reason, "a record of Queen's buffer file failover_"+queensName(0)+".buf is no message: ") {
				w.errorf("set aside: %+v", l)
			}
		}
		return w.ended()
	})
}

// The fields of a record: those that a push knows are kept, others do not disturb.
func TestTheFieldsOfARecordOfQueens(t *testing.T) {
	sealer, err := queue.NewSealer(strings.Repeat("0f", 32))
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := sealer.Seal(nil, []byte(`{"secret":1}`))
	if err != nil {
		t.Fatal(err)
	}
	const trace = "01900000-0000-7000-8000-000000000001"
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t, func(o *Options) { o.Sealer = sealer })
		w.queens("failover_"+queensName(0)+".buf",
			`{"failover":true,"namespace":"n","task":"t","partition":"p","payload":{"a": 1},"queue":"q","transactionId":"1","traceId":"`+trace+`","producerSub":"alice"}`,
			`{"queue":"q","transactionId":"2","payload":`+string(envelope)+`}`,
			`{"queue":"q","transactionId":"3"}`)
		w.boot(1)
		w.settle()
		r := w.b.journal.Reader()
		var got []string
		for range 3 {
			rec, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(rec.Payload), "secret") || strings.Contains(string(rec.Payload), `"a"`) {
				w.errorf("a payload can be read on disk")
			}
			var op queue.Op
			if err := queue.DecodeRecord(&op, rec.Payload, sealer); err != nil {
				t.Fatal(err)
			}
			it := &op.Items[0]
			kept, sealed := it.Waiting()
			if !sealed || it.Payload[0] == '{' && string(it.TransactionID) == "2" && string(kept) != string(envelope) {
				w.errorf("it was encrypted again: %s", kept)
			}
			traced := ""
			if it.HasTrace {
				traced = it.TraceID.String()
			}
			got = append(got, fmt.Sprintf("%s/%s %s %s trace %s sub %s", it.Queue, it.Partition, it.TransactionID, it.Payload, traced, it.ProducerSub))
		}
		want := []string{
			`q/p 1 {"a": 1} trace ` + trace + ` sub alice`,
			`q/Default 2 {"secret":1} trace  sub `,
			`q/Default 3 null trace  sub `,
		}
		if !slices.Equal(got, want) {
			w.errorf("\n got %q\nwant %q", got, want)
		}
		w.close()
		return w
	})
}

// A journal that cannot take them leaves the files where they are, and the start says why.
func TestQueensFilesStayWhenTheyCannotBeTaken(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		name := "failover_" + queensName(0) + ".buf"
		w.queens(name, w.event(0))
		w.fs.Break(faultfs.Write, os.ErrInvalid)
		o := w.o
		o.fs = w.fs
		if _, err := Open(context.Background(), o); err == nil || !strings.Contains(err.Error(), "cannot") {
			w.errorf("it opens: %v", err)
		}
		if names := w.left(""); len(names) != 1 {
			w.errorf("left: %v", names)
		}
		w.fs.Heal()
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0)
		return w.ended()
	})
}

// writer is Queen's server while it has a file open.
type writer struct {
	w    *world
	file *os.File
}

func (w *world) writer(name string) *writer {
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		w.errorf("%v", err)
	}
	return &writer{w, f}
}

func (q *writer) write(events ...string) {
	for _, e := range events {
		q.bytes(append(binary.NativeEndian.AppendUint32(nil, uint32(len(e))), e...))
	}
}

func (q *writer) bytes(b []byte) {
	if _, err := q.file.Write(b); err != nil {
		q.w.errorf("%v", err)
	}
}

func (q *writer) close() { _ = q.file.Close() }

func TestAFileOfQueensIsTakenWhenNobodyWritesToItAnyMore(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		q := w.writer("failover_" + queensName(0) + ".buf.tmp")
		q.write(w.event(0))
		last := w.event(1)
		go func() { // it ends while we begin
			time.Sleep(3 * time.Second)
			q.write(last)
			q.close()
		}()
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0, 1)
		if n := w.b.stats.Taken.Load(); n != 2 {
			w.errorf("%d are taken", n)
		}
		if n := len(w.left("taken")); n != 1 {
			w.errorf("%d files are kept", n)
		}
		return w.ended()
	})
}

// A file that Queen's server gives its other name meanwhile is found under that.
func TestAFileOfQueensThatIsRenamedMeanwhileIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		q := w.writer("failover_" + queensName(0) + ".buf.tmp")
		w.queens("failover_"+queensName(1)+".buf.tmp", w.event(1))
		q.write(w.event(0))
		go func() {
			defer q.close()
			time.Sleep(time.Second)
			for n := range 2 {
				path := filepath.Join(w.dir, "failover_"+queensName(n)+".buf")
				if err := os.Rename(path+".tmp", path); err != nil {
					w.errorf("%v", err)
				}
			}
		}()
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0, 1)
		if names := w.left("taken"); len(names) != 2 || len(w.left("")) != 0 {
			w.errorf("kept: %v", names)
		}
		return w.ended()
	})
}

// Queen's server runs on, on another port. What it writes to its file is its own, until it
// has ended; the start does not wait for that.
func TestAFileOfQueensThatIsStillWrittenToIsLeftUntilTheNextStart(t *testing.T) {
	f := func(noLeases bool) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w := emptyWorld(t, func(o *Options) { o.noLeases = noLeases })
			w.queens("failover_"+queensName(0)+".buf", w.event(0))
			name := "failover_" + queensName(1) + ".buf.tmp"
			q := w.writer(name)
			q.write(w.event(1))
			ended := make(chan struct{})
			var events []string
			for n := range 40 {
				events = append(events, w.event(2+n))
			}
			go func() {
				defer close(ended)
				for _, e := range events {
					time.Sleep(200 * time.Millisecond)
					q.write(e)
				}
			}()
			began := time.Now()
			w.boot(1)
			if waited := time.Since(began); waited < writerPatience || waited > 2*writerPatience {
				w.errorf("it waited for %s", waited)
			}
			if names := w.left(""); !slices.Equal(names, []string{name}) {
				w.errorf("left: %v", names)
			}
			w.drain()
			<-ended
			q.close()
			w.close()
			w.fs.Kill()
			w.reboot(1)
			if names := w.left("taken"); len(names) != 2 {
				w.errorf("kept: %v", names)
			}
			w.quiet()
			if n := len(w.order("a")); n != 42 {
				w.errorf("%d of 42 arrive", n)
			}
			return w.ended()
		})
	}
	f(false)
	f(true)
}

// Where it cannot be asked who writes to a file, it is watched after it was moved.
func TestWhatIsWrittenToAFileOfQueensThatWasMovedIsTakenToo(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t, func(o *Options) { o.noLeases = true })
		q := w.writer("failover_" + queensName(0) + ".buf.tmp")
		q.write(w.event(0))
		one, two := w.event(1), w.event(2)
		go func() {
			defer q.close()
			time.Sleep(700 * time.Millisecond)
			if n := len(w.left("taken")); n != 1 {
				w.errorf("%d files are moved", n)
			}
			q.write(one)
			q.bytes(binary.NativeEndian.AppendUint32(nil, uint32(len(two))))
			time.Sleep(700 * time.Millisecond)
			q.bytes([]byte(two))
		}()
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0, 1, 2)
		if n := w.b.stats.Taken.Load(); n != 3 {
			w.errorf("%d are taken instead of each once", n)
		}
		return w.ended()
	})
}

// The bound is for pushes. What is there is kept: else a start on it would fail each time.
func TestQueensFilesAreTakenBeyondTheBound(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t, func(o *Options) { o.BytesMax = 16 << 10 })
		var events []string
		var want []int
		for n := range 40 {
			m := w.expect(fmt.Sprintf("tx-1-%d", n), n)
			m.payload = `"` + strings.Repeat("x", 4000) + `"`
			events, want = append(events, fmt.Sprintf(`{"partition":"a","payload":%s,"queue":"q","transactionId":%q}`, m.payload, m.tx)), append(want, n)
		}
		for i := range 4 {
			w.queens("failover_"+queensName(i)+".buf", events[10*i:10*i+10]...)
		}
		w.boot(1)
		if s := w.b.Status().Journal; s.Bytes <= s.BytesMax || s.Records != 40 {
			w.errorf("%+v", s)
		}
		w.outage(true)
		p := w.push(2, 0, "b")
		w.flow()
		p.is(refusedIt, "; the file buffer is full; try again in a second")
		w.outage(false)
		w.drain()
		w.quiet()
		w.wantOrder("a", want...)
		w.outage(true)
		p = w.push(2, 0, "b")
		w.flow()
		p.is(stored, "")
		return w.ended()
	})
}

func TestADiskWithoutRoomForQueensFilesSaysWhatToDo(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		w.queens("failover_"+queensName(0)+".buf", w.event(0))
		w.fs.Room(100)
		o := w.o
		o.fs = w.fs
		if _, err := Open(context.Background(), o); err == nil || !strings.Contains(err.Error(), "make room on it and start again") {
			w.errorf("it opens: %v", err)
		}
		w.fs.Room(0)
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0)
		return w.ended()
	})
}

// endingContext ends when it was asked so often.
type endingContext struct {
	context.Context
	asks int
}

func (c *endingContext) Err() error {
	if c.asks--; c.asks < 0 {
		return context.Canceled
	}
	return nil
}

func TestAStartThatIsStoppedTakesTheRestOfQueensFilesTheNextTime(t *testing.T) {
	for asks := range 12 {
		bubble(t, func(t *testing.T) *world {
			w := emptyWorld(t)
			for i := range 3 {
				w.queens("failover_"+queensName(i)+".buf", w.event(2*i), w.event(2*i+1))
			}
			o := w.o
			o.fs = w.fs
			b, err := Open(&endingContext{context.Background(), asks}, o)
			left, taken := len(w.left("")), len(w.left("taken"))
			switch {
			case err == nil:
				if left != 0 || asks < 9 { // each record is asked for, and each end
					w.errorf("after %d looks it opens, %d files are left", asks, left)
				}
				_ = b.Close()
			case !errors.Is(err, context.Canceled) || left+taken != 3 || taken != asks/3:
				w.errorf("after %d looks: %v; %d files are left, %d taken", asks, err, left, taken)
			}
			w.fs.Kill()
			w.boot(1)
			w.drain()
			w.quiet()
			w.wantOrder("a", 0, 1, 2, 3, 4, 5)
			return w.ended()
		})
	}
}

// Nobody is asked for patience who is told to end.
func TestAStopIsHeardWhileAWriterIsWaitedFor(t *testing.T) {
	f := func(noLeases bool) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w := emptyWorld(t, func(o *Options) { o.noLeases = noLeases })
			q := w.writer("failover_" + queensName(0) + ".buf.tmp")
			q.write(w.event(0))
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			began := time.Now()
			o := w.o
			o.fs = w.fs
			if _, err := Open(ctx, o); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 400*time.Millisecond {
				w.errorf("after %s: %v", time.Since(began), err)
			}
			if n := len(w.left("")); n != 1 {
				w.errorf("%d files are left", n)
			}
			q.close()
			w.fs.Kill()
			w.boot(1)
			w.drain()
			w.quiet()
			w.wantOrder("a", 0)
			return w.ended()
		})
	}
	f(false)
	f(true)
}
