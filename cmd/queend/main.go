// Command queend is the message queue server. This file is the program's outline;
// server.go is the wiring, config.go the only reader of flags and environment.
//
//	                  ┌── loop 0 ─────────────────────────────────────────────────────────┐
//	acceptor ─ conns ─┤  router 0 ─→ long poll 0 ─┬─→ file buffer 0 ─→ asyncdb lanes 0 ─────┼─→ PostgreSQL
//	                  │                           └─→ file buffer 0 ─→ pooldb store 0 ─┐  │
//	                  └─────────────────────────────────────│──────────────────────────│──┘
//	                  ┌── loop 1 …                          │                          └→ goroutines, pgxpool ─→ PostgreSQL
//	                                                        ↓ when PostgreSQL is away
//	                                 writer ─→ disk ─→ drain ─→ replay lane, on one of the loops ─→ PostgreSQL
//
// Start, in this order: log, private PostgreSQL (if asked for), the port, file buffer, loops
// (clients are accepted, and pushes go to disk from here on), schema, lanes, drain. READY is
// told to systemd when the lanes are connected, or before, when pushes can be buffered. Stop
// in reverse.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/asyncdb"
	"github.com/queend/queend/pkg/schema"
)

// version is set by the linker (see the Makefile).
var version = "dev"

// stopSignals end the process when all that it has accepted is answered. SIGHUP is among
// them: it comes when the terminal goes away that `make run` was typed into.
var stopSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

func main() {
	dropEmpty()
	config, command, err := parse(os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), stopSignals...)
		defer stop()
		err = run(ctx, config, command.Command())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "queend: "+err.Error())
		os.Exit(exitStatus(os.Args[1:], err))
	}
}

func run(ctx context.Context, c *Config, command string) error {
	switch command {
	case "serve":
		return serve(ctx, &c.Serve)
	case "migrate plan":
		return migrate(ctx, &c.Migrate.Plan.Database, schema.WritePlan)
	case "migrate apply":
		return migrate(ctx, &c.Migrate.Apply.Database, schema.Apply)
	case "migrate print":
		fmt.Print(schema.Print())
		return nil
	case "check":
		return checkDatabase(ctx, &c.Check, os.Stdout, os.Stderr)
	case "buffer ls":
		return listBuffer(&c.Buffer.Ls, os.Stdout)
	case "buffer verify":
		return verifyBuffer(&c.Buffer.Verify, os.Stdout)
	case "buffer export":
		return exportMessages(&c.Buffer.Export, os.Stdout, os.Stderr)
	case "version":
		fmt.Println("queend " + versionText())
		return nil
	}
	panic("BUG: no such command: " + command)
}

// migrate plans or applies the migrations of one database.
func migrate(ctx context.Context, d *Database, do func(context.Context, io.Writer, *pgconn.Config) error) error {
	db, err := asyncdb.Open(asyncdb.Config{ConnString: d.ConnString(), ConnectTimeout: d.Connect.Duration()})
	if err != nil {
		return err
	}
	return do(ctx, os.Stdout, db.Connection())
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
