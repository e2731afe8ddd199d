package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// external is a server that somebody else has started: any that has queend's API.
type external struct {
	url      string // http://host:port/prefix; empty: there is none
	pid      int    // of its process, whose tree is measured
	database string // its database's connection string, for verification
}

func (e *external) register(f *flag.FlagSet) {
	f.StringVar(&e.url, "url", "", "base `URL` of a server that runs already and is measured too (http://host:port): any with the same API")
	f.IntVar(&e.pid, "pid", 0, "process of that server, if it is on this machine: what it and its children cost")
	f.StringVar(&e.database, "database", "", "connection string of that server's PostgreSQL: with it, answers are compared with rows, and PostgreSQL's costs are measured")
}

// external makes an arm of it. What cannot be measured of it is said in its cells. The
// queues that it is asked to push to are named after this run; they stay.
func (w *world) external(ctx context.Context, e external) (a arm, err error) {
	target, err := load.ParseTarget(e.url)
	if err != nil {
		return a, err
	}
	s := &server{name: armExternal, addr: target.Addr, host: target.Host, prefix: target.Prefix, process: e.pid, foreign: true}
	if e.pid == 0 {
		s.lack("no -pid was given", lackProcess...)
	} else if _, err := s.sample(); err != nil {
		return a, fmt.Errorf("-pid: %w", err)
	}
	if _, err := s.counts(ctx); err != nil {
		s.lack("the server does not tell: "+err.Error(), lackAllocations)
	}
	if err := s.openDatabase(ctx, e.database); err != nil {
		return a, err
	}
	w.foreign = append(w.foreign, s)
	return arm{name: armExternal, path: "/api/v1/push", server: s}, nil
}

// openDatabase connects to a foreign server's database, and finds its postmaster.
func (s *server) openDatabase(ctx context.Context, database string) (err error) {
	if database == "" {
		s.lack("no -database was given: nothing is verified", lackPostgres, lackWAL, "missing", "untold")
		return nil
	}
	if s.db, err = pgx.Connect(ctx, database); err != nil {
		return fmt.Errorf("-database: %w", err)
	}
	if _, err := s.wal(ctx); err != nil {
		return fmt.Errorf("-database: %w", err)
	}
	if s.postgres, err = postmaster(ctx, s.db); err != nil {
		s.lack(err.Error(), lackPostgres)
	}
	return nil
}

// postmaster is the parent of our session's backend, if that is a process of this
// machine.
func postmaster(ctx context.Context, db *pgx.Conn) (int, error) {
	host := db.Config().Host
	if ip := net.ParseIP(host); !strings.HasPrefix(host, "/") && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return 0, fmt.Errorf("PostgreSQL is on %s", host)
	}
	var backend int
	if err := db.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return 0, err
	}
	name, parent, err := proc.Parent(backend)
	if err != nil || name != "postgres" {
		return 0, fmt.Errorf("PostgreSQL is not among this machine's processes")
	}
	return parent, nil
}

// loadOptions are the flags of `load`.
type loadOptions struct {
	common
	external
	arms                     string
	modes                    string
	rounds                   int
	warm, seconds            float64
	syscalls                 float64
	pool                     int
	rate                     float64
	connections              int
	shape                    load.Shape
	consumers, groups, batch int
	claim                    int
	backlog                  int
	autoAck                  bool
	json                     string
}

func loadFlags(args []string) loadOptions {
	o := loadOptions{shape: load.Shape{Queue: "bench"}}
	f := flag.NewFlagSet("load", flag.ExitOnError)
	o.common.register(f)
	o.external.register(f)
	f.StringVar(&o.arms, "arms", "", "between commas: "+strings.Join(armNames, ", ")+", hello, floor(WAY, ROWS, CONNECTIONS), limit (the best floor of a sweep), external; empty: push, or external where there is a -url")
	f.StringVar(&o.modes, "mode", "push", "between commas: push, pop, pipeline, fan-out, mixed, hello")
	f.IntVar(&o.rounds, "rounds", 1, "how often the arms take turns")
	f.Float64Var(&o.warm, "warm", 0.3, "seconds of load before each measurement")
	f.Float64Var(&o.seconds, "seconds", 1, "of each measurement")
	f.Float64Var(&o.syscalls, "syscalls", 0.3, "seconds of a second run in which system calls are counted; 0: none")
	f.IntVar(&o.pool, "pool", 16, "size of the pools")
	f.Float64Var(&o.rate, "rate", 0, "messages a second that become due, whatever the server does; 0: a closed loop")
	f.IntVar(&o.connections, "connections", 64, "that push")
	f.IntVar(&o.shape.Queues, "queues", 1, "that are pushed to")
	f.IntVar(&o.shape.Partitions, "partitions", 100, "of each queue")
	f.Float64Var(&o.shape.Zipf, "zipf", 0, fmt.Sprintf("s of Zipf's law for the partitions, above 1, as %v; 0: uniform", load.ZipfDefault))
	f.IntVar(&o.shape.Items, "batch", 1, "messages in a push")
	f.BoolVar(&o.shape.Together, "together", false, "all messages of a push into one partition")
	f.IntVar(&o.shape.PayloadBytes, "payload", 200, "bytes of each payload")
	f.BoolVar(&o.shape.Transactions, "transactions", false, "give each message a transactionId")
	f.IntVar(&o.consumers, "consumers", 8, "connections that pop")
	f.IntVar(&o.groups, "groups", 10, "of fan-out")
	f.IntVar(&o.batch, "pop", 100, "messages of a pop at most")
	f.IntVar(&o.claim, "claim", 0, "partitions that a pop may claim; 0: one")
	f.BoolVar(&o.autoAck, "auto", false, "autoAck instead of acks")
	f.IntVar(&o.backlog, "backlog", 50000, "messages that lie there in mode pop")
	f.StringVar(&o.json, "json", "", "file for the whole result; empty: none")
	_ = f.Parse(args) // ExitOnError
	o.shape.Seed = o.seed
	return o
}

// loadCommand measures any mode on any arm, in turns.
func loadCommand(ctx context.Context, o loadOptions) error {
	w, err := newWorld(ctx, o.common)
	if err != nil {
		return err
	}
	defer w.close()
	r, err := w.describe(ctx, quickOptions{common: o.common})
	if err != nil {
		return err
	}
	r.Method = "bench load " + strings.Join(os.Args[2:], " ")
	arms, err := w.loadArms(ctx, o)
	if err != nil {
		return err
	}
	for round := range o.rounds {
		for _, mode := range splitNames(o.modes) {
			for _, a := range arms {
				if a.name == armHello && mode != "push" && mode != "hello" || a.name != armLoop && a.name != armExternal && a.name != armHello && mode != "push" {
					continue // it has no such mode
				}
				say("round %d of %d, %s: %s", round+1, o.rounds, mode, a)
				t := trial{mode: mode, load: o.settings(mode), round: round}
				if round == 0 {
					t.syscalls = time.Duration(o.syscalls * float64(time.Second))
				}
				c, err := w.trial(ctx, a, t)
				if err != nil {
					return err
				}
				r.Cells = append(r.Cells, c)
			}
		}
	}
	if r.FlushAfter, err = w.flushMicroseconds(); err != nil {
		return err
	}
	r.heading(os.Stdout)
	printCells(os.Stdout, r.Cells)
	if o.json != "" {
		text, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	return r.verdict()
}

// settings are those of one mode.
func (o loadOptions) settings(mode string) load.Settings {
	s := load.Settings{Shape: o.shape, Connections: o.connections, Rate: o.rate, Consumers: o.consumers, Backlog: o.backlog,
		Pop:  load.Pop{Batch: o.batch, Partitions: o.claim, AutoAck: o.autoAck},
		Warm: time.Duration(o.warm * float64(time.Second)), Window: time.Duration(o.seconds * float64(time.Second))}
	if mode == "fan-out" {
		s.Groups = o.groups
	}
	return s
}

// loadArms starts what is asked for.
func (w *world) loadArms(ctx context.Context, o loadOptions) (all []arm, err error) {
	names := o.arms
	switch {
	case names == "" && o.url != "":
		names = armExternal
	case names == "":
		names = armLoop
	}
	servers := map[string]arm{}
	start := func(name string) (arm, error) {
		if a, ok := servers[name]; ok {
			return a, nil
		}
		some, err := w.arms(ctx, []string{name}, []int{o.pool})
		if err != nil {
			return arm{}, err
		}
		servers[name] = some[0]
		return some[0], nil
	}
	for _, name := range splitArms(names) {
		var a arm
		var p floorPoint
		switch n, _ := fmt.Sscanf(name, "floor(%s %d, %d)", &p.Way, &p.Batch, &p.Conns); {
		case n == 3:
			p.Way = strings.TrimSuffix(p.Way, ",")
			a = w.floorArm(p)
		case name == armExternal:
			a, err = w.external(ctx, o.external)
		case name == armHello:
			if a, err = start(armLoop); err == nil {
				a = a.hello()
			}
		case name == "limit":
			var points []floorPoint
			say("looking for the floor")
			if points, err = w.sweepFloor(ctx, o.shape, sweepSizes, 300*time.Millisecond, anyFloor); err == nil {
				for _, p := range points {
					say("%s: %.0f rows/s", p, p.Rate)
				}
				a = w.floorArm(limit(points))
			}
		default:
			if a, err = start(name); err == nil {
				err = w.primeArm(ctx, a, o.shape, 500)
			}
		}
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// splitArms splits at commas that are in no parentheses.
func splitArms(text string) (all []string) {
	from, depth := 0, 0
	for i, r := range text {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			all, from = append(all, text[from:i]), i+1
		}
	}
	return append(all, text[from:])
}

// printCells prints a line a cell.
func printCells(out io.Writer, cells []Cell) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "mode\tarm\tload\tconns\tmsg/s\tp50 ms\tp99 ms\tp99.9\tmax\tserver µs\tPG µs\tload µs\tvol sw\tinvol sw\tsyscalls\tallocs\tWAL B\tRSS MiB\ttrue\t")
	for _, c := range cells {
		of := func(format string, v float64, figure string) string {
			if c.NotMeasured != nil && (*c.NotMeasured)[figure] != "" {
				return "-"
			}
			return fmt.Sprintf(format, v)
		}
		offered := c.Generator
		if c.Offered > 0 {
			offered = fmt.Sprintf("%.0f/s", c.Offered)
		}
		honest := "yes"
		switch {
		case !c.honest():
			honest = "NO"
		case c.NotMeasured != nil && (*c.NotMeasured)["missing"] != "":
			honest = "not verified"
		}
		if c.Refused > 0 {
			honest += fmt.Sprintf(", %d refused: %.60s", c.Refused, c.Refusal)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%.1f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n",
			c.Mode, c.Arm, offered, c.Connections, c.Rate, c.P50/1000, c.P99/1000, c.P999/1000, c.Max/1000,
			of("%.1f", c.ServerCPU, "server_cpu_us_per_message"), of("%.1f", c.PostgresCPU, lackPostgres), c.GeneratorCPU,
			of("%.2f", c.Voluntary, "voluntary_switches_per_message"), of("%.2f", c.Involuntary, "involuntary_switches_per_message"),
			of("%.2f", c.Syscalls, "syscalls_per_message"), of("%.2f", c.Allocations, lackAllocations), of("%.0f", c.WALBytes, lackWAL),
			of("%.0f", float64(c.RSS)/(1<<20), "server_rss_bytes"), honest)
	}
	t.Flush()
}
