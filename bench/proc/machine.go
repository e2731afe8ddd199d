package proc

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine says on what the figures were taken: without it they mean nothing.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	System      string `json:"system"`
	Go          string `json:"go"`
}

// ThisMachine describes the machine we run on. What cannot be read stays empty.
func ThisMachine() Machine {
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	meminfo, _ := os.ReadFile("/proc/meminfo")
	release, _ := os.ReadFile("/etc/os-release")
	m := Machine{
		CPU:         afterName(cpuinfo, "model name\t: "),
		Cores:       runtime.NumCPU(),
		MemoryBytes: 1024 * int64(statusNumber(meminfo, "MemTotal:")),
		System:      strings.Trim(afterName(release, "PRETTY_NAME="), `"`),
		Go:          runtime.Version(),
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	return m
}

// afterName is the rest of the first line that begins with name.
func afterName(file []byte, name string) string {
	for line := range bytes.Lines(file) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
}

// LoadAverage is the number of processes that ran or waited to, over the last minute;
// 0 when it cannot be read.
func LoadAverage() (load float64) {
	text, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(text), &load)
	return load
}

// OwnCPU is the CPU time of this process.
func OwnCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic("BUG: no CPU clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
