package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/world"
)

// cyclesOfATrial is how often row 14 goes through its three moments, with four kills.
const cyclesOfATrial = 5

func row14() *Row {
	return &Row{
		ID: "14", Title: "queend is killed under load",
		What: fmt.Sprintf("kill -9 of one of one or two queends, %d times a trial: a quarter in the middle of pushes, pops, acks and transactions; a quarter while pushes are buffered, PostgreSQL being down; half while the buffer is replayed, which a slow way to PostgreSQL stretches in half of the trials", 4*cyclesOfATrial),
		Pass: "I1-I7; a started queend is ready within 1 s (the median of a trial), with a backlog and without PostgreSQL too",
		Run: func(ctx context.Context, t *Trial) error {
			storm := Storm{Proxy: t.rng.IntN(2) == 0}
			return t.storm(ctx, storm, func(ctx context.Context) error { return t.killsAround(ctx, cyclesOfATrial, 500) })
		},
	}
}

// killsAround kills queends in the middle of pushes, of buffering and of replaying so many
// messages and more.
func (t *Trial) killsAround(ctx context.Context, cycles, backlog int) error {
	var starts []time.Duration
	moments := map[string]int{}
	kill := func(moment string, most int) error {
		if !wait(ctx, time.Duration(t.rng.IntN(most))*time.Millisecond) {
			return ctx.Err()
		}
		moments[moment]++
		// Half of those in a replay are killed again while they come up.
		await := moment != "replay" || t.rng.IntN(2) == 0
		took, err := t.kill(ctx, await)
		if await {
			starts = append(starts, took)
		}
		return err
	}
	for range cycles {
		if err := kill("push", 500); err != nil {
			return err
		}
		down := t.world.Postgres.Stop
		if t.rng.IntN(2) == 0 {
			down = t.world.Postgres.Kill
		}
		if err := down(); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		if err := t.backlog(ctx, backlog); err != nil {
			return err
		}
		if err := kill("buffer", 300); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		if t.proxy != nil {
			t.proxy.SetDelay(50 * time.Millisecond)
		}
		if err := t.world.Postgres.Restart(ctx); err != nil {
			return err
		}
		for range 2 {
			if err := kill("replay", 300); err != nil {
				return err
			}
		}
		if t.proxy != nil {
			t.proxy.SetDelay(0)
		}
		if err := t.buffersEmpty(ctx); err != nil {
			t.broken("I8", "after a kill in the replay: %v", err)
			return nil
		}
	}
	t.Faults = fmt.Sprintf("%d kills of %d (%d push, %d buffer, %d replay)", t.Kills, len(t.queends), moments["push"], moments["buffer"], moments["replay"])
	t.startTimes(starts)
	return nil
}

// kill kills one of the queends and starts it again, and says how long that took if it is
// awaited.
func (t *Trial) kill(ctx context.Context, await bool) (time.Duration, error) {
	q := t.queends[t.rng.IntN(len(t.queends))]
	if err := q.Ended(); err != nil {
		t.broken("I10", "%v", err)
		return 0, err
	}
	q.Kill()
	t.Kills++
	began := time.Now()
	if err := q.Launch(); err != nil {
		t.broken("I10", "it does not start again: %v", err)
		return 0, err
	}
	if !await {
		return 0, nil
	}
	err := t.ready(ctx, q)
	return time.Since(began), err
}

// startTimes remarks how long starts took.
func (t *Trial) startTimes(starts []time.Duration) {
	if len(starts) == 0 {
		return
	}
	slices.Sort(starts)
	// The middle one counts: a machine that is busy with other things slows some.
	median, slowest := starts[len(starts)/2], starts[len(starts)-1]
	t.remark("start median %v, slowest %v", median.Round(10*time.Millisecond), slowest.Round(10*time.Millisecond))
	if median > time.Second {
		t.late("starts take %v", median)
	}
}

// kills kills queends, n times, while PostgreSQL is up.
func (t *Trial) kills(ctx context.Context, n int) error {
	var starts []time.Duration
	for range n {
		if !wait(ctx, time.Duration(20+t.rng.IntN(580))*time.Millisecond) {
			return ctx.Err()
		}
		// Half of them are killed again while they come up.
		await := t.rng.IntN(2) == 0
		took, err := t.kill(ctx, await)
		if err != nil {
			return err
		}
		if await {
			starts = append(starts, took)
		}
	}
	for _, q := range t.queends {
		if err := t.ready(ctx, q); err != nil {
			return err
		}
	}
	t.Faults = fmt.Sprintf("%d kills of %d", t.Kills, len(t.queends))
	t.startTimes(starts)
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

// The bounds of row 16.
const (
	stopMax   = 10 * time.Second
	atOnceMax = time.Second
)

// termSlack is how long before a SIGTERM a request must have been sent to be certainly in
// the server.
const termSlack = 50 * time.Millisecond

// term is one SIGTERM, on the trial's clock.
type term struct {
	server int
	at     time.Duration
	twice  bool
}

func row16() *Row {
	return &Row{
		ID: "16", Title: "queend is asked to stop under load",
		What: "SIGTERM and a new start, five times: with PostgreSQL up, far away (300 ms), down, hung, and hung with a second SIGTERM; 20 long polls wait at each",
		Pass: "exit status 0 within 10 s, with the second SIGTERM within 1 s; each request that was in the server is answered; long polls within 1 s; I1-I7",
		Run: func(ctx context.Context, t *Trial) error {
			var terms []term
			t.after = func(h *history.History) { t.judgeTerms(h, terms) }
			return t.storm(ctx, Storm{Proxy: true}, func(ctx context.Context) (err error) {
				terms, err = t.terminations(ctx)
				return err
			})
		},
	}
}

// terminations stops queends in each state of PostgreSQL, in an order that is drawn.
func (t *Trial) terminations(ctx context.Context) (terms []term, err error) {
	states := []struct {
		name       string
		harm, heal func() error
		pauses     []time.Duration
	}{
		{"up", func() error { return nil }, func() error { return nil }, nil},
		{"far", func() error { t.proxy.SetDelay(150 * time.Millisecond); return nil }, func() error { t.proxy.SetDelay(0); return nil }, nil},
		{"down", t.world.Postgres.Stop, func() error { return t.world.Postgres.Restart(ctx) }, nil},
		{"hung", t.world.Postgres.Pause, t.world.Postgres.Resume, nil},
		{"hung, twice", t.world.Postgres.Pause, t.world.Postgres.Resume, []time.Duration{100 * time.Millisecond}},
	}
	t.rng.Shuffle(len(states), func(i, j int) { states[i], states[j] = states[j], states[i] })
	for _, state := range states {
		t.Say("%v: PostgreSQL is %s", t.clock.Now().Round(time.Millisecond), state.name)
		if err := state.harm(); err != nil {
			return terms, err
		}
		if state.name == "down" {
			if err := t.buffering(ctx); err != nil {
				return terms, err
			}
		}
		one, err := t.terminate(ctx, state.name, state.pauses)
		if err != nil {
			return terms, err
		}
		terms = append(terms, one)
		if err := state.heal(); err != nil {
			return terms, err
		}
		if err := t.buffersEmpty(ctx); err != nil {
			t.broken("I8", "after a stop with PostgreSQL %s: %v", state.name, err)
			return terms, nil
		}
		if err := t.stored(ctx); err != nil {
			return terms, err
		}
	}
	t.Kills = len(terms)
	t.Faults = fmt.Sprintf("%d stops of %d", len(terms), len(t.queends))
	return terms, nil
}

// terminate stops one of the queends and starts it again.
func (t *Trial) terminate(ctx context.Context, state string, pauses []time.Duration) (term, error) {
	n := t.rng.IntN(len(t.queends))
	q := t.queends[n]
	parked, err := t.park(ctx, 20)
	if err != nil {
		return term{}, err
	}
	defer parked.close()
	wait(ctx, time.Duration(300+t.rng.IntN(700))*time.Millisecond)
	if err := q.Ended(); err != nil {
		t.broken("I10", "%v", err)
		return term{}, err
	}
	one := term{n, t.clock.Now(), len(pauses) > 0}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		if !one.twice {
			parked.dismissed(n, state)
		}
	}()
	end, err := q.Terminate(pauses...)
	<-heard
	if err != nil {
		t.broken("I10", "with PostgreSQL %s: %v", state, err)
		return one, err
	}
	limit := stopMax
	if one.twice {
		limit = atOnceMax
	}
	t.remark("%s: stopped in %v with %d", state, end.Took.Round(10*time.Millisecond), end.Status)
	if end.Status != 0 {
		t.broken("I10", "with PostgreSQL %s it ended with exit status %d: %s", state, end.Status, end.Text)
	}
	if end.Took > limit {
		t.late("with PostgreSQL %s it stopped after %v", state, end.Took)
	}
	if err := q.Launch(); err != nil {
		t.broken("I10", "it does not start again: %v", err)
		return one, err
	}
	return one, t.ready(ctx, q)
}

// judgeTerms looks for requests that were in a server that was asked to stop, and that it
// did not answer.
func (t *Trial) judgeTerms(h *history.History, terms []term) {
	inFlight := 0
	for _, one := range terms {
		for i := range h.Calls {
			x := &h.Calls[i]
			if x.Server != one.server || x.Start > one.at-termSlack || x.End < one.at {
				continue
			}
			inFlight++
			if x.Status == 0 && !one.twice {
				t.broken("I10", "%s was sent %v before SIGTERM and not answered: %s", x.Route, (one.at - x.Start).Round(time.Millisecond), x.Why)
			}
		}
	}
	t.remark("%d requests in flight", inFlight)
}

func row24() *Row {
	return &Row{
		ID: "24", Title: "the clock leaps",
		What: "the wall clock of two queends leaps by up to an hour, back and forth, 20 times under load and in an outage of PostgreSQL (a binary with the tag chaosclock)",
		Pass: "I1-I7, above all I4 and I5",
		Run: func(ctx context.Context, t *Trial) error {
			binary, err := t.world.Tagged(ctx, "chaosclock")
			if err != nil {
				return err
			}
			clock := filepath.Join(t.Dir, "clock")
			if err := setClock(clock, 0); err != nil {
				return err
			}
			storm := Storm{Queends: 2, Binary: binary, Env: []string{"QUEEND_TEST_CLOCK_OFFSET_FILE=" + clock}}
			return t.storm(ctx, storm, func(ctx context.Context) error { return t.leaps(ctx, clock, 20) })
		},
	}
}

// leaps sets the clock again and again.
func (t *Trial) leaps(ctx context.Context, clock string, n int) error {
	leap := func() error {
		if !wait(ctx, time.Duration(50+t.rng.IntN(300))*time.Millisecond) {
			return ctx.Err()
		}
		t.Kills++
		return setClock(clock, time.Duration(t.rng.IntN(7_200_000)-3_600_000)*time.Millisecond)
	}
	for range n / 2 {
		if err := leap(); err != nil {
			return err
		}
	}
	err := t.outage(ctx, "a stop of PostgreSQL", 0, func() error {
		if err := t.world.Postgres.Stop(); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		for range n / 4 {
			if err := leap(); err != nil {
				return err
			}
		}
		return nil
	}, func() error { return t.world.Postgres.Restart(ctx) })
	if err != nil {
		return err
	}
	for range n - n/2 - n/4 {
		if err := leap(); err != nil {
			return err
		}
	}
	t.Faults = fmt.Sprintf("%d leaps", t.Kills)
	return nil
}

// setClock writes how far the clock of a queend is ahead.
func setClock(path string, ahead time.Duration) error {
	fresh := path + ".new"
	if err := os.WriteFile(fresh, []byte(fmt.Sprint(ahead.Milliseconds())), 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
