package asyncdb

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// relayBytes is the buffer of each direction of a relay.
const relayBytes = 32 << 10

// relay puts a plain socket in front of a TLS connection: it returns one end of a Unix
// socket pair, and two goroutines copy between the other end and the TLS connection, so
// that a loop, which can poll sockets only, can use it. The directions do not wait for
// each other. When either side ends, both are closed, and both goroutines end.
//
// It costs two copies and a change of goroutine per direction. TLS on the loop itself
// would need a TLS stack that is given bytes; crypto/tls wants a connection that blocks.
func (s *Store) relay(secure *tls.Conn) (net.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		secure.Close()
		return nil, err
	}
	var once sync.Once
	end := func() {
		once.Do(func() {
			theirs.Close()
			secure.Close() // at most a few seconds, for the closing alert
		})
	}
	copyTo := func(to io.Writer, from io.Reader) {
		defer s.helpers.Done()
		defer end()
		// Hide ReadFrom and WriteTo: they would try to splice, and buffers of our own bound
		// what is in memory.
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, relayBytes))
	}
	s.helpers.Add(2)
	go copyTo(secure, theirs)
	go copyTo(theirs, secure)
	return ours, nil
}

// socketPair returns the two ends of a Unix stream socket pair.
func socketPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	if a, err = connOf(fds[0]); err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	if b, err = connOf(fds[1]); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// connOf makes a net.Conn of a descriptor, and closes the descriptor.
func connOf(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "relay")
	defer f.Close()
	return net.FileConn(f)
}
