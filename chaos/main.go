// Command chaos does harm to queend and to its PostgreSQL, and proves afterwards that
// nothing was lost, doubled, reordered or forgotten. README.md is its manual, `-list`
// says what it can do, and register.tsv is what it has found so far.
//
//	go run ./chaos -row 14 -trials 20 -seed 1
//
// This file is the outline: trials are made one after the other, each with a seed of its
// own, a database of its own and real queend processes. trial.go is what they have in
// common, rows_*.go what they do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/world"
)

// trialMax bounds one trial, beyond its budget.
const trialMax = 15 * time.Minute

type options struct {
	row, size, register, queend, logs, buffer string
	trials                                    int
	budget                                    time.Duration
	seed                                      uint64
	list, quiet, long                         bool
}

const usage = `chaos does harm to queend and checks that its promises are kept.

Usage: go run ./chaos -row 14 [-trials 20 | -budget 30m] [-seed 1] [-load small]
       go run ./chaos -list

Trial n of a run has seed SEED+n-1; a failed trial prints its seed and keeps its logs.
Each trial adds a line to the register. Exit status 1: a trial failed; 2: one could not
be run (then it is not in the register).

`

func main() {
	var o options
	flag.StringVar(&o.row, "row", "", "the `row` to run, or several: 14,17")
	flag.IntVar(&o.trials, "trials", 3, "how many trials")
	flag.DurationVar(&o.budget, "budget", 0, "in place of a number of trials: `time` after which no trial of a row is begun; row 27 makes one trial of it")
	flag.BoolVar(&o.long, "long", false, "the long form of rows 3, 5 and 6")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the first trial")
	flag.StringVar(&o.size, "load", "small", "small, medium, large or bulk")
	flag.StringVar(&o.register, "register", "", "the register (default: chaos/register.tsv of the module); - for none")
	flag.StringVar(&o.queend, "queend", "", "a queend `binary` (default: built from the working tree); its version goes into the register")
	flag.StringVar(&o.logs, "logs", "", "`directory` for the logs of failed trials (default: a new one in /tmp)")
	flag.StringVar(&o.buffer, "write-buffer", "", "make no trial, but a file buffer in this `directory` for later versions to be tried with")
	flag.BoolVar(&o.list, "list", false, "list the rows, what they do and what passes")
	flag.BoolVar(&o.quiet, "quiet", false, "one line a trial")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	if o.list {
		list()
		return
	}
	run := run
	if o.buffer != "" {
		run = keepOld
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	bad, err := run(ctx, &o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos: "+err.Error())
		os.Exit(2)
	}
	if bad {
		os.Exit(1)
	}
}

func list() {
	for _, r := range rows() {
		fmt.Printf("%-3s %s\n    does:   %s\n    passes: %s\n", r.ID, r.Title, r.What, r.Pass)
	}
	fmt.Print("25  clients send again what they do not know the outcome of\n    does:   part of every load: 3 times, over other connections\n    passes: I2\n")
}

// run makes the trials; bad says that a promise was broken.
func run(ctx context.Context, o *options) (bad bool, err error) {
	size, ok := load.Sizes[o.size]
	if !ok {
		return false, fmt.Errorf("-load %q is none of small, medium, large, bulk", o.size)
	}
	var chosen []*Row
	for _, id := range strings.Split(o.row, ",") {
		row := rowOf(id)
		if row == nil {
			return false, fmt.Errorf("-row %q: there is no such row; see -list", id)
		}
		chosen = append(chosen, row)
	}
	if flag.NArg() > 0 || o.trials < 1 {
		return false, errors.New("-row and a number of trials are all that is needed; see -help")
	}
	if o.register == "" {
		root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			return false, fmt.Errorf("cannot find the module, name a register: %w", err)
		}
		o.register = filepath.Join(strings.TrimSpace(string(root)), "chaos", "register.tsv")
	}
	if o.logs == "" {
		if o.logs, err = os.MkdirTemp("/tmp", "queend-chaos-logs-"); err != nil {
			return false, err
		}
	}
	w, err := world.Open(ctx, o.queend, false)
	if err != nil {
		return false, err
	}
	defer w.Close()
	var broken error
	for _, row := range chosen {
		began := time.Now()
		for i := 0; o.goesOn(row, i, time.Since(began)); i++ {
			broke, err := o.one(ctx, w, row, size, o.seed+uint64(i))
			bad = bad || broke
			if ctx.Err() != nil {
				return bad, errors.New("stopped")
			}
			if err != nil {
				fmt.Printf("row %s seed %d could not be run: %v\n", row.ID, o.seed+uint64(i), err)
				broken = fmt.Errorf("row %s, seed %d: %w", row.ID, o.seed+uint64(i), err)
			}
		}
	}
	_ = os.Remove(o.logs) // if nothing is in it
	return bad, broken
}

// keepOld writes a buffer for testdata.
func keepOld(ctx context.Context, o *options) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, writeBufferMax)
	defer cancel()
	w, err := world.Open(ctx, o.queend, true)
	if err != nil {
		return false, err
	}
	defer w.Close()
	return false, writeBuffer(ctx, w, o.buffer)
}

// goesOn says whether there is one more trial of a row.
func (o *options) goesOn(row *Row, made int, spent time.Duration) bool {
	switch {
	case o.budget == 0:
		return made < o.trials
	case row.Soak:
		return made < 1
	}
	return made < 1 || spent < o.budget
}

// one makes a trial and says whether a promise was broken.
func (o *options) one(ctx context.Context, w *world.World, row *Row, size load.Size, seed uint64) (bad bool, err error) {
	dir := filepath.Join(o.logs, fmt.Sprintf("row%s-seed%d-%s", row.ID, seed, time.Now().Format("150405")))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	t := newTrial(w, seed, size, dir)
	t.Long = o.long
	limit := trialMax
	if row.Soak {
		t.Budget = o.budget
		limit += max(o.budget, soakDefault)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !o.quiet {
		t.Say = func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }
	}
	err = row.Run(ctx, t)
	bad = len(t.Violations) > 0
	if err != nil && !bad {
		return false, fmt.Errorf("%w; logs in %s", err, dir)
	}
	line := t.line(w.Version, row.ID, o.size)
	fmt.Printf("row %s seed %d: %s; %s messages; %s; %s\n", row.ID, seed, line[7], line[5], line[6], line[8])
	for _, v := range t.Violations {
		fmt.Printf("  %s\n", v)
	}
	if bad {
		fmt.Printf("  again with: go run ./chaos -row %s -trials 1 -seed %d -load %s; logs in %s\n", row.ID, seed, o.size, dir)
	} else if err := os.RemoveAll(dir); err != nil {
		return bad, err
	}
	if o.register == "-" {
		return bad, nil
	}
	return bad, appendRegister(o.register, line...)
}
