package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/bench/load"
)

// Every mode on queend, and the floor, for a moment each: what was answered is stored
// and what was stored is delivered, once.
func TestEveryModeIsVerified(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	w, err := newWorld(ctx, common{dir: os.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	some, err := w.arms(ctx, []string{armLoop}, nil)
	if err != nil {
		t.Fatal(err)
	}
	push := some[0]
	s := load.Settings{Shape: load.Shape{Queue: "bench", Queues: 2, Partitions: 10, Items: 3, PayloadBytes: 100, Zipf: load.ZipfDefault, Transactions: true},
		Connections: 4, Rate: 300, Warm: 50 * time.Millisecond, Window: 200 * time.Millisecond,
		Consumers: 8, Pop: load.Pop{Batch: 10}, Groups: 2, Backlog: 300}
	f := func(a arm, mode string, messages int64) {
		t.Helper()
		c, err := w.trial(ctx, a, trial{mode: mode, load: s, syscalls: 100 * time.Millisecond})
		if err != nil {
			t.Fatalf("%s, %s: %v", a, mode, err)
		}
		if c.Messages < messages || c.Refused != 0 || c.Missing != 0 || c.Untold != 0 || c.Lost != 0 || c.Twice != 0 || c.P50 <= 0 {
			t.Fatalf("%s, %s: %+v", a, mode, c)
		}
		if a.server.pid() > 0 && (c.ServerCPU <= 0 || c.RSS <= 0 || c.SyscallsBy == "" && c.NotMeasured == nil) {
			t.Fatalf("%s, %s: %+v", a, mode, c)
		}
	}
	f(push, "push", 60)
	f(push, "pop", 300)
	f(push, "pipeline", 60)
	f(push, "fan-out", 120)
	f(push, "mixed", 60)
	f(push.hello(), "push", 60)
	f(w.floorArm(floorPoint{Way: "unnest", Batch: 10, Conns: 2}), "push", 10)
	f(w.floorArm(floorPoint{Way: "copy", Batch: 10, Conns: 2}), "push", 10)
	if _, err := w.trial(ctx, w.floorArm(floorPoint{Way: "copy", Batch: 10, Conns: 2}), trial{mode: "pop", load: s}); err == nil {
		t.Fatal("the floor pops")
	}
	// Who is not measured does nothing, and goes on when it is its turn.
	if got := stateOf(t, push); got != "T" {
		t.Errorf("beside the floor the server is in state %s", got)
	}
	f(push, "push", 60)
	if got := stateOf(t, push); got == "T" {
		t.Error("it is paused while it is measured")
	}
}

// stateOf is the state of a server's process, as in proc(5): T is stopped by a signal.
func stateOf(t *testing.T, a arm) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.server.pid()))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))[0]
}
