package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/panjf2000/gnet/v2"
	"github.com/rs/zerolog"
)

// readBufferBytes is how much is read from a socket at once, into one buffer per loop.
const readBufferBytes = 64 << 10

// socket is a descriptor that gnet polls for us. Its methods are for the loop.
type socket = gnet.Conn

// polled is what a socket belongs to: an HTTP connection, a guest, or the waker. All
// its methods run on the loop.
type polled interface {
	// opened: the socket is polled from now on.
	opened(s socket)
	// readable: bytes have arrived, valid during the call.
	readable(data []byte)
	// ended: gnet closes the socket when this returns, for the reason err, nil if we asked.
	ended(err error)
}

// engine is gnet's loops.
type engine struct{ client *gnet.Client }

func startEngine(loops int, log zerolog.Logger) (*engine, error) {
	client, err := gnet.NewClient(&events{},
		gnet.WithNumEventLoop(loops),
		gnet.WithReadBufferCap(readBufferBytes),
		gnet.WithLogger(gnetLog{log.With().Str("from", "gnet").Logger()}))
	if err != nil {
		return nil, err
	}
	if err := client.Start(); err != nil {
		return nil, err
	}
	return &engine{client}, nil
}

// enrollAnywhere gives nc to the loop with the fewest sockets. Called for one loop
// after the other, before anything else is enrolled, it reaches each of them once. It
// waits until opened was called.
func (e *engine) enrollAnywhere(nc net.Conn, p polled) error {
	_, err := e.client.EnrollContext(nc, p)
	return err
}

// stop ends the loops; sockets that are left are closed, and hear of it.
func (e *engine) stop() { _ = e.client.Stop() }

// events hands gnet's events to whom the socket belongs to.
type events struct{ gnet.BuiltinEventEngine }

func (*events) OnOpen(s gnet.Conn) ([]byte, gnet.Action) {
	s.Context().(polled).opened(s)
	return nil, gnet.None
}

// OnTraffic leaves gnet's buffer empty, always: gnet cannot pause reading, and joins
// what is left over with what comes, again and again.
func (*events) OnTraffic(s gnet.Conn) gnet.Action {
	p := s.Context().(polled)
	data, _ := s.Peek(-1)
	p.readable(data)
	if s.Context() != nil { // else it was closed meanwhile
		_, _ = s.Discard(-1)
	}
	return gnet.None
}

func (*events) OnClose(s gnet.Conn, err error) gnet.Action {
	s.Context().(polled).ended(err)
	return gnet.None
}

// closeSocket closes s at once; ended is called before it returns, unless gnet is in
// the middle of closing it already.
func closeSocket(s socket) error { return s.EventLoop().Close(s) }

// isEndOfInput says whether gnet closes a socket because its peer will send no more
// (which may be a half-close), and not because the connection is broken.
func isEndOfInput(err error) bool {
	var call *os.SyscallError
	return errors.As(err, &call) && call.Err == io.EOF
}

// enrollment is a socket on its way into a loop.
type enrollment struct{ result <-chan gnet.RegisteredResult }

// enroll gives nc to the loop that home lives on: a duplicate of its descriptor is
// polled, nc is closed. Any goroutine. gnet takes *net.TCPConn and *net.UnixConn.
func enroll(home socket, nc net.Conn, p polled) (enrollment, error) {
	result, err := home.EventLoop().Enroll(gnet.NewContext(context.Background(), p), nc)
	if err != nil {
		_ = nc.Close()
	}
	return enrollment{result}, err
}

// wait returns when the loop has taken the socket, or could not. Never on the loop: it
// may be the loop that is waited for. A nil error does not mean that opened was called.
func (e enrollment) wait() error { return (<-e.result).Err }

// isDone is wait for who does not want to wait.
func (e enrollment) isDone() (done bool, err error) {
	select {
	case r := <-e.result:
		return true, r.Err
	default:
		return false, nil
	}
}

// gnetLog is gnet's logger on ours. gnet warns of each event that it polled for a
// socket closed within the same pass, which is nothing to be warned of.
type gnetLog struct{ log zerolog.Logger }

func (g gnetLog) Debugf(format string, args ...any) { g.log.Debug().Msgf(format, args...) }
func (g gnetLog) Infof(format string, args ...any)  { g.log.Debug().Msgf(format, args...) }
func (g gnetLog) Warnf(format string, args ...any)  { g.log.Debug().Msgf(format, args...) }
func (g gnetLog) Errorf(format string, args ...any) { g.log.Error().Msgf(format, args...) }
func (g gnetLog) Fatalf(format string, args ...any) {
	panic("BUG: gnet gives up: " + fmt.Sprintf(format, args...))
}
