package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/world"
)

// The short form of rows 14 and 4: a few faults of each on one PostgreSQL, from fixed
// seeds. Nothing in it is about time: what is slow on a busy machine is late, not wrong.
func TestAFewFaultsBreakNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	w, err := world.Open(ctx, "", true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	size := load.Size{Rate: 30, Producers: 4, Consumers: 1, Movers: 1, Partitions: 6, Pad: 100}
	f := func(name string, seed uint64, run func(context.Context, *Trial) error) {
		t.Helper()
		trial := newTrial(w, seed, size, t.TempDir())
		trial.Timed = false
		trial.Say = func(format string, args ...any) { t.Logf(name+": "+format, args...) }
		if err := run(ctx, trial); err != nil {
			t.Errorf("%s, seed %d: %v", name, seed, err)
		}
		for _, v := range trial.Violations {
			t.Errorf("%s, seed %d: %v", name, seed, v)
		}
		if trial.Messages == 0 || trial.Deliveries == 0 {
			t.Errorf("%s, seed %d: %d messages, %d deliveries", name, seed, trial.Messages, trial.Deliveries)
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
	f("kills", 1, func(ctx context.Context, t *Trial) error {
		return t.storm(ctx, Storm{Queends: 2, Lease: time.Second}, func(ctx context.Context) error { return t.kills(ctx, 3) })
	})
	f("cuts", 2, func(ctx context.Context, t *Trial) error {
		return t.storm(ctx, Storm{Queends: 1, Lease: time.Second, Proxy: true}, func(ctx context.Context) error { return t.cuts(ctx, 8) })
	})
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
