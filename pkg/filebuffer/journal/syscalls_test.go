package journal_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
)

// manners are the ways in which each kind of call is made to fail.
var manners = []struct {
	name string
	ops  []faultfs.Op
	how  faultfs.How
	err  error
}{
	{"EIO", faultfs.Ops(), faultfs.Before, syscall.EIO},
	{"EIO though it was done", faultfs.Ops(), faultfs.After, syscall.EIO},
	{"ENOSPC", []faultfs.Op{faultfs.Create, faultfs.Write, faultfs.Sync, faultfs.Truncate, faultfs.Allocate,
		faultfs.Rename, faultfs.Remove, faultfs.MakeDir, faultfs.SyncDir}, faultfs.Before, syscall.ENOSPC},
	{"ENOSPC after the half", []faultfs.Op{faultfs.Write}, faultfs.Half, syscall.ENOSPC},
	{"EFBIG after the half", []faultfs.Op{faultfs.Write}, faultfs.Half, syscall.EFBIG},
	{"the half and no error", []faultfs.Op{faultfs.Write, faultfs.Read}, faultfs.Half, nil},
	{"EMFILE", []faultfs.Op{faultfs.Create, faultfs.Open, faultfs.ReadDir, faultfs.SyncDir, faultfs.Lock}, faultfs.Before, syscall.EMFILE},
	{"EOPNOTSUPP", []faultfs.Op{faultfs.Allocate}, faultfs.Before, syscall.EOPNOTSUPP},
}

// eachCall runs a test for each call of each kind that work makes, failing in each
// manner.
func eachCall(t *testing.T, work func(w *world)) {
	trials, hits := 0, 0
	plain := newWorld(t)
	plain.scenario()
	for _, m := range manners {
		for _, op := range m.ops {
			// A fault may make more calls than there are without it.
			for n, idle := 1, 0; n <= plain.fs.Calls(op) || idle < 3; n++ {
				w := newWorld(tagged{t, fmt.Sprintf("%s, %s %d", m.name, op, n)})
				w.fs.Fail(op, n, m.how, m.err)
				work(w)
				trials++
				hits += w.fs.Hits()
				if idle++; w.fs.Hits() > 0 {
					idle = 0
				}
			}
		}
	}
	if hits == 0 {
		t.Fatal("no fault was hit")
	}
	t.Log(trials, "trials,", hits, "faults")
}

// tagged says which trial has failed.
type tagged struct {
	t   *testing.T
	tag string
}

func (f tagged) Helper() { f.t.Helper() }

func (f tagged) Fatalf(format string, args ...any) {
	f.t.Helper()
	f.t.Fatalf("%s: %s", f.tag, fmt.Sprintf(format, args...))
}

func TestNothingIsLostWhicheverCallFails(t *testing.T) {
	t.Parallel()
	eachCall(t, func(w *world) {
		w.scenario()
		w.finish()
	})
}

func TestNothingIsLostWhicheverCallFailsAndThePowerToo(t *testing.T) {
	t.Parallel()
	seed := uint64(0)
	eachCall(t, func(w *world) {
		seed++
		w.fs.CutAt(1 + chance(seed).IntN(400))
		w.scenario()
		w.powerCut(seed)
		w.finish()
	})
}

// powerCut cuts the power. What a restart must know of releases is what it says then.
func (w *world) powerCut(seed uint64) {
	w.fs.PowerCut(chance(seed))
	w.noted = 0
}

func TestNothingIsLostWheneverThePowerIsCut(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 8; seed++ {
		for n := 1; ; n++ {
			w := newWorld(tagged{t, fmt.Sprintf("seed %d, call %d", seed, n)})
			w.fs.CutAt(n)
			w.scenario()
			if w.fs.Total() < n {
				break
			}
			w.powerCut(seed*1000 + uint64(n))
			w.finish()
		}
	}
}

func TestNothingIsLostWheneverTheProcessIsKilled(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		w := newWorld(tagged{t, fmt.Sprintf("call %d", n)})
		w.fs.CutAt(n)
		w.scenario()
		if w.fs.Total() < n {
			break
		}
		w.fs.Kill()
		w.fs.Heal()
		w.finish()
	}
}

func TestADiskThatIsBrokenForLongLosesNothing(t *testing.T) {
	t.Parallel()
	for _, op := range []faultfs.Op{faultfs.Create, faultfs.Write, faultfs.Sync, faultfs.Rename, faultfs.SyncDir, faultfs.Allocate} {
		for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
			w := newWorld(tagged{t, fmt.Sprint(op, errno)})
			w.open()
			for i := range 5 {
				if err := w.append(100, 200); err != nil {
					t.Fatal(err)
				}
				w.fs.Break(op, errno)
				for range 4 {
					err := w.append(900+i*100, 20)
					if err != nil && !errors.Is(err, errno) {
						t.Fatalf("%v %v: %v", op, errno, err)
					}
					w.drain()
				}
				w.fs.Heal()
			}
			if w.maybe != nil {
				w.fs.Kill()
			}
			w.fs.Kill()
			w.finish()
		}
	}
}
