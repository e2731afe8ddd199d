package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/world"
)

// The short forms of the rows that take seconds: a few faults of each on one PostgreSQL,
// from fixed seeds. Nothing in it is about time: what is slow on a busy machine is late, not
// wrong.
func TestAFewFaultsBreakNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	w, err := world.Open(ctx, "", true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f := func(name string, seed uint64, run func(context.Context, *Trial) error) {
		t.Helper()
		trial := short(t, w, name, seed)
		if err := run(ctx, trial); err != nil {
			t.Errorf("%s, seed %d: %v", name, seed, err)
		}
		tell(t, name, trial)
		if trial.Messages == 0 {
			t.Errorf("%s, seed %d: %d messages, %d deliveries", name, seed, trial.Messages, trial.Deliveries)
		}
	}
	f("a backlog", 2, aBacklog)
	f("kills, cuts, a hang, a black hole and a stop", 3, func(ctx context.Context, t *Trial) error {
		return t.storm(ctx, Storm{Queends: 2, Lease: time.Second, Proxy: true, Wire: true}, func(ctx context.Context) error {
			if err := t.kills(ctx, 2); err != nil {
				return err
			}
			if err := t.cuts(ctx, 6); err != nil {
				return err
			}
			if err := t.outage(ctx, "a hang of PostgreSQL", 0, func() error {
				return errors.Join(t.world.Postgres.Pause(), t.buffering(ctx))
			}, t.world.Postgres.Resume); err != nil {
				return err
			}
			if err := t.blackHole(ctx, 0); err != nil {
				return err
			}
			_, err := t.terminate(ctx, "up", nil)
			return err
		})
	})
	// A queend that loses a message, delivers one twice or swaps two is found out: so the checks
	// are worth something.
	for i, fault := range planted {
		f(fault.name, uint64(10+i), func(ctx context.Context, t *Trial) error { return t.plant(ctx, fault.name, fault.promise) })
	}
	f("a failover", 4, func(ctx context.Context, t *Trial) error {
		return t.storm(ctx, Storm{Queends: 1, Lease: time.Second, Pair: true}, t.failover)
	})

	disk, err := w.MakeDisk(diskBytes / 2)
	if err != nil {
		t.Logf("a full disk cannot be tried on this machine: %v", err)
		return
	}
	defer disk.Remove()
	f("a full disk", 5, func(ctx context.Context, t *Trial) error {
		size := t.Size
		size.Pad = 4000
		storm := Storm{Queends: 1, Lease: time.Second, Size: &size, Buffers: []string{filepath.Join(disk.Dir, "buffer")}, Env: []string{smallSegments, "FILE_BUFFER_MAX_BYTES=1000000000"}}
		return t.storm(ctx, storm, func(ctx context.Context) error {
			_, err := t.fill(ctx, disk, false)
			return err
		})
	})
}

// aBacklog is harmed in each way that this machine lets us.
func aBacklog(ctx context.Context, t *Trial) error {
	storm := Storm{Queends: 1, Lease: time.Second, Env: []string{smallSegments}, LostMax: itemsMax, Damaged: true}
	image, err := t.world.MakeImage()
	if err == nil {
		t.atEnd = append(t.atEnd, image.Remove)
		storm.Buffers = []string{filepath.Join(image.Dir, "buffer")}
	} else {
		t.remark("the power cannot be cut on this machine: %v", err)
	}
	return t.storm(ctx, storm, func(ctx context.Context) error {
		if err := t.flipBits(ctx, 1); err != nil { // begins with a stop and ends with a replay
			return err
		}
		if err := t.world.Postgres.Kill(); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		if err := t.backlog(ctx, 300); err != nil {
			return err
		}
		if image != nil {
			if err := t.cutPower(ctx, image); err != nil {
				return err
			}
		}
		if err := t.otherVersions(ctx); err != nil { // stops or kills it, and starts both again
			return err
		}
		if err := t.intruders(ctx); err != nil {
			return err
		}
		_, err := t.kill(ctx, true)
		return err
	})
}

// short is a trial of the tests.
func short(t *testing.T, w *world.World, name string, seed uint64) *Trial {
	size := load.Size{Rate: 30, Producers: 4, Consumers: 1, Movers: 1, Partitions: 6, Pad: 100}
	trial := newTrial(w, seed, size, t.TempDir())
	trial.Timed = false
	trial.Say = func(format string, args ...any) { t.Logf(name+": "+format, args...) }
	return trial
}

// tell says what came of a trial.
func tell(t *testing.T, name string, trial *Trial) {
	t.Helper()
	for _, v := range trial.Violations {
		t.Errorf("%s, seed %d: %v", name, trial.Seed, v)
	}
	t.Logf("%s: %d messages, %s; %s", name, trial.Messages, trial.Faults, strings.Join(trial.Remarks, "; "))
	if t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(trial.Dir, "*.log"))
		for _, path := range logs {
			text, _ := os.ReadFile(path)
			t.Logf("%s:\n%s", filepath.Base(path), text)
		}
	}
}

func TestEveryRowSaysWhatItDoes(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows() {
		if r.ID == "" || r.Title == "" || r.What == "" || r.Pass == "" || r.Run == nil || seen[r.ID] {
			t.Errorf("row %q: %+v", r.ID, r)
		}
		seen[r.ID] = true
		if rowOf(r.ID).ID != r.ID {
			t.Errorf("row %s is not found", r.ID)
		}
	}
	if rowOf("0") != nil {
		t.Error("there is a row 0")
	}
}

func TestTheRegisterHasALineForEachTrial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "register.tsv")
	trial := &Trial{Seed: 7, Messages: 12, Faults: "3 kills", Remarks: []string{"a\tb\nc"}}
	for range 2 {
		if err := appendRegister(path, trial.line("abc", "14", "small")...); err != nil {
			t.Fatal(err)
		}
	}
	trial.broken("I8", "slow")
	if got := trial.result(); got != late {
		t.Errorf("a slow trial is %q", got)
	}
	trial.broken("I1", "gone")
	if got := trial.result(); got != failed {
		t.Errorf("a trial that lost something is %q", got)
	}
	if err := appendRegister(path, trial.line("abc", "14", "small")...); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 4 || lines[0] != strings.Join(registerColumns, "\t") {
		t.Fatalf("%q", lines)
	}
	for i, want := range []string{passed, passed, failed} {
		columns := strings.Split(lines[i+1], "\t")
		if len(columns) != len(registerColumns) || columns[7] != want || columns[4] != "7" || columns[5] != "12" {
			t.Errorf("%q", columns)
		}
	}
}

func TestPoisonIsWhatItSays(t *testing.T) {
	m := &history.Message{UID: "p-1", Queue: load.Work, Partition: "1", Key: "k-p-1", Payload: `{"uid":"p-1"}`}
	for _, kind := range poisons {
		item := kind.item(m)
		if !strings.Contains(item, m.UID) {
			t.Errorf("%s: the message is not in it", kind.name)
		}
		if !json.Valid([]byte(item)) && !strings.Contains(kind.name, "UTF-8") {
			t.Errorf("%s: broken for another reason: %s", kind.name, item)
		}
	}
}

func TestSlopes(t *testing.T) {
	samples := []sample{{0, 0}, {0, 1 << 30}, {time.Hour, 100}, {2 * time.Hour, 200}, {3 * time.Hour, 300}}
	if got := slopeOf(samples); got < 99 || got > 101 {
		t.Errorf("the slope is %v", got)
	}
	if got := slopeOf(nil); got != 0 {
		t.Errorf("the slope of nothing is %v", got)
	}
}

func TestATrialIsBegunWhileThereIsBudget(t *testing.T) {
	f := func(want bool, o options, soak bool, made int, spent time.Duration) {
		t.Helper()
		if got := o.goesOn(&Row{Soak: soak}, made, spent); got != want {
			t.Errorf("%+v after %d trials and %v: %v", o, made, spent, got)
		}
	}
	f(true, options{trials: 2}, false, 1, time.Hour)
	f(false, options{trials: 2}, false, 2, 0)
	f(true, options{trials: 2, budget: time.Hour}, false, 9, time.Minute)
	f(true, options{budget: time.Hour}, false, 0, 2*time.Hour)
	f(false, options{budget: time.Hour}, false, 1, time.Hour)
	f(false, options{budget: time.Hour}, true, 1, 0)
}

func TestPercentiles(t *testing.T) {
	f := func(want, percent int, of ...int) {
		t.Helper()
		var took []time.Duration
		for _, n := range of {
			took = append(took, time.Duration(n))
		}
		if got := percentile(took, percent); got != time.Duration(want) {
			t.Errorf("percentile %d of %v is %d and not %d", percent, of, got, want)
		}
	}
	f(0, 99)
	f(7, 99, 7)
	f(3, 99, 1, 3, 2)
	f(2, 50, 3, 1, 2)
}
