package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Settings are what a mode is told. Rates and counts are of messages, not of requests.
type Settings struct {
	Target Target
	Shape  Shape  // what is pushed
	Nonce  string // begins the transactionIds that are given; a run of its own needs its own

	Connections int     // that push; for Hello, that ask
	Rate        float64 // messages a second that become due; 0: a closed loop
	Warm        time.Duration
	Window      time.Duration

	Consumers int // connections that pop; groups and queues are dealt out among them
	Pop       Pop // Batch, Partitions, TimeoutMs, AutoAck, Mode; the rest is set by the mode
	Groups    int // of FanOut and PopAck, which all get all messages; 0: the queue's own consumers
	Backlog   int // of PopAck: messages that lie there when it begins

	// Before and After are called when the warm-up is over, and when nothing is owed
	// any more: what is used between them is of the window. nil: nothing is called.
	Before, After func() error
}

// Mode makes one kind of load. It uses a thread of its own until it returns.
type Mode func(context.Context, Settings) (*Result, error)

// Modes are all there are, by the names that they have in reports.
var Modes = map[string]Mode{"push": Push, "pop": PopAck, "pipeline": Pipeline, "fan-out": FanOut, "mixed": Mixed, "hello": Hello}

// Push pushes, in a closed loop or at a rate. Count and InTime are messages answered
// `queued`. Latency is of requests: in a closed loop from when one was sent to its
// answer, of all that were sent in the window; at a rate from when one was due, of all
// that became due in the window. Refusals are counted, and have no latency.
func Push(ctx context.Context, s Settings) (*Result, error) {
	if err := s.checkPush(false); err != nil {
		return nil, err
	}
	source := s.source(plain)
	return s.loop(ctx, &producers{items: s.Shape.Items, next: source.next, hear: hearQueued})
}

// HelloPath is asked for by Hello. Its answer is fixed, made on the loop and asks
// nobody: what is left is the cost of a request as such.
const HelloPath = "/livez"

// Hello asks for HelloPath, in a closed loop or at a rate. Count and InTime are
// requests that were answered with a success.
func Hello(ctx context.Context, s Settings) (*Result, error) {
	request := s.Target.get(HelloPath)
	next := func(*conn, int64) []byte { return request }
	return s.loop(ctx, &producers{items: 1, next: next, hear: hearSuccess})
}

// loop has producers alone run: a warm-up, and a window.
func (s Settings) loop(ctx context.Context, p *producers) (*Result, error) {
	e, err := newEngine()
	if err != nil {
		return nil, err
	}
	defer e.close()
	p.e, p.every = e, s.every(p.items)
	if err := p.open(ctx, s.Target.Addr, s.Connections, s.Shape.Seed); err != nil {
		return nil, err
	}
	window := func(r *Result, d time.Duration) (*Result, error) {
		p.begin(r, d)
		for p.busy() {
			if err := p.step(ctx); err != nil {
				return r, err
			}
		}
		r.Count = r.Queued
		return r, nil
	}
	return s.Windows(func(warm bool) (*Result, error) {
		if warm {
			return window(NewResult(), s.Warm)
		}
		return window(NewResult(), s.Window)
	})
}

// Windows runs the warm-up and the window, with Before and After around that.
func (s Settings) Windows(run func(warm bool) (*Result, error)) (*Result, error) {
	warm, err := onOneThread(func() (*Result, error) { return run(true) })
	if err != nil {
		return warm, err
	}
	if s.Before != nil {
		if err := s.Before(); err != nil {
			return nil, err
		}
	}
	r, err := onOneThread(func() (*Result, error) { return run(false) })
	if err != nil {
		return r, err
	}
	if s.After != nil {
		if err := s.After(); err != nil {
			return nil, err
		}
	}
	r.IDs = append(warm.IDs, r.IDs...)
	r.Missing, r.Twice = r.Missing+warm.Missing, r.Twice+warm.Twice
	if r.Refused += warm.Refused; warm.Refused > 0 {
		r.Refusal = warm.Refusal
	}
	return r, nil
}

// every is the time between two requests that are due; 0: a closed loop.
func (s Settings) every(items int) time.Duration {
	if s.Rate <= 0 {
		return 0
	}
	return max(time.Duration(float64(items)/s.Rate*float64(time.Second)), 1)
}

func (s Settings) checkPush(numbered bool) error {
	if s.Connections < 1 {
		return fmt.Errorf("%d connections push nothing", s.Connections)
	}
	return s.Shape.check(numbered)
}

// source makes the requests of a run.
type source struct {
	templates []*template
	shape     Shape
}

// templatesBytesMax and templatesMax bound the prebuilt requests of a run: they should
// stay in the processor's cache beside the server's own, and differ.
const (
	templatesBytesMax = 1 << 20
	templatesMax      = 256
)

func (s Settings) source(kind payload) *source {
	src := &source{shape: s.Shape}
	r := rand.New(rand.NewPCG(s.Shape.Seed, 0))
	for bytes := 0; len(src.templates) < templatesMax && bytes < templatesBytesMax; {
		t := s.Shape.template(r, kind, s.Nonce).inRequest(s.Target.host(), s.Target.Prefix+s.Shape.path())
		src.templates = append(src.templates, t)
		bytes += len(t.bytes)
	}
	return src
}

// next makes the request of messages number, number+1, …
func (s *source) next(k *conn, number int64) []byte {
	if k.draw == nil {
		k.draw = newDraw(s.shape, k.random)
	}
	t := s.templates[k.random.IntN(len(s.templates))]
	t.fill(k.draw, number)
	return t.bytes
}
