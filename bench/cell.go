package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// Cell is one arm under one load, once: a line of the JSON. Times are
// microseconds; everything "per message" is of the messages that were answered
// between the two probes, those in flight at the window's end included. What a
// message is depends on the mode (package load): where consumers are what is
// measured, it is a delivery.
type Cell struct {
	Arm         string `json:"arm"`
	Pool        int    `json:"pool,omitempty"` // connections of a pool; 0: it has none to choose
	Generator   string `json:"generator"`      // closed, open (ours), wrk, ab, once (ours, as ab), pgconn (the floor's)
	Connections int    `json:"connections"`
	Round       int    `json:"round"`

	Mode         string  `json:"mode,omitempty"`
	Batch        int     `json:"batch,omitempty"` // messages in a push
	Queues       int     `json:"queues,omitempty"`
	Partitions   int     `json:"partitions,omitempty"` // of each queue
	Zipf         float64 `json:"zipf,omitempty"`       // 0: uniform
	PayloadBytes int     `json:"payload_bytes,omitempty"`
	Transactions bool    `json:"transaction_ids,omitempty"` // were given
	Consumers    int     `json:"consumers,omitempty"`
	Groups       int     `json:"groups,omitempty"`
	PopBatch     int     `json:"pop_batch,omitempty"`
	AutoAck      bool    `json:"auto_ack,omitempty"`

	Seconds  float64 `json:"seconds"`
	Messages int64   `json:"messages"`
	Rate     float64 `json:"messages_per_second"`
	P50      float64 `json:"p50_us"`
	P90      float64 `json:"p90_us,omitempty"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p99.9_us,omitempty"`
	Max      float64 `json:"max_us,omitempty"`
	Curves   *Curves `json:"percentiles,omitempty"`

	// An open loop:
	Offered float64 `json:"offered_per_second,omitempty"`
	Waited  int64   `json:"waited,omitempty"`     // requests that came due while no connection was free
	Unsent  int64   `json:"unsent,omitempty"`     // messages that were given up, long after the window
	LagP99  float64 `json:"lag_p99_us,omitempty"` // how late the generator itself was

	ServerCPU    float64 `json:"server_cpu_us_per_message"`
	PostgresCPU  float64 `json:"postgres_cpu_us_per_message"`
	GeneratorCPU float64 `json:"generator_cpu_us_per_message"`
	Voluntary    float64 `json:"voluntary_switches_per_message"`
	Involuntary  float64 `json:"involuntary_switches_per_message"`
	Syscalls     float64 `json:"syscalls_per_message,omitempty"`
	SyscallsBy   string  `json:"syscalls_counted_by,omitempty"` // empty: they were not counted
	Allocations  float64 `json:"allocations_per_message"`
	WALBytes     float64 `json:"wal_bytes_per_message"`
	PerCommit    float64 `json:"messages_per_commit,omitempty"` // where requests share commits
	RSS          int64   `json:"server_rss_bytes"`

	// NotMeasured says why figures are 0 that are not: by their names in JSON.
	NotMeasured *reasons `json:"not_measured,omitempty"`

	Refused int64  `json:"refused"`           // answers other than were asked for, broken connections
	Refusal string `json:"refusal,omitempty"` // the first of them
	Missing int64  `json:"missing"`           // answered, but no row
	Untold  int64  `json:"untold"`            // a row, but not answered
	Lost    int64  `json:"lost,omitempty"`    // stored, and never came to a group
	Twice   int64  `json:"twice,omitempty"`   // came to a group again
}

// Curves are a cell's percentile curves, as far as its mode has them. Latency is the
// mode's own.
type Curves struct {
	Latency  []load.Point `json:"latency,omitempty"`
	Push     []load.Point `json:"push,omitempty"`
	Pop      []load.Point `json:"pop,omitempty"`
	Ack      []load.Point `json:"ack,omitempty"`
	EndToEnd []load.Point `json:"end_to_end,omitempty"`
}

// reasons are by the names of figures.
type reasons map[string]string

func (c *Cell) notMeasured(why string, figures ...string) {
	if c.NotMeasured == nil {
		c.NotMeasured = &reasons{}
	}
	for _, figure := range figures {
		(*c.NotMeasured)[figure] = why
	}
}

// honest: every message that was answered `queued` is one row, and nothing else is;
// and where there are consumers, each came once to each group. A refusal may have been
// stored or not (a push that is given up in flight can still be committed; a pop or an ack
// that is given up can have its messages come again). wrk drops
// the answers that are owed when its time is up, so with it a row may be untold for
// each connection.
func (c *Cell) honest() bool {
	slack, again := c.Refused*int64(max(c.Batch, 1)), c.Refused*int64(max(c.PopBatch, 1))
	if c.Generator == "wrk" {
		slack += int64(c.Connections)
	}
	return c.Missing == 0 && c.Untold <= slack && c.Lost == 0 && c.Twice <= again
}

// The arms that take no pool: those of ours beside the ones that serve pushes.
const (
	armFloor    = "floor"    // rows by pgconn alone; see package floor
	armHello    = "hello"    // the loop's server, asked for load.HelloPath
	armExternal = "external" // a server that somebody else has started
)

// arm is one way to serve a push.
type arm struct {
	name   string // push, push-legacy, net/http + pgxpool, and those above
	path   string
	pool   int
	server *server
	floor  *floorPoint // of armFloor
}

func (a arm) String() string {
	switch {
	case a.floor != nil:
		return a.floor.String()
	case a.pool == 0:
		return a.name
	}
	return fmt.Sprintf("%s (pool of %d)", a.name, a.pool)
}

// hello is the same server as an arm's, asked for what touches no database: what a
// request costs as such. It is asked for GET /livez, whose answer is 18 bytes that are
// made on the loop: /health looks at what the loop knows of PostgreSQL and puts its
// answer together, and a push that is refused is decoded first, or not even routed.
func (a arm) hello() arm { return arm{name: armHello, pool: a.pool, server: a.server} }

// probe is what had been used at one moment; what cannot be measured is 0.
type probe struct {
	server   proc.Sample
	postgres time.Duration
	counts   counts
	scrape   float64 // mallocs that reading counts costs
	wal      int64
}

// before reads what costs the server something first, and its CPU last.
func (w *world) before(ctx context.Context, s *server) (p probe, err error) {
	first, err := s.countsIfAny(ctx)
	if err != nil {
		return p, err
	}
	if p.counts, err = s.countsIfAny(ctx); err != nil {
		return p, err
	}
	p.scrape = p.counts.mallocs - first.mallocs
	if p.wal, err = s.wal(ctx); err != nil {
		return p, err
	}
	if p.postgres, err = s.postgresCPU(); err != nil {
		return p, err
	}
	p.server, err = s.sample()
	return p, err
}

// after is the same in reverse.
func (w *world) after(ctx context.Context, s *server) (p probe, err error) {
	if p.server, err = s.sample(); err != nil {
		return p, err
	}
	if p.postgres, err = s.postgresCPU(); err != nil {
		return p, err
	}
	if p.wal, err = s.wal(ctx); err != nil {
		return p, err
	}
	p.counts, err = s.countsIfAny(ctx)
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

// closed measures pushes of an arm in a closed loop.
func (w *world) closed(ctx context.Context, a arm, p plan, connections, round int) (Cell, error) {
	return w.trial(ctx, a, trial{round: round, load: load.Settings{Shape: p.shape, Connections: connections, Warm: p.warm, Window: p.window}})
}

// trial is one measurement that is to be made.
type trial struct {
	mode  string        // one of load.Modes; empty: "push"
	load  load.Settings // but for Target, Nonce, Before and After, and its Shape's Path, which trial sets
	round int
	keep  bool // leave the table as it is, instead of emptying it and writing a checkpoint first

	// syscalls, if above 0, is the window of a second run after the first, in which
	// system calls are counted. It has no other figures: counting is not free.
	syscalls time.Duration
}

// trial measures one cell: an arm under a load. It empties the table, warms the arm,
// measures, and compares what was answered with the rows of the queues that it pushed
// to. Modes with consumers get a queue of their own each time.
func (w *world) trial(ctx context.Context, a arm, t trial) (Cell, error) {
	t = w.complete(a, t)
	c := t.cell(a)
	mode, ok := load.Modes[t.mode]
	switch {
	case !ok:
		return c, fmt.Errorf("there is no mode %q", t.mode)
	case a.floor != nil && t.mode != "push", a.name == armBaseline && t.mode != "push":
		return c, fmt.Errorf("%s has no mode %s: it stores messages and that is all", a, t.mode)
	case a.floor != nil:
		mode = w.floorMode(*a.floor)
	}
	if !t.keep && !a.server.foreign {
		if err := w.empty(ctx); err != nil {
			return c, err
		}
	}
	// Afterwards: servers look through rows that they did not put there, as the floor's.
	if err := w.fleet.only(ctx, w.db, a.server); err != nil {
		return c, err
	}
	began, err := a.server.clock(ctx)
	if err != nil {
		return c, err
	}
	var before, after probe
	t.load.Before = func() (err error) { before, err = w.before(ctx, a.server); return err }
	t.load.After = func() (err error) { after, err = w.after(ctx, a.server); return err }
	r, err := mode(ctx, t.load)
	if err != nil {
		return c, fmt.Errorf("%s, %s: %w", a, t.mode, err)
	}
	c.heard(r)
	c.costs(before, after, r.CPU)
	c.excuse(a.server)
	ids := r.IDs
	if t.syscalls > 0 {
		more, err := w.countSyscalls(ctx, &c, a, t, mode)
		if err != nil {
			return c, err
		}
		ids = append(ids, more...)
	}
	if t.mode == "hello" {
		return c, nil
	}
	c.Missing, c.Untold, err = a.server.stored(ctx, t.load.Shape.QueueNames(), began, ids)
	return c, err
}

// complete sets what a trial leaves to us.
func (w *world) complete(a arm, t trial) trial {
	t.mode = cmp.Or(t.mode, "push")
	if a.name == armHello {
		t.mode = "hello"
	}
	t.load.Target, t.load.Shape.Path = a.server.target(), a.path
	t.load.Shape.Seed += uint64(t.round)
	t.load.Nonce = nonce()
	if consumes(t.mode) || a.server.foreign {
		t.load.Shape.Queue = fmt.Sprintf("%s-%s", t.load.Shape.Queue, t.load.Nonce)
	}
	if a.floor != nil {
		t.load.Connections, t.load.Shape.Items = a.floor.Conns, a.floor.Batch
		t.load.Shape.Queue = floorQueue
	}
	return t
}

// consumes says whether a mode has consumers.
func consumes(mode string) bool {
	return slices.Contains([]string{"pop", "pipeline", "fan-out", "mixed"}, mode)
}

// nonce is a word that no other run has.
func nonce() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// cell is what is known before anything is measured.
func (t trial) cell(a arm) Cell {
	s := t.load
	c := Cell{Arm: a.name, Pool: a.pool, Generator: "closed", Connections: s.Connections, Round: t.round, Mode: t.mode}
	if s.Rate > 0 && a.floor == nil && t.mode != "pop" {
		c.Generator, c.Offered = "open", s.Rate
	}
	if a.floor != nil {
		c.Arm, c.Generator = a.floor.String(), "pgconn"
	}
	if t.mode == "hello" {
		return c
	}
	c.Batch, c.Queues, c.Partitions, c.Zipf, c.PayloadBytes = s.Shape.Items, max(s.Shape.Queues, 1), s.Shape.Partitions, s.Shape.Zipf, s.Shape.PayloadBytes
	c.Transactions = s.Shape.Transactions
	if consumes(t.mode) {
		c.Consumers, c.PopBatch, c.AutoAck = s.Consumers, s.Pop.Batch, s.Pop.AutoAck
		if t.mode == "pop" || t.mode == "fan-out" {
			c.Groups = s.Groups
		}
	}
	return c
}

func (c *Cell) heard(r *load.Result) {
	c.Seconds, c.Messages, c.Rate = r.Elapsed.Seconds(), r.Count, r.Rate()
	c.P50, c.P90, c.P99, c.P999 = microseconds(r.Quantile(50)), microseconds(r.Quantile(90)), microseconds(r.Quantile(99)), microseconds(r.Quantile(99.9))
	c.Max = float64(r.Latency.Max())
	c.Curves = &Curves{Latency: load.Curve(r.Latency), Push: curveOf(r.PushTime), Pop: curveOf(r.PopTime), Ack: curveOf(r.AckTime), EndToEnd: curveOf(r.EndToEnd)}
	c.Waited, c.Unsent = r.Waited, r.Unsent
	if c.Generator == "open" {
		c.LagP99 = float64(r.Lag.ValueAtQuantile(99))
	}
	c.Refused, c.Refusal = r.Refused, r.Refusal
	c.Lost, c.Twice = r.Missing, r.Twice
}

func curveOf(h *hdrhistogram.Histogram) []load.Point { return load.Curve(h) }

// excuse says what could not be measured of a server, and why.
func (c *Cell) excuse(s *server) {
	for figure, why := range s.lacks {
		c.notMeasured(why, figure)
	}
}

// syscallWarm is the load before system calls are counted.
const syscallWarm = 100 * time.Millisecond

// countSyscalls runs the load again, for a moment, and counts system calls meanwhile.
// What that run pushed is of the same cell and is compared with it.
func (w *world) countSyscalls(ctx context.Context, c *Cell, a arm, t trial, mode load.Mode) ([]load.ID, error) {
	pid := a.server.pid()
	if pid == 0 {
		return nil, nil // excuse has said why
	}
	var counter *proc.Syscalls
	var n uint64
	t.load.Warm, t.load.Window = syscallWarm, t.syscalls
	t.load.Nonce += "s" // transactions of its own
	t.load.Before = func() (err error) { counter, err = proc.CountSyscalls(pid); return err }
	t.load.After = func() (err error) { n, err = counter.Stop(); return err }
	r, err := mode(ctx, t.load)
	if err != nil && counter == nil && ctx.Err() == nil {
		c.notMeasured(err.Error(), "syscalls_per_message")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.Syscalls, c.SyscallsBy = float64(n)/float64(max(r.Count, 1)), counter.How()
	c.Refused += r.Refused
	if c.Refusal == "" {
		c.Refusal = r.Refusal
	}
	c.Lost, c.Twice = c.Lost+r.Missing, c.Twice+r.Twice
	return r.IDs, nil
}

// reported measures an arm with a tool that is not ours. Rows are counted, not
// compared by id, and only those of the measured run.
func (w *world) reported(ctx context.Context, c Cell, s *server, run func() (*load.Report, error)) (Cell, error) {
	if err := w.fleet.only(ctx, w.db, s); err != nil {
		return c, err
	}
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
