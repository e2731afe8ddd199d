// Command queend is the message queue server. This file is the program's outline;
// server.go is the wiring, config.go the only reader of flags and environment.
//
//	                  ┌── loop 0 ──────────────────────────────────────────┐
//	acceptor ─ conns ─┤  router 0 ─→ asyncdb store 0 ─ lane ─────────────────┼─→ PostgreSQL
//	                  │          └─→ pooldb store 0 ─┐                     │
//	                  └───────────────────────────────┼─────────────────────┘
//	                  ┌── loop 1 …                    └→ goroutines, pgxpool ─→ PostgreSQL
//
// Start, in this order: log, private PostgreSQL (if asked for), loops and listener,
// schema (until then pushes hear 503), stores, READY to systemd. Stop in reverse.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// version is set by the linker (see the Makefile).
var version = "dev"

func main() {
	config, command, err := parse(os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err = run(ctx, config, command.Command())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "queend: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, c *Config, command string) error {
	switch command {
	case "serve":
		return serve(ctx, &c.Serve)
	case "migrate apply":
		return migrateApply(ctx, &c.Migrate.Apply.Database)
	case "version":
		fmt.Println("queend " + versionText())
		return nil
	}
	panic("BUG: no such command: " + command)
}

// versionText is the linker's version, or what Go knows of the build.
func versionText() string {
	if version != "dev" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

// errStopped ends serve when a signal came before everything was up.
var errStopped = errors.New("stopped before the start was complete")
