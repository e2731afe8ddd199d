package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/queend/queend/bench/load"
)

// profileOptions are the flags of `profile`.
type profileOptions struct {
	common
	path        string
	connections int
	seconds     int
	items       int
	lines       int
	out         string
}

func profileFlags(args []string) profileOptions {
	var o profileOptions
	f := flag.NewFlagSet("profile", flag.ExitOnError)
	o.register(f)
	f.StringVar(&o.path, "path", "/api/v1/push", "what is pushed to")
	f.IntVar(&o.connections, "connections", 64, "client connections")
	f.IntVar(&o.seconds, "seconds", 5, "of each profile")
	f.IntVar(&o.items, "items", 1, "messages in a request")
	f.IntVar(&o.lines, "lines", 40, "of each listing")
	f.StringVar(&o.out, "out", "profile", "directory for the profiles")
	_ = f.Parse(args) // ExitOnError
	return o
}

// profile loads queend twice: once for its CPU, and once with every allocation
// recorded (which costs CPU, so the two are apart).
func profile(ctx context.Context, o profileOptions) error {
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
	for _, view := range []struct {
		name, endpoint, index string
		env                   []string
	}{
		{"cpu", "profile", "cpu", nil},
		{"allocs", "allocs", "alloc_objects", []string{"GODEBUG=memprofilerate=1"}},
	} {
		file := filepath.Join(o.out, view.name+".pprof")
		url := fmt.Sprintf("/debug/pprof/%s?seconds=%d", view.endpoint, o.seconds)
		messages, err := w.record(ctx, o, binary, file, url, view.env)
		if err != nil {
			return err
		}
		fmt.Printf("\n%s: %d messages were pushed while %s was recorded\n", view.name, messages, file)
		if err := top(ctx, binary, file, view.index, o.lines); err != nil {
			return err
		}
	}
	return nil
}

// record starts a queend, loads it, fetches one profile meanwhile, and stops it.
func (w *world) record(ctx context.Context, o profileOptions, binary, file, url string, env []string) (messages int64, err error) {
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	pprof := net.JoinHostPort("127.0.0.1", port)
	s, err := w.start(ctx, "queend-"+strings.TrimSuffix(filepath.Base(file), ".pprof"), binary, append(env, "QUEEND_PPROF="+pprof)...)
	if err != nil {
		return 0, err
	}
	shape := load.Shape{Path: o.path, Queue: "bench", Partitions: 100, Items: o.items, PayloadBytes: 200, Seed: o.seed}
	g := &load.Closed{Requests: shape.Requests(s.addr), Items: o.items, Seed: o.seed}
	if err := g.Open(ctx, s.addr, o.connections); err != nil {
		return 0, err
	}
	defer g.Close()
	if _, err := g.Run(ctx, time.Second); err != nil {
		return 0, err
	}
	fetched := make(chan error, 1)
	go func() {
		text, err := get(ctx, "http://"+pprof+url)
		if err == nil {
			err = os.WriteFile(file, text, 0o644)
		}
		fetched <- err
	}()
	r, err := g.Run(ctx, time.Duration(o.seconds)*time.Second)
	if err != nil {
		return 0, err
	}
	if r.Refused > 0 {
		return 0, fmt.Errorf("%d pushes were refused: %s", r.Refused, r.Refusal)
	}
	if err := <-fetched; err != nil {
		return 0, fmt.Errorf("cannot fetch the profile: %w", err)
	}
	return r.Queued, s.stop()
}

func top(ctx context.Context, binary, file, index string, lines int) error {
	cmd := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-sample_index="+index, fmt.Sprintf("-nodecount=%d", lines),
		"-ignore=net/http", binary, file) // net/http serves the profile itself
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
