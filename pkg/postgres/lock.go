package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir takes the directory for this process, or says that another has it.
func (s *Server) lockDir() (*os.File, error) {
	path := filepath.Join(s.options.Dir, "queend.lock")
	lock, err := s.owner.openFile(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return lock, nil
	}
	lock.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another queend uses the PostgreSQL in %s: stop it, or choose another directory", s.options.Dir)
	}
	return nil, fmt.Errorf("cannot lock %s: %w", path, err)
}

// waitLast takes the lock that the processes of the server inherit, when the last
// of an earlier life has ended.
func (s *Server) waitLast(ctx context.Context) (*os.File, error) {
	path := filepath.Join(s.options.Dir, "server.lock")
	lock, err := s.owner.openFile(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; said = true {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			lock.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		if !said {
			s.options.Log("waiting until the PostgreSQL of an earlier start has stopped: " + s.dataDir())
			// Its supervisor is at it, unless somebody killed that too. It has no
			// other owner: we hold the directory.
			if pid, _ := readPidFile(s.dataDir()); pid > 0 && worksIn(pid, s.dataDir()) {
				syscall.Kill(pid, syscall.SIGCONT)
				syscall.Kill(pid, syscall.SIGINT)
			}
		}
		select {
		case <-ctx.Done():
			lock.Close()
			return nil, fmt.Errorf("a PostgreSQL of an earlier start still runs in %s: %w", s.options.Dir, ctx.Err())
		case <-tick.C:
		}
	}
}
