package load

import (
	"context"
	"time"
)

// Closed is a closed loop: each of its connections sends the next request when
// it has heard the answer to the last one. What it can say: throughput, and the
// latency at that throughput. What it cannot: latency at a given rate, since it
// slows down with the server; that is what Push with a Rate is for.
type Closed struct {
	Requests [][]byte // whole requests; connections draw from them
	Items    int      // messages in each
	Seed     uint64
	Buffered bool // `buffered` is as good as `queued`

	e *engine
	p *producers
}

// Open connects n times to addr.
func (c *Closed) Open(ctx context.Context, addr string, n int) (err error) {
	if c.e, err = newEngine(); err != nil {
		return err
	}
	next := func(k *conn, _ int64) []byte { return c.Requests[k.random.IntN(len(c.Requests))] }
	c.p = &producers{e: c.e, items: c.Items, next: next, hear: hearQueued}
	if c.Buffered {
		c.p.hear = hearBuffered
	}
	if err := c.p.open(ctx, addr, n, c.Seed); err != nil {
		c.Close()
	}
	return err
}

// Close closes every connection; what is in flight is lost.
func (c *Closed) Close() { c.e.close() }

// Run loads the server for d, then waits for the answers that are owed, so that
// what was answered and what is stored can be compared to the last message. It
// may be called again.
func (c *Closed) Run(ctx context.Context, d time.Duration) (*Result, error) {
	return onOneThread(func() (*Result, error) {
		r := NewResult()
		c.p.begin(r, d)
		for c.p.busy() {
			if err := c.p.step(ctx); err != nil {
				return r, err
			}
		}
		return r, nil
	})
}
