package main

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/queend/queend/chaos/world"
)

// killsOfATrial is how often row 14 kills.
const killsOfATrial = 20

func row14() *Row {
	return &Row{
		ID: "14", Title: "queend is killed under load",
		What: fmt.Sprintf("kill -9 of one of one or two queends, %d times a trial, 20 to 600 ms after it listens again: in the middle of pushes, pops, acks and transactions", killsOfATrial),
		Pass: "I1-I7; a started queend stores pushes within 1 s (the median of a trial)",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{}, func(ctx context.Context) error { return t.kills(ctx, killsOfATrial) })
		},
	}
}

// kills kills queends and starts them again.
func (t *Trial) kills(ctx context.Context, n int) error {
	var starts []time.Duration
	for range n {
		if !wait(ctx, time.Duration(20+t.rng.IntN(580))*time.Millisecond) {
			return ctx.Err()
		}
		q := t.queends[t.rng.IntN(len(t.queends))]
		if err := q.Ended(); err != nil {
			t.broken("I10", "%v", err)
			return nil
		}
		q.Kill()
		t.Kills++
		began := time.Now()
		if err := q.Launch(); err != nil {
			t.broken("I10", "it does not start again: %v", err)
			return nil
		}
		// Half of them are killed again while they come up.
		if t.rng.IntN(2) == 0 {
			if err := t.ready(ctx, q); err != nil {
				return err
			}
			starts = append(starts, time.Since(began))
		}
	}
	for _, q := range t.queends {
		if err := t.ready(ctx, q); err != nil {
			return err
		}
	}
	t.Faults = fmt.Sprintf("%d kills of %d", t.Kills, len(t.queends))
	slices.Sort(starts)
	if len(starts) == 0 {
		return nil
	}
	// The middle one counts: a machine that is busy with other things slows some.
	median, slowest := starts[len(starts)/2], starts[len(starts)-1]
	t.remark("start median %v, slowest %v", median.Round(10*time.Millisecond), slowest.Round(10*time.Millisecond))
	if median > time.Second {
		t.late("starts take %v", median)
	}
	return nil
}

func (t *Trial) ready(ctx context.Context, q *world.Queend) error {
	ctx, cancel := context.WithTimeout(ctx, world.Hang)
	defer cancel()
	return q.Ready(ctx)
}

func row17() *Row {
	return &Row{
		ID: "17", Title: "queend stands still until leases are over",
		What: "SIGSTOP of one of two queends for 5 s with leaseTime 2 s, twice, under load",
		Pass: "I1-I7, above all I5 and I6: an ack that comes late hears success:false",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Queends: 2, Lease: 2 * time.Second}, func(ctx context.Context) error {
				t.Faults = "2 stops of 5 s"
				for range 2 {
					if !wait(ctx, time.Duration(t.rng.IntN(500))*time.Millisecond) {
						return ctx.Err()
					}
					q := t.queends[t.rng.IntN(2)]
					from := t.clock.Now()
					if err := q.Signal(syscall.SIGSTOP); err != nil {
						return err
					}
					wait(ctx, 5*time.Second)
					if err := q.Signal(syscall.SIGCONT); err != nil {
						return err
					}
					t.excused = append(t.excused, span{from, t.clock.Now()})
				}
				return nil
			})
		},
	}
}
