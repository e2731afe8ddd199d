package load

import (
	"context"
	"fmt"
	"time"
)

// stream is producers and consumers on one engine.
type stream struct {
	Settings
	e *engine
	p *producers
	c *consumers
}

// Pipeline pushes at a rate, or in a closed loop, while consumers wait in long polls
// and acknowledge what comes. Latency is EndToEnd: from when a push was due to the
// message at its consumer. Count is messages pushed, InTime messages that a consumer
// was done with in the window.
func Pipeline(ctx context.Context, s Settings) (*Result, error) {
	s.Groups = 0
	r, err := streaming(ctx, s)
	if r != nil {
		r.Latency, r.Count = r.EndToEnd, r.Queued
	}
	return r, err
}

// FanOut is Pipeline with Groups groups that get all messages each. Count and InTime
// are deliveries.
func FanOut(ctx context.Context, s Settings) (*Result, error) {
	if s.Groups < 1 {
		return nil, fmt.Errorf("%d groups get nothing", s.Groups)
	}
	r, err := streaming(ctx, s)
	if r != nil {
		r.Latency, r.Count = r.EndToEnd, r.Delivered
	}
	return r, err
}

// Mixed is Pipeline seen from the producers: Latency is PushTime, and Count and InTime
// are messages that were pushed.
func Mixed(ctx context.Context, s Settings) (*Result, error) {
	s.Groups = 0
	r, err := streaming(ctx, s)
	if r != nil {
		r.Latency, r.Count, r.InTime = r.PushTime, r.Queued, r.pushedInTime
	}
	return r, err
}

// PopAck pushes Backlog messages, and a tenth of that for the warm-up, and then has
// consumers pop and acknowledge (or autoAck) until the last one has come. Elapsed is
// that time; Count and InTime are deliveries, Latency is PopTime. EndToEnd says
// nothing here: all messages have waited.
func PopAck(ctx context.Context, s Settings) (*Result, error) {
	x, err := s.stream(ctx)
	if err != nil {
		return nil, err
	}
	defer x.e.close()
	fill, err := onOneThread(func() (*Result, error) { return x.fill(ctx) })
	if err != nil {
		return fill, err
	}
	r, err := s.Windows(func(warm bool) (*Result, error) {
		if warm {
			x.c.quota = int64(max(s.Backlog/10, 1) * max(s.Groups, 1))
		}
		return x.drain(ctx)
	})
	if err != nil {
		return r, err
	}
	r.IDs = append(r.IDs, fill.IDs...)
	if r.Refused += fill.Refused; fill.Refused > 0 {
		r.Refusal = fill.Refusal
	}
	return r, nil
}

// stream opens the connections of a run.
func (s Settings) stream(ctx context.Context) (x *stream, err error) {
	if err := s.checkPush(true); err != nil {
		return nil, err
	}
	names := s.Shape.QueueNames()
	groups := max(s.Groups, 1)
	if s.Consumers < groups*len(names) {
		return nil, fmt.Errorf("%d consumers cannot pop for %d groups from %d queues", s.Consumers, groups, len(names))
	}
	x = &stream{Settings: s}
	if x.e, err = newEngine(); err != nil {
		return nil, err
	}
	times := &timetable{items: s.Shape.Items, epoch: time.Now()}
	x.c = &consumers{e: x.e, target: s.Target, pop: s.Pop, times: times, r: NewResult()}
	x.c.pop.Wait = true
	x.c.pop.Batch = max(s.Pop.Batch, 1)
	if s.Pop.TimeoutMs == 0 {
		x.c.pop.TimeoutMs = popTimeoutMs
	}
	for i := range groups {
		g := &group{}
		if s.Groups > 0 {
			g.name = fmt.Sprintf("g%d", i)
		}
		x.c.groups = append(x.c.groups, g)
	}
	x.p = &producers{e: x.e, items: s.Shape.Items, next: s.source(numbered).next, hear: hearQueued, times: times, queued: x.c.take}
	if err := x.p.open(ctx, s.Target.Addr, s.Connections, s.Shape.Seed); err != nil {
		x.e.close()
		return nil, err
	}
	conns, err := x.e.open(ctx, s.Target.Addr, s.Consumers, s.Shape.Seed, x.c)
	if err != nil {
		x.e.close()
		return nil, err
	}
	for i, k := range conns {
		one := &consumer{k: k, group: x.c.groups[i%groups]}
		pop := x.c.pop
		pop.Queue, pop.Group = names[i/groups%len(names)], one.group.name
		one.pop = s.Target.get(pop.path())
		k.consumer = one
		x.c.all = append(x.c.all, one)
	}
	return x, nil
}

// streaming has producers and consumers work together: a warm-up, and a window. Each
// ends when everything that was pushed has come to each group.
func streaming(ctx context.Context, s Settings) (*Result, error) {
	x, err := s.stream(ctx)
	if err != nil {
		return nil, err
	}
	defer x.e.close()
	x.p.every = s.every(s.Shape.Items)
	return s.Windows(func(warm bool) (*Result, error) {
		if warm {
			return x.window(ctx, s.Warm)
		}
		return x.window(ctx, s.Window)
	})
}

// popTimeoutMs is how long a pop waits unless something else is asked for.
const popTimeoutMs = 30_000

// stuckMax is how long nothing may come to a consumer before what is missing is lost.
var stuckMax = 10 * time.Second // tests shorten it

func (x *stream) window(ctx context.Context, d time.Duration) (*Result, error) {
	pushed, r := NewResult(), newStreamResult()
	x.c.begin(r, time.Now().Add(d))
	x.p.begin(pushed, d)
	moved, delivered := time.Now(), int64(0)
	for x.p.busy() || !x.c.settled() {
		if err := x.step(ctx); err != nil {
			return r, err
		}
		if r.Delivered > delivered || x.p.busy() {
			moved, delivered = time.Now(), r.Delivered
		}
		if time.Since(moved) > stuckMax {
			break
		}
	}
	r.add(pushed, x.c)
	r.Elapsed = d
	return r, nil
}

// add joins what producers have heard to what consumers have.
func (r *Result) add(pushed *Result, c *consumers) {
	r.Queued, r.IDs, r.PushTime, r.pushedInTime = pushed.Queued, pushed.IDs, pushed.Latency, pushed.InTime
	r.Offered, r.Waited, r.Unsent, r.Lag = pushed.Offered, pushed.Waited, pushed.Unsent, pushed.Lag
	if pushed.Refused > 0 {
		r.Refusal = pushed.Refusal
	}
	r.Refused += pushed.Refused
	r.missing(c)
}

// missing notes what was lost on the way, once.
func (r *Result) missing(c *consumers) {
	for _, g := range c.groups {
		r.Missing += g.missing
		g.missing = 0
	}
}

func newStreamResult() *Result {
	r := NewResult()
	r.PushTime, r.PopTime, r.AckTime, r.EndToEnd = NewHistogram(), NewHistogram(), NewHistogram(), NewHistogram()
	return r
}

// step waits for what comes next to either, and handles it.
func (x *stream) step(ctx context.Context) error {
	until := x.p.wake()
	if at := x.c.wake(); at.Before(until) {
		until = at
	}
	if err := x.e.step(ctx, until); err != nil {
		return err
	}
	now := time.Now()
	x.c.tend(now)
	return x.p.tend(now)
}

// fill pushes the backlog. Nobody pops yet.
func (x *stream) fill(ctx context.Context) (*Result, error) {
	r := NewResult()
	n := x.Backlog + max(x.Backlog/10, 1)
	x.p.most = int64((n + x.p.items - 1) / x.p.items)
	x.p.begin(r, time.Minute)
	for x.p.busy() {
		if err := x.p.step(ctx); err != nil {
			return r, err
		}
	}
	if want := x.p.most * int64(x.p.items); r.Queued != want {
		return r, fmt.Errorf("%d of %d messages of the backlog were queued: %s", r.Queued, want, r.Refusal)
	}
	return r, nil
}

// drain pops until nothing is left, or the consumers have halted.
func (x *stream) drain(ctx context.Context) (*Result, error) {
	r := newStreamResult()
	start := time.Now()
	x.c.last = start
	x.c.begin(r, time.Time{})
	for !x.c.settled() && !(x.c.halted && x.c.quiet()) {
		if err := x.step(ctx); err != nil {
			return r, err
		}
		if time.Since(x.c.last) > stuckMax {
			r.missing(x.c)
			break
		}
	}
	r.Elapsed, r.Latency, r.Count = max(x.c.last.Sub(start), 1), r.PopTime, r.Delivered
	return r, nil
}
