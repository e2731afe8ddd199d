package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Kill ends all processes of the server with SIGKILL, as a power cut would, and
// waits until they are gone. For tests.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.run
	if r == nil {
		return nil
	}
	if !r.exited() {
		// Stopped first, so that it cannot fork while we look. A backend that we
		// miss ends by itself: it notices that its postmaster is gone.
		syscall.Kill(r.pid, syscall.SIGSTOP)
		children := childrenOf(r.pid)
		syscall.Kill(r.pid, syscall.SIGKILL)
		for _, pid := range children {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	s.run = nil
	r.wait()
	r.lifeline.Close()
	last, err := s.waitLast(context.Background())
	s.closeSockets()
	r.forget()
	if err != nil {
		return err
	}
	return last.Close()
}

// Pause stops all processes of the server (SIGSTOP): connections stay open and
// nothing answers. For tests.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on (SIGCONT).
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil || s.run.exited() {
		return errors.New("PostgreSQL is not running")
	}
	// The postmaster first: while it is stopped no backend is born. (When it goes
	// on, its children must be there to be found too, and they are.)
	if err := syscall.Kill(s.run.pid, sig); err != nil {
		return fmt.Errorf("cannot signal PostgreSQL: %w", err)
	}
	for _, pid := range childrenOf(s.run.pid) {
		syscall.Kill(pid, sig) // may have ended meanwhile
	}
	return nil
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
