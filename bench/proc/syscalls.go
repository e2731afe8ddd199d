package proc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syscalls counts the system calls of a process, its children and all their threads,
// from when it was made to Stop. /proc has no such count: its syscr and syscw are of
// reads and writes alone.
type Syscalls struct {
	how    string
	events []int // descriptors of perf events, one for each thread
	strace *exec.Cmd
	report *os.File // of strace
}

// The two ways to count.
const (
	howPerf   = "kernel tracepoint raw_syscalls:sys_enter (perf_event_open), which costs each call less than 0.1 µs; in a window of its own"
	howStrace = "strace -c -f in a window of its own: it slows the server down many times, and calls that depend on its speed differ"
)

// CountSyscalls begins to count: by the kernel's tracepoint, which takes a right that
// root has (CAP_PERFMON, and that to read tracefs), or else by strace, if that is
// installed. The error says why neither can be.
func CountSyscalls(pid int) (*Syscalls, error) {
	s, err := countByPerf(pid)
	if err == nil {
		return s, nil
	}
	s, err2 := countByStrace(pid)
	if err2 == nil {
		return s, nil
	}
	return nil, fmt.Errorf("system calls cannot be counted: %w", errors.Join(err, err2))
}

// How says how they are counted.
func (s *Syscalls) How() string { return s.how }

func countByPerf(root int) (*Syscalls, error) {
	id, err := tracepoint("raw_syscalls/sys_enter")
	if err != nil {
		return nil, err
	}
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit}
	attr.Size = uint32(unsafe.Sizeof(*attr))
	family, err := descendants(root)
	if err != nil {
		return nil, err
	}
	s := &Syscalls{how: howPerf}
	for _, pid := range family {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it ended; the root's absence is told below
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			fd, err := unix.PerfEventOpen(attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err == unix.ESRCH {
				continue
			}
			if err != nil {
				s.close()
				return nil, fmt.Errorf("perf_event_open: %w", err)
			}
			s.events = append(s.events, fd)
		}
	}
	if len(s.events) == 0 {
		return nil, fmt.Errorf("process %d has no threads", root)
	}
	return s, nil
}

// tracepoint is the number of a kernel tracepoint.
func tracepoint(name string) (id uint64, err error) {
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		var text []byte
		if text, err = os.ReadFile(filepath.Join(dir, "events", name, "id")); err == nil {
			return strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
		}
	}
	return 0, err
}

func (s *Syscalls) close() {
	for _, fd := range s.events {
		unix.Close(fd)
	}
}

// Stop ends the count.
func (s *Syscalls) Stop() (n uint64, err error) {
	if s.strace != nil {
		return s.stopStrace()
	}
	defer s.close()
	for _, fd := range s.events {
		var count [8]byte
		if _, err := unix.Read(fd, count[:]); err != nil {
			return 0, fmt.Errorf("cannot read a count of system calls: %w", err)
		}
		n += binary.NativeEndian.Uint64(count[:])
	}
	return n, nil
}

// straceMax bounds strace's beginning and end.
const straceMax = 10 * time.Second

func countByStrace(pid int) (*Syscalls, error) {
	report, err := os.CreateTemp("", "queend-bench-strace-")
	if err != nil {
		return nil, err
	}
	s := &Syscalls{how: howStrace, report: report, strace: exec.Command("strace", "-c", "-f", "-q", "-o", report.Name(), "-p", strconv.Itoa(pid))}
	if err := s.strace.Start(); err != nil {
		s.forget()
		return nil, err
	}
	for end := time.Now().Add(straceMax); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			break
		}
		if statusNumber(status, "TracerPid:") == uint64(s.strace.Process.Pid) {
			return s, nil
		}
	}
	_ = s.strace.Process.Kill()
	_ = s.strace.Wait()
	s.forget()
	return nil, errors.New("strace cannot attach")
}

func (s *Syscalls) forget() {
	s.report.Close()
	os.Remove(s.report.Name())
}

func (s *Syscalls) stopStrace() (uint64, error) {
	defer s.forget()
	_ = s.strace.Process.Signal(os.Interrupt)
	kill := time.AfterFunc(straceMax, func() { _ = s.strace.Process.Kill() })
	defer kill.Stop()
	_ = s.strace.Wait() // it ends by the signal, which is no success
	table, err := os.ReadFile(s.report.Name())
	if err != nil {
		return 0, err
	}
	return parseStrace(table)
}

// parseStrace reads the calls in the last line, "100.00 0.002351 81 29 1 total": the
// fourth number, errors, is missing where there were none.
func parseStrace(table []byte) (uint64, error) {
	for line := range bytes.Lines(table) {
		fields := bytes.Fields(line)
		if len(fields) >= 5 && string(fields[len(fields)-1]) == "total" {
			return strconv.ParseUint(string(fields[3]), 10, 64)
		}
	}
	return 0, fmt.Errorf("strace printed no total: %.200q", table)
}
