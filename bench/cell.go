package main

import (
	"context"
	"fmt"
	"time"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// Cell is one arm under one load, once: a line of the JSON. Times are
// microseconds; everything "per message" is of the messages that were answered
// between the two probes, those in flight at the window's end included.
type Cell struct {
	Arm         string `json:"arm"`
	Pool        int    `json:"pool,omitempty"` // connections of a pool; 0: it has none to choose
	Generator   string `json:"generator"`      // closed (ours), wrk, ab, once (ours, as ab)
	Connections int    `json:"connections"`
	Round       int    `json:"round"`

	Seconds  float64 `json:"seconds"`
	Messages int64   `json:"messages"`
	Rate     float64 `json:"messages_per_second"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`

	ServerCPU    float64 `json:"server_cpu_us_per_message"`
	PostgresCPU  float64 `json:"postgres_cpu_us_per_message"`
	GeneratorCPU float64 `json:"generator_cpu_us_per_message"`
	Voluntary    float64 `json:"voluntary_switches_per_message"`
	Involuntary  float64 `json:"involuntary_switches_per_message"`
	Allocations  float64 `json:"allocations_per_message"`
	WALBytes     float64 `json:"wal_bytes_per_message"`
	PerCommit    float64 `json:"messages_per_commit,omitempty"` // where requests share commits
	RSS          int64   `json:"server_rss_bytes"`

	Refused int64  `json:"refused"`           // answers that were no `queued`, broken connections
	Refusal string `json:"refusal,omitempty"` // the first of them
	Missing int64  `json:"missing"`           // answered, but no row
	Untold  int64  `json:"untold"`            // a row, but not answered
}

// honest: every message that was answered `queued` is one row, and nothing else is.
// A refusal may have been stored or not (a push that is given up in flight can still
// be committed). wrk drops the answers that are owed when its time is up, so with it a
// row may be untold for each connection.
func (c *Cell) honest() bool {
	slack := c.Refused
	if c.Generator == "wrk" {
		slack += int64(c.Connections)
	}
	return c.Missing == 0 && c.Untold <= slack
}

// arm is one way to serve a push.
type arm struct {
	name   string // push, push-legacy, net/http + pgxpool
	path   string
	pool   int
	server *server
}

func (a arm) String() string {
	if a.pool == 0 {
		return a.name
	}
	return fmt.Sprintf("%s (pool of %d)", a.name, a.pool)
}

// probe is what had been used at one moment.
type probe struct {
	server   proc.Sample
	postgres time.Duration
	counts   counts
	scrape   float64 // mallocs that reading counts costs
	wal      int64
}

// before reads what costs the server something first, and its CPU last.
func (w *world) before(ctx context.Context, s *server) (p probe, err error) {
	first, err := s.counts(ctx)
	if err != nil {
		return p, err
	}
	if p.counts, err = s.counts(ctx); err != nil {
		return p, err
	}
	p.scrape = p.counts.mallocs - first.mallocs
	if p.wal, err = w.wal(ctx); err != nil {
		return p, err
	}
	if p.postgres, err = proc.TreeCPU(w.pg.Pid()); err != nil {
		return p, err
	}
	p.server, err = proc.Process(s.pid())
	return p, err
}

// after is the same in reverse.
func (w *world) after(ctx context.Context, s *server) (p probe, err error) {
	if p.server, err = proc.Process(s.pid()); err != nil {
		return p, err
	}
	if p.postgres, err = proc.TreeCPU(w.pg.Pid()); err != nil {
		return p, err
	}
	if p.wal, err = w.wal(ctx); err != nil {
		return p, err
	}
	p.counts, err = s.counts(ctx)
	return p, err
}

// costs fills in what the messages between two probes have cost.
func (c *Cell) costs(before, after probe, generator time.Duration) {
	n := float64(max(c.Messages, 1))
	used := after.server.Since(before.server)
	c.ServerCPU = microseconds(used.CPU) / n
	c.PostgresCPU = microseconds(after.postgres-before.postgres) / n
	c.GeneratorCPU = microseconds(generator) / n
	c.Voluntary = float64(used.Voluntary) / n
	c.Involuntary = float64(used.Involuntary) / n
	c.Allocations = max(0, after.counts.mallocs-before.counts.mallocs-before.scrape) / n
	if batches := after.counts.batches - before.counts.batches; batches > 0 {
		c.PerCommit = (after.counts.batched - before.counts.batched) / batches
	}
	c.WALBytes = float64(after.wal-before.wal) / n
	c.RSS = after.server.RSS
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// plan is how long and with what an arm is loaded.
type plan struct {
	shape  load.Shape
	warm   time.Duration // before anything is counted
	window time.Duration
}

// closed measures an arm with our own generator.
func (w *world) closed(ctx context.Context, a arm, p plan, connections, round int) (Cell, error) {
	c := Cell{Arm: a.name, Pool: a.pool, Generator: "closed", Connections: connections, Round: round}
	if err := w.empty(ctx); err != nil {
		return c, err
	}
	p.shape.Path = a.path
	g := &load.Closed{Requests: p.shape.Requests(a.server.addr), Items: p.shape.Items, Seed: p.shape.Seed + uint64(round)}
	if err := g.Open(ctx, a.server.addr, connections); err != nil {
		return c, err
	}
	defer g.Close()
	warm, err := g.Run(ctx, p.warm)
	if err != nil {
		return c, err
	}
	before, err := w.before(ctx, a.server)
	if err != nil {
		return c, err
	}
	r, err := g.Run(ctx, p.window)
	if err != nil {
		return c, err
	}
	after, err := w.after(ctx, a.server)
	if err != nil {
		return c, err
	}
	c.heard(r)
	c.costs(before, after, r.CPU)
	c.Refused += warm.Refused
	if warm.Refused > 0 {
		c.Refusal = warm.Refusal
	}
	c.Missing, c.Untold, err = w.stored(ctx, append(warm.IDs, r.IDs...))
	return c, err
}

func (c *Cell) heard(r *load.Result) {
	c.Seconds, c.Messages, c.Rate = r.Elapsed.Seconds(), r.Queued, r.Rate()
	c.P50, c.P99 = microseconds(r.Quantile(50)), microseconds(r.Quantile(99))
	c.Refused, c.Refusal = r.Refused, r.Refusal
}

// reported measures an arm with a tool that is not ours. Rows are counted, not
// compared by id, and only those of the measured run.
func (w *world) reported(ctx context.Context, c Cell, s *server, run func() (*load.Report, error)) (Cell, error) {
	had, err := w.count(ctx)
	if err != nil {
		return c, err
	}
	before, err := w.before(ctx, s)
	if err != nil {
		return c, err
	}
	r, err := run()
	if err != nil {
		return c, err
	}
	after, err := w.after(ctx, s)
	if err != nil {
		return c, err
	}
	c.Seconds, c.Messages, c.Rate = r.Elapsed.Seconds(), r.Answered, r.Rate()
	c.P50, c.P99 = microseconds(r.P50), microseconds(r.P99)
	c.Refused = r.Errors
	c.costs(before, after, r.CPU)
	has, err := w.count(ctx)
	if err != nil {
		return c, err
	}
	c.Missing, c.Untold = max(0, r.Answered-(has-had)), max(0, has-had-r.Answered)
	return c, nil
}
