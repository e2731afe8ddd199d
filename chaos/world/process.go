package world

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process holds and has used (proc(5)).
type Usage struct {
	RSS, Peak   int64 // bytes resident now, and at most so far
	Descriptors int
	Accepted    int // of them: TCP connections to ports on which the process listens
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
	u.Descriptors, u.Accepted = len(fds), accepted(pid, fds)
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]); len(fields) > 12 {
		user, _ := strconv.Atoi(string(fields[11]))
		system, _ := strconv.Atoi(string(fields[12]))
		u.CPU = time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
	}
	return u
}

// accepted counts the sockets among a process's descriptors that others have connected to.
func accepted(pid int, fds []os.DirEntry) (n int) {
	own := map[string]bool{}
	for _, fd := range fds {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	const listening = "0A"
	listens, ports := map[string]bool{}, []string{}
	for _, file := range []string{"tcp", "tcp6"} {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		for line := range bytes.Lines(text) {
			f := strings.Fields(string(line)) // sl local remote state … inode is the tenth
			if len(f) < 10 || !own[f[9]] {
				continue
			}
			if _, port, _ := strings.Cut(f[1], ":"); f[3] == listening {
				listens[port] = true
			} else {
				ports = append(ports, port)
			}
		}
	}
	for _, port := range ports {
		if listens[port] {
			n++
		}
	}
	return n
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
