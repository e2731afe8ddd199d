package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/queend/queend/chaos/world"
)

// The bounds of row 27.
const (
	soakDefault = 30 * time.Minute
	soakPause   = 30 * time.Second // from one fault to the next
	slopeMax    = 1 << 20          // bytes an hour that resident memory may grow
	slopeJudged = 3 * time.Hour    // a shorter run says too little of the slope
)

func row27() *Row {
	return &Row{
		ID: "27", Title: "soak",
		What: "each 30 s one of: PostgreSQL is killed, restarted, stopped, hung; its connections are cut, silent, slow; queend is killed, also with a backlog, stopped, stood still, set to maintenance mode; for 30 minutes, or the budget that is given. The first of two queends lives from the beginning to the end",
		Pass: "I1-I10; descriptors of the first queend, without its clients' connections, are as at the start; its memory grows by less than 1 MiB an hour (of a run of 3 hours)",
		Slow: true, Soak: true,
		Run: func(ctx context.Context, t *Trial) error {
			if t.Budget == 0 {
				t.Budget = soakDefault
			}
			return t.storm(ctx, Storm{Queends: 2, Proxy: true}, func(ctx context.Context) error { return t.soak(ctx, t.Budget, soakPause) })
		},
	}
}

// soak does harm, again and again, until the budget is used up.
func (t *Trial) soak(ctx context.Context, budget, pause time.Duration) error {
	first := t.queends[0]
	before := world.Process(first.Pid())
	counts := map[string]int{}
	memory := t.watchMemory(ctx, first)
	began := time.Now()
	for time.Since(began) < budget {
		kinds := t.harms()
		kind := kinds[t.rng.IntN(len(kinds))]
		next := time.Now().Add(pause)
		t.Say("%v: %s", t.clock.Now().Round(time.Millisecond), kind.name)
		counts[kind.name]++
		t.Kills++
		if err := kind.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		if err := t.buffersEmpty(ctx); err != nil {
			t.broken("I8", "after %s: %v", kind.name, err)
			return nil
		}
		if err := t.stored(ctx); err != nil {
			t.broken("I8", "after %s: %v", kind.name, err)
			return nil
		}
		if len(t.Violations) > 0 && t.result() == failed {
			return nil
		}
		if !wait(ctx, time.Until(next)) {
			return ctx.Err()
		}
	}
	var names []string
	for name, n := range counts {
		names = append(names, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(names)
	t.Faults = fmt.Sprintf("%d faults in %v (%s)", t.Kills, time.Since(began).Round(time.Second), strings.Join(names, ", "))
	samples := memory()
	now := world.Process(first.Pid())
	slope := slopeOf(samples)
	t.remark("resident %d MiB at the start, %d at the end, at most %d, slope %.1f MiB/h; descriptors %d, then %d", before.RSS>>20, now.RSS>>20, now.Peak>>20, slope/(1<<20), own(before), own(now))
	if own(now) > own(before)+descriptorsSlack {
		if err := t.until(ctx, "the descriptors are back", func() (bool, error) {
			return own(world.Process(first.Pid())) <= own(before)+descriptorsSlack, nil
		}); err != nil {
			t.broken("I9", "%v: %d before, %d now", err, own(before), own(world.Process(first.Pid())))
		}
	}
	if budget >= slopeJudged && slope > slopeMax {
		t.broken("I9", "resident memory grows by %.1f MiB an hour", slope/(1<<20))
	}
	return nil
}

// own are the descriptors that are not of the load's connections, of which there are as many
// as it happens to need.
func own(u world.Usage) int { return u.Descriptors - u.Accepted }

// harm is one kind of it.
type harm struct {
	name string
	do   func(context.Context) error
}

// harms are all that a soak draws from.
func (t *Trial) harms() []harm {
	pg := t.world.Postgres
	short := func(most int) time.Duration { return time.Duration(500+t.rng.IntN(most)) * time.Millisecond }
	restart := func(ctx context.Context) func() error { return func() error { return pg.Restart(ctx) } }
	second := t.queends[1]
	again := func(ctx context.Context) error {
		if err := second.Launch(); err != nil {
			t.broken("I10", "it does not start again: %v", err)
			return nil
		}
		return t.ready(ctx, second)
	}
	return []harm{
		{"kill of PostgreSQL", func(ctx context.Context) error {
			return t.outage(ctx, "a kill of PostgreSQL", short(5000), pg.Kill, restart(ctx))
		}},
		{"restart of PostgreSQL", func(ctx context.Context) error { return pg.Restart(ctx) }},
		{"stop of PostgreSQL", func(ctx context.Context) error {
			return t.outage(ctx, "a stop of PostgreSQL", short(15_000), pg.Stop, restart(ctx))
		}},
		{"hang of PostgreSQL", func(ctx context.Context) error {
			return t.outage(ctx, "a hang of PostgreSQL", short(8000), pg.Pause, pg.Resume)
		}},
		{"black hole", func(ctx context.Context) error {
			return t.outage(ctx, "a black hole", short(8000), func() error { t.proxy.Hold(true); return nil }, func() error { t.proxy.Hold(false); return nil })
		}},
		{"cuts", func(ctx context.Context) error {
			kills, faults := t.Kills, t.Faults
			err := t.cuts(ctx, 10)
			t.Kills, t.Faults = kills, faults
			return err
		}},
		{"slow way", func(ctx context.Context) error {
			t.proxy.SetDelay(100 * time.Millisecond)
			wait(ctx, 3*time.Second)
			t.proxy.SetDelay(0)
			return nil
		}},
		{"kill of queend", func(ctx context.Context) error { second.Kill(); return again(ctx) }},
		{"kill with a backlog", func(ctx context.Context) error {
			if err := pg.Kill(); err != nil {
				return err
			}
			if err := t.buffering(ctx); err != nil {
				return err
			}
			if err := t.backlog(ctx, 1000); err != nil {
				return err
			}
			second.Kill()
			if err := again(ctx); err != nil {
				return err
			}
			if err := pg.Restart(ctx); err != nil {
				return err
			}
			wait(ctx, time.Duration(t.rng.IntN(300))*time.Millisecond)
			second.Kill()
			return again(ctx)
		}},
		{"maintenance mode", func(ctx context.Context) error { return t.maintenance(ctx, short(3000)) }},
		{"stop of queend", func(ctx context.Context) error {
			if end, err := second.Terminate(); err != nil || end.Status != 0 {
				t.broken("I10", "it did not stop well: %v %d %s", err, end.Status, end.Text)
			}
			return again(ctx)
		}},
		{"queend stands still", func(ctx context.Context) error {
			from := t.clock.Now()
			if err := second.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
			wait(ctx, 5*time.Second)
			if err := second.Signal(syscall.SIGCONT); err != nil {
				return err
			}
			t.excused = append(t.excused, span{from, t.clock.Now()})
			return nil
		}},
	}
}

// maintenance switches maintenance mode on at one queend and off at the other.
func (t *Trial) maintenance(ctx context.Context, hold time.Duration) error {
	for i, enabled := range []bool{true, false} {
		status, text := request(t.queends[i%len(t.queends)], "POST", "/api/v1/system/maintenance", fmt.Sprintf(`{"enabled":%v}`, enabled))
		if status != 200 {
			t.broken("I10", "maintenance mode was set to %v: %d %.300s", enabled, status, text)
		}
		if enabled {
			if err := t.buffering(ctx); err != nil {
				return err
			}
			wait(ctx, hold)
		}
	}
	return nil
}

// sample is a process's memory at a time.
type sample struct {
	at    time.Duration
	bytes int64
}

// watchMemory samples the memory of a process until it is asked for the samples.
func (t *Trial) watchMemory(ctx context.Context, q *world.Queend) (stop func() []sample) {
	ctx, cancel := context.WithCancel(ctx)
	var samples []sample
	var all sync.WaitGroup
	all.Go(func() {
		for wait(ctx, 5*time.Second) {
			samples = append(samples, sample{t.clock.Now(), world.Process(q.Pid()).RSS})
		}
	})
	return func() []sample {
		cancel()
		all.Wait()
		return samples
	}
}

// slopeOf is how many bytes an hour the second half of samples grows: the line with the
// least squares.
func slopeOf(samples []sample) float64 {
	samples = samples[len(samples)/2:]
	if len(samples) < 2 {
		return 0
	}
	var n, x, y, xx, xy float64
	for _, s := range samples {
		h, b := s.at.Hours(), float64(s.bytes)
		n, x, y, xx, xy = n+1, x+h, y+b, xx+h*h, xy+h*b
	}
	if d := n*xx - x*x; d != 0 {
		return (n*xy - x*y) / d
	}
	return 0
}
