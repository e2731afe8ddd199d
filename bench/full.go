package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// fullOptions are the flags of `report`.
type fullOptions struct {
	common
	external
	full          bool
	budget        time.Duration
	rounds        int
	seconds, warm float64
	prime         int
	only          string
	rows          int
	pools         intList
	out           string
}

// fitBudget is what `make bench` takes at most; the report is written by then.
const fitBudget = 9*time.Minute + 40*time.Second

// commandNames are the parts of a report that are no curves but other commands.
var commandNames = []string{"wake"}

func fullFlags(args []string) (fullOptions, error) {
	o := fullOptions{pools: intList{16, 32, 64}}
	f := flag.NewFlagSet("report", flag.ExitOnError)
	o.common.register(f)
	o.external.register(f)
	f.BoolVar(&o.full, "full", false, "every point of every curve, ten million rows, five rounds: hours")
	f.DurationVar(&o.budget, "budget", fitBudget, "take as many rounds as fit in it, at least one; not with -full or -rounds")
	f.IntVar(&o.rounds, "rounds", 0, "how often the arms take turns; 0: by the budget, or 5 with -full")
	f.Float64Var(&o.seconds, "seconds", 0, "of each measurement; 0: 0.6, or 5 with -full")
	f.Float64Var(&o.warm, "warm", 0, "seconds of load before each measurement; 0: 0.2, or 1 with -full")
	f.IntVar(&o.prime, "prime", 150, "messages for each of a pool's connections before anything is measured")
	f.StringVar(&o.only, "only", "", "what of it, between commas: "+strings.Join(slices.Concat(curveNames, commandNames), ", "))
	f.IntVar(&o.rows, "rows", 0, "of the largest table; 0: a million, or ten with -full")
	f.Var(&o.pools, "pools", "sizes of the pools, of which the best is taken")
	f.StringVar(&o.out, "out", "report", "directory for report.html, report.json and report.md")
	_ = f.Parse(args) // ExitOnError
	if o.full {
		o.budget = 0
		o.rounds = cmp.Or(o.rounds, 5)
	}
	if o.rounds > 0 {
		o.budget = 0
	}
	o.seconds = cmp.Or(o.seconds, map[bool]float64{false: 0.6, true: 5}[o.full])
	o.warm = cmp.Or(o.warm, map[bool]float64{false: 0.2, true: 1}[o.full])
	for _, name := range o.names() {
		if !slices.Contains(curveNames, name) && !slices.Contains(commandNames, name) {
			return o, fmt.Errorf("-only knows no %q, only %s", name, strings.Join(slices.Concat(curveNames, commandNames), ", "))
		}
	}
	return o, nil
}

// names are those of -only; none: everything.
func (o *fullOptions) names() []string {
	if o.only == "" {
		return nil
	}
	return strings.Split(o.only, ",")
}

func (o *fullOptions) wants(name string) bool {
	return o.only == "" || slices.Contains(o.names(), name)
}

// sizes are the points of the curves.
func (o *fullOptions) sizes() sizes {
	s := shortSizes
	if o.full {
		s = fullSizes
	}
	if o.rows > 0 {
		s.rows = slices.DeleteFunc(slices.Clone(s.rows), func(n int) bool { return n > o.rows })
	}
	return s
}

func (o *fullOptions) times() times {
	return times{warm: seconds(o.warm), window: seconds(o.seconds), beside: besideCell}
}

// besideCell is about what it takes beside a cell's load: emptying the table, a
// checkpoint, connections, and reading the rows back.
const besideCell = 500 * time.Millisecond

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// task is one thing that a report does, and about how long it takes.
type task struct {
	title string
	cost  time.Duration
	run   func(ctx context.Context) error
}

// lab is a report under way. It is used by one goroutine.
type lab struct {
	w      *world
	o      fullOptions
	t      times
	p      *progress
	curves []curve
	report *Report
	here   *place            // where everything is measured that needs no place of its own
	others map[string]*place // by their names
	best   map[string]int    // the pool of an arm, by arm and connections
	floors []floorPoint      // of a sweep, the best first
	wake   *Figures

	planned int // rounds
	steps   int // of a round, and about how long they take
	cost    time.Duration
}

// report measures every curve, round by round, and writes the page and the JSON after
// each round: who stops it has what is measured so far.
func report(ctx context.Context, o fullOptions) error {
	if o.set["max_connections"] == "" {
		o.set["max_connections"] = "1000" // of many servers, most of them idle
	}
	line = newProgress(os.Stderr)
	defer line.clear()
	w, err := newWorld(ctx, o.common)
	if err != nil {
		return err
	}
	defer w.close()
	l := &lab{w: w, o: o, t: o.times(), p: line, others: map[string]*place{}, best: map[string]int{}}
	defer l.close()
	l.curves = slices.DeleteFunc(curves(o.sizes(), runtime.NumCPU()), func(c curve) bool { return !o.wants(c.name) })
	if o.url != "" {
		l.addExternal()
	}
	if l.report, err = w.describe(ctx, quickOptions{common: o.common}); err != nil {
		return err
	}
	l.describe()
	first := l.preparation()
	firstSteps, firstCost := sum(first)
	l.p.plan(firstSteps, firstCost)
	l.steps, l.cost = sum(l.round(0))
	l.replan(l.o.budget-firstCost, l.cost)
	if err := l.tasks(ctx, first); err != nil {
		return err
	}
	l.replan(l.o.budget-l.p.elapsed(), l.p.expect(l.cost))
	for round := 0; round < l.planned; round++ {
		began := l.p.elapsed()
		if err := l.tasks(ctx, l.round(round)); err != nil {
			return errors.Join(err, l.write()) // what there is
		}
		l.report.Rounds = round + 1
		if err := l.write(); err != nil {
			return err
		}
		l.replan(l.o.budget-l.p.elapsed(), l.p.elapsed()-began)
	}
	return l.finish()
}

// describe completes what stands at the report's head.
func (l *lab) describe() {
	l.report.Command = "bench " + strings.Join(os.Args[1:], " ")
	l.report.Method = reportMethod
	l.report.Warm, l.report.Window = l.o.warm, l.o.seconds
	l.report.Load = []float64{loadAverage()}
}

const reportMethod = "Closed loops unless a rate is said: every connection sends its next request when it has the answer to the last. " +
	"64 connections, one message a request, payloads of 200 bytes, transactionId absent, partitions drawn uniformly from 100: what a curve does not vary. " +
	"The table is emptied and a checkpoint written before each measurement, and every id that was answered is compared with the rows after it."

// roundsMost is how many rounds a budget buys at most.
const roundsMost = 5

// replan says how many rounds there will be, where it is for the budget to say: left of
// it, with rounds that take so long each.
func (l *lab) replan(left, each time.Duration) {
	now := l.o.rounds
	if now == 0 {
		now = l.report.Rounds + roundsThatFit(left, each, l.report.Rounds)
	}
	l.p.plan(l.steps*(now-l.planned), l.cost*time.Duration(now-l.planned))
	l.planned = now
}

// roundsThatFit is how many more rounds there will be: one at least of all.
func roundsThatFit(left, each time.Duration, done int) int {
	n := max(0, int(left/max(each, 1)))
	if done == 0 {
		n = max(n, 1)
	}
	return min(n, roundsMost-done)
}

// tasks are done one after the other.
func (l *lab) tasks(ctx context.Context, all []task) error {
	for _, t := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.p.begin(t.title)
		if err := t.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", t.title, err)
		}
		l.p.end(t.cost)
	}
	return nil
}

// round is one turn of everything.
func (l *lab) round(round int) (all []task) {
	prefix := fmt.Sprintf("round %d: ", round+1)
	for i := range l.curves {
		steps := l.curves[i].steps(l.o.pools)
		if round%2 == 1 {
			steps = backwards(steps)
		}
		for _, s := range steps {
			all = append(all, task{prefix + s.String(), l.t.of(s).cell(), func(ctx context.Context) error {
				return l.failed(ctx, s, round, l.measure(ctx, s, round))
			}})
		}
	}
	if l.o.wants("wake") {
		all = append(all, task{prefix + "wake", l.wakeCost(), func(ctx context.Context) error { return l.wakeRound(ctx) }})
	}
	return all
}

// failuresMax is how many cells may fail before a run is given up.
const failuresMax = 10

// failed notes that a cell could not be measured, and has the run go on: an hour's work
// should not be lost to one server that was stuck for a moment. The run fails at its end.
func (l *lab) failed(ctx context.Context, s step, round int, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	l.report.Failures = append(l.report.Failures, fmt.Sprintf("round %d: %s: %v", round+1, s, err))
	l.p.say("%s: %v", s, err)
	if len(l.report.Failures) > failuresMax {
		return fmt.Errorf("more than %d cells could not be measured, the last: %w", failuresMax, err)
	}
	return nil
}

// sum is how many tasks there are, and about how long they take.
func sum(all []task) (n int, d time.Duration) {
	for _, t := range all {
		d += t.cost
	}
	return len(all), d
}

// finish judges, prints and says where everything is.
func (l *lab) finish() error {
	l.p.clear()
	r := l.report
	var err error
	if r.FlushAfter, err = l.w.flushMicroseconds(); err != nil {
		return err
	}
	r.Load = append(r.Load, loadAverage())
	if err := l.write(); err != nil {
		return err
	}
	r.Cells = r.curve(curveArms).cells()
	if len(r.Cells) > 0 {
		r.Table(os.Stdout)
		fmt.Println()
	}
	printGoals(os.Stdout, r.Goals)
	dir, err := filepath.Abs(l.o.out)
	if err != nil {
		return err
	}
	fmt.Printf("\nthe report is %s\neverything measured is in %s, tables in report.md\n", filepath.Join(dir, "report.html"), filepath.Join(dir, "report.json"))
	if n := len(r.Failures); n > 0 {
		return errors.Join(fmt.Errorf("%d cells could not be measured, the first: %s", n, r.Failures[0]), r.verdict())
	}
	return r.verdict()
}

// write puts the page and the JSON in place, whole.
func (l *lab) write() error {
	r := l.report
	r.Took = l.p.elapsed().Seconds()
	r.Floors = l.floors
	if r.Figures = nil; l.wake != nil {
		r.Figures = []*Figures{l.wake}
	}
	r.judge(goals)
	if err := os.MkdirAll(l.o.out, 0o755); err != nil {
		return err
	}
	var page bytes.Buffer
	if err := r.HTML(&page); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(l.o.out, "report.html"), page.Bytes()); err != nil {
		return err
	}
	var tables bytes.Buffer
	r.Markdown(&tables)
	if err := replace(filepath.Join(l.o.out, "report.md"), tables.Bytes()); err != nil {
		return err
	}
	return replace(filepath.Join(l.o.out, "report.json"), append(text, '\n'))
}

// replace writes a file that is never seen half.
func replace(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// close ends the connections of all places; the world stops the servers.
func (l *lab) close() {
	for _, p := range l.others {
		if p.world != l.w {
			_ = p.world.db.Close(context.Background())
		}
	}
}
