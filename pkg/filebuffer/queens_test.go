package filebuffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rs/zerolog"

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
		w.outage(true)
		w.push(1, 0, "a")
		w.settle()
		if n := w.b.Status().Journal.Records; n != 1 {
			w.errorf("%d records: a mark of what is done", n)
		}
		w.quiet()
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
			var log logText
			w := emptyWorld(t, func(o *Options) { o.Log = zerolog.New(&log) })
			w.queensBytes("failover_"+queensName(0)+".buf.tmp", append(whole(w), rest...))
			w.queens("failover_"+queensName(1)+".buf", w.event(1))
			w.boot(1)
			w.drain()
			w.quiet()
			w.wantOrder("a", 0, 1)
			if n := w.b.stats.TornBytes.Load(); n != uint64(len(rest)) {
				w.errorf("%d bytes are counted", n)
			}
			if said := fmt.Sprintf(`"bytes":%d,"message":"the rest of Queen's buffer file makes no sense`, len(rest)); strings.Count(log.String(), said) != 1 || strings.Count(log.String(), `"level":"error"`) != 1 {
				w.errorf("it says %s", log.String())
			}
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

// A record without a transaction id gets one, the same each time: a process that ends before
// the file is put away has it delivered twice.
func TestARecordOfQueensWithoutATransactionIsStoredOnce(t *testing.T) {
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
		// The fake asks that the transaction was given, which it was not.
		w.anyGiven = true
		w.boot(1)
		w.drain()
		w.settle()
		w.replay.happen(1) // and the process ends before it hears of that
		w.kill()
		if names := w.left(""); len(names) != 1 || len(w.pg.order["a"]) != 2 {
			w.errorf("%v is left, %v is stored", names, w.pg.order["a"])
		}
		w.reboot(1)
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
		r := w.b.backlog()
		var got []string
		for range 3 {
			rec, err := r.next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(rec.Payload), "secret") || strings.Contains(string(rec.Payload), `"a"`) {
				w.errorf("a payload can be read in a record")
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

// A disk that takes nothing is no reason to leave them where they are.
func TestQueensFilesAreDeliveredFromADiskThatCannotBeWritten(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		w.queens("failover_"+queensName(0)+".buf", w.event(0), w.event(1))
		w.boot(1)
		w.fs.Break(faultfs.Write, os.ErrInvalid)
		w.fs.Room(100)
		w.drain()
		w.flow()
		w.wantOrder("a", 0, 1)
		if names := w.left("taken"); len(names) != 1 {
			w.errorf("kept: %v", names)
		}
		w.quiet()
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
		if n := w.b.stats.Taken.Load(); n != 2 {
			w.errorf("%d are taken instead of each once", n)
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
			if waited := time.Since(began); waited != 0 {
				w.errorf("the start waited for %s", waited)
			}
			w.drain()
			w.quiet()
			if waited := time.Since(began); waited < writerPatience {
				w.errorf("it waited for %s", waited)
			}
			if names := w.left(""); !slices.Equal(names, []string{name}) {
				w.errorf("left: %v", names)
			}
			p := w.push(1, 0, "b") // nobody waits for that file
			w.flow()
			p.is(stored, "")
			<-ended
			q.close()
			w.close()
			w.fs.Kill()
			w.reboot(1)
			w.quiet()
			if names := w.left("taken"); len(names) != 2 {
				w.errorf("kept: %v", names)
			}
			if n := len(w.order("a")); n != 42 {
				w.errorf("%d of 42 arrive", n)
			}
			return w.ended()
		})
	}
	f(false)
	f(true)
}

// Where it cannot be asked who writes to a file, it is watched before it is taken.
func TestAFileOfQueensIsTakenWhenItIsStill(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t, func(o *Options) { o.noLeases = true })
		q := w.writer("failover_" + queensName(0) + ".buf.tmp")
		q.write(w.event(0))
		one, two := w.event(1), w.event(2)
		go func() {
			defer q.close()
			time.Sleep(700 * time.Millisecond)
			if n := len(w.left("")); n != 1 {
				w.errorf("%d files are left", n)
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

// What is written to a file while its messages are on their way is not lost with it: it stays
// until the next start.
func TestAFileOfQueensThatGrowsWhileItIsDeliveredStays(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		name := "failover_" + queensName(0) + ".buf"
		w.queens(name, w.event(0))
		w.boot(1)
		w.drain()
		w.settle()
		q := w.writer(name)
		q.write(w.event(1))
		q.close()
		w.quiet()
		w.wantOrder("a", 0)
		if names := w.left(""); len(names) != 1 {
			w.errorf("left: %v", names)
		}
		w.close()
		w.fs.Kill()
		w.reboot(1)
		w.quiet()
		w.wantOrder("a", 0, 1)
		if n := len(w.left("taken")); n != 1 {
			w.errorf("%d files are kept", n)
		}
		return w.ended()
	})
}

// The bound is for pushes, and what Queen has left takes nothing of it.
func TestQueensFilesTakeNothingOfTheBound(t *testing.T) {
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
		w.outage(true)
		w.settle()
		if s := w.b.Status(); s.Pending != 40 || s.Journal.Bytes != 0 {
			w.errorf("%+v", s)
		}
		p := w.push(1, 0, "a")
		w.flow()
		p.is(stored, "buffered")
		w.quiet()
		w.wantOrder("a", append(want, 40)...)
		return w.ended()
	})
}

// place is a process that has found three files of Queen's with two messages each, and has
// written two pushes to disk meanwhile.
func place(t *testing.T) *world {
	w := emptyWorld(t)
	for i := range 3 {
		w.queens("failover_"+queensName(i)+".buf", w.event(2*i), w.event(2*i+1))
	}
	w.boot(1)
	w.outage(true)
	for range 2 {
		p := w.push(1, 0, "a")
		w.settle()
		p.is(stored, "buffered")
	}
	return w
}

// What is pushed while Queen's files wait stays behind them, whenever the process ends.
func TestPushesStayBehindQueensFilesAfterACrash(t *testing.T) {
	f := func(crash func(w *world)) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w := place(t)
			crash(w)
			w.reboot(1)
			p := w.push(1, 0, "a")
			w.quiet()
			p.is(stored, "")
			w.wantOrder("a", 0, 1, 2, 3, 4, 5, 6, 7, 8)
			if left, taken := len(w.left("")), len(w.left("taken")); left != 0 || taken != 3 {
				w.errorf("%d files are left, %d kept", left, taken)
			}
			if lines := w.poisoned(); len(lines) > 0 {
				w.errorf("set aside: %+v", lines)
			}
			return w.ended()
		})
	}
	f(func(w *world) { w.kill() }) // before anything was delivered
	f(func(w *world) {             // twice
		w.kill()
		w.outage(false)
		w.boot(1)
		w.outage(true)
		w.kill()
		w.outage(false)
	})
	f(func(w *world) { // all was stored, and nobody was told
		w.outage(false)
		w.drain()
		w.sleep(time.Second)
		w.replay.happen(len(w.replay.sent))
		w.kill()
	})
}

// A file is put away when all of it is stored, and not before; what is left is delivered by
// the next process, before what was pushed.
func TestAFileOfQueensIsPutAwayWhenAllOfItIsStored(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		var want []int
		for i := range 3 {
			var events []string
			for n := 150 * i; n < 150*i+150; n++ {
				events, want = append(events, w.event(n)), append(want, n)
			}
			w.queens("failover_"+queensName(i)+".buf", events...)
		}
		w.boot(1)
		w.push(1, 0, "a")
		w.settle()
		w.drain()
		w.settle()
		if n := len(w.replay.sent[0].Items); n != windowRowsCalm {
			w.errorf("%d messages at once", n)
		}
		w.replay.happen(1)
		if n := len(w.left("taken")); n != 0 {
			w.errorf("%d files are put away before it is known", n)
		}
		w.replay.answer()
		w.settle()
		if names := w.left("taken"); !slices.Equal(names, []string{"failover_" + queensName(0) + ".buf"}) {
			w.errorf("put away: %v", names)
		}
		for _, pending := range []int64{301, 151, 1} { // and so on, a file in each process
			w.kill()
			w.reboot(1)
			w.settle()
			if n := w.b.stats.Pending.Load(); n != pending {
				w.errorf("%d are pending instead of %d", n, pending)
			}
			if pending > 1 {
				w.replay.happen(1)
				w.replay.answer()
				w.settle()
			}
		}
		w.quiet()
		w.wantOrder("a", append(want, 450)...)
		return w.ended()
	})
}

// Also when the last of it did not fit in with those before it.
func TestAFileOfQueensIsPutAwayWhenItsLastMessageIsStored(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		var events []string
		for n := range 2 {
			m := w.expect(fmt.Sprintf("tx-1-%d", n), n)
			m.payload = `"` + strings.Repeat("x", windowBytesMax*2/3) + `"`
			events = append(events, fmt.Sprintf(`{"partition":"a","payload":%s,"queue":"q","transactionId":%q}`, m.payload, m.tx))
		}
		w.queens("failover_"+queensName(0)+".buf", events...)
		w.boot(1)
		w.drain()
		for n := range 2 {
			w.settle()
			if taken := len(w.left("taken")); taken != 0 || len(w.replay.sent[0].Items) != 1 {
				w.errorf("with %d stored %d files are put away, %d are on their way", n, taken, len(w.replay.sent[0].Items))
			}
			w.replay.happen(1)
			w.replay.answer()
		}
		w.quiet()
		w.wantOrder("a", 0, 1)
		if n := len(w.left("taken")); n != 1 {
			w.errorf("%d files are kept", n)
		}
		return w.ended()
	})
}

// A disk that does not give a part of a file is no end of the file.
func TestWhatCannotBeReadIsNotTorn(t *testing.T) {
	f := func(begin string) {
		t.Helper()
		_, err := queensRecord(io.MultiReader(strings.NewReader(begin), iotest.ErrReader(syscall.EIO)))
		var torn tornError
		if !errors.Is(err, syscall.EIO) || errors.As(err, &torn) {
			t.Errorf("%q: %v", begin, err)
		}
	}
	length := string(binary.NativeEndian.AppendUint32(nil, 9))
	f("")
	f(length[:2])
	f(length)
	f(length + `{"que`)
}

// The scan finds a file that gets its other name just then.
func TestTheScanFollowsAFileOfQueensThatIsRenamed(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		renamed := false
		w := emptyWorld(t, func(o *Options) {
			o.open = func(name string) (*os.File, error) {
				if path, is := strings.CutSuffix(name, ".tmp"); is && !renamed {
					renamed = true
					if err := os.Rename(name, path); err != nil {
						t.Error(err)
					}
				}
				return os.Open(name)
			}
		})
		w.queens("failover_"+queensName(0)+".buf.tmp", w.event(0), w.event(1))
		w.boot(1)
		w.settle()
		if n := w.b.stats.Pending.Load(); n != 2 {
			w.errorf("%d are found", n)
		}
		w.drain()
		w.quiet()
		w.wantOrder("a", 0, 1)
		return w.ended()
	})
}

// Those that had been buffered before Queen's server ran again are older than what it has left.
func TestWhatWasBufferedBeforeComesBeforeQueensFiles(t *testing.T) {
	f := func(between func(w *world), want ...int) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w := newWorld(t, 1)
			w.outage(true)
			for range 2 {
				w.push(1, 0, "a")
				w.settle()
			}
			w.kill()
			w.queens("failover_"+queensName(0)+".buf", w.event(2), w.event(3))
			between(w)
			w.outage(false)
			w.reboot(1)
			w.quiet()
			w.wantOrder("a", want...)
			return w.ended()
		})
	}
	f(func(*world) {}, 0, 1, 2, 3)
	f(func(w *world) {
		w.boot(1)
		w.outage(true)
		w.push(1, 0, "a")
		w.settle()
		w.kill()
	}, 0, 1, 2, 3, 4)
}

// opening stands for a file of Queen's that cannot be opened, while broken.
type opening struct{ broken atomic.Bool }

func (o *opening) open(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err == nil && o.broken.Load() && strings.Contains(name, queensName(1)) {
		return nil, errors.Join(os.ErrPermission, f.Close())
	}
	return f, err
}

// unreadable has found a file of Queen's that cannot be read, between two that can.
func unreadable(t *testing.T) (*world, *opening, *logText) {
	var o opening
	var log logText
	w := emptyWorld(t, func(options *Options) {
		options.open, options.Log = o.open, zerolog.New(&log)
	})
	o.broken.Store(true)
	for i := range 3 {
		w.queens("failover_"+queensName(i)+".buf", w.event(i))
	}
	w.boot(1)
	w.drain()
	w.sleep(90 * time.Second)
	if n := strings.Count(log.String(), "cannot be taken over"); n != 2 {
		w.errorf("it is said %d times in 90 s", n)
	}
	if n := w.b.stats.ReadErrors.Load(); n < 80 || n > 91 {
		w.errorf("%d errors are counted", n)
	}
	return w, &o, &log
}

// While it is not known which partitions are in Queen's files everything is written to disk
// and answered; then only what has messages there.
func TestPushesAreTakenWhileQueensFilesAreLookedThrough(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, o, log := unreadable(t)
		during := w.push(2, 0, "b")
		w.flow()
		during.is(stored, "buffered")
		if n := len(w.pg.order); n != 0 {
			w.errorf("something was delivered before it was known what is in the files")
		}
		o.broken.Store(false)
		w.outage(true) // for the drain
		w.lanes[0].goAway(false)
		w.sleep(2 * time.Second)
		if strings.Count(log.String(), "is read again") != 1 {
			w.errorf("it is not said that the file is read")
		}
		other, same := w.push(2, 0, "c"), w.push(1, 0, "a")
		w.settle()
		w.lanes[0].happen(1)
		w.lanes[0].answer()
		other.is(stored, "")
		same.is(stored, "buffered")
		w.quiet()
		w.wantOrder("a", 0, 1, 2, 5)
		return w.ended()
	})
}

// Who cannot make a file readable moves it away, and the rest goes on.
func TestAFileOfQueensThatCannotBeReadCanBeMovedAway(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, _, _ := unreadable(t)
		p := w.push(1, 0, "a")
		w.flow()
		p.is(stored, "buffered")
		if err := os.Remove(filepath.Join(w.dir, "failover_"+queensName(1)+".buf")); err != nil {
			w.errorf("%v", err)
		}
		w.quiet()
		w.wantOrder("a", 0, 2, 3)
		return w.ended()
	})
}

// The same when the trouble begins after the scan.
func TestTheDrainWaitsForAFileOfQueens(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		var o opening
		w := emptyWorld(t, func(options *Options) { options.open = o.open })
		for i := range 3 {
			w.queens("failover_"+queensName(i)+".buf", w.event(i))
		}
		w.boot(1)
		w.settle()
		o.broken.Store(true)
		p := w.push(1, 0, "a")
		w.drain()
		w.sleep(time.Minute)
		p.is(stored, "buffered")
		if n := w.b.stats.ReadErrors.Load(); n == 0 || len(w.order("a")) > 1 {
			w.errorf("%d errors, and %v", n, w.order("a"))
		}
		o.broken.Store(false)
		w.quiet()
		w.wantOrder("a", 0, 1, 2, 3)
		return w.ended()
	})
}

// A file that stops being readable in the middle is waited for, until it is moved away.
func TestTheDrainGoesOnWithoutAFileOfQueensThatIsMovedAway(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		var broken atomic.Bool
		w := emptyWorld(t, func(o *Options) {
			o.noLeases = true
			o.open = func(name string) (*os.File, error) {
				if broken.Load() && strings.Contains(name, queensName(1)) {
					return os.OpenFile(name, os.O_WRONLY, 0) // of which nothing can be read
				}
				return os.Open(name)
			}
		})
		for i := range 3 {
			w.queens("failover_"+queensName(i)+".buf", w.event(i))
		}
		w.boot(1)
		w.settle()
		broken.Store(true)
		w.drain()
		w.sleep(time.Second)
		w.flow()
		w.sleep(time.Minute)
		w.wantOrder("a", 0)
		if n := w.b.stats.ReadErrors.Load(); n < 2 {
			w.errorf("%d errors", n)
		}
		if err := os.Remove(filepath.Join(w.dir, "failover_"+queensName(1)+".buf")); err != nil {
			w.errorf("%v", err)
		}
		w.quiet()
		w.wantOrder("a", 0, 2)
		return w.ended()
	})
}

// Maintenance mode leaves Queen's files where they are.
func TestQueensFilesStayInMaintenanceMode(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		w.queens("failover_"+queensName(0)+".buf", w.event(0))
		w.boot(1)
		w.b.SetMaintenance(true)
		w.drain()
		p := w.push(1, 0, "a")
		w.flow()
		p.is(stored, "buffered")
		if names := w.left(""); len(names) != 1 || len(w.pg.order) != 0 {
			w.errorf("left: %v, stored: %v", names, w.pg.order)
		}
		w.quiet()
		w.wantOrder("a", 0, 1)
		return w.ended()
	})
}

// Nobody is asked for patience who is told to end.
func TestAStopIsHeardWhileAWriterIsWaitedFor(t *testing.T) {
	f := func(noLeases bool) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w := emptyWorld(t, func(o *Options) { o.noLeases = noLeases })
			q := w.writer("failover_" + queensName(0) + ".buf.tmp")
			q.write(w.event(0))
			w.boot(1)
			w.drain()
			w.sleep(300 * time.Millisecond)
			began := time.Now()
			w.close()
			if took := time.Since(began); took > 100*time.Millisecond {
				w.errorf("it ends after %s", took)
			}
			if n := len(w.left("")); n != 1 {
				w.errorf("%d files are left", n)
			}
			q.close()
			w.fs.Kill()
			w.reboot(1)
			w.quiet()
			w.wantOrder("a", 0)
			return w.ended()
		})
	}
	f(false)
	f(true)
}
