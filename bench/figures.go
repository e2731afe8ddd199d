package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/queend/queend/bench/proc"
)

// Figures is what a run of drain, wake, wide, parked or groups leaves behind: values
// with a name, one for each round, and the goals that they are held against.
type Figures struct {
	Command    string       `json:"command"`
	Started    time.Time    `json:"started"`
	Machine    proc.Machine `json:"machine"`
	PostgreSQL PostgreSQL   `json:"postgresql"`
	Commit     string       `json:"commit"`
	Dirty      bool         `json:"dirty"`
	Seed       uint64       `json:"seed"`
	Flush      []float64    `json:"flush_us"` // before and after: median write+fdatasync of 8 KiB
	Load       []float64    `json:"load"`     // before and after: what else the machine does, as load average of a minute
	Figures    []*Figure    `json:"figures"`
	Goals      []*Goal      `json:"goals"`
}

// Figure is one value, once a round.
type Figure struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values"`
}

// Median and Spread are of the rounds, as text.
func (f *Figure) Median() string { return number(median(f.Values)) }

func (f *Figure) Spread() string {
	_, low, high := spread(f.Values)
	return number(low) + "-" + number(high)
}

// Goal is a value that should not pass a bound. Where it is a ratio it is made
// within each round.
type Goal struct {
	Name    string    `json:"name"`
	Bound   float64   `json:"bound"`
	AtLeast bool      `json:"at_least"`
	Each    bool      `json:"each_round,omitempty"` // no round may pass it: it is nothing that a median makes better
	From    string    `json:"from,omitempty"`       // in a report: the curve or command that it is made of
	Values  []float64 `json:"values"`
}

// Met says whether the median of the rounds, or each of them, keeps the bound.
func (g *Goal) Met() bool {
	m, low, high := spread(g.Values)
	switch {
	case g.Each && g.AtLeast:
		m = low
	case g.Each:
		m = high
	}
	return !math.IsNaN(m) && (m == g.Bound || (m > g.Bound) == g.AtLeast)
}

func (f *Figures) add(value float64, name string, args ...any) float64 {
	name = fmt.Sprintf(name, args...)
	i := slices.IndexFunc(f.Figures, func(g *Figure) bool { return g.Name == name })
	if i < 0 {
		i = len(f.Figures)
		f.Figures = append(f.Figures, &Figure{Name: name})
	}
	f.Figures[i].Values = append(f.Figures[i].Values, value)
	return value
}

// goal adds a round's value.
func (f *Figures) goal(value float64, name, relation string, bound float64) {
	i := slices.IndexFunc(f.Goals, func(g *Goal) bool { return g.Name == name })
	if i < 0 {
		i = len(f.Goals)
		f.Goals = append(f.Goals, &Goal{Name: name, Bound: bound, AtLeast: relation == "≥"})
	}
	f.Goals[i].Values = append(f.Goals[i].Values, value)
}

// Table prints the medians of all rounds and how far they were spread.
func (f *Figures) Table(out io.Writer) {
	dirty := ""
	if f.Dirty {
		dirty = " + changes"
	}
	fmt.Fprintf(out, "%s · %s · %d cores · %s\n", f.Command, f.Machine.CPU, f.Machine.Cores, f.Machine.Go)
	fmt.Fprintf(out, "%.40s · commit %.12s%s · seed %d · flush %.0f µs · load of the machine %.1f\n\n", f.PostgreSQL.Version, f.Commit, dirty, f.Seed, f.Flush, f.Load)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmedian\tfrom-to\t")
	for _, g := range f.Figures {
		fmt.Fprintf(t, "%s\t%s\t%s\t\n", g.Name, g.Median(), g.Spread())
	}
	t.Flush()
	fmt.Fprintln(out)
	printGoals(out, f.Goals)
}

// number prints three digits that matter.
func number(v float64) string {
	switch {
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// figureOptions are the flags that drain, wake, wide, parked and groups share.
type figureOptions struct {
	common
	rounds     int
	json       string
	statements bool
}

func (o *figureOptions) register(f *flag.FlagSet, rounds int) {
	o.common.register(f)
	f.IntVar(&o.rounds, "rounds", rounds, "how often everything is measured")
	f.StringVar(&o.json, "json", "", "file for the whole result; empty: none")
	f.BoolVar(&o.statements, "statements", false, "count PostgreSQL's statements and list those that took longest (package postgresql-contrib, where that is one of its own)")
}

// measure makes a world with one queend, has work measure it, and prints.
func measure(ctx context.Context, command string, o figureOptions, work func(w *world, s *server, f *Figures) error) error {
	if o.statements {
		maps.Copy(o.set, statementSettings)
	}
	w, err := newWorld(ctx, o.common)
	if err != nil {
		return err
	}
	defer w.close()
	if o.statements {
		if err := w.countStatements(ctx); err != nil {
			return err
		}
	}
	f := &Figures{Command: strings.Join(append([]string{command}, os.Args[2:]...), " "), Started: time.Now().UTC().Truncate(time.Second), Machine: proc.ThisMachine(), Seed: o.seed}
	f.Commit, f.Dirty = w.commit(ctx)
	if f.PostgreSQL, err = w.postgresFacts(ctx); err != nil {
		return err
	}
	if err := f.surroundings(w); err != nil {
		return err
	}
	binary, err := w.buildQueend(ctx)
	if err != nil {
		return err
	}
	s, err := w.start(ctx, "queend", binary)
	if err != nil {
		return err
	}
	if err := work(w, s, f); err != nil {
		if o.statements {
			err = errors.Join(err, w.printStatements(ctx, os.Stdout))
		}
		return fmt.Errorf("%w; queend wrote: %s", err, s.lastWords())
	}
	if err := f.surroundings(w); err != nil {
		return err
	}
	f.Table(os.Stdout)
	if o.statements {
		if err := w.printStatements(ctx, os.Stdout); err != nil {
			return err
		}
	}
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(text, '\n'), 0o644)
}

func (f *Figures) surroundings(w *world) error {
	flush, err := w.flushMicroseconds()
	if err != nil {
		return err
	}
	f.Flush, f.Load = append(f.Flush, flush), append(f.Load, proc.LoadAverage())
	return nil
}

// spent is what was used while something was done.
type spent struct {
	elapsed, server, postgres, generator time.Duration
	wal                                  int64
}

// spend does something and says what it has cost. Nobody else uses the servers.
func (w *world) spend(ctx context.Context, s *server, work func() error) (u spent, err error) {
	before, err := w.before(ctx, s)
	if err != nil {
		return u, err
	}
	own, start := proc.OwnCPU(), time.Now()
	if err := work(); err != nil {
		return u, err
	}
	u.elapsed, u.generator = time.Since(start), proc.OwnCPU()-own
	after, err := w.after(ctx, s)
	if err != nil {
		return u, err
	}
	u.server, u.postgres, u.wal = after.server.Since(before.server).CPU, after.postgres-before.postgres, after.wal-before.wal
	return u, nil
}

// each adds what n messages have cost each.
func (f *Figures) each(u spent, n int, name string) (cpu float64) {
	f.add(microseconds(u.server)/float64(n), "%s: server µs/msg", name)
	f.add(microseconds(u.postgres)/float64(n), "%s: PostgreSQL µs/msg", name)
	f.add(microseconds(u.generator)/float64(n), "%s: load µs/msg", name)
	f.add(float64(u.wal)/float64(n), "%s: WAL B/msg", name)
	return microseconds(u.server+u.postgres) / float64(n)
}
