package filebuffer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
	"github.com/queend/queend/pkg/queue"
)

// ended brings a world to rest and checks everything.
func (w *world) ended() *world {
	w.quiet()
	w.check()
	w.close()
	return w
}

// order is what a partition holds, by the producers' numbers.
func (w *world) order(partition string) (n []int) {
	for _, tx := range w.pg.order[partition] {
		n = append(n, w.byTx[tx].n)
	}
	return n
}

func (w *world) wantOrder(partition string, want ...int) {
	if got := w.order(partition); !slices.Equal(got, want) {
		w.errorf("partition %s has %v, not %v", partition, got, want)
	}
}

func TestPushesGoTheDirectWayWhileAllIsWell(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 2)
		w.drain()
		w.settle()
		a, b := w.push(1, 0, "a"), w.push(2, 1, "a", "b")
		w.flow()
		a.is(stored, "")
		b.is(stored, "")
		if c := w.b.came(); c.all != 3 || c.back != 0 {
			w.errorf("of what came, %d, to disk %d", c.all, c.back)
		}
		return w.ended()
	})
}

func TestAnOutageIsHiddenFromProducers(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 2)
		w.drain()
		w.settle()
		inFlight := w.push(1, 0, "a")
		w.lanes[0].happen(1) // and its answer is lost
		waits := w.push(1, 0, "a")
		w.outage(true)
		during := w.push(1, 0, "a")
		other := w.push(2, 1, "b")
		w.settle()
		for _, p := range []*push{inFlight, waits, during, other} {
			p.is(stored, "buffered")
		}
		if s := w.b.Status(); s.Pending != 4 || s.Buffered != 4 || !s.Draining || !s.Usable {
			w.errorf("the status is %+v", s)
		}
		// A partition with nothing on disk goes the direct way as soon as it can.
		w.lanes[1].goAway(false)
		direct := w.push(3, 1, "c")
		w.lanes[1].happen(1)
		w.lanes[1].answer()
		direct.is(stored, "")
		if c := w.b.came(); c.all != 5 || c.back != 4 {
			w.errorf("of what came, %d, to disk %d", c.all, c.back)
		}
		w.quiet()
		w.wantOrder("a", 0, 1, 2)
		return w.ended()
	})
}

// Everything that is pushed into a partition without pause is on disk for a moment; it must
// get back to the direct way all the same.
func TestAPartitionPushedIntoWithoutPauseGoesBackToTheDirectWay(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 2)
		w.drain()
		w.settle()
		w.outage(true)
		for i := range 50 {
			w.push(1, i%2, "a")
			w.settle()
		}
		w.outage(false)
		direct, held := 0, false
		var all []*push
		for i := range 600 {
			p := w.push(1, 0, "a")
			all = append(all, p)
			w.settle()
			held = held || w.b.stats.Held.Load() > 0
			if i%2 == 0 { // PostgreSQL needs longer than the pause between two pushes
				for _, l := range w.all() {
					if len(l.sent) > 0 {
						l.happen(len(l.sent))
					}
				}
				w.settle()
				for _, l := range w.all() {
					for len(l.done) > 0 {
						l.answer()
					}
				}
			}
			w.settle()
			time.Sleep(3 * time.Millisecond)
			w.settle()
		}
		w.flow()
		for i, p := range all {
			if p.took > HoldMax+tickEvery+20*time.Millisecond {
				w.errorf("push %d took %v", i, p.took)
			}
			if i >= 300 && p.ended == 1 && p.messages[0].text == "" {
				direct++
			}
		}
		if direct < 290 {
			w.errorf("of the last 300 pushes %d went the direct way", direct)
		}
		if !held {
			w.errorf("nothing was held: it did not close")
		}
		w.quiet()
		want := make([]int, 650)
		for i := range want {
			want[i] = i
		}
		w.wantOrder("a", want...)
		return w.ended()
	})
}

// closing has a world whose buffer is closing, with one message on its way that PostgreSQL
// does not answer.
func closing(t *testing.T) *world {
	w := newWorld(t, 1)
	w.drain()
	w.settle()
	w.outage(true)
	w.push(1, 0, "a")
	w.settle()
	w.outage(false)
	w.sleep(200 * time.Millisecond) // the drain tries again
	w.b.mu.Lock()
	w.b.closing = true
	w.b.mu.Unlock()
	return w
}

func TestWhatIsHeldTooLongIsWrittenInItsOrder(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := closing(t)
		var held []*push
		for range 5 {
			held = append(held, w.push(1, 0, "a"))
			w.sleep(20 * time.Millisecond)
		}
		other := w.push(2, 0, "b") // behind those, whatever it is for
		if n := w.b.stats.Held.Load(); n != 6 {
			w.errorf("%d are held", n)
		}
		w.sleep(HoldMax + tickEvery)
		for _, p := range held {
			p.is(stored, "buffered")
			if p.took > HoldMax+tickEvery+20*time.Millisecond {
				w.errorf("it was held for %v", p.took)
			}
		}
		if len(w.lanes[0].sent) != 1 {
			w.errorf("a push into a partition that is not gated did not go the direct way")
		}
		w.flow()
		other.is(stored, "")
		w.quiet()
		w.wantOrder("a", 0, 1, 2, 3, 4, 5)
		return w.ended()
	})
}

// When more comes than the drain can catch up with, producers of gated partitions wait
// before their pushes are written; those of others do not.
func TestProducersLeaveTheDrainRoom(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := closing(t)
		w.b.mu.Lock()
		w.b.closing = false
		w.b.mu.Unlock()
		w.b.crowded.Store(true)
		a := w.push(1, 0, "a")
		b := w.push(2, 0, "b")
		w.settle()
		if a.ended != 0 || len(w.lanes[0].sent) != 1 {
			w.errorf("a gated push ended %d times, %d pushes went the direct way", a.ended, len(w.lanes[0].sent))
		}
		w.sleep(HoldMax + tickEvery)
		a.is(stored, "buffered")
		w.flow()
		b.is(stored, "")
		w.quiet()
		if w.b.crowded.Load() {
			w.errorf("the buffer is empty, and producers wait")
		}
		w.wantOrder("a", 0, 1)
		return w.ended()
	})
}

// Twice as fast as they come is fast enough.
func TestADrainIsCrowdedWhenMoreThanHalfOfItComesBack(t *testing.T) {
	for _, c := range []struct {
		drained, came, pending int
		want                   bool
	}{
		{10_000, 5_000, 50_000, false},
		{10_000, 5_001, 50_000, true},
		{10_000, 9_000, crowdedRows, false},
		{10_000, 0, 50_000, false},
	} {
		now := time.Duration(0)
		b := &Buffer{o: Options{Now: func() time.Duration { return now }}}
		b.stats.Buffered.Store(1_000_000)
		var r rate
		r.begin(b)
		b.stats.Buffered.Add(uint64(c.came))
		b.stats.Pending.Store(int64(c.pending))
		now = time.Second - 1
		r.add(c.drained/2, b)
		if b.crowded.Load() {
			t.Errorf("%+v: within a second", c)
		}
		now = time.Second
		r.add(c.drained-c.drained/2, b)
		if b.crowded.Load() != c.want {
			t.Errorf("%+v: crowded %v", c, b.crowded.Load())
		}
	}
}

func TestWhatIsHeldIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := closing(t)
		w.cost = HeldBytesMax/2 + 1
		a := w.push(1, 0, "a")
		w.settle()
		if a.ended != 0 {
			w.errorf("the first is not held")
		}
		b := w.push(1, 0, "a")
		c := w.push(1, 0, "a")
		w.settle()
		a.is(stored, "buffered")
		b.is(stored, "buffered")
		c.is(stored, "buffered")
		w.quiet()
		w.wantOrder("a", 0, 1, 2, 3)
		return w.ended()
	})
}

// When the drain meets trouble, nothing is held for it.
func TestTroubleEndsTheClosing(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := closing(t)
		a := w.push(1, 0, "a")
		w.settle()
		if a.ended != 0 {
			w.errorf("it is not held")
		}
		w.outage(true)
		w.settle()
		a.is(stored, "buffered")
		return w.ended()
	})
}

// Nor when it is told to stop.
func TestStoppingEndsTheClosing(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := closing(t)
		a := w.push(1, 0, "a")
		w.b.StopDrain()
		w.flow()
		a.is(stored, "") // behind the batch that was under way
		if a.took > 50*time.Millisecond {
			w.errorf("it was held for %v", a.took)
		}
		w.close()
		w.fs.Kill()
		w.reboot(1)
		return w.ended()
	})
}

func TestIdsThatDoNotRiseAreDeliveredInTheOrderOfTheFile(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 3)
		w.drain()
		w.settle()
		w.loops[0].ids, w.loops[1].ids, w.loops[2].ids = 3000, 2000, 1000
		w.outage(true)
		for range 3 {
			for loop := range 3 {
				w.push(1, loop, "a", fmt.Sprint("other", loop))
				w.settle()
			}
		}
		w.quiet()
		w.wantOrder("a", 0, 2, 4, 6, 8, 10, 12, 14, 16)
		if n := w.b.stats.Batches.Load(); n < 7 {
			w.errorf("it took %d transactions, and ids fell six times", n)
		}
		return w.ended()
	})
}

func TestPoisonIsSetAsideAndBlocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.drain()
		w.settle()
		w.outage(true)
		bad := 0
		for i := range 100 {
			switch {
			case i%17 == 3:
				w.push(1, 0, "a", "!a", "b")
				bad++
			case i%29 == 5:
				w.push(1, 0, "!b")
				bad++
			default:
				w.push(1, 0, "a", "b")
			}
		}
		w.quiet()
		lines := w.poisoned()
		if len(lines) != bad || int(w.b.stats.Poisoned.Load()) != bad {
			w.errorf("%d of %d are set aside, %d are counted", len(lines), bad, w.b.stats.Poisoned.Load())
		}
		for _, l := range lines {
			m := w.byTx[l.TransactionID]
			if l.Reason != "invalid input syntax" || l.Queue != "q" || l.Partition != m.partition || string(l.Payload) != m.payload ||
				l.MessageID == "" || l.Encrypted || l.Time.IsZero() {
				w.errorf("a line says %+v", l)
			}
		}
		s := w.b.Status()
		if s.Poisoned != int64(bad) || s.PoisonBytes == 0 || s.Drained != uint64(len(w.byTx)-bad) {
			w.errorf("the status is %+v", s)
		}
		if !slices.IsSorted(w.order("a")) || !slices.IsSorted(w.order("b")) {
			w.errorf("halving has changed the order: %v, %v", w.order("a"), w.order("b"))
		}
		return w.ended()
	})
}

func TestAPoisonFileThatIsDamagedTakesMore(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		if err := os.WriteFile(filepath.Join(w.dir, PoisonFile), []byte("{\"reason\":\"an old one\"}\n{\"time\":\"2026-01-0"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.boot(1)
		w.drain()
		w.outage(true)
		w.push(1, 0, "!a")
		w.quiet()
		text, err := os.ReadFile(filepath.Join(w.dir, PoisonFile))
		lines := strings.Split(string(text), "\n")
		if err != nil || len(lines) != 4 || !strings.Contains(lines[2], `"transactionId":"tx-1-0"`) || lines[3] != "" {
			w.errorf("%v: %q", err, lines)
		}
		w.close()
		return w
	})
}

// Where there is no room for a line, its message stays on disk, also beyond a stop.
func TestWhatCannotBeSetAsideStays(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, kind := range []string{"!a", "unreadable"} {
		bubble(t, func(t *testing.T) *world {
			w := newWorld(t, 1)
			w.settle()
			if kind == "!a" {
				w.outage(true)
				w.push(1, 0, "!a")
				w.settle()
			} else if _, err := w.b.journal.Append(kindPush, [][]byte{[]byte("no record")}); err != nil {
				t.Fatal(err)
			}
			w.b.poison.mu.Lock()
			good := w.b.poison.file
			w.b.poison.file = full
			w.b.poison.mu.Unlock()
			w.outage(false)
			w.drain()
			for range 20 {
				w.flow()
				w.sleep(100 * time.Millisecond)
			}
			if n := w.b.journal.Stats().Records; n != 1 {
				w.errorf("%d records are left", n)
			}
			w.b.StopDrain()
			w.b.poison.mu.Lock()
			w.b.poison.file = good
			w.b.poison.mu.Unlock()
			w.close()
			if n := len(w.poisoned()); n != 0 {
				w.errorf("%d lines", n)
			}
			w.fs.Kill()
			w.reboot(1)
			w.pushes = nil
			w.quiet()
			if n := len(w.poisoned()); n != 1 {
				w.errorf("%d lines after the next start", n)
			}
			return w.ended()
		})
	}
}

func TestARecordThatMakesNoSenseIsSetAside(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		j, err := journal.Open(journal.Options{Dir: w.dir, FS: w.fs})
		if err != nil {
			t.Fatal(err)
		}
		good, err := queue.AppendRecord(nil, &queue.Op{Items: []queue.Item{{
			Queue: []byte("q"), Partition: []byte("a"), TransactionID: []byte("tx-1-0"), Payload: []byte(`{"n":0}`), GivenTransaction: true,
		}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		m := &sent{tx: "tx-1-0", partition: "a", payload: `{"n":0}`, producer: 1, answer: stored}
		w.byTx[m.tx] = m
		for _, r := range []struct {
			kind   uint8
			record string
		}{{9, string(good)}, {kindPush, "what is this"}, {kindPush, string(good)}, {kindPush, ""}} {
			if _, err := j.Append(r.kind, [][]byte{[]byte(r.record)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		w.boot(1)
		w.drain()
		w.quiet()
		w.wantOrder("a", 0)
		var reasons []string
		for _, l := range w.poisoned() {
			reasons = append(reasons, fmt.Sprintf("%s: %.5q", l.Reason, l.Record))
		}
		want := []string{
			fmt.Sprintf("a record of kind 9, which is not known here: %.5q", good),
			`not a record of messages: version 119 is not known here: "what "`,
			`not a record of messages: it ends too early: ""`,
		}
		if !slices.Equal(reasons, want) {
			w.errorf("set aside: %q", reasons)
		}
		return w.ended()
	})
}

func TestADiskThatHangsIsSaidInTime(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 2)
		w.drain()
		w.settle()
		w.outage(true)
		w.disk.hang()
		a := w.push(1, 0, "a") // with the writer
		w.settle()
		b, c := w.push(1, 0, "a"), w.push(2, 1, "b") // behind it
		w.sleep(WriteTimeout)
		for _, p := range []*push{a, b, c} {
			if p.ended != 0 {
				w.errorf("%s ended before its time", p.messages[0].tx)
			}
		}
		w.sleep(2 * tickEvery)
		for _, p := range []*push{a, b, c} {
			p.is(refusedMaybe, "; the disk does not answer, and the messages may be delivered later; try again in a second")
		}
		if n := w.b.stats.Refused.Load(); n != 3 {
			w.errorf("%d are counted", n)
		}
		w.disk.let()
		d := w.push(1, 0, "a")
		w.settle()
		d.is(stored, "buffered")
		w.quiet()
		if !w.pg.has[a.messages[0].tx] {
			w.errorf("what was written after all is not delivered")
		}
		if w.pg.has[b.messages[0].tx] {
			w.errorf("what was never written is delivered")
		}
		return w.ended()
	})
}

func TestWhatWaitsForTheDiskIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1, func(o *Options) { o.WaitingBytesMax = 1000 })
		w.drain()
		w.settle()
		w.outage(true)
		w.disk.hang()
		w.cost = 5000
		large := w.push(1, 0, "a") // no other waits
		w.settle()
		second := w.push(1, 0, "a") // nor now: the first is with the writer
		w.cost = 1
		third := w.push(1, 0, "b")
		third.is(refusedIt, "too much waits for the disk; try again in a second")
		if n := w.b.stats.Overloaded.Load(); n != 1 {
			w.errorf("%d are counted", n)
		}
		w.disk.let()
		w.settle()
		large.is(stored, "buffered")
		second.is(stored, "buffered")
		fourth := w.push(1, 0, "b")
		w.settle()
		fourth.is(stored, "buffered")
		return w.ended()
	})
}

func TestADiskThatIsFullRefusesAndKeeps(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1, func(o *Options) { o.BytesMax = 16 << 10 })
		w.drain()
		w.settle()
		w.outage(true)
		kept, refused := 0, 0
		for range 1000 {
			p := w.push(1, 0, "a")
			w.settle()
			if p.messages[0].answer == stored {
				kept++
				if refused > 0 {
					w.errorf("one of the same size is taken after one was refused")
				}
			} else if refused++; true {
				p.is(refusedIt, "; the file buffer is full; try again in a second")
			}
		}
		if kept < 50 || refused < 50 {
			w.errorf("%d were kept, %d refused", kept, refused)
		}
		if w.b.Usable() {
			w.errorf("it is full and says that it can be used")
		}
		w.quiet()
		if n := len(w.pg.order["a"]); n != kept {
			w.errorf("%d of %d are delivered", n, kept)
		}
		if !w.b.Usable() {
			w.errorf("it is empty and says that it cannot be used")
		}
		return w.ended()
	})
}

// How long messages wait is counted from when they came, also after a new start, and each
// outage has its own count.
func TestWhatWaitedIsSaidOfEachOutage(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		var log bytes.Buffer
		w := newWorld(t, 1, func(o *Options) { o.Log = zerolog.New(zerolog.SyncWriter(&log)) })
		w.drain()
		w.settle()
		w.outage(true)
		w.push(1, 0, "a")
		w.settle()
		w.sleep(3 * time.Second)
		w.close()
		w.fs.Kill()
		w.reboot(1)
		w.outage(true)
		w.settle()
		if s := w.b.Status(); s.For < 3*time.Second || s.For > time.Minute {
			w.errorf("it waits for %v", s.For)
		}
		w.quiet()
		w.outage(true)
		w.push(1, 0, "a", "b")
		w.settle()
		w.quiet()
		for _, want := range []string{`"messages":1,"after":"3`, `"messages":2,"after":"`} {
			if !strings.Contains(log.String(), want) {
				w.errorf("it does not say %s:\n%s", want, &log)
			}
		}
		return w.ended()
	})
}

// Beyond its bound of partitions the gate is shut for all, and opens when it is empty.
func TestVeryManyPartitionsAreAllGated(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.b.gate.most = 5
		w.drain()
		w.settle()
		w.outage(true)
		for i := range 8 {
			w.push(1, 0, fmt.Sprint("p", i), "p7")
			w.settle()
		}
		if n := len(w.b.gate.partitions); n != 5 || !w.b.gate.overflown {
			w.errorf("the gate remembers %d partitions", n)
		}
		w.lanes[0].goAway(false)
		other := w.push(1, 0, "other")
		w.settle()
		other.is(stored, "buffered")
		w.quiet()
		after := w.push(1, 0, "other")
		w.flow()
		after.is(stored, "")
		return w.ended()
	})
}

func TestUntilTheDiskWasReadAllIsGated(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 2)
		w.outage(true)
		for range 300 { // several segments
			w.push(1, 0, "a")
			w.settle()
		}
		w.kill()
		w.outage(false)
		for _, name := range w.fs.Names() {
			if strings.HasSuffix(name, ".queend") && w.unread == "" {
				w.unread = filepath.Base(name)
			}
		}
		w.reboot(2)
		for _, l := range w.lanes {
			l.away = false
		}
		early, elsewhere := w.push(1, 1, "a"), w.push(2, 0, "elsewhere")
		w.sleep(50 * time.Millisecond)
		if len(w.lanes[0].sent)+len(w.lanes[1].sent) > 0 {
			w.errorf("a push went the direct way before it was known what is on disk")
		}
		w.disk.let()
		w.settle()
		early.is(stored, "buffered")
		elsewhere.is(stored, "buffered")
		w.quiet()
		if got := w.order("a"); len(got) != 301 || !slices.IsSorted(got) {
			w.errorf("partition a has %d messages: %v", len(got), got)
		}
		return w.ended()
	})
}

// A stop in the middle of reading does not open the gate.
func TestAStopWhileTheDiskIsReadKeepsAllGated(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.outage(true)
		for range 300 {
			w.push(1, 0, "a")
			w.settle()
		}
		w.kill()
		for _, name := range w.fs.Names() {
			if strings.HasSuffix(name, ".queend") && w.unread == "" {
				w.unread = filepath.Base(name)
			}
		}
		w.outage(false)
		w.reboot(1)
		w.lanes[0].away = false
		w.b.StopDrain()
		w.disk.let()
		w.settle()
		p := w.push(1, 0, "a")
		w.flow()
		p.is(stored, "buffered")
		w.unread = ""
		w.close()
		w.fs.Kill()
		w.reboot(1)
		return w.ended()
	})
}

func TestInMaintenanceModeAllWaitsOnDisk(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 2)
		w.drain()
		w.settle()
		w.b.SetMaintenance(true)
		w.b.SetMaintenance(true)
		var all []*push
		for i := range 20 {
			all = append(all, w.push(1, i%2, "a"))
			w.sleep(20 * time.Millisecond)
			w.flow()
		}
		for _, p := range all {
			p.is(stored, "buffered")
		}
		if s := w.b.Status(); len(w.pg.has) > 0 || s.Pending != 20 || s.Draining || !s.Maintenance {
			w.errorf("%d are delivered; the status is %+v", len(w.pg.has), s)
		}
		w.b.SetMaintenance(false)
		w.quiet()
		if got := w.order("a"); len(got) != 20 || !slices.IsSorted(got) {
			w.errorf("delivered: %v", got)
		}
		p := w.push(1, 0, "a")
		w.flow()
		p.is(stored, "")
		return w.ended()
	})
}

func TestCloseWritesWhatWaits(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.settle()
		w.outage(true)
		w.disk.hang()
		var all []*push
		for range 5 {
			all = append(all, w.push(1, 0, "a"))
			w.settle()
		}
		closed := make(chan error, 1)
		go func() { closed <- w.b.Close() }()
		w.sleep(100 * time.Millisecond)
		select {
		case <-closed:
			w.errorf("it closes while pushes wait")
		default:
		}
		w.disk.let()
		w.settle()
		if err := <-closed; err != nil {
			w.errorf("%v", err)
		}
		w.settle()
		for _, p := range all {
			p.is(stored, "buffered")
		}
		late := w.push(1, 0, "a")
		late.is(refusedIt, "there is no file buffer to keep them meanwhile")
		w.fs.Kill()
		w.reboot(1)
		w.quiet()
		w.wantOrder("a", 0, 1, 2, 3, 4)
		return w.ended()
	})
}

func TestTheWriterThatFailsRefusesAndGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.drain()
		w.settle()
		w.outage(true)
		for _, op := range []faultfs.Op{faultfs.Write, faultfs.Sync, faultfs.Create} {
			w.fs.Break(op, syscall.EIO)
			w.push(1, 0, "a")
			w.settle()
			w.fs.Heal()
			good := w.push(1, 0, "a")
			w.settle()
			good.is(stored, "buffered")
			if !w.b.Usable() {
				w.errorf("after %s it can be written, and it says it cannot", op)
			}
		}
		return w.ended()
	})
}

// A process that takes another's place goes the direct way until the other has given the
// directory up, and delivers what it has left.
func TestADirectoryIsTakenOverFromAnotherProcess(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.settle()
		w.outage(true)
		left := w.push(1, 0, "a")
		w.settle()
		left.is(stored, "buffered")
		if _, err := Open(w.o); err == nil || !strings.Contains(err.Error(), "in use") {
			w.errorf("a second process has the directory: %v", err)
		}
		w.outage(false)

		old := w.b
		w.o.Wait = true
		w.boot(1)
		w.sleep(300 * time.Millisecond)
		if w.b.Usable() {
			w.errorf("it can be used and has no directory")
		}
		direct := w.push(2, 0, "b")
		w.flow()
		direct.is(stored, "")
		w.outage(true)
		w.push(2, 0, "b").is(refusedIt, "there is no file buffer to keep them meanwhile")
		w.outage(false)
		w.drain()
		if err := old.Close(); err != nil {
			w.errorf("%v", err)
		}
		w.sleep(300 * time.Millisecond)
		if !w.b.Usable() {
			w.errorf("it has not taken the directory")
		}
		after := w.push(1, 0, "a")
		w.quiet()
		after.is(stored, "")
		w.wantOrder("a", 0, 3)
		return w.ended()
	})
}

// And when the other never does, nothing hangs.
func TestWaitingForADirectoryEnds(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.settle()
		old := w.b
		w.o.Wait = true
		w.boot(1)
		w.drain()
		w.sleep(time.Second)
		if err := w.b.Close(); err != nil {
			w.errorf("%v", err)
		}
		if err := old.Close(); err != nil {
			w.errorf("%v", err)
		}
		synctest.Wait()
		return w
	})
}

func TestANilBufferCanBeClosed(t *testing.T) {
	var b *Buffer
	b.StopDrain()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// The drain delivers from the first batch that is stored to the end of the buffer, to the next
// trouble, or to maintenance mode.
func TestItIsKnownWhetherTheDrainDelivers(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.drain()
		w.settle()
		is := func(want bool, when string) {
			if got := w.b.delivering.Load(); got != want {
				w.errorf("%s: %v", when, got)
			}
		}
		backlog := func() {
			w.outage(true)
			for range 2 * windowRowsCalm {
				w.push(1, 0, "a")
				w.settle()
			}
			is(false, "during an outage")
			w.outage(false)
			w.sleep(2 * retryPause)
			w.replay.happen(1)
			is(false, "before the first batch is answered")
			w.replay.answer()
			w.settle()
			is(true, "after it")
		}
		backlog()
		w.quiet()
		is(false, "when all is delivered")
		backlog()
		w.outage(true)
		w.settle()
		is(false, "after trouble")
		w.outage(false)
		w.quiet()
		return w.ended()
	})
}

// While the drain delivers, pushes are written in groups; during an outage each at once.
func TestPushesAreWrittenInGroupsWhileTheDrainDelivers(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.settle()
		w.outage(true)
		push := func(ended int) *push {
			p := w.push(1, 0, "a")
			w.settle()
			if p.ended != ended {
				w.errorf("%s ended %d times, not %d", p.messages[0].tx, p.ended, ended)
			}
			return p
		}
		push(1)
		push(1)
		w.sleep(groupEvery)
		w.b.delivering.Store(true)
		push(1)
		b, c := push(0), push(0)
		groups := w.b.groups.Load()
		w.sleep(groupEvery - 1)
		if n := w.b.groups.Load() - groups; n != 0 {
			w.errorf("they are written %d times before their time", n)
		}
		w.sleep(1)
		b.is(stored, "buffered")
		c.is(stored, "buffered")
		if n := w.b.groups.Load() - groups; n != 1 {
			w.errorf("they are written in %d groups", n)
		}
		return w.ended()
	})
}

// What was written since the drain has read to the end keeps the gate shut.
func TestTheGateStaysShutForWhatWasWrittenMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.settle()
		w.b.delivering.Store(true)
		groups := w.b.groups.Load()
		if w.b.emptied(groups, &behind{}) != empty || !w.b.clear.Load() || w.b.delivering.Load() {
			w.errorf("nothing is there, and the gate stays shut")
		}
		w.outage(true)
		w.disk.hang()
		w.push(1, 0, "a")
		w.settle()
		if w.b.emptied(groups, &behind{}) != writing || w.b.clear.Load() {
			w.errorf("the gate is open, and a message is on its way to the disk")
		}
		w.disk.let()
		w.settle()
		if w.b.emptied(groups, &behind{}) != more || w.b.clear.Load() || w.b.gate.messages != 1 || w.b.stats.Pending.Load() != 1 {
			w.errorf("the gate is open, and a message waits on disk")
		}
		return w.ended()
	})
}

func TestADrainTakesNoMoreAtOnceThanItsPaceNeeds(t *testing.T) {
	for _, c := range []struct {
		rows                  int
		share, spare, careful bool
		want                  int
	}{
		{windowRowsCalm, true, false, false, windowRowsCalm},
		{windowRowsCalm, true, true, false, windowRowsCalm}, // nor is it to have less
		{4 * windowRowsCalm, true, false, false, 4 * windowRowsCalm},
		{4 * windowRowsCalm, true, true, false, 2 * windowRowsCalm}, // nobody is to wait so long
		{windowRowsCalm, false, true, false, 2 * windowRowsCalm},
		{windowRowsMax, false, false, false, windowRowsMax},
		{windowRowsMin, true, true, false, 2 * windowRowsMin},
		{windowRowsCalm, false, false, true, windowRowsCalm * 5 / 4}, // it has been too much before
		{windowRowsMin, true, true, true, windowRowsMin * 5 / 4},
	} {
		if got := nextRows(c.rows, c.share, c.spare, c.careful); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if got := cycle(250, 100, time.Second); got != time.Second {
		t.Errorf("250 rows for 100 that come in a second may take %v", got)
	}
	if got := cycle(1, 0, time.Second); got < time.Hour {
		t.Errorf("when nobody pushes a row may take %v", got)
	}
}

// A drain rests for others as long as it is in time all the same; the time counts from the
// first batch that is stored, and anew after trouble.
func TestADrainRestsOnlyWhileItIsInTime(t *testing.T) {
	for _, c := range []struct {
		rows  int
		took  time.Duration
		left  int
		until time.Duration
		want  bool
	}{
		{200, 20 * time.Millisecond, 5_000, time.Second, true},
		{200, 20 * time.Millisecond, 5_001, time.Second, false},
		{200, time.Second, 200, time.Second, false},
		{200, time.Second, 190, time.Second, true}, // it rests for no longer than restMax
		{200, 20 * time.Millisecond, 0, time.Second, true},
		{200, 20 * time.Millisecond, 1, -time.Second, false},
		{1000, time.Hour, 1 << 40, time.Hour, false},
	} {
		if got := inTime(c.rows, c.took, c.left, c.until); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}

	now := time.Hour
	b, err := Open(Options{Dir: t.TempDir(), BytesMax: 1 << 20, Now: func() time.Duration { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	d := &drainer{b: b}
	b.stats.Pending.Store(20_000)
	d.isGood()
	if want := now + dueTime + 2*time.Second; d.due != want {
		t.Errorf("20,000 messages are due in %v", d.due-now)
	}
	now += time.Second
	if d.isGood(); d.due != time.Hour+dueTime+2*time.Second {
		t.Error("each batch puts it off")
	}
	b.delivering.Store(false)
	if d.isGood(); d.due != now+dueTime+2*time.Second {
		t.Error("the time of the trouble counts")
	}

	b.stats.Buffered.Store(1000)
	if d.trouble("the server is away"); d.seen != b.came() {
		t.Error("what came during the trouble counts")
	}
	if d.begin(); b.delivering.Load() {
		t.Error("after maintenance mode the time before it counts")
	}
	others := &Store{}
	b.stores = append(b.stores, others)
	for _, c := range []struct {
		left        int64
		back, other uint64 // pushed within two batches' time
		held        bool
		rest        time.Duration
		rows        int
	}{
		{1, 1, 0, false, restMax, windowRowsCalm},
		{1, 40, 40, false, restMax, windowRowsCalm},
		{1, 41, 40, false, restMax, 2 * windowRowsCalm}, // half would not keep its pace
		{1, 160, 0, false, restMax, 2 * windowRowsCalm},
		{1, 200, 0, false, restMax * 3 / 5, 2 * windowRowsCalm}, // nor would such a rest
		{1, 320, 0, false, 0, 4 * windowRowsCalm},               // nor any
		{1, 1, 319, false, restMax, 4 * windowRowsCalm},         // but they do not come back
		{1 << 30, 1, 0, false, 0, 4 * windowRowsCalm},           // it would be late
		{1, 1, 0, true, 0, 4 * windowRowsCalm},                  // they wait for its end
		{1, 0, 0, false, 0, 4 * windowRowsCalm},                 // nobody pushes
	} {
		d.begin()
		d.rows, b.closing = 2*windowRowsCalm, c.held
		b.stats.Pending.Store(c.left)
		d.op.Items = make([]queue.Item, 2*windowRowsCalm)
		b.stats.Buffered.Add(c.back)
		others.passed.Add(c.other)
		now += 2 * restMax
		d.due = now + dueTime
		if rest := d.rest(restMax, false); d.rows != c.rows || rest != c.rest || d.seen != b.came() {
			t.Errorf("%+v: it rests for %v, and takes %d rows", c, rest, d.rows)
		}
	}
}

// storeFunc is a store that is one function.
type storeFunc func(op *queue.Op)

func (f storeFunc) Do(op *queue.Op)  { f(op) }
func (f storeFunc) Cancel(*queue.Op) {}

// What a row takes is what it took in the try that went well, not the outage before it.
func TestHowLongARowTakesIsWithoutTheTrouble(t *testing.T) {
	now := time.Hour
	clock := func() time.Duration { return now }
	b, err := Open(Options{Dir: t.TempDir(), BytesMax: 1 << 20, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	tries := 0
	d := &drainer{b: b, done: make(chan struct{}, 1)}
	d.to = Replay{Post: func(f func()) { f() }, Now: clock, Store: storeFunc(func(op *queue.Op) {
		if tries++; tries == 1 {
			now += time.Minute
			op.Fault.Code = queue.Outage
		} else {
			now += 20 * time.Millisecond
			for i := range op.Items {
				op.Items[i].Status = queue.Queued
			}
		}
		op.Done.OpDone(op)
	})}
	if !d.store(make([]queue.Item, 2), 1) || d.row != 10*time.Millisecond {
		t.Errorf("after %d tries a row takes %v", tries, d.row)
	}
}

// The buffer closes behind a batch that is small, and takes no longer than others can bear;
// or when it has read to the end again and again.
func TestTheBufferClosesBehindASmallAndQuickBatch(t *testing.T) {
	quick := closeTime / closeRows
	for _, c := range []struct {
		n, ends int
		row     time.Duration
		good    bool
		want    bool
	}{
		{closeRows, 1, quick, true, true},
		{closeRows, 1, 2 * quick, true, false},
		{closeRows / 2, 1, 2 * quick, true, true},
		{closeRows + 1, 1, 0, true, false},
		{closeRows + 1, closeEnds, 2 * quick, true, true},
		{1, closeEnds, quick, false, false},
	} {
		d := &drainer{b: &Buffer{}, ends: c.ends, row: c.row}
		d.b.delivering.Store(c.good)
		d.op.Items = make([]queue.Item, c.n)
		if got := d.mayClose(); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// What was halved because PostgreSQL did not manage it is not doubled by the same batch, and
// grows slowly from there.
func TestADrainThatWasTooMuchGrowsSlowly(t *testing.T) {
	b, err := Open(Options{Dir: t.TempDir(), BytesMax: 1 << 20, Now: func() time.Duration { return time.Hour }})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	d := &drainer{b: b}
	d.begin()
	d.op.Items = make([]queue.Item, windowRowsCalm)
	d.rows = windowRowsCalm / 2 // deliver has halved it
	if d.rest(10*time.Second, true); d.rows != windowRowsCalm/2 {
		t.Errorf("%d rows after trouble", d.rows)
	}
	d.op.Items = d.op.Items[:d.rows]
	if d.rest(time.Millisecond, false); d.rows != windowRowsCalm/2*5/4 {
		t.Errorf("%d rows after a good one", d.rows)
	}
	if d.begin(); d.rows != windowRowsCalm || d.careful {
		t.Error("another outage remembers it")
	}
}

// The drain goes on when the journal cannot note how far it is, and the log is not flooded.
func TestWhatCannotBeLetGoOfIsSaidOnceAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		var log bytes.Buffer
		w := newWorld(t, 1, func(o *Options) { o.Log = zerolog.New(zerolog.SyncWriter(&log)) })
		w.outage(true)
		for range 20 {
			w.push(1, 0, slices.Repeat([]string{"a"}, 100)...)
			w.settle()
		}
		w.outage(false)
		w.fs.Break(faultfs.Write, syscall.EIO)
		w.drain()
		said := func() int { return strings.Count(log.String(), "cannot let go of what was delivered") }
		batches := 0
		for w.b.stats.Pending.Load() > 0 {
			w.sleep(time.Second)
			for len(w.replay.sent) > 0 {
				w.replay.happen(1)
				w.replay.answer()
				batches++
			}
			if batches == 3 && w.b.stats.Pending.Load() > 0 {
				if n := said(); n != 1 {
					w.errorf("it is said %d times at once", n)
				}
				w.sleep(complainEvery)
			}
		}
		if n := said(); batches < 4 || n != 2 {
			w.errorf("it is said %d times in %d batches", n, batches)
		}
		return w.ended()
	})
}
