package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/queend/queend/bench/load"
)

// wideOptions are the flags of `wide`.
type wideOptions struct {
	figureOptions
	few, many, pops int
}

func wideFlags(args []string) wideOptions {
	var o wideOptions
	f := flag.NewFlagSet("wide", flag.ExitOnError)
	o.register(f, 3)
	f.IntVar(&o.few, "few", 1000, "partitions of the narrow queue")
	f.IntVar(&o.many, "many", 100_000, "partitions of the wide queue")
	f.IntVar(&o.pops, "pops", 200, "of each kind in each round")
	_ = f.Parse(args) // ExitOnError
	return o
}

// wide pops from a queue of few and a queue of many partitions, by turns: where one
// partition has a message, where none has, and as a group that the process does not
// know yet.
func wide(ctx context.Context, o wideOptions) error {
	return measure(ctx, "wide", o.figureOptions, func(w *world, s *server, f *Figures) error {
		queues := []*wideQueue{{name: "narrow", partitions: o.few}, {name: "wide", partitions: o.many}}
		for _, q := range queues {
			if err := w.makeWide(ctx, s, q, f); err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
		}
		if _, err := w.db.Exec(ctx, "CHECKPOINT"); err != nil {
			return err
		}
		// Nothing is known of any group after a start.
		s, err := w.restart(ctx, s)
		if err != nil {
			return err
		}
		for _, q := range queues {
			if err := q.firstPop(ctx, s.addr, "", "", "first pop after a start, all drained", f); err != nil {
				return err
			}
		}
		for round := range o.rounds {
			for _, q := range queues {
				if err := q.firstPop(ctx, s.addr, fmt.Sprintf("new-%d", round), "new", "first pop of a new group that wants no history", f); err != nil {
					return err
				}
				if err := q.firstPop(ctx, s.addr, fmt.Sprintf("all-%d", round), "", "first pop of a new group that wants all", f); err != nil {
					return err
				}
			}
		}
		for round := range o.rounds + 1 { // the first is not counted
			say("round %d of %d", round, o.rounds)
			into := f
			if round == 0 {
				into = &Figures{}
			}
			r := rand.New(rand.NewPCG(o.seed, uint64(round)))
			if err := w.wideRound(ctx, s, o, queues, into, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// wideQueue is a queue of many partitions that are all drained.
type wideQueue struct {
	name       string
	partitions int

	found, empty, push *hdrhistogram.Histogram
}

// makeWide makes a queue's partitions by one message each, and drains them.
func (w *world) makeWide(ctx context.Context, s *server, q *wideQueue, f *Figures) error {
	const batch = 250 // a push of more new ones can take longer than it may
	say("making %d partitions", q.partitions)
	c, err := load.Dial(ctx, s.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	start := time.Now()
	for from := 0; from < q.partitions; from += batch {
		body := fmt.Appendf(nil, `{"items":[`)
		n := min(batch, q.partitions-from)
		for i := range n {
			if i > 0 {
				body = append(body, ',')
			}
			body = fmt.Appendf(body, `{"queue":%q,"partition":"p%d","payload":{"i":0,"n":0}}`, q.name, from+i)
		}
		answer, err := c.Do(load.Post(s.addr, "/api/v1/push", append(body, `]}`...)))
		if err != nil {
			return err
		}
		if got := load.Queued(answer); got != n {
			return fmt.Errorf("%d of %d messages were queued: %.200s", got, n, answer)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	f.add(time.Since(start).Seconds()*1e6/float64(q.partitions), "making %d partitions: µs each", q.partitions)
	say("draining them")
	start = time.Now()
	request := load.Pop{Queue: q.name, Batch: 1000, Partitions: 1000, AutoAck: true, TimeoutMs: 1}.Request(s.addr)
	for got := 0; got < q.partitions; {
		answer, err := c.Do(request)
		if err != nil {
			return err
		}
		n := len(load.AppendDeliveries(nil, answer))
		if got += n; n == 0 {
			return fmt.Errorf("%d of %d messages came: %.200s", got, q.partitions, answer)
		}
	}
	f.add(time.Since(start).Seconds()*1e6/float64(q.partitions), "draining %d partitions by 1000: µs each", q.partitions)
	return nil
}

// firstPop asks as a group that the server's process has not heard of.
func (q *wideQueue) firstPop(ctx context.Context, addr, group, mode, name string, f *Figures) error {
	c, err := load.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	began := time.Now()
	_, err = c.Do(load.Pop{Queue: q.name, Group: group, Batch: 1, AutoAck: true, Mode: mode}.Request(addr))
	f.add(float64(time.Since(began).Microseconds())/1000, "%s, %d partitions: ms", name, q.partitions)
	return err
}

// wideRound pops from each queue in turn.
func (w *world) wideRound(ctx context.Context, s *server, o wideOptions, queues []*wideQueue, f *Figures, r *rand.Rand) error {
	c, err := load.Dial(ctx, s.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, q := range queues {
		q.found, q.empty, q.push = load.NewHistogram(), load.NewHistogram(), load.NewHistogram()
	}
	for i := range o.pops {
		for _, q := range queues {
			if err := q.pushAndPop(c, r.IntN(q.partitions), i); err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for _, q := range queues { // apart from the above, so that their CPU can be told
		request := load.Pop{Queue: q.name, Batch: 1, AutoAck: true}.Request(s.addr)
		u, err := w.spend(ctx, s, func() error {
			for range o.pops {
				began := time.Now()
				body, err := c.Do(request)
				if err != nil {
					return err
				}
				load.Record(q.empty, time.Since(began))
				if messageNumber(body) >= 0 {
					return fmt.Errorf("a drained queue had a message: %.200s", body)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		f.each(u, o.pops, fmt.Sprintf("empty pop, %d partitions", q.partitions))
	}
	ratio := func(name string, of func(*wideQueue) *hdrhistogram.Histogram) {
		few := f.quantiles(of(queues[0]), fmt.Sprintf("%s, %d partitions", name, queues[0].partitions))
		many := f.quantiles(of(queues[1]), fmt.Sprintf("%s, %d partitions", name, queues[1].partitions))
		if name != "push" {
			f.goal(many.p50/few.p50, name+": p50 of many / few", "≤", 2)
		}
	}
	ratio("push", func(q *wideQueue) *hdrhistogram.Histogram { return q.push })
	ratio("pop that finds one", func(q *wideQueue) *hdrhistogram.Histogram { return q.found })
	ratio("pop that finds none", func(q *wideQueue) *hdrhistogram.Histogram { return q.empty })
	return nil
}

// pushAndPop puts message i into a partition and takes it out again.
func (q *wideQueue) pushAndPop(c *load.Client, partition, i int) error {
	began := time.Now()
	_, err := c.Do(load.Post(c.Addr, "/api/v1/push", fmt.Appendf(nil, `{"items":[{"queue":%q,"partition":"p%d","payload":{"i":%d,"n":0}}]}`, q.name, partition, i)))
	if err != nil {
		return err
	}
	load.Record(q.push, time.Since(began))
	began = time.Now()
	body, err := c.Do(load.Pop{Queue: q.name, Batch: 1, AutoAck: true}.Request(c.Addr))
	if err != nil {
		return err
	}
	load.Record(q.found, time.Since(began))
	if got := messageNumber(body); got != i {
		return fmt.Errorf("message %d came, not %d: %.300s", got, i, body)
	}
	return nil
}

// restart replaces a server.
func (w *world) restart(ctx context.Context, s *server) (*server, error) {
	if err := s.stop(); err != nil {
		return nil, err
	}
	return w.start(ctx, s.name+"-again", s.cmd.Path)
}
