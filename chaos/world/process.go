package world

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Usage is what a process holds and has used (proc(5)).
type Usage struct {
	RSS, Peak   int64 // bytes resident now, and at most so far
	Descriptors int
	CPU         time.Duration
}

// Process reads it; the zero Usage is of a process that is gone.
func Process(pid int) (u Usage) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u
	}
	u.RSS, u.Peak = kilobytes(status, "VmRSS:"), kilobytes(status, "VmHWM:")
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u.Descriptors = len(fds)
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]); len(fields) > 12 {
		user, _ := strconv.Atoi(string(fields[11]))
		system, _ := strconv.Atoi(string(fields[12]))
		u.CPU = time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
	}
	return u
}

// StandsStill waits until all threads of a stopped process do (state T in proc(5)): one that
// is in a system call ends that first.
func StandsStill(pid int) error {
	for limit := time.Now().Add(Hang); ; time.Sleep(time.Millisecond) {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		still := true
		for _, thread := range threads {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, thread.Name()))
			if at := bytes.LastIndexByte(stat, ')'); err == nil && at >= 0 && !bytes.HasPrefix(stat[at:], []byte(") T")) {
				still = false
			}
		}
		if still {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("process %d does not stand still", pid)
		}
	}
}

func kilobytes(status []byte, name string) int64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, _ := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte(" kB"))), 10, 64)
			return n << 10
		}
	}
	return 0
}
