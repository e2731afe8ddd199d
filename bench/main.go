// Command bench measures queend's event loop against the pool of goroutines that
// it replaces, on the reader's own machine, and shows where the time goes.
//
//	go run . quick       a table in under a minute, and quick.json beside it
//	go run . report      every curve in ten minutes: report/report.html and .json
//	go run . load        one load of any mode, on any arm, or on a server that runs already
//	go run . profile     where CPU, allocations and waits of queend under load are
//	go run . drain       how fast a full queue is emptied
//	go run . wake        how soon a parked consumer has what is pushed
//	go run . wide        what many partitions cost a pop
//	go run . parked      what ten thousand parked pops cost
//	go run . groups      what ten consumer groups cost
//	go run . buffer      how fast the file buffer fills and empties
//
// It builds everything, starts its own PostgreSQL (durable, on disk, private) and
// its own servers on 127.0.0.1, and removes all of it at the end. README.md says
// how to read the figures and what they cannot tell.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

// The main goroutine keeps the first thread to itself: servers are its children
// and die with that very thread (PR_SET_PDEATHSIG), and the load generator needs
// a thread of its own anyway.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const usage = `usage: go run . quick [flags]     measure, print a table, write a JSON file
       go run . report [flags]    every curve, as a page (10 minutes; with -full, hours)
       go run . load [flags]      one load of any mode, on any arm, or on a server that runs already (-url)
       go run . profile [flags]   where CPU, allocations and waits of queend under load are
       go run . drain [flags]     how fast a full queue is emptied
       go run . wake [flags]      how soon a parked consumer has what is pushed
       go run . wide [flags]      what many partitions cost a pop
       go run . parked [flags]    what ten thousand parked pops cost
       go run . groups [flags]    what ten consumer groups cost
       go run . buffer [flags]    how fast the file buffer fills and empties
       go run . COMMAND -help     the flags of a command
`

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	switch args[0] {
	case "quick":
		return quick(ctx, quickFlags(args[1:]))
	case "report":
		o, err := fullFlags(args[1:])
		if err != nil {
			return err
		}
		return report(ctx, o)
	case "load":
		return loadCommand(ctx, loadFlags(args[1:]))
	case "profile":
		return profile(ctx, profileFlags(args[1:]))
	case "drain":
		return drain(ctx, drainFlags(args[1:]))
	case "wake":
		return wake(ctx, wakeFlags(args[1:]))
	case "parked":
		return parked(ctx, parkedFlags(args[1:]))
	case "wide":
		return wide(ctx, wideFlags(args[1:]))
	case "buffer":
		return buffer(ctx, bufferFlags(args[1:]))
	case "groups":
		return groups(ctx, groupsFlags(args[1:]))
	}
	return fmt.Errorf("there is no command %q\n%s", args[0], usage)
}

// common are the flags of every command.
type common struct {
	dir    string
	queend string
	seed   uint64
	set    settings
	env    settings
}

// settings is a flag that may be given several times: name=value.
type settings map[string]string

func (s settings) String() string { return "" }

func (s settings) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%q is not name=value", text)
	}
	s[name] = value
	return nil
}

func (c *common) register(f *flag.FlagSet) {
	f.StringVar(&c.dir, "dir", "/var/tmp", "where PostgreSQL's data lives during the run: a real disk, not a RAM disk")
	f.StringVar(&c.queend, "queend", "", "measure this binary instead of building the one in the tree")
	c.set, c.env = settings{}, settings{}
	f.Var(c.set, "set", "`name=value`: a setting of PostgreSQL's; may be given several times")
	f.Var(c.env, "env", "`NAME=value`: into queend's environment; may be given several times")
	f.Uint64Var(&c.seed, "seed", 1, "of what is random in the load")
}

// line is the progress of a long run; nil: there is none.
var line *progress

// say reports progress; figures go to stdout, everything else here.
func say(format string, args ...any) {
	if line != nil {
		line.say(format, args...)
		return
	}
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func splitNames(text string) []string { return strings.Split(text, ",") }
