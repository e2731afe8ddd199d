package load

import (
	"time"

	"golang.org/x/sys/unix"
)

// ProcessCPU is the CPU time of all our threads.
func ProcessCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic("BUG: no CPU clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
