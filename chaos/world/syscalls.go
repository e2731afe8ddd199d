package world

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Inject lets system calls of a process fail from now on, as strace(1) does it: each rule
// is a value of its option -e inject. It returns what ends that. An error says that this
// machine does not let us.
func Inject(pid int, paths []string, rules ...string) (end func(), err error) {
	args := []string{"-f", "-qq", "-o", "/dev/null", "-p", fmt.Sprint(pid)}
	for _, path := range paths {
		args = append(args, "-P", path)
	}
	var names []string
	for _, rule := range rules {
		name, _, _ := strings.Cut(rule, ":")
		names = append(names, name)
		args = append(args, "-e", "inject="+rule)
	}
	args = append(args, "-e", "trace="+strings.Join(names, ","))
	cmd := exec.Command("strace", args...)
	var text strings.Builder
	cmd.Stderr = &text
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGINT}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		// It lets go of the process, which runs on.
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	}
	for limit := time.Now().Add(10 * time.Second); !traced(pid); time.Sleep(5 * time.Millisecond) {
		if cmd.ProcessState == nil && syscall.Kill(cmd.Process.Pid, 0) != nil || time.Now().After(limit) {
			end()
			return nil, fmt.Errorf("strace does not take hold of process %d: %s", pid, text.String())
		}
	}
	return end, nil
}

// traced says that all threads of a process have a tracer (proc(5)).
func traced(pid int) bool {
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, thread := range threads {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, thread.Name()))
		if err == nil && strings.Contains(string(status), "\nTracerPid:\t0\n") {
			return false
		}
	}
	return len(threads) > 0
}

// LimitFiles lets a process that runs write no file beyond so many bytes from now on
// (RLIMIT_FSIZE in prlimit(2)): the write that would is torn. n < 0: no limit any more.
func LimitFiles(pid int, n int64) error {
	limit := unix.Rlimit{Cur: uint64(n), Max: unix.RLIM_INFINITY}
	if n < 0 {
		limit.Cur = unix.RLIM_INFINITY
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		return fmt.Errorf("cannot limit the files of process %d: %w", pid, err)
	}
	return nil
}
