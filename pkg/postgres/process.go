package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// removeStalePid removes a postmaster.pid whose pid has since been given to
// somebody else, which PostgreSQL itself would take for a running server (it
// happens whenever a container starts again). It is called under both locks, so
// only a server that somebody started by hand can be there: that one is refused.
// A pid that belongs to nobody is left to PostgreSQL, which then also looks
// whether the old shared memory is still in use.
func removeStalePid(data string) error {
	pid, _ := readPidFile(data)
	if pid <= 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return nil
	}
	if worksIn(pid, data) {
		return fmt.Errorf("a PostgreSQL that queend did not start, pid %d, runs in %s: stop it first", pid, data)
	}
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil {
		return fmt.Errorf("cannot remove a stale postmaster.pid: %w", err)
	}
	return nil
}

// worksIn says whether a process is a PostgreSQL of that data directory: each of
// them makes it its working directory. (stat follows the link for us: no race with
// a pid that ends in between.)
func worksIn(pid int, data string) bool {
	at, errAt := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	is, errIs := os.Stat(data)
	return errAt == nil && errIs == nil && os.SameFile(at, is)
}

// readPidFile reads the pid and the state from postmaster.pid; 0 if there is none.
func readPidFile(data string) (pid int, status string) {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0, ""
	}
	lines := strings.Split(string(text), "\n")
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	if len(lines) > 7 {
		status = strings.TrimSpace(lines[7])
	}
	return pid, status
}

// childrenOf lists the processes that pid has forked.
func childrenOf(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var children []int
	for _, path := range stats {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && parentOf(child) == pid {
			children = append(children, child)
		}
	}
	return children
}

// parentOf reads the fourth field of /proc/pid/stat (proc(5)); the second, the
// name in parentheses, may hold anything. 0 if there is no such process.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}

// reservePort finds a port of 127.0.0.1 that nobody has, and keeps it from others
// that call it until the file is closed, also while the server that uses it is
// stopped. Below the kernel's ephemeral range (32768 and up), where an outgoing
// connection could take it.
//
// The file is a socket that is bound and does not listen. It is bound without
// SO_REUSEADDR, which fails if anybody else is bound to the port at all; then it
// gets the option, as PostgreSQL's own socket has it, and the two may share the
// port (socket(7)).
func reservePort() (*os.File, int, error) {
	for range 1000 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, 0, fmt.Errorf("cannot look for a port for PostgreSQL: %w", err)
		}
		port := 20000 + rand.IntN(12000)
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port})
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if err == nil {
			return os.NewFile(uintptr(fd), "port "+strconv.Itoa(port)), port, nil
		}
		unix.Close(fd)
	}
	return nil, 0, errors.New("cannot find a free port for PostgreSQL on 127.0.0.1")
}
