package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acceptor accepts clients in a goroutine of its own and deals them out to the loops,
// one after the other. Running out of descriptors makes it wait, not end.
type acceptor struct {
	listener net.Listener
	ended    chan struct{} // closed when the goroutine has ended; nil: it never started
}

// listenerOption is an option of a socket and its value.
type listenerOption struct{ level, name, value int }

// listenerOptions are set on the listener and inherited by what it accepts, which
// saves as many system calls for each client (tcp(7)).
//
// Keep-alive finds clients that vanished without a word within half a minute, also those
// that wait for an answer and so are not idle. The user time-out is for what the kernel
// holds: a client that acknowledges nothing of it, or leaves its window shut, for
// WriteTimeout and a second is given up, whether or not we have something for it too. It
// decides about keep-alive's probes as well, so these are sent often enough for four to be
// missed.
// Unsent bytes stay with us: what the kernel may hold beyond what is on its way is bounded,
// since what it holds is counted by nobody.
func (o *Options) listenerOptions() []listenerOption {
	return []listenerOption{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 12},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 4},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((o.WriteTimeout + userTimeoutLater) / time.Millisecond)},
		{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, kernelBytesMax},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	}
}

// userTimeoutLater is how much longer than WriteTimeout the kernel waits: what we know of
// too we end ourselves, and an acknowledgment that a busy machine makes late is no sign.
const userTimeoutLater = time.Second

// kernelBytesMax is how many bytes the kernel takes for a client beyond what is on its
// way to it: enough to keep a fast connection busy until we write again.
const kernelBytesMax = 256 << 10

func (a *acceptor) listen(address string, options *Options) error {
	config := net.ListenConfig{
		KeepAlive: -1, // not again for each client
		Control:   func(_, _ string, raw syscall.RawConn) error { return setOptions(raw, options) },
	}
	ln, err := config.Listen(context.Background(), "tcp", address)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("cannot listen on %s: another process listens there (a second one is let in only when both ask for hand-over): %w", address, err)
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	a.listener = ln
	return nil
}

// setOptions prepares a listener's socket. Hand-over lets several processes listen on
// one port (socket(7), SO_REUSEPORT).
func setOptions(raw syscall.RawConn, options *Options) (err error) {
	control := raw.Control(func(fd uintptr) {
		for _, o := range options.listenerOptions() {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
		}
		if options.HandOver {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		}
	})
	return errors.Join(control, err)
}

func (a *acceptor) start(s *Server) {
	a.ended = make(chan struct{})
	go a.run(s)
}

// stop closes the listener and returns when no more clients come in.
func (a *acceptor) stop() {
	if a.listener != nil {
		_ = a.listener.Close()
	}
	if a.ended != nil {
		<-a.ended
	}
}

func (a *acceptor) run(s *Server) {
	defer close(a.ended)
	entering := entering{server: s}
	defer entering.waitAll()
	farewells := newFarewells(s)
	defer farewells.wait()
	outage := backOff{server: s}
	for turn := 0; ; turn++ {
		if outage.failures > 0 && !areFilesFree() {
			outage.failed(unix.EMFILE) // do not take a client that cannot be kept
			if !s.isStopping() {
				continue
			}
		}
		nc, err := a.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		entering.reap() // those that failed are not connected: count them out first
		switch {
		case err != nil:
			entering.waitAll() // their duplicates may be what is missing
		case s.conns.Load() >= int64(s.connsMax):
			s.accepted.Add(1)
			s.refusals.Add(1)
			farewells.say(nc)
		default:
			s.conns.Add(1)
			s.accepted.Add(1) // behind: who has read that all are accepted reads all that are open
			entering.add(nc, s.loops[turn%len(s.loops)])
			if outage.failures > 0 {
				entering.waitAll() // one at a time, until it works again
			}
		}
		if err == nil {
			err, entering.err = entering.err, nil
		}
		if err != nil {
			outage.failed(err)
		} else {
			outage.succeeded()
		}
	}
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopAccepting:
		return true
	default:
		return false
	}
}

// areFilesFree says whether there are descriptors for one more client: the accepted
// one, and the duplicate that gnet makes before it closes that.
func areFilesFree() bool {
	for range 2 {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
	}
	return true
}

// entering are clients on their way into a loop. gnet duplicates their descriptor in a
// goroutine; what fails there is heard of here.
type entering struct {
	server *Server
	line   []entry
	err    error // the last failure, for the acceptor
}

type entry struct {
	conn       *conn
	enrollment enrollment
}

// enteringMax is how many are on their way at once; then the oldest is waited for.
const enteringMax = 128

func (e *entering) add(nc net.Conn, l *Loop) {
	c := &conn{loop: l, fd: -1}
	c.parser.Reset(&l.server.options.Limits)
	enrollment, err := enroll(l.home, nc, c)
	if err != nil {
		e.done(c, err)
		return
	}
	e.line = append(e.line, entry{c, enrollment})
}

// reap looks at what became of the oldest ones.
func (e *entering) reap() {
	n := 0
	for _, first := range e.line {
		done, err := first.enrollment.isDone()
		if !done && len(e.line)-n < enteringMax {
			break
		}
		if !done {
			err = first.enrollment.wait()
		}
		e.done(first.conn, err)
		n++
	}
	e.line = slices.Delete(e.line, 0, n)
}

func (e *entering) waitAll() {
	for _, first := range e.line {
		e.done(first.conn, first.enrollment.wait())
	}
	clear(e.line)
	e.line = e.line[:0]
}

// done hears what became of c. That gnet could not poll it shows in that it was never
// opened.
func (e *entering) done(c *conn, err error) {
	if err == nil && c.wasOpened {
		return
	}
	if err == nil {
		err = errNotPolled
	}
	e.err = fmt.Errorf("a client was accepted and could not be enrolled: %w", err)
	e.server.left()
}

var errNotPolled = errors.New("the loop could not poll the socket")

// backOff waits after a failure, longer each time, and logs an outage as two lines.
type backOff struct {
	server   *Server
	pause    time.Duration
	failures int
}

const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = 500 * time.Millisecond
)

func (b *backOff) failed(err error) {
	b.server.acceptErrors.Add(1)
	if errors.Is(err, unix.ECONNABORTED) {
		return // the client gave up in the queue: accept(2)
	}
	if b.failures == 0 {
		b.server.log.Error().Err(err).Msg("cannot accept clients, they have to wait")
	}
	b.failures++
	b.pause = min(max(2*b.pause, acceptPauseMin), acceptPauseMax)
	select {
	case <-time.After(b.pause):
	case <-b.server.stopAccepting:
	}
}

func (b *backOff) succeeded() {
	if b.failures > 0 {
		b.server.log.Info().Int("failures", b.failures).Msg("clients are accepted again")
	}
	b.failures, b.pause = 0, 0
}

// farewells answer clients above the bound: 503, and out. A few at a time are read
// from for a moment, so that the answer is not lost in a reset; with more than that
// at the door, they are closed at once.
type farewells struct {
	server *Server
	slots  chan struct{}
}

const (
	farewellsMax  = 32
	farewellTime  = time.Second
	farewellBytes = 64 << 10
)

func newFarewells(s *Server) *farewells {
	return &farewells{s, make(chan struct{}, max(1, min(farewellsMax, s.filesReserve()/4)))}
}

func (f *farewells) say(nc net.Conn) {
	answer := f.server.busyAnswer()
	// A new socket has room for it, so this does not wait.
	_ = nc.SetDeadline(time.Now().Add(farewellTime))
	_, _ = nc.Write(answer)
	select {
	case f.slots <- struct{}{}:
	default:
		_ = nc.Close()
		return
	}
	go func() {
		defer func() { <-f.slots }()
		defer nc.Close()
		if tcp, ok := nc.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		_, _ = io.CopyN(io.Discard, nc, farewellBytes)
	}()
}

// wait returns when all have gone: within farewellTime.
func (f *farewells) wait() {
	for range cap(f.slots) {
		f.slots <- struct{}{}
	}
}

// busyAnswer is what a client above the bound hears. Any goroutine.
func (s *Server) busyAnswer() []byte {
	const reason = "the server has as many connections as it may have, try again in a second"
	body := appendRefusal(nil, reason)
	answer := append([]byte(nil), statusLine(503)...)
	answer = appendDateLine(answer, time.Now())
	answer = append(answer, s.loops[0].heading.fixed...)
	answer = append(answer, refusalHeader+retryLater+"Connection: close\r\n"...)
	answer = fmt.Appendf(answer, "X-Request-Id: %016x\r\nContent-Length: %d\r\n\r\n", s.farewellID.Add(1), len(body))
	return append(answer, body...)
}

// connsAllowed raises the limit of descriptors as far as it goes, and lowers ConnsMax
// to what is left of it.
func (s *Server) connsAllowed() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return s.options.ConnsMax
	}
	if limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: limit.Max, Max: limit.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err == nil {
			limit = raised
		}
	}
	s.files = int(min(limit.Cur, 1<<30))
	allowed := s.files - s.filesReserve()
	if allowed < s.options.ConnsMax {
		s.log.Info().Int("descriptors", s.files).Int("wanted", s.options.ConnsMax).Int("conns_max", allowed).
			Msg("the limit of open files allows fewer connections")
		return allowed
	}
	return s.options.ConnsMax
}

// filesReserve is how many descriptors are not for clients.
func (s *Server) filesReserve() int { return min(s.options.FilesReserve, s.files/2) }
