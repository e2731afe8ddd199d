package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/bench/load"
)

// drainOptions are the flags of `drain`.
type drainOptions struct {
	figureOptions
	messages, partitions, batch, clients int
	fills                                string
}

func drainFlags(args []string) drainOptions {
	var o drainOptions
	f := flag.NewFlagSet("drain", flag.ExitOnError)
	o.register(f, 3)
	f.IntVar(&o.messages, "messages", 50000, "that are pushed and drained each time")
	f.IntVar(&o.partitions, "partitions", 100, "of the queue")
	f.IntVar(&o.batch, "batch", 100, "messages in a push, and at most in a pop")
	f.IntVar(&o.clients, "clients", 8, "connections that push, and that pop")
	f.StringVar(&o.fills, "fill", "spread,together", "how pushes are made: the messages of each spread over all partitions, or together in one")
	_ = f.Parse(args) // ExitOnError
	return o
}

// drain fills a queue and empties it again, by turns with autoAck and with acks.
func drain(ctx context.Context, o drainOptions) error {
	return measure(ctx, "drain", o.figureOptions, func(w *world, s *server, f *Figures) error {
		fills := splitNames(o.fills)
		for round := range o.rounds + 1 { // the first is not counted: plans and caches
			for _, fill := range fills {
				for _, auto := range []bool{true, false} {
					say("round %d of %d: %s, autoAck %v", round, o.rounds, fill, auto)
					into := f
					if round == 0 {
						into = &Figures{}
					}
					if err := w.drainOnce(ctx, s, o, into, fill, auto, round); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

func (w *world) drainOnce(ctx context.Context, s *server, o drainOptions, f *Figures, fill string, auto bool, round int) error {
	if err := w.empty(ctx); err != nil {
		return err
	}
	shape := load.Shape{Path: "/api/v1/push", Queue: "drain", Partitions: o.partitions, Items: o.batch, PayloadBytes: 200,
		Seed: o.seed + uint64(round), Together: fill == "together"}
	c := &consumers{pop: load.Pop{Queue: "drain", Batch: o.batch, Wait: true, TimeoutMs: 300, AutoAck: auto}, clients: o.clients, want: o.messages}
	pushed, err := w.spend(ctx, s, func() error { return fillQueue(ctx, s.addr, shape, o.messages, o.clients) })
	if err != nil {
		return err
	}
	popped, err := w.spend(ctx, s, func() error { return c.run(ctx, s.addr) })
	if err != nil {
		return errors.Join(err, w.left(ctx))
	}
	if err := w.exactlyOnce(ctx, c); err != nil {
		return fmt.Errorf("%s, autoAck %v: %w", fill, auto, err)
	}
	name, bound := "autoAck", 1.0
	if !auto {
		name, bound = "ack", 0.6
	}
	push := f.add(float64(o.messages)/pushed.elapsed.Seconds(), "push %s: msg/s", fill)
	f.each(pushed, o.messages, "push "+fill)
	drain := f.add(float64(o.messages)/c.took.Seconds(), "drain %s %s: msg/s", fill, name)
	f.each(popped, o.messages, "drain "+fill+" "+name)
	f.add(float64(o.messages)/float64(len(c.answers)), "drain %s %s: msg/answer", fill, name)
	f.goal(drain/push, fmt.Sprintf("drain %s / push %s", name, fill), "≥", bound)
	return nil
}

// fillQueue pushes n messages by so many clients.
func fillQueue(ctx context.Context, addr string, shape load.Shape, n, clients int) error {
	requests := shape.Requests(addr)
	var begun atomic.Int64
	return together(clients, func(int) error {
		c, err := load.Dial(ctx, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		for i := begun.Add(1) - 1; i*int64(shape.Items) < int64(n) && ctx.Err() == nil; i = begun.Add(1) - 1 {
			body, err := c.Do(requests[i%int64(len(requests))])
			if err != nil {
				return err
			}
			if queued := load.Queued(body); queued != shape.Items {
				return fmt.Errorf("%d of %d messages were queued: %.200s", queued, shape.Items, body)
			}
		}
		return ctx.Err()
	})
}

// together runs n at once and waits for all.
func together(n int, work func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = work(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// consumers drain a queue of a known number of messages.
type consumers struct {
	pop     load.Pop
	clients int
	want    int

	took time.Duration // until the last message was received, or acknowledged

	mu      sync.Mutex
	answers []delivered
	got     atomic.Int64
	order   atomic.Int64
}

// delivered is one answer with messages.
type delivered struct {
	turn int64 // among all answers
	list []load.Delivery
}

// stuckMax is how long nothing may come before a drain is given up.
const stuckMax = 8 * time.Second

func (c *consumers) run(ctx context.Context, addr string) error {
	start := time.Now()
	err := together(c.clients, func(int) error { return c.consume(ctx, addr, start) })
	if got := c.got.Load(); err == nil && got != int64(c.want) {
		err = fmt.Errorf("%d messages came, not %d", got, c.want)
	}
	return err
}

func (c *consumers) consume(ctx context.Context, addr string, start time.Time) error {
	client, err := load.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer client.Close()
	request := c.pop.Request(addr)
	var ack []byte
	for last := time.Now(); c.got.Load() < int64(c.want) && ctx.Err() == nil; {
		body, err := client.Do(request)
		if err != nil {
			return err
		}
		list := load.AppendDeliveries(nil, body)
		if len(list) == 0 {
			if time.Since(last) > stuckMax {
				return fmt.Errorf("nothing came for %v, after %d of %d messages: %.200s", stuckMax, c.got.Load(), c.want, body)
			}
			continue
		}
		turn := c.order.Add(1)
		if !c.pop.AutoAck {
			n := 0
			ack, n = load.AppendAck(ack[:0], addr, c.pop.Group, body)
			if body, err = client.Do(ack); err != nil {
				return err
			}
			if acked := load.Acked(body); acked != n {
				return fmt.Errorf("%d of %d messages were acknowledged: %.300s", acked, n, body)
			}
		}
		last = time.Now()
		c.mu.Lock()
		c.answers = append(c.answers, delivered{turn, list})
		c.mu.Unlock()
		if c.got.Add(int64(len(list))) >= int64(c.want) {
			c.took = last.Sub(start)
		}
	}
	return ctx.Err()
}

// stored is a message as it lies in the table.
type stored struct{ Partition, ID [16]byte }

// exactlyOnce compares what came with the table.
func (w *world) exactlyOnce(ctx context.Context, c *consumers) error {
	rows, err := w.db.Query(ctx, "SELECT partition_id, id FROM queen.messages ORDER BY partition_id, created_at, id")
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		return err
	}
	slices.SortFunc(c.answers, func(a, b delivered) int { return cmp.Compare(a.turn, b.turn) })
	return onceInOrder(all, c.answers, !c.pop.AutoAck)
}

// onceInOrder: every message came once, the messages of an answer next to each other in
// their partition's order, and where a partition is not given out again before it is
// acknowledged (turns) also its answers one after the other. all is partition by
// partition.
func onceInOrder(all []stored, answers []delivered, turns bool) error {
	place := make(map[load.ID]int, len(all))
	for i, m := range all {
		place[m.ID] = i
	}
	seen := make([]bool, len(all))
	last := map[load.ID]int{} // of each partition, where the last one stands
	for _, a := range answers {
		for i, d := range a.list {
			at, ok := place[d.ID]
			before, some := last[d.Partition]
			follows := i > 0 && a.list[i-1].Partition == d.Partition || turns && some
			switch {
			case !ok || all[at].Partition != d.Partition:
				return fmt.Errorf("message %x of partition %x came and is no row", d.ID, d.Partition)
			case seen[at]:
				return fmt.Errorf("message %x came twice", d.ID)
			case follows && before != at-1:
				return fmt.Errorf("message %x came out of turn", d.ID)
			case !follows && turns && at > 0 && all[at-1].Partition == d.Partition:
				return fmt.Errorf("message %x came and is not the first of its partition", d.ID)
			}
			seen[at], last[d.Partition] = true, at
		}
	}
	if i := slices.Index(seen, false); i >= 0 {
		return fmt.Errorf("message %x never came", all[i].ID)
	}
	return nil
}

// left says what a drain has left behind, where it is stuck.
func (w *world) left(ctx context.Context) error {
	var text string
	err := w.db.QueryRow(ctx, `SELECT coalesce(string_agg(x::text, ' '), 'nothing') FROM (
		SELECT l.partition_id, l.seq, l.last_message_created_at, c.last_seq, c.last_consumed_created_at, c.last_consumed_id, l.last_message_id, c.worker_id, c.lease_expires_at - now(),
		       (SELECT count(*) FROM queen.messages m WHERE m.partition_id = l.partition_id AND (m.created_at, m.id) > (c.last_consumed_created_at, c.last_consumed_id)) AS n
		  FROM queen.partition_lookup l LEFT JOIN queen.partition_consumers c USING (partition_id)
		 WHERE (l.last_message_created_at, l.last_message_id) > (c.last_consumed_created_at, c.last_consumed_id) LIMIT 5) x`).Scan(&text)
	return errors.Join(err, fmt.Errorf("left: %s", text))
}
