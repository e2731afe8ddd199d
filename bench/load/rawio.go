package load

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// readNow and writeNow are read(2) and write(2) on a descriptor that does not block, without
// telling Go's scheduler, which would get ready to have the thread's goroutines run elsewhere:
// half a microsecond a call, of what is to be as little as possible.

func readNow(fd int, b []byte) (int, error) { return callNow(unix.SYS_READ, fd, b) }

func writeNow(fd int, b []byte) (int, error) { return callNow(unix.SYS_WRITE, fd, b) }

func callNow(number uintptr, fd int, b []byte) (int, error) {
	n, _, err := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}
