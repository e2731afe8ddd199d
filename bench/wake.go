package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/queend/queend/bench/load"
)

// wakeOptions are the flags of `wake`.
type wakeOptions struct {
	figureOptions
	rate    float64
	seconds float64
}

func wakeFlags(args []string) wakeOptions {
	var o wakeOptions
	f := flag.NewFlagSet("wake", flag.ExitOnError)
	o.register(f, 4)
	f.Float64Var(&o.rate, "rate", 100, "messages a second")
	f.Float64Var(&o.seconds, "seconds", 2, "of each measurement")
	_ = f.Parse(args) // ExitOnError
	return o
}

// wake measures from the begin of a push to the message at a parked consumer, at a
// constant rate; and by turns with it, at the same rate, pushes to a queue where nobody
// waits and pops that find a message.
func wake(ctx context.Context, o wakeOptions) error {
	return measure(ctx, "wake", o.figureOptions, func(w *world, s *server, f *Figures) error {
		for round := range o.rounds + 1 { // the first is not counted
			into := f
			if round == 0 {
				into = &Figures{}
			}
			for _, auto := range []bool{true, false} {
				say("round %d of %d: autoAck %v", round, o.rounds, auto)
				if err := w.wakeOnce(ctx, s, o, into, auto); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (w *world) wakeOnce(ctx context.Context, s *server, o wakeOptions, f *Figures, auto bool) error {
	name := "ack"
	if auto {
		name = "autoAck"
	}
	p := &producer{addr: s.addr, queue: "wake", every: time.Duration(float64(time.Second) / o.rate), n: int(o.rate * o.seconds), latency: load.NewHistogram()}
	pops, ends, all := load.NewHistogram(), load.NewHistogram(), load.NewHistogram()
	apart, err := w.spend(ctx, s, func() error { return p.popEach(ctx, auto, pops) })
	if err != nil {
		return err
	}
	alone := p.latency
	p.latency = load.NewHistogram()
	parked, err := w.spend(ctx, s, func() error { return p.toParked(ctx, auto, ends, all) })
	if err != nil {
		return err
	}
	push, pop := f.quantiles(alone, "push alone"), f.quantiles(pops, "pop that finds a message, "+name)
	end := f.quantiles(ends, "push to parked consumer, "+name)
	whole := f.quantiles(all, "from when its push was due, parked or not, "+name)
	f.quantiles(p.latency, "its push's own answer, "+name)
	f.add(100*float64(ends.TotalCount())/float64(p.n), "%% of the messages that found the consumer parked, %s", name)
	f.add(end.p10/(push.p10+pop.p10), "p10 %s / (p10 push + p10 pop)", name)
	f.each(apart, p.n, "push, then pop, "+name)
	f.each(parked, p.n, "push to parked consumer, "+name)
	f.goal(end.p50/(push.p50+pop.p50), "p50 "+name+" / (p50 push + p50 pop)", "≤", 1.2)
	f.goal(whole.p99, "p99 ms "+name, "≤", 10)
	return nil
}

// quantiles: the p10 is what a busy machine hides least.
type quantiles struct{ p10, p50, p99 float64 }

// quantiles adds milliseconds.
func (f *Figures) quantiles(h *hdrhistogram.Histogram, name string) quantiles {
	return quantiles{
		f.add(float64(h.ValueAtQuantile(10))/1000, "%s: p10 ms", name),
		f.add(float64(h.ValueAtQuantile(50))/1000, "%s: p50 ms", name),
		f.add(float64(h.ValueAtQuantile(99))/1000, "%s: p99 ms", name),
	}
}

// producer pushes n messages, one every so often whatever becomes of those before.
type producer struct {
	addr, queue string
	every       time.Duration
	n           int
	latency     *hdrhistogram.Histogram
}

// push is the request of message i.
func (p *producer) push(i int) []byte {
	return load.Post(p.addr, "/api/v1/push", fmt.Appendf(nil, `{"items":[{"queue":%q,"payload":{"i":%d,"n":"%0180d"}}]}`, p.queue, i, i))
}

// number reads the i of the message that a pop brought; -1: it brought none.
func messageNumber(body []byte) int {
	_, after, ok := bytes.Cut(body, []byte(`"data":{"i":`))
	if !ok {
		return -1
	}
	digits, _, _ := bytes.Cut(after, []byte(","))
	n, err := strconv.Atoi(string(digits))
	if err != nil {
		return -1
	}
	return n
}

// popEach pushes, and pops each message half way to the next one.
func (p *producer) popEach(ctx context.Context, auto bool, pops *hdrhistogram.Histogram) error {
	c, err := load.Dial(ctx, p.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	pop := load.Pop{Queue: p.queue, Batch: 1, AutoAck: auto}
	request := pop.Request(p.addr)
	start := time.Now()
	for i := range p.n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * p.every)))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		began := time.Now()
		if _, err := c.Do(p.push(i)); err != nil {
			return err
		}
		load.Record(p.latency, time.Since(began))
		time.Sleep(time.Until(start.Add(time.Duration(i)*p.every + p.every/2)))
		began = time.Now()
		body, err := c.Do(request)
		if err != nil {
			return err
		}
		load.Record(pops, time.Since(began))
		if got := messageNumber(body); got != i {
			return fmt.Errorf("a pop after push %d brought %d: %.300s", i, got, body)
		}
		if err := p.ack(c, auto, body); err != nil {
			return err
		}
	}
	return nil
}

func (p *producer) ack(c *load.Client, auto bool, body []byte) error {
	if auto {
		return nil
	}
	request, n := load.AppendAck(nil, p.addr, "", body)
	body, err := c.Do(request)
	if err == nil && load.Acked(body) != n {
		err = fmt.Errorf("%d of %d messages were acknowledged: %.300s", load.Acked(body), n, body)
	}
	return err
}

// producersMax is how many pushes may be owed at a time; if that is not enough the rate
// is not kept, and no latency of it is told.
const producersMax = 32

// toParked pushes while a consumer waits, and measures until it has the message: ends from
// the begin of its push, of those that found the consumer parked; all from when its push was
// due, of every one.
func (p *producer) toParked(ctx context.Context, auto bool, ends, all *hdrhistogram.Histogram) error {
	began := make([]time.Time, p.n)
	var mu sync.Mutex // guards began and latency
	heard := make(chan error, 1)
	consumer, err := load.Dial(ctx, p.addr)
	if err != nil {
		return err
	}
	defer consumer.Close()
	start := time.Now().Add(100 * time.Millisecond) // the consumer is parked by then
	due := func(i int) time.Time { return start.Add(time.Duration(i) * p.every) }
	go func() {
		pop := load.Pop{Queue: p.queue, Batch: 1, AutoAck: auto, Wait: true, TimeoutMs: 20000}
		request := pop.Request(p.addr)
		seen := make([]bool, p.n) // pushes overlap when one is slow: order is not promised
		for range p.n {
			asked := time.Now()
			body, err := consumer.Do(request)
			now := time.Now()
			i := messageNumber(body)
			if err == nil && (i < 0 || i >= p.n || seen[i]) {
				err = fmt.Errorf("message %d came, again or without a push: %.300s", i, body)
			}
			if err == nil {
				seen[i] = true
				mu.Lock()
				if asked.Before(began[i]) { // else it was not parked, but behind
					load.Record(ends, now.Sub(began[i]))
				}
				load.Record(all, now.Sub(due(i)))
				mu.Unlock()
				err = p.ack(consumer, auto, body)
			}
			if err != nil {
				heard <- err
				return
			}
		}
		heard <- nil
	}()
	free := make(chan *load.Client, producersMax)
	for range producersMax {
		c, err := load.Dial(ctx, p.addr)
		if err != nil {
			return err
		}
		defer c.Close()
		free <- c
	}
	var pushes sync.WaitGroup
	errs := make(chan error, p.n)
	for i := range p.n {
		time.Sleep(time.Until(due(i)))
		request := p.push(i)
		select {
		case c := <-free:
			mu.Lock()
			began[i] = time.Now()
			mu.Unlock()
			pushes.Go(func() {
				_, err := c.Do(request)
				mu.Lock()
				load.Record(p.latency, time.Since(began[i]))
				mu.Unlock()
				errs <- err
				free <- c
			})
		default:
			return fmt.Errorf("%d pushes are owed: the rate cannot be kept", producersMax)
		}
	}
	pushes.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return errors.Join(err, <-heard)
}
