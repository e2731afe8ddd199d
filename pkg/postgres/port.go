package postgres

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

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
