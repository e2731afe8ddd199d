package filebuffer

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

// punctured is a world with 300 messages in several segments on disk, and the name of the
// second one.
func punctured(t *testing.T) (w *world, second string, log *bytes.Buffer) {
	log = &bytes.Buffer{}
	w = newWorld(t, 1, func(o *Options) { o.Log = zerolog.New(zerolog.SyncWriter(log)) })
	w.outage(true)
	for range 300 {
		w.push(1, 0, "a")
		w.settle()
	}
	names := w.segments()
	if len(names) < 3 {
		w.errorf("there are only %v", names)
		panic(errStopWorld)
	}
	return w, names[1], log
}

// segments are the names of the journal's segments, oldest first.
func (w *world) segments() (names []string) {
	for _, name := range w.fs.Names() {
		if strings.HasSuffix(name, ".queend") {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

// run lets time pass, and PostgreSQL work.
func (w *world) run(d time.Duration) {
	for ; d > 0; d -= 10 * time.Millisecond {
		w.sleep(10 * time.Millisecond)
		w.flow()
	}
}

// excuse has those that are not delivered be no mistake, and counts them.
func (w *world) excuse() (n int) {
	for _, m := range w.byTx {
		if !w.pg.has[m.tx] {
			m.answer = refusedMaybe
			n++
		}
	}
	return n
}

func (w *world) wantSaid(log *bytes.Buffer, sentence string, least, most int) {
	if n := strings.Count(log.String(), sentence); n < least || n > most {
		w.errorf("%q is said %d times: %s", sentence, n, log)
	}
}

const (
	saidStuck  = `"level":"error","error":"cannot read`
	saidUnread = "UNREADABLE"
)

func TestWhatTheDiskDoesNotGiveHoldsUpNothingForEver(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, second, log := punctured(t)
		w.disk.puncture(second)
		w.drain()
		w.outage(false)
		w.run(5 * time.Second)
		if w.b.clear.Load() || w.b.Stats().ReadErrors.Load() == 0 {
			w.errorf("it has passed over what may yet come, or does not count: %+v", w.b.Status())
		}
		w.wantSaid(log, saidStuck, 1, 1)
		w.wantSaid(log, second, 1, 3) // at lower levels, too
		w.wantSaid(log, saidUnread, 0, 0)
		w.run(10 * time.Second)
		got := w.order("a")
		if lost := w.excuse(); lost == 0 || lost > 60 || len(got) != 300-lost || !slices.IsSorted(got) || got[len(got)-1] != 299 {
			w.errorf("%d are not delivered: %v", lost, got)
		}
		w.wantSaid(log, saidStuck, 1, 1)
		w.wantSaid(log, saidUnread, 1, 1)
		if w.fs.Content(filepath.Join(w.dir, "quarantine", second+".bad")) == nil || w.b.Status().Poisoned == 0 {
			w.errorf("the file is not kept and counted: %v", w.fs.Names())
		}
		return w.ended()
	})
}

func TestADiskThatComesBackInTimeLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, second, log := punctured(t)
		w.disk.puncture(second)
		w.drain()
		w.outage(false)
		w.run(8 * time.Second)
		w.disk.puncture("")
		w.run(time.Second)
		if got := w.order("a"); len(got) != 300 || !slices.IsSorted(got) {
			w.errorf("%v", got)
		}
		w.wantSaid(log, "is read again", 1, 1)
		w.wantSaid(log, saidUnread, 0, 0)
		return w.ended()
	})
}

// What cannot be kept is not passed over: it stays there, and that is said now and then.
func TestADrainThatStandsStillSaysSoEveryMinute(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, second, log := punctured(t)
		w.disk.puncture(second)
		w.fs.Break(faultfs.Create, syscall.EROFS)
		w.drain()
		w.outage(false)
		w.run(150 * time.Second)
		w.wantSaid(log, "nothing is delivered meanwhile", 3, 4) // what is before the hole comes in between
		w.fs.Heal()
		w.disk.puncture("")
		w.run(time.Second)
		return w.ended()
	})
}

// The scan at the start meets it too; what it has missed and the drain finds is delivered.
func TestAStartPassesOverWhatTheDiskDoesNotGive(t *testing.T) {
	f := func(healed bool) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w, second, log := punctured(t)
			w.kill()
			w.hole = second
			w.boot(1)
			w.run(30 * time.Second)
			w.wantSaid(log, saidStuck, 1, 1)
			w.wantSaid(log, saidUnread, 1, 1)
			select {
			case <-w.b.scanned:
			default:
				w.errorf("the scan does not end")
			}
			if healed {
				w.disk.puncture("")
			}
			w.outage(false)
			w.drain()
			w.run(15 * time.Second)
			lost, got := w.excuse(), w.order("a")
			if (lost == 0) != healed || len(got) != 300-lost || !slices.IsSorted(got) {
				w.errorf("%d are not delivered: %v", lost, got)
			}
			w.consistent()
			w.wantSaid(log, saidUnread, 1, 1)
			return w.ended()
		})
	}
	f(false)
	f(true)
}
