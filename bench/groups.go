package main

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"time"

	"github.com/queend/queend/bench/load"
)

// groupsOptions are the flags of `groups`.
type groupsOptions struct {
	figureOptions
	messages, partitions, groups, batch, clients int
	auto                                         bool
	rate, seconds                                float64
}

func groupsFlags(args []string) groupsOptions {
	var o groupsOptions
	f := flag.NewFlagSet("groups", flag.ExitOnError)
	o.register(f, 3)
	f.IntVar(&o.messages, "messages", 20000, "that every group drains")
	f.IntVar(&o.partitions, "partitions", 100, "of the queue")
	f.IntVar(&o.groups, "groups", 10, "that are compared with one")
	f.IntVar(&o.batch, "batch", 100, "messages of a pop at most")
	f.IntVar(&o.clients, "clients", 10, "connections that pop, over all groups")
	f.BoolVar(&o.auto, "auto", false, "autoAck instead of acks")
	f.Float64Var(&o.rate, "rate", 100, "messages a second where consumers are parked")
	f.Float64Var(&o.seconds, "seconds", 2, "of that")
	_ = f.Parse(args) // ExitOnError
	return o
}

// groups lets one group, and then several, consume the same messages with as many
// consumers: all that is there, and what comes at a steady rate.
func groups(ctx context.Context, o groupsOptions) error {
	return measure(ctx, "groups", o.figureOptions, func(w *world, s *server, f *Figures) error {
		all := make([]string, o.groups)
		for i := range all {
			all[i] = fmt.Sprintf("g%d", i)
		}
		for round := range o.rounds + 1 { // the first is not counted: cursors are made in it
			say("round %d of %d", round, o.rounds)
			into := f
			if round == 0 {
				into = &Figures{}
			}
			if err := w.empty(ctx); err != nil {
				return err
			}
			shape := load.Shape{Path: "/api/v1/push", Queue: "groups", Partitions: o.partitions, Items: 100, PayloadBytes: 200, Seed: o.seed + uint64(round)}
			if err := fillQueue(ctx, s.addr, shape, o.messages, 8); err != nil {
				return err
			}
			arms := [][]string{{"single"}, all}
			if round%2 == 1 {
				arms[0], arms[1] = arms[1], arms[0]
			}
			cost := map[int]float64{}
			for _, names := range arms {
				c, err := w.drainGroups(ctx, s, o, into, names)
				if err != nil {
					return err
				}
				cost[len(names)] = c
			}
			into.goal(cost[len(all)]/cost[1], fmt.Sprintf("drain: CPU per delivery, %d groups / 1", len(all)), "≤", 1)
			for _, names := range arms {
				c, err := w.liveGroups(ctx, s, o, into, names)
				if err != nil {
					return err
				}
				cost[len(names)] = c
			}
			into.goal(cost[len(all)]/cost[1], fmt.Sprintf("parked: CPU per delivery, %d groups / 1", len(all)), "≤", 1)
		}
		return nil
	})
}

// drainGroups has each group drain the queue, and returns what a delivery cost.
func (w *world) drainGroups(ctx context.Context, s *server, o groupsOptions, f *Figures, names []string) (float64, error) {
	all := make([]*consumers, len(names))
	for i, name := range names {
		all[i] = &consumers{clients: max(o.clients/len(names), 1), want: o.messages,
			pop: load.Pop{Queue: "groups", Group: name, Batch: o.batch, Wait: true, TimeoutMs: 300, AutoAck: o.auto}}
	}
	u, err := w.spend(ctx, s, func() error {
		return together(len(all), func(i int) error { return all[i].run(ctx, s.addr) })
	})
	if err != nil {
		return 0, err
	}
	answers := 0
	var took time.Duration
	for _, c := range all {
		answers, took = answers+len(c.answers), max(took, c.took)
		if err := w.exactlyOnce(ctx, c); err != nil {
			return 0, fmt.Errorf("group %s: %w", c.pop.Group, err)
		}
	}
	n := o.messages * len(names)
	name := fmt.Sprintf("drain, %d groups", len(names))
	f.add(float64(n)/took.Seconds(), "%s: msg/s", name)
	f.add(float64(n)/float64(answers), "%s: msg/answer", name)
	return f.each(u, n, name), nil
}

// liveGroups has each group's one consumer wait for what comes.
func (w *world) liveGroups(ctx context.Context, s *server, o groupsOptions, f *Figures, names []string) (float64, error) {
	p := &producer{addr: s.addr, queue: fmt.Sprintf("live-%d", len(names)), every: time.Duration(float64(time.Second) / o.rate), n: int(o.rate * o.seconds), latency: load.NewHistogram()}
	var waiting sync.WaitGroup
	errs := make(chan error, len(names)+1)
	clients := make([]*load.Client, len(names))
	for i, name := range names {
		c, err := load.Dial(ctx, s.addr)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		clients[i] = c
		if _, err := c.Do(load.Pop{Queue: p.queue, Group: name, Batch: 1, AutoAck: true}.Request(s.addr)); err != nil {
			return 0, err
		}
	}
	u, err := w.spend(ctx, s, func() error {
		for i, name := range names {
			waiting.Go(func() { errs <- p.consumeAll(ctx, clients[i], name, o.auto) })
		}
		producer, err := load.Dial(ctx, s.addr)
		if err != nil {
			return err
		}
		defer producer.Close()
		start := time.Now()
		for i := range p.n {
			time.Sleep(time.Until(start.Add(time.Duration(i) * p.every)))
			if _, err := producer.Do(p.push(i)); err != nil {
				return err
			}
		}
		waiting.Wait()
		for range names {
			if err := <-errs; err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	n := p.n * len(names)
	return f.each(u, n, fmt.Sprintf("parked, %d groups", len(names))), nil
}

// consumeAll pops until all messages of the producer have come, each once and in order.
func (p *producer) consumeAll(ctx context.Context, c *load.Client, group string, auto bool) error {
	request := load.Pop{Queue: p.queue, Group: group, Batch: 1, AutoAck: auto, Wait: true, TimeoutMs: 20000}.Request(p.addr)
	for i := 0; i < p.n && ctx.Err() == nil; i++ {
		body, err := c.Do(request)
		if err != nil {
			return err
		}
		if got := messageNumber(body); got != i {
			return fmt.Errorf("message %d came to group %s, not %d: %.300s", got, group, i, body)
		}
		if auto {
			continue
		}
		ack, n := load.AppendAck(nil, p.addr, group, body)
		if body, err = c.Do(ack); err != nil || load.Acked(body) != n {
			return fmt.Errorf("group %s: %w, %.300s", group, err, body)
		}
	}
	return ctx.Err()
}
