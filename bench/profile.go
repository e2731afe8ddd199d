package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// profileOptions are the flags of `profile`.
type profileOptions struct {
	common
	mode        string
	path        string
	connections int
	consumers   int
	batch       int
	autoAck     bool
	backlog     int
	seconds     int
	items       int
	lines       int
	out         string
	views       string
}

func profileFlags(args []string) profileOptions {
	var o profileOptions
	f := flag.NewFlagSet("profile", flag.ExitOnError)
	o.register(f)
	f.StringVar(&o.mode, "mode", "push", "load: push, pop, pipeline, fan-out, mixed, hello")
	f.StringVar(&o.path, "path", "/api/v1/push", "what is pushed to")
	f.IntVar(&o.connections, "connections", 64, "that push")
	f.IntVar(&o.consumers, "consumers", 8, "connections that pop, in modes that do")
	f.IntVar(&o.batch, "pop", 100, "messages of a pop at most")
	f.BoolVar(&o.autoAck, "auto", false, "autoAck instead of acks")
	f.IntVar(&o.backlog, "backlog", 0, "messages that lie there in mode pop; 0: 40,000 for each second. When all are taken the rest of a profile is idle")
	f.IntVar(&o.seconds, "seconds", 5, "of each profile")
	f.IntVar(&o.items, "items", 1, "messages in a push")
	f.IntVar(&o.lines, "lines", 40, "of each listing")
	f.StringVar(&o.out, "out", "profile", "directory for the profiles")
	f.StringVar(&o.views, "views", "cpu,allocs,waits", "what is looked at, between commas")
	_ = f.Parse(args) // ExitOnError
	if o.backlog == 0 {
		o.backlog = 40_000 * o.seconds
	}
	return o
}

// view is one way to look at a server under load. Each has a run of its own, since
// looking at one thing costs another.
type view struct {
	name  string
	env   []string // of the server
	watch func(context.Context, *watched) error
	write func(context.Context, *watched) error
}

// watched is a server that is looked at.
type watched struct {
	o      profileOptions
	out    string // directory
	binary string
	pid    int
	pprof  string // where it serves its profiles
	text   io.Writer

	threads []proc.Thread // of waits
}

// views are all there are. Every allocation is recorded for allocs, which costs CPU; waits
// first asks the kernel, which costs the server nothing, and then records a trace.
func views() []view {
	return []view{
		{"cpu", nil, fetching("profile", "cpu.pprof"), listing("cpu", "cpu.pprof")},
		{"allocs", []string{"GODEBUG=memprofilerate=1"}, fetching("allocs", "allocs.pprof"), listing("alloc_objects", "allocs.pprof")},
		{"waits", nil, watchWaits, writeWaits},
	}
}

// profile loads queend once for each view, and writes a file of text for each into a
// directory, beside what it is made of.
func profile(ctx context.Context, o profileOptions) error {
	mode, ok := load.Modes[o.mode]
	if !ok {
		return fmt.Errorf("there is no mode %q", o.mode)
	}
	w, err := newWorld(ctx, o.common)
	if err != nil {
		return err
	}
	defer w.close()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	binary, err := w.buildQueend(ctx)
	if err != nil {
		return err
	}
	for _, v := range views() {
		if !strings.Contains(","+o.views+",", ","+v.name+",") {
			continue
		}
		if err := w.view(ctx, o, mode, binary, v); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return nil
}

// view starts a queend, loads it, looks at it meanwhile, stops it, and writes what was
// seen.
func (w *world) view(ctx context.Context, o profileOptions, mode load.Mode, binary string, v view) error {
	file := filepath.Join(o.out, v.name+".txt")
	text, err := os.Create(file)
	if err != nil {
		return err
	}
	defer text.Close()
	seen := &watched{o: o, out: o.out, binary: binary, text: io.MultiWriter(os.Stdout, text)}
	r, err := w.watch(ctx, mode, seen, v)
	if err != nil {
		return err
	}
	what := "mode " + o.mode
	if o.mode == "push" {
		what = o.path
	}
	fmt.Fprintf(seen.text, "\n%s: %d messages in %.1f s (%s, %d connections, %d messages in a push)\n",
		file, r.Count, r.Elapsed.Seconds(), what, o.connections, o.items)
	if err := v.write(ctx, seen); err != nil {
		return err
	}
	return text.Close()
}

func (w *world) watch(ctx context.Context, mode load.Mode, seen *watched, v view) (*load.Result, error) {
	o := seen.o
	if err := w.empty(ctx); err != nil {
		return nil, err
	}
	s, err := w.startQueend(ctx, "queend-"+v.name, seen.binary, v.env...)
	if err != nil {
		return nil, err
	}
	seen.pid, seen.pprof = s.cmd.Process.Pid, s.profiles
	watched := make(chan error, 1)
	settings := load.Settings{
		Target: load.Target{Addr: s.addr}, Nonce: v.name,
		Shape:       load.Shape{Path: o.path, Queue: "profile-" + v.name, Partitions: 100, Items: o.items, PayloadBytes: 200, Seed: o.seed},
		Connections: o.connections, Consumers: o.consumers, Backlog: o.backlog, Pop: load.Pop{Batch: o.batch, AutoAck: o.autoAck},
		Warm: time.Second, Window: time.Duration(o.seconds) * time.Second,
		Before: func() error {
			go func() { watched <- v.watch(ctx, seen) }()
			return nil
		},
	}
	if o.mode == "fan-out" {
		settings.Groups = max(o.consumers, 1)
	}
	r, err := mode(ctx, settings)
	if err != nil {
		return nil, err
	}
	if r.Refused > 0 {
		return nil, fmt.Errorf("%d requests were refused: %s", r.Refused, r.Refusal)
	}
	if err := <-watched; err != nil {
		return nil, err
	}
	return r, s.stop()
}

// fetching fetches a profile of Go's, which takes as long as the load.
func fetching(endpoint, file string) func(context.Context, *watched) error {
	return func(ctx context.Context, w *watched) error {
		return w.fetch(ctx, fmt.Sprintf("%s?seconds=%d", endpoint, w.o.seconds), file)
	}
}

func (w *watched) fetch(ctx context.Context, endpoint, file string) error {
	text, err := get(ctx, "http://"+w.pprof+"/debug/pprof/"+endpoint)
	if err != nil {
		return fmt.Errorf("cannot fetch the profile: %w", err)
	}
	return os.WriteFile(filepath.Join(w.out, file), text, 0o644)
}

// listing writes the functions that a profile is mostly made of.
func listing(index, file string) func(context.Context, *watched) error {
	return func(ctx context.Context, w *watched) error {
		return w.pprofTop(ctx, file, "-sample_index="+index, fmt.Sprintf("-nodecount=%d", w.o.lines))
	}
}

// pprofTop lists a profile. What serves the profile itself is left out.
func (w *watched) pprofTop(ctx context.Context, file string, flags ...string) error {
	args := append([]string{"tool", "pprof", "-top", "-ignore=net/http|runtime/trace|runtime/pprof"}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, w.binary, filepath.Join(w.out, file))...)
	var wrong strings.Builder
	cmd.Stdout, cmd.Stderr = w.text, &wrong
	if err := cmd.Run(); err != nil {
		return errors.Join(err, errors.New(wrong.String()))
	}
	return nil
}
