package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// engine is connections that one thread polls by epoll, and a timer. It sends what
// it is given, cuts answers, and hands each to the connection's owner, who decides
// what comes next. Per request that is two system calls, and a search for
// Content-Length. Its methods are called by that one thread.
type engine struct {
	poller int
	timer  int // a timerfd: epoll's own timeout counts milliseconds
	conns  []*conn
	byFD   map[int32]*conn
	events []unix.EpollEvent
}

// conn is one connection:
//
//	idle ─send→ waiting ─answer→ idle …      either ─error→ broken
type conn struct {
	fd    int
	state state
	owner owner
	out   []byte // what of the request is not written yet; ours
	full  bool   // the socket takes no more: the poller tells when it does
	in    []byte // what of the answer has come

	random   *rand.Rand
	at       time.Time // when the request was sent, or, in an open loop, when it was due
	number   int64     // of its first message
	draw     *draw     // nil: nothing is drawn yet
	consumer *consumer // whose connection it is; nil: one that pushes
}

type state uint8

const (
	idle state = iota
	waiting
	broken
)

// owner decides what a connection does. The thread of the engine calls it.
type owner interface {
	// heard is given an answer on a connection that is idle again; the body is valid
	// until it returns or sends.
	heard(k *conn, a answer, now time.Time)
	// broke hears that a connection is no more; owed says that it was owed an answer.
	broke(k *conn, owed bool, err error)
}

// readBytes is the room for what one read brings; answers may be longer.
const readBytes = 4096

// drainMax bounds the wait for answers that are owed when a window closes.
const drainMax = 30 * time.Second

func newEngine() (*engine, error) {
	poller, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a poller: %w", err)
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		unix.Close(poller)
		return nil, fmt.Errorf("cannot make a timer: %w", err)
	}
	e := &engine{poller: poller, timer: timer, byFD: map[int32]*conn{}, events: make([]unix.EpollEvent, 256)}
	if err := unix.EpollCtl(poller, unix.EPOLL_CTL_ADD, timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(timer)}); err != nil {
		e.close()
		return nil, fmt.Errorf("cannot poll a timer: %w", err)
	}
	return e, nil
}

// open connects n times to addr. The connections draw from sequences of the seed.
func (e *engine) open(ctx context.Context, addr string, n int, seed uint64, o owner) ([]*conn, error) {
	from := len(e.conns)
	for range n {
		fd, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		k := &conn{fd: fd, owner: o, in: make([]byte, 0, readBytes), random: rand.New(rand.NewPCG(seed, uint64(len(e.conns))))}
		e.conns, e.byFD[int32(fd)] = append(e.conns, k), k
		if err := e.interest(k, unix.EPOLL_CTL_ADD, unix.EPOLLIN); err != nil {
			return nil, err
		}
	}
	return e.conns[from:], nil
}

// dial gives a descriptor of our own, outside Go's poller, so that a wake-up
// costs no goroutine switch.
func dial(ctx context.Context, addr string) (int, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	f, err := nc.(*net.TCPConn).File()
	if err != nil {
		return 0, fmt.Errorf("cannot take the socket of %s: %w", addr, err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot duplicate the socket of %s: %w", addr, err)
	}
	return fd, unix.SetNonblock(fd, true)
}

// close closes every connection; what is in flight is lost.
func (e *engine) close() {
	for _, k := range e.conns {
		unix.Close(k.fd)
	}
	unix.Close(e.timer)
	unix.Close(e.poller)
	e.conns, e.byFD = nil, nil
}

// waitMax bounds one wait, so that a context that ends is seen.
const waitMax = 100 * time.Millisecond

// step waits for events, until the given time at the latest, and handles them.
func (e *engine) step(ctx context.Context, until time.Time) error {
	ms := 0
	switch d := time.Until(until); {
	case d <= 0:
	case d >= waitMax:
		ms = int(waitMax.Milliseconds())
	default:
		ms = -1
		if err := e.alarm(d); err != nil {
			return err
		}
	}
	n, err := unix.EpollWait(e.poller, e.events, ms)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("cannot poll: %w", err)
	}
	for _, ev := range e.events[:max(n, 0)] {
		if int(ev.Fd) == e.timer {
			_, _ = unix.Read(e.timer, make([]byte, 8)) // it may have been set anew meanwhile
			continue
		}
		e.ready(e.byFD[ev.Fd])
	}
	return ctx.Err()
}

// alarm ends a wait after d. An alarm that is not awaited any more ends a later
// wait too early, which does no harm.
func (e *engine) alarm(d time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	if err := unix.TimerfdSettime(e.timer, 0, &spec, nil); err != nil {
		return fmt.Errorf("cannot set the timer: %w", err)
	}
	return nil
}

// ready moves one connection on: the rest of its request out, its answer in.
func (e *engine) ready(k *conn) {
	if len(k.out) > 0 {
		e.write(k, k.out)
	}
	if k.state == broken {
		return
	}
	a, n, err := k.read()
	switch {
	case err != nil:
		e.fail(k, err)
	case n > 0 && (k.state == idle || n < len(k.in)):
		e.fail(k, fmt.Errorf("an answer that nobody asked for: %.40q", k.in))
	case n > 0:
		k.in = k.in[:0] // the body stays valid: nothing is read until the owner returns
		k.state = idle
		k.owner.heard(k, a, time.Now())
	}
}

// send sends a whole request on an idle connection. The bytes are not kept.
func (e *engine) send(k *conn, request []byte) {
	if k.state != idle {
		panic("BUG: a request on a connection that is not idle")
	}
	k.state = waiting
	e.write(k, request)
}

// write sends what the socket takes and keeps the rest.
func (e *engine) write(k *conn, bytes []byte) {
	n, err := writeNow(k.fd, bytes)
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		e.fail(k, err)
		return
	}
	rest := bytes[n:]
	if len(k.out) > 0 {
		k.out = rest // bytes were k.out
	} else if len(rest) > 0 {
		k.out = append([]byte(nil), rest...)
	}
	if full := len(rest) > 0; full != k.full {
		k.full = full
		e.pollForRoom(k)
	}
}

func (e *engine) pollForRoom(k *conn) {
	events := uint32(unix.EPOLLIN)
	if k.full {
		events |= unix.EPOLLOUT
	}
	if err := e.interest(k, unix.EPOLL_CTL_MOD, events); err != nil {
		e.fail(k, err)
	}
}

// read takes what has come; n > 0 when that makes a whole answer.
func (k *conn) read() (a answer, n int, err error) {
	if cap(k.in)-len(k.in) < readBytes/2 {
		k.in = append(make([]byte, 0, 2*cap(k.in)), k.in...)
	}
	got, err := readNow(k.fd, k.in[len(k.in):cap(k.in)])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return a, 0, nil
	case err != nil:
		return a, 0, err
	case got == 0:
		return a, 0, fmt.Errorf("the server closed the connection")
	}
	k.in = k.in[:len(k.in)+got]
	return cutAnswer(k.in)
}

// fail takes a connection out of the run.
func (e *engine) fail(k *conn, err error) {
	if k.state == broken {
		return
	}
	owed := k.state == waiting
	k.state, k.out = broken, nil
	_ = e.interest(k, unix.EPOLL_CTL_DEL, 0)
	k.owner.broke(k, owed, err)
}

func (e *engine) interest(k *conn, op int, events uint32) error {
	return unix.EpollCtl(e.poller, op, k.fd, &unix.EpollEvent{Events: events, Fd: int32(k.fd)})
}
