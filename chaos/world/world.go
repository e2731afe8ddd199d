// Package world is what a trial happens to: PostgreSQL, databases of it, and queends, all
// private to this process, on 127.0.0.1 or unix sockets, and gone when it ends, also by
// kill -9.
package world

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/pkg/postgres"
)

// Hang bounds what anybody waits for here. It is not a measurement.
const Hang = 2 * time.Minute

// ConnectionsMax is PostgreSQL's max_connections.
const ConnectionsMax = 80

// World is one PostgreSQL and one binary of queend.
type World struct {
	Dir      string // everything lives here, and goes with it
	Binary   string
	Version  string // of the binary
	Postgres *postgres.Server

	quick  bool
	tagged map[string]string // build tag → binary
}

// Open starts PostgreSQL in a directory of its own. binary is a queend, "" builds the one
// of the working tree. Quick does without fsync: nobody cuts the power here, and what a
// killed process had written is written all the same.
func Open(ctx context.Context, binary string, quick bool) (*World, error) {
	dir, err := os.MkdirTemp("/tmp", "queend-chaos-")
	if err != nil {
		return nil, err
	}
	// PostgreSQL may run as another user, who has to pass.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	w := &World{Dir: dir, Binary: binary, quick: quick, tagged: map[string]string{}}
	if w.Binary == "" {
		if w.Binary, err = w.build(ctx, ""); err != nil {
			w.Close()
			return nil, err
		}
	}
	out, err := exec.CommandContext(ctx, w.Binary, "version").Output()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("cannot ask %s for its version: %w", w.Binary, err)
	}
	w.Version = strings.TrimSpace(strings.TrimPrefix(string(out), "queend"))
	if w.Postgres, err = w.postgres(ctx, filepath.Join(dir, "postgres")); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// postgres starts a PostgreSQL in dir. A deadlock is found soon; the rest is as PostgreSQL
// has it.
func (w *World) postgres(ctx context.Context, dir string) (*postgres.Server, error) {
	settings := map[string]string{"max_connections": fmt.Sprint(ConnectionsMax), "deadlock_timeout": "50ms", "shared_buffers": "64MB"}
	if w.quick {
		settings["fsync"] = "off"
	}
	return postgres.Start(ctx, postgres.Options{Dir: dir, Throwaway: true, TCP: true, Settings: settings})
}

// Tagged is the queend of the working tree, built with a tag that plants faults or moves
// its clock.
func (w *World) Tagged(ctx context.Context, tag string) (string, error) {
	if path, ok := w.tagged[tag]; ok {
		return path, nil
	}
	path, err := w.build(ctx, tag)
	if err == nil {
		w.tagged[tag] = path
	}
	return path, err
}

// build makes queend of the working tree, and gives it the commit as its version. tag "" is
// none.
func (w *World) build(ctx context.Context, tag string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("cannot find the module: %w", err)
	}
	commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--exclude=*", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	path := filepath.Join(w.Dir, "queend"+tag)
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tag, "-ldflags", "-X main.version="+string(bytes.TrimSpace(commit)), "-o", path, "./cmd/queend")
	cmd.Dir = string(bytes.TrimSpace(root))
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cannot build queend: %w", err)
	}
	return path, nil
}

// Close stops PostgreSQL and removes everything.
func (w *World) Close() {
	if w.Postgres != nil {
		_ = w.Postgres.Resume()
		_ = w.Postgres.Stop()
	}
	_ = os.RemoveAll(w.Dir)
}

var databases atomic.Int64

// Database makes an empty database and returns its name.
func (w *World) Database(ctx context.Context) (string, error) {
	name := fmt.Sprintf("chaos_%d", databases.Add(1))
	return name, w.Postgres.CreateDatabase(ctx, name)
}

// Drop drops a database, whoever is connected.
func (w *World) Drop(ctx context.Context, name string) error {
	conn, err := w.Connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return err
}

// Connect connects to a database directly, and tries again until ctx ends: PostgreSQL may
// just be coming up.
func (w *World) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	for {
		conn, err := pgx.Connect(ctx, w.Postgres.ConnString(database))
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

//go:embed audit.sql
var audit string

// Audit lets a database record what happens to leases and cursors.
func Audit(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, audit); err != nil {
		return fmt.Errorf("cannot install the audit: %w", err)
	}
	return nil
}
