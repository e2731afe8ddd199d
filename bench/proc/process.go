// Package proc asks Linux what a process has cost: CPU time, context switches,
// memory, system calls. It reads /proc, which takes no privileges; only system calls,
// which /proc does not count, take a perf event. No agent is inside the process that
// is measured, so a server cannot flatter itself.
//
// A sample is cumulative; two samples make a Usage. All figures are the
// kernel's: proc_pid_stat(5), proc_pid_status(5), and Documentation/scheduler/
// sched-stats.rst for schedstat.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// tick is the unit of the times in /proc/PID/stat. USER_HZ is 100 on every
// architecture that Go's Linux port runs on.
const tick = 10 * time.Millisecond

// Sample is what a process and its threads had used at one moment.
type Sample struct {
	threads map[int]thread
	group   time.Duration // CPU of all threads, ended ones included, in ticks
	RSS     int64         // bytes resident now
}

type thread struct {
	cpu                    time.Duration // to the nanosecond
	voluntary, involuntary uint64
}

// Usage is what a process used between two samples.
type Usage struct {
	CPU                    time.Duration
	Voluntary, Involuntary uint64 // context switches: gave the CPU up, was made to
}

// Process samples one process with all its threads.
func Process(pid int) (Sample, error) {
	s := Sample{threads: map[int]thread{}}
	return s, s.add(pid)
}

// Tree samples a process and all its living descendants with all their threads. RSS
// is their sum: what they share is counted for each.
func Tree(root int) (Sample, error) {
	s := Sample{threads: map[int]thread{}}
	family, err := descendants(root)
	if err != nil {
		return s, err
	}
	for _, pid := range family {
		if err := s.add(pid); err != nil && (pid == root || !gone(err)) {
			return s, err
		}
	}
	return s, nil
}

func (s *Sample) add(pid int) error {
	dir := fmt.Sprintf("/proc/%d", pid)
	st, err := readStat(dir)
	if err != nil {
		return err
	}
	s.group += st.self
	tasks, err := os.ReadDir(dir + "/task")
	if err != nil {
		return fmt.Errorf("cannot list the threads of process %d: %w", pid, err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		th, err := readThread(filepath.Join(dir, "task", t.Name()))
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		s.threads[tid] = th
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return err
	}
	s.RSS += 1024 * int64(statusNumber(status, "VmRSS:"))
	return nil
}

// Since is what was used between an earlier sample and this one. Threads that
// ended in between take their last switches with them (Go ends next to none);
// their CPU is then taken from the group's own account, which is exact to 10 ms.
func (s Sample) Since(before Sample) Usage {
	var u Usage
	for tid, now := range s.threads {
		was := before.threads[tid] // a new thread began at zero
		u.CPU += now.cpu - was.cpu
		u.Voluntary += now.voluntary - was.voluntary
		u.Involuntary += now.involuntary - was.involuntary
	}
	for tid := range before.threads {
		if _, lives := s.threads[tid]; !lives {
			u.CPU = s.group - before.group
			break
		}
	}
	return u
}

func readThread(dir string) (thread, error) {
	var th thread
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return th, err
	}
	th.voluntary = statusNumber(status, "voluntary_ctxt_switches:")
	th.involuntary = statusNumber(status, "nonvoluntary_ctxt_switches:")
	th.cpu, err = readCPU(dir)
	return th, err
}

// readCPU is a task's time on a CPU in nanoseconds, or in ticks where the
// kernel was built without schedstat.
func readCPU(dir string) (time.Duration, error) {
	b, err := os.ReadFile(dir + "/schedstat")
	if err == nil {
		return parseSchedstat(b)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	st, err := readStat(dir)
	return st.self, err
}

// parseSchedstat reads "time on CPU, time waiting, slices", all numbers.
func parseSchedstat(b []byte) (time.Duration, error) {
	fields := bytes.Fields(b)
	if len(fields) != 3 {
		return 0, fmt.Errorf("schedstat has %d fields, not 3: %q", len(fields), b)
	}
	ns, err := strconv.ParseInt(string(fields[0]), 10, 64)
	return time.Duration(ns), err
}

// statusNumber finds "name: 12 kB" in a status file; 0 when it is not there
// (a kernel thread has no VmRSS).
func statusNumber(status []byte, name string) uint64 {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return 0
		}
		n, _ := strconv.ParseUint(string(fields[0]), 10, 64)
		return n
	}
	return 0
}

// stat is what we read of /proc/PID/stat.
type stat struct {
	parent   int
	self     time.Duration // utime + stime
	children time.Duration // cutime + cstime: of children waited for
}

func readStat(dir string) (stat, error) {
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat cuts behind the last ')', since the command's name before it may
// hold blanks and parentheses of its own.
func parseStat(b []byte) (stat, error) {
	end := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[end+1:])
	if end < 0 || len(fields) < 15 {
		return stat{}, fmt.Errorf("stat is cut short: %q", b)
	}
	n := func(i int) int {
		v, _ := strconv.Atoi(string(fields[i]))
		return v
	}
	return stat{
		parent:   n(1),
		self:     time.Duration(n(11)+n(12)) * tick,
		children: time.Duration(n(13)+n(14)) * tick,
	}, nil
}

// gone: the process or thread ended while we looked.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}
