package main

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// fleet is all servers that a run has started. Only one is measured at a time, and the others
// are paused meanwhile (SIGSTOP): what each does by the clock, and PostgreSQL for it, is a few
// hundredths of a core, and there are a dozen of them in a report.
type fleet struct{ servers []*server }

// Pausing is done again, after a moment, when it has hit a session that was at work: who is
// paused in a transaction keeps its locks.
const (
	pauseMax   = 30 * time.Second
	pauseAgain = 5 * time.Millisecond
)

// only pauses all but s, which may be none of them. Nobody is asked for anything meanwhile. db is any
// connection of ours.
func (f *fleet) only(ctx context.Context, db *pgx.Conn, s *server) error {
	if f == nil || len(f.servers) == 0 {
		return nil
	}
	for began := time.Now(); time.Since(began) < pauseMax; {
		for _, other := range f.servers {
			other.pause(other != s)
		}
		busy, err := busySessions(ctx, db)
		if err != nil || busy == 0 {
			return err
		}
		for _, other := range f.servers {
			other.pause(false)
		}
		if err := sleep(ctx, pauseAgain); err != nil {
			return err
		}
	}
	return errors.New("servers that nobody asks for anything are at work in PostgreSQL all the time, and cannot be paused")
}

// busySessions are the sessions of all databases, but ours, that are in the middle of something.
func busySessions(ctx context.Context, db *pgx.Conn) (n int, err error) {
	err = db.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
		WHERE state <> 'idle' AND backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&n)
	return n, err
}

// pause stops the process for a while, or has it go on.
func (s *server) pause(yes bool) {
	if s.cmd == nil || s.cmd.Process == nil || s.paused == yes {
		return
	}
	s.paused = yes
	signal := syscall.SIGCONT
	if yes {
		signal = syscall.SIGSTOP
	}
	_ = s.cmd.Process.Signal(signal) // it may have ended
}
