package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// parkedOptions are the flags of `parked`.
type parkedOptions struct {
	figureOptions
	pops    int
	seconds float64
}

func parkedFlags(args []string) parkedOptions {
	var o parkedOptions
	f := flag.NewFlagSet("parked", flag.ExitOnError)
	o.register(f, 1)
	f.IntVar(&o.pops, "pops", 10000, "that wait")
	f.Float64Var(&o.seconds, "seconds", 60, "that they are watched")
	_ = f.Parse(args) // ExitOnError
	return o
}

// parked lets pops wait on an idle queue and watches what that costs; then one message
// is pushed, and one of them must have it.
func parked(ctx context.Context, o parkedOptions) error {
	return measure(ctx, "parked", o.figureOptions, func(w *world, s *server, f *Figures) error {
		p := &producer{addr: s.addr, queue: "parked"}
		first, err := load.Dial(ctx, s.addr)
		if err != nil {
			return err
		}
		defer first.Close()
		pop := load.Pop{Queue: "parked", Batch: 1, AutoAck: true}
		for _, request := range [][]byte{p.push(0), pop.Request(s.addr)} {
			if _, err := first.Do(request); err != nil {
				return err
			}
		}
		empty, err := proc.Process(s.pid())
		if err != nil {
			return err
		}
		pop.Wait, pop.TimeoutMs = true, 170_000
		request := pop.Request(s.addr)
		clients := make([]*load.Client, o.pops)
		say("parking %d pops", o.pops)
		for i := range clients {
			c, err := load.Dial(ctx, s.addr)
			if err != nil {
				return fmt.Errorf("%d are parked: %w", i, err)
			}
			defer c.Close()
			if err := c.Send(request); err != nil {
				return err
			}
			clients[i] = c
		}
		for round := range o.rounds {
			if err := sleep(ctx, 2*time.Second); err != nil {
				return err
			}
			say("watching them for %v s, round %d", o.seconds, round+1)
			u, err := w.spend(ctx, s, func() error { return sleep(ctx, time.Duration(o.seconds*float64(time.Second))) })
			if err != nil {
				return err
			}
			now, err := proc.Process(s.pid())
			if err != nil {
				return err
			}
			const mib = 1 << 20
			f.add(float64(empty.RSS)/mib, "resident MiB before")
			f.add(float64(now.RSS-empty.RSS)/float64(o.pops)/1024, "KiB for each pop and its connection")
			f.goal(float64(now.RSS)/mib, "resident MiB", "≤", 200)
			f.goal(100*u.server.Seconds()/u.elapsed.Seconds(), "server, % of a core", "≤", 2)
			f.add(100*u.postgres.Seconds()/u.elapsed.Seconds(), "PostgreSQL, %% of a core")
			f.add(float64(u.wal)/u.elapsed.Seconds(), "WAL B/s")
		}
		heard := make(chan time.Time, len(clients))
		for _, c := range clients {
			go func() {
				if _, body, err := c.Hear(); err == nil && messageNumber(body) == 1 {
					heard <- time.Now()
				}
			}()
		}
		last, err := load.Dial(ctx, s.addr) // the first was idle for longer than a server keeps it
		if err != nil {
			return err
		}
		defer last.Close()
		began := time.Now()
		if _, err := last.Do(p.push(1)); err != nil {
			return err
		}
		select {
		case at := <-heard:
			f.add(float64(at.Sub(began).Microseconds())/1000, "ms from a push to the first that has its message")
		case <-time.After(stuckMax):
			return fmt.Errorf("a message was pushed and nobody has it")
		}
		return nil
	})
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
