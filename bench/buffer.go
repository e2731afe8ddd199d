package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/queend/queend/bench/load"
)

// bufferOptions are the flags of `buffer`.
type bufferOptions struct {
	figureOptions
	seconds, quarter           float64
	backlog, partitions, conns int
}

func bufferFlags(args []string) bufferOptions {
	var o bufferOptions
	f := flag.NewFlagSet("buffer", flag.ExitOnError)
	o.register(f, 3)
	f.Float64Var(&o.seconds, "seconds", 1.5, "of each measurement")
	f.Float64Var(&o.quarter, "live", 0.25, "of the saturated rate: what is pushed while the buffer drains")
	f.IntVar(&o.backlog, "backlog", 60000, "messages on disk when the drain begins")
	f.IntVar(&o.partitions, "partitions", 100, "of the queue")
	f.IntVar(&o.conns, "clients", 64, "connections that push")
	_ = f.Parse(args) // ExitOnError
	return o
}

// buffer measures pushes that are stored and pushes that are buffered by turns, and then
// how fast a backlog is delivered while others push, into the same partitions and into
// others. Maintenance mode stands for an outage: the pushes go the same way, and PostgreSQL
// need not be stopped.
func buffer(ctx context.Context, o bufferOptions) error {
	return measure(ctx, "buffer", o.figureOptions, func(w *world, s *server, f *Figures) error {
		for round := range o.rounds + 1 { // the first is not counted
			into := f
			if round == 0 {
				into = &Figures{}
			}
			say("round %d of %d", round, o.rounds)
			if err := w.bufferOnce(ctx, s, o, into, round); err != nil {
				return errors.Join(err, errors.New(s.lastWords()))
			}
		}
		return nil
	})
}

func (w *world) bufferOnce(ctx context.Context, s *server, o bufferOptions, f *Figures, round int) error {
	if err := w.empty(ctx); err != nil {
		return err
	}
	shape := load.Shape{Path: "/api/v1/push", Queue: "buffer", Partitions: o.partitions, Items: 1, PayloadBytes: 200, Seed: o.seed + uint64(round)}
	stored, err := s.saturate(ctx, shape, o)
	if err != nil {
		return err
	}
	if err := s.maintenance(ctx, true); err != nil {
		return err
	}
	buffered, err := s.saturate(ctx, shape, o)
	if err != nil {
		return err
	}
	f.add(stored.Rate(), "stored: messages/s")
	f.add(buffered.Rate(), "buffered: messages/s")
	f.add(microseconds(stored.Quantile(50))/1000, "stored: p50 ms")
	f.add(microseconds(buffered.Quantile(50))/1000, "buffered: p50 ms")
	f.add(microseconds(buffered.Quantile(99))/1000, "buffered: p99 ms")
	f.goal(buffered.Rate()/stored.Rate(), "buffered / stored, messages/s", "≥", 0.5)
	if err := s.maintenance(ctx, false); err != nil {
		return err
	}
	if _, err := s.drained(ctx); err != nil {
		return err
	}
	rate := stored.Rate() * o.quarter
	for _, where := range []string{"the same", "other"} {
		if err := w.drainUnder(ctx, s, o, f, shape, where, rate); err != nil {
			return err
		}
	}
	return nil
}

// drainUnder fills the buffer, and lets it drain while pushes come at a rate.
func (w *world) drainUnder(ctx context.Context, s *server, o bufferOptions, f *Figures, shape load.Shape, where string, rate float64) error {
	if err := w.empty(ctx); err != nil {
		return err
	}
	live := shape
	if where == "other" {
		live.Queue = "other"
	}
	alone := newPaced(live, rate)
	if err := alone.run(ctx, s.addr, time.Duration(o.seconds*float64(time.Second)), nil); err != nil {
		return err
	}
	if err := s.maintenance(ctx, true); err != nil {
		return err
	}
	many := shape
	many.Items = 100
	if err := fillBuffer(ctx, s.addr, many, o.backlog, 4); err != nil {
		return err
	}
	before, err := s.buffers(ctx)
	if err != nil {
		return err
	}
	if err := s.maintenance(ctx, false); err != nil {
		return err
	}
	start := time.Now()
	over := make(chan struct{})
	meanwhile := newPaced(live, rate)
	var took time.Duration
	var after buffers
	err = errors.Join(together(2, func(i int) (err error) {
		if i == 0 {
			return meanwhile.run(ctx, s.addr, time.Minute, over)
		}
		defer close(over)
		after, err = s.drained(ctx)
		took = time.Since(start)
		return err
	}))
	if err != nil {
		return err
	}
	drained := float64(after.Drained-before.Drained) / took.Seconds()
	name := " while pushes go to " + where + " partitions"
	f.add(drained, "drained%s: messages/s", name)
	f.add(rate, "pushed meanwhile: messages/s")
	f.add(float64(meanwhile.queued.Load())/float64(max(1, meanwhile.queued.Load()+meanwhile.buffered.Load())), "of these, stored at once%s", name)
	a, m := f.quantiles(alone.latency, "live pushes alone"), f.quantiles(meanwhile.latency, "live pushes"+name)
	f.goal(drained/rate, "drained / pushed"+name, "≥", 2)
	f.goal(m.p99/a.p99, "p99 of live pushes / p99 alone"+name, "≤", 2)
	return nil
}

func (s *server) saturate(ctx context.Context, shape load.Shape, o bufferOptions) (*load.Result, error) {
	g := &load.Closed{Requests: shape.Requests(s.addr), Items: shape.Items, Seed: shape.Seed, Buffered: true}
	if err := g.Open(ctx, s.addr, o.conns); err != nil {
		return nil, err
	}
	defer g.Close()
	if _, err := g.Run(ctx, 200*time.Millisecond); err != nil {
		return nil, err
	}
	r, err := g.Run(ctx, time.Duration(o.seconds*float64(time.Second)))
	if err == nil && r.Refused > 0 {
		err = fmt.Errorf("%d pushes were refused: %s", r.Refused, r.Refusal)
	}
	return r, err
}

// maintenance switches maintenance mode.
func (s *server) maintenance(ctx context.Context, on bool) error {
	request, err := http.NewRequestWithContext(ctx, "POST", "http://"+s.addr+"/api/v1/system/maintenance", strings.NewReader(fmt.Sprintf(`{"enabled":%v}`, on)))
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		return fmt.Errorf("maintenance mode cannot be switched: %s", response.Status)
	}
	return nil
}

// buffers is what a server says of its buffer.
type buffers struct {
	Pending int   `json:"pending"`
	Failed  int   `json:"failed"`
	Drained int64 `json:"drainedTotal"`
}

func (s *server) buffers(ctx context.Context) (b buffers, err error) {
	body, err := s.get(ctx, "/api/v1/status/buffers")
	if err != nil {
		return b, err
	}
	return b, json.Unmarshal(body, &b)
}

// drained waits until the buffer is empty.
func (s *server) drained(ctx context.Context) (b buffers, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if b, err = s.buffers(ctx); err != nil || b.Pending == 0 {
			if b.Failed > 0 {
				err = fmt.Errorf("%d messages were set aside", b.Failed)
			}
			return b, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fillBuffer pushes n messages, which are buffered.
func fillBuffer(ctx context.Context, addr string, shape load.Shape, n, clients int) error {
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
			if load.Buffered(body) != shape.Items {
				return fmt.Errorf("messages were not buffered: %.200s", body)
			}
		}
		return ctx.Err()
	})
}

// pacedConns is over how many connections a paced load is spread.
const pacedConns = 32

// paced pushes at a rate. A push that is due while its connection waits is sent, and
// counted from when it was due.
type paced struct {
	shape            load.Shape
	rate             float64
	mu               sync.Mutex
	latency          *hdrhistogram.Histogram
	queued, buffered atomic.Int64
}

func newPaced(shape load.Shape, rate float64) *paced {
	return &paced{shape: shape, rate: rate, latency: load.NewHistogram()}
}

// run pushes for d, or until over is closed.
func (p *paced) run(ctx context.Context, addr string, d time.Duration, over <-chan struct{}) error {
	requests := p.shape.Requests(addr)
	every := time.Duration(pacedConns / p.rate * float64(time.Second))
	start := time.Now()
	return together(pacedConns, func(i int) error {
		c, err := load.Dial(ctx, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		due := start.Add(every * time.Duration(i) / pacedConns)
		for n := i; due.Before(start.Add(d)); n += pacedConns {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-over:
				return nil
			case <-time.After(time.Until(due)):
			}
			body, err := c.Do(requests[n%len(requests)])
			if err != nil {
				return err
			}
			queued, buffered := load.Queued(body), load.Buffered(body)
			if queued+buffered != p.shape.Items {
				return fmt.Errorf("a push was refused: %.200s", body)
			}
			p.queued.Add(int64(queued))
			p.buffered.Add(int64(buffered))
			p.mu.Lock()
			load.Record(p.latency, time.Since(due))
			p.mu.Unlock()
			due = due.Add(every)
		}
		return nil
	})
}
