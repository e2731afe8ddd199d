package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// quickOptions are the flags of `quick`.
type quickOptions struct {
	common
	rounds      int
	seconds     float64
	warm        float64
	prime       int
	connections intList
	pools       intList
	arms        string
	wrk, ab     bool
	json        string
}

// intList is a flag of numbers between commas.
type intList []int

func (l *intList) String() string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(*l), " ", ","), "[]")
}

func (l *intList) Set(text string) error {
	*l = nil
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is no number of 1 or more", field)
		}
		*l = append(*l, n)
	}
	return nil
}

func quickFlags(args []string) quickOptions {
	o := quickOptions{connections: intList{1, 64, 256}, pools: intList{16, 32}}
	f := flag.NewFlagSet("quick", flag.ExitOnError)
	o.register(f)
	f.IntVar(&o.rounds, "rounds", 1, "how often the arms take turns")
	f.Float64Var(&o.seconds, "seconds", 1, "of each measurement")
	f.Float64Var(&o.warm, "warm", 0.2, "seconds of load before each measurement")
	f.IntVar(&o.prime, "prime", 60, "messages for each of a pool's connections before anything is measured: they fill its caches and settle PostgreSQL's plans")
	f.Var(&o.connections, "connections", "numbers of client connections")
	f.Var(&o.pools, "pools", "sizes of the pools, of which the best is taken")
	f.StringVar(&o.arms, "arms", strings.Join(armNames, ","), "what is measured")
	f.BoolVar(&o.wrk, "wrk", false, "measure with wrk too (package wrk)")
	f.BoolVar(&o.ab, "ab", false, "store 10,000 rows with ab -n 10000 -c 100 (package apache2-utils; without it, with a stand-in)")
	f.StringVar(&o.json, "json", "quick.json", "file for the whole result; empty: none")
	_ = f.Parse(args) // ExitOnError
	return o
}

// The names of the arms, as they stand in tables and JSON.
const (
	armLoop     = "push"
	armLegacy   = "push-legacy"
	armBaseline = "net/http+pgxpool"
)

var armNames = []string{armLoop, armLegacy, armBaseline}

// quick runs every arm at every number of connections, in turn, rounds times.
func quick(ctx context.Context, o quickOptions) error {
	w, err := newWorld(ctx, o.common)
	if err != nil {
		return err
	}
	defer w.close()
	report, err := w.describe(ctx, o)
	if err != nil {
		return err
	}
	arms, err := w.arms(ctx, strings.Split(o.arms, ","), o.pools)
	if err != nil {
		return err
	}
	if report.Cells, err = w.takeTurns(ctx, arms, o); err != nil {
		return err
	}
	if o.ab {
		cells, err := w.seedLine(ctx, chosen(arms, report.Cells))
		if err != nil {
			return err
		}
		report.Cells = append(report.Cells, cells...)
	}
	if report.FlushAfter, err = w.flushMicroseconds(); err != nil {
		return err
	}
	report.Table(os.Stdout)
	if o.json != "" {
		text, err := json.MarshalIndent(report, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
		say("everything measured is in %s", o.json)
	}
	return report.verdict()
}

func (w *world) describe(ctx context.Context, o quickOptions) (r *Report, err error) {
	r = &Report{Machine: proc.ThisMachine(), Seed: o.seed, Started: time.Now().UTC().Truncate(time.Second), Method: method}
	r.Commit, r.Dirty = w.commit(ctx)
	if r.PostgreSQL, err = w.postgresFacts(ctx); err != nil {
		return nil, err
	}
	r.FlushBefore, err = w.flushMicroseconds()
	return r, err
}

func (w *world) flushMicroseconds() (float64, error) {
	d, err := w.flush()
	return microseconds(d), err
}

// arms builds and starts what is measured. /push has no pool to choose; the pools
// are servers of their own, all up at once and idle but for the one whose turn it is.
func (w *world) arms(ctx context.Context, names []string, pools []int) (arms []arm, err error) {
	say("building …")
	for _, name := range names {
		build, start, path, sizes := w.buildQueend, w.startQueend, "/api/v1/push", pools
		switch name {
		case armLoop:
			sizes = []int{0}
		case armLegacy:
			path = "/api/v1/push-legacy"
		case armBaseline:
			build, start = w.buildBaseline, w.start
		default:
			return nil, fmt.Errorf("there is no arm %q, only %s", name, strings.Join(armNames, ", "))
		}
		binary, err := build(ctx)
		if err != nil {
			return nil, err
		}
		for _, size := range sizes {
			a := arm{name: name, path: path, pool: size}
			if a.server, err = start(ctx, strings.ReplaceAll(a.String(), "/", "-"), binary, poolEnv(name, size)...); err != nil {
				return nil, err
			}
			arms = append(arms, a)
		}
	}
	return arms, nil
}

func poolEnv(name string, size int) []string {
	switch name {
	case armLegacy:
		return []string{fmt.Sprintf("QUEEND_LEGACY_POOL_SIZE=%d", size)}
	case armBaseline:
		return []string{fmt.Sprintf("POOL_SIZE=%d", size)}
	}
	return nil
}

// takeTurns measures A B C A B C …: what the machine does meanwhile (its disk, its
// neighbours) falls on all arms alike, and ratios are made within a round.
func (w *world) takeTurns(ctx context.Context, arms []arm, o quickOptions) (cells []Cell, err error) {
	p := plan{
		shape:  load.Shape{Queue: "bench", Partitions: 100, Items: 1, PayloadBytes: 200, Seed: o.seed},
		warm:   time.Duration(o.warm * float64(time.Second)),
		window: time.Duration(o.seconds * float64(time.Second)),
	}
	for _, a := range arms {
		if err := w.primeArm(ctx, a, p.shape, o.prime); err != nil {
			return nil, fmt.Errorf("%s: %w", a, err)
		}
	}
	for round := range o.rounds {
		for _, n := range o.connections {
			for _, a := range arms {
				if n == 1 && a.pool > o.pools[0] {
					continue // one client uses one connection of a pool, whatever its size
				}
				say("round %d of %d, %d connections: %s", round+1, o.rounds, n, a)
				c, err := w.closed(ctx, a, p, n, round)
				if err != nil {
					return nil, fmt.Errorf("%s, %d connections: %w", a, n, err)
				}
				cells = append(cells, c)
				if err := settle(ctx, a, &c); err != nil {
					return nil, fmt.Errorf("%s, %d connections: %w", a, n, err)
				}
			}
		}
	}
	if !o.wrk {
		return cells, nil
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		say("wrk is not installed (apt install wrk): left out")
		return cells, nil
	}
	more, err := w.wrkTurns(ctx, chosen(arms, cells), p, o)
	return append(cells, more...), err
}

// chosen are the arms with the best pools: what is measured again with other tools.
func chosen(arms []arm, cells []Cell) (best []arm) {
	for _, name := range armNames {
		pool := bestPool(cells, name, busiest(cells, 64))
		for _, a := range arms {
			if a.name == name && a.pool == pool {
				best = append(best, a)
			}
		}
	}
	return best
}

// wrkTurns are takeTurns with wrk, which counts whole seconds.
func (w *world) wrkTurns(ctx context.Context, arms []arm, p plan, o quickOptions) (cells []Cell, err error) {
	for round := range o.rounds {
		for _, n := range o.connections {
			for _, a := range arms {
				say("wrk: %s, %d connections", a, n)
				if err := w.empty(ctx); err != nil {
					return nil, err
				}
				p.shape.Path = a.path
				if err := w.warm(ctx, a, p, n); err != nil {
					return nil, err
				}
				c := Cell{Arm: a.name, Pool: a.pool, Generator: "wrk", Connections: n, Round: round}
				c, err := w.reported(ctx, c, a.server, func() (*load.Report, error) {
					return load.Wrk(ctx, a.server.addr, p.shape, n, p.window)
				})
				if err != nil {
					return nil, err
				}
				cells = append(cells, c)
			}
		}
	}
	return cells, nil
}

// primeMax bounds the priming of one arm.
const primeMax = 15 * time.Second

// primeArm loads an arm until its caches are full: what a server does in its first
// seconds of life is not what is compared here.
func (w *world) primeArm(ctx context.Context, a arm, s load.Shape, perConnection int) error {
	say("priming %s", a)
	s.Path = a.path
	g := &load.Closed{Requests: s.Requests(a.server.addr), Items: s.Items, Seed: s.Seed}
	if err := g.Open(ctx, a.server.addr, max(64, 2*a.pool)); err != nil {
		return err
	}
	defer g.Close()
	const window = 200 * time.Millisecond
	want := int64(perConnection * max(a.pool, 4))
	for end := time.Now().Add(primeMax); want > 0 && time.Now().Before(end); {
		r, err := g.Run(ctx, window)
		if err != nil {
			return err
		}
		want -= r.Queued
	}
	return nil
}

func (w *world) warm(ctx context.Context, a arm, p plan, connections int) error {
	g := &load.Closed{Requests: p.shape.Requests(a.server.addr), Items: p.shape.Items}
	if err := g.Open(ctx, a.server.addr, connections); err != nil {
		return err
	}
	defer g.Close()
	_, err := g.Run(ctx, p.warm)
	return err
}

// seedBody is the message of the note that queend grew from.
const seedBody = `{"items":[{"queue":"test","payload":{"data":"value"}}]}`

// seedLine runs that note's own measurement on each arm: ab -n 10000 -c 100, in
// HTTP/1.0, one connection a request, one partition. Afterwards there must be
// exactly 10,000 rows.
func (w *world) seedLine(ctx context.Context, arms []arm) (cells []Cell, err error) {
	const requests, workers = 10000, 100
	_, missing := exec.LookPath("ab")
	for _, a := range arms {
		c := Cell{Arm: a.name, Pool: a.pool, Generator: "ab", Connections: workers}
		run := func() (*load.Report, error) {
			return load.AB(ctx, a.server.addr, a.path, []byte(seedBody), requests, workers)
		}
		if missing != nil {
			c.Generator = "once"
			run = func() (*load.Report, error) { return w.once(ctx, a, requests, workers) }
		}
		say("%s: %s, %d requests", c.Generator, a, requests)
		if err := w.empty(ctx); err != nil {
			return nil, err
		}
		if c, err = w.reported(ctx, c, a.server, run); err != nil {
			return nil, err
		}
		if c.Messages+c.Refused != requests {
			return nil, fmt.Errorf("%s: %d requests were answered, not %d", a, c.Messages+c.Refused, requests)
		}
		cells = append(cells, c)
	}
	return cells, nil
}

// once stands in for ab.
func (w *world) once(ctx context.Context, a arm, requests, workers int) (*load.Report, error) {
	r, err := load.Once(ctx, a.server.addr, load.Shape{Path: a.path, Items: 1}, []byte(seedBody), requests, workers)
	if err != nil {
		return nil, err
	}
	return &load.Report{Elapsed: r.Elapsed, Answered: r.Queued, Errors: r.Refused, P50: r.Quantile(50), P99: r.Quantile(99), CPU: r.CPU}, nil
}
