package postgres

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed supervise.sh
var supervise string

// run is one life of the server: from fork to the end of its last process.
type run struct {
	cmd      *exec.Cmd // the supervisor
	lifeline *os.File  // its end tells the supervisor that we are gone
	lock     *os.File  // held as long as we use Dir
	pid      int       // the postmaster

	reap sync.Once
	err  error
}

// running keeps every run: if one became garbage, its files would be closed with it
// and its server stopped.
var running sync.Map // *run → true

// forget gives up the directory.
func (r *run) forget() {
	running.Delete(r)
	r.lock.Close()
}

// supervise runs a program as a child of the supervisor, which stops it when we
// are gone.
func (s *Server) supervise(last *os.File, command ...string) (*run, error) {
	log, err := s.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make PostgreSQL's lifeline: %w", err)
	}
	defer theirs.Close()
	script, err := scriptPipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer script.Close()

	sockets, throwaway := "", ""
	if s.private {
		sockets = s.sockets
	}
	if s.options.Throwaway {
		throwaway = s.options.Dir
	}
	cmd := s.owner.command("/bin/sh", append([]string{"-s", "supervise", sockets, throwaway}, command...)...)
	cmd.Stdin = script
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs, last}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("cannot start %s: %w", command[0], err)
	}
	return &run{cmd: cmd, lifeline: ours}, nil
}

// scriptPipe is a pipe that holds the supervisor's script: on its command line the
// script would fill the screen of whoever lists processes.
func scriptPipe() (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe for PostgreSQL's supervisor: %w", err)
	}
	defer write.Close()
	// A pipe takes 64 KiB before it blocks (pipe(7)), or 4 KiB for a user who has
	// very many: the script is shorter than both.
	if _, err := write.WriteString(supervise); err != nil {
		read.Close()
		return nil, fmt.Errorf("cannot hand PostgreSQL's supervisor its script: %w", err)
	}
	return read, nil
}

// stop asks the supervisor to stop the server, and waits for both.
func (r *run) stop() error {
	r.lifeline.Write([]byte("stop\n")) // fails only when the supervisor has ended
	r.lifeline.Close()
	return r.wait()
}

// waitUntil waits for the end of a program that ends by itself, or stops it when
// ctx ends first.
func (r *run) waitUntil(ctx context.Context) error {
	defer r.lifeline.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !r.exited() {
		select {
		case <-ctx.Done():
			r.stop()
			return ctx.Err()
		case <-tick.C:
		}
	}
	return r.wait()
}

func (r *run) wait() error {
	r.reap.Do(func() { r.err = r.cmd.Wait() })
	return r.err
}

// exited looks without waiting and without reaping, so that wait still can.
func (r *run) exited() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, r.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return errors.Is(err, unix.ECHILD) || err == nil && info.Signo != 0
}
