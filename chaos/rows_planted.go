package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/oracle"
)

// planted are the faults that a binary with the tag plant has, by the value of
// QUEEND_PLANT, and the promise that each of them breaks.
var planted = []struct{ name, promise string }{
	{"drop", "I1"}, {"twice", "I2"}, {"swap", "I4"},
}

func rowPlant() *Row {
	return &Row{
		ID: "plant", Title: "queend itself is wrong",
		What: "a binary that loses a message in the replay, one that delivers one twice, and one that swaps two of a partition (the tag plant)",
		Pass: "the oracle finds it: I1, I2 and I4 are broken",
		Run: func(ctx context.Context, t *Trial) error {
			fault := planted[t.Seed%uint64(len(planted))]
			return t.plant(ctx, fault.name, fault.promise)
		},
	}
}

// plant runs a queend with a fault, and is content if that was found.
func (t *Trial) plant(ctx context.Context, fault, promise string) error {
	binary, err := t.world.Tagged(ctx, "plant")
	if err != nil {
		return err
	}
	// One producer and one partition, so that any two messages that are swapped have an order.
	size := load.Size{Rate: 20, Producers: 1, Partitions: 1, Pad: 100}
	storm := Storm{Queends: 1, Binary: binary, PushOnly: true, Size: &size, Env: []string{"QUEEND_PLANT=" + fault}}
	err = t.storm(ctx, storm, func(ctx context.Context) error {
		t.Faults = fault
		if err := t.world.Postgres.Stop(); err != nil {
			return err
		}
		if err := t.until(ctx, "some pushes are buffered", func() (bool, error) { return t.load.Buffered() > 20, nil }); err != nil {
			return err
		}
		if err := t.world.Postgres.Restart(ctx); err != nil {
			return err
		}
		return t.buffersEmpty(ctx)
	})
	if err != nil {
		return err
	}
	found := t.Violations
	t.Violations = nil
	if !slices.ContainsFunc(found, func(v oracle.Violation) bool { return v.Promise == promise }) {
		t.broken(promise, "%s was planted, and it was not found to be broken, but %v", fault, found)
		return nil
	}
	t.remark("found: %d violations, the first: %s", len(found), fmt.Sprintf("%.150s", found[0]))
	return nil
}
