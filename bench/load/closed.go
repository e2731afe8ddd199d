package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Closed is a closed loop: each of its connections sends the next request when
// it has heard the answer to the last one. What it can say: throughput, and the
// latency at that throughput. What it cannot: latency at a given rate, since it
// slows down with the server.
//
// One thread polls all connections by epoll and does nothing else: per request
// two system calls, a search for Content-Length and a sample in a histogram.
type Closed struct {
	Requests [][]byte // whole requests; connections draw from them
	Items    int      // messages in each
	Seed     uint64
	Buffered bool // `buffered` is as good as `queued`

	poller  int
	conns   []*conn
	byFD    map[int32]*conn
	waiting int // connections that are owed an answer
}

// conn is one connection:
//
//	idle ─send→ waiting ─answer→ idle …      either ─error→ broken
type conn struct {
	fd      int
	state   state
	out     []byte // what of the request is not written yet
	full    bool   // the socket takes no more: the poller tells when it does
	in      []byte // what of the answer has come
	sent    time.Time
	request *rand.Rand // draws the next request
}

type state uint8

const (
	idle state = iota
	waiting
	broken
)

// readBytes is the room for what one read brings; answers may be longer.
const readBytes = 4096

// drainMax bounds the wait for answers that are owed when the window closes.
const drainMax = 30 * time.Second

// Open connects n times to addr.
func (c *Closed) Open(ctx context.Context, addr string, n int) error {
	poller, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot make a poller: %w", err)
	}
	c.poller, c.byFD = poller, map[int32]*conn{}
	for i := range n {
		fd, err := dial(ctx, addr)
		if err != nil {
			c.Close()
			return err
		}
		k := &conn{fd: fd, in: make([]byte, 0, readBytes), request: rand.New(rand.NewPCG(c.Seed, uint64(i)))}
		c.conns, c.byFD[int32(fd)] = append(c.conns, k), k
		if err := c.interest(k, unix.EPOLL_CTL_ADD, unix.EPOLLIN); err != nil {
			c.Close()
			return err
		}
	}
	return nil
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

// Close closes every connection; what is in flight is lost.
func (c *Closed) Close() {
	for _, k := range c.conns {
		unix.Close(k.fd)
	}
	unix.Close(c.poller)
	c.conns, c.byFD = nil, nil
}

// Run loads the server for d, then waits for the answers that are owed, so that
// what was answered and what is stored can be compared to the last message. It
// may be called again.
func (c *Closed) Run(ctx context.Context, d time.Duration) (*Result, error) {
	runtime.LockOSThread() // so that the thread's CPU is the generator's
	defer runtime.UnlockOSThread()
	r := &Result{Latency: newHistogram()}
	cpu := threadCPU()
	start := time.Now()
	end := start.Add(d)
	for _, k := range c.conns {
		if k.state == idle {
			c.send(k, r)
		}
	}
	if err := c.poll(ctx, r, end); err != nil {
		return r, err
	}
	r.Elapsed, r.CPU = d, threadCPU()-cpu
	return r, nil
}

// poll works until the window is over and every answer owed has come.
func (c *Closed) poll(ctx context.Context, r *Result, end time.Time) error {
	events := make([]unix.EpollEvent, 256)
	for c.waiting > 0 {
		n, err := unix.EpollWait(c.poller, events, 100)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot poll: %w", err)
		}
		now := time.Now()
		if now.After(end.Add(drainMax)) {
			return fmt.Errorf("an answer is still owed %v after the end", drainMax)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			c.ready(c.byFD[e.Fd], r, end)
		}
	}
	return nil
}

// ready moves one connection on: the rest of its request out, its answer in and,
// inside the window, the next request out.
func (c *Closed) ready(k *conn, r *Result, end time.Time) {
	if len(k.out) > 0 {
		c.write(k, r)
	}
	if k.state == broken {
		return
	}
	a, n, err := k.read()
	switch {
	case err != nil:
		c.broke(k, r, err)
	case n > 0 && (k.state == idle || n < len(k.in)):
		c.broke(k, r, fmt.Errorf("an answer that nobody asked for: %.40q", k.in))
	case n > 0:
		now := time.Now()
		r.hear(a, c.Items, c.Buffered, now.Sub(k.sent), now.Before(end))
		k.in = k.in[:0]
		k.state = idle
		c.waiting--
		if now.Before(end) {
			c.send(k, r)
		}
	}
}

// hear counts one answer.
func (r *Result) hear(a answer, items int, buffered bool, latency time.Duration, inTime bool) {
	had := len(r.IDs)
	if a.status == 201 {
		r.IDs = appendQueued(r.IDs, a.body)
	}
	queued := len(r.IDs) - had
	if buffered {
		queued += Buffered(a.body)
	}
	if queued != items {
		r.refuse(fmt.Sprintf("%d %.200s", a.status, a.body))
	}
	r.Queued += int64(queued)
	if inTime {
		r.InTime += int64(queued)
		record(r.Latency, latency)
	}
}

func (c *Closed) send(k *conn, r *Result) {
	k.state, k.sent = waiting, time.Now()
	c.waiting++
	k.out = c.Requests[k.request.IntN(len(c.Requests))]
	c.write(k, r)
}

// write sends what the socket takes.
func (c *Closed) write(k *conn, r *Result) {
	n, err := unix.Write(k.fd, k.out)
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		c.broke(k, r, err)
		return
	}
	k.out = k.out[max(n, 0):]
	if full := len(k.out) > 0; full != k.full {
		k.full = full
		c.pollForRoom(k, r)
	}
}

func (c *Closed) pollForRoom(k *conn, r *Result) {
	events := uint32(unix.EPOLLIN)
	if k.full {
		events |= unix.EPOLLOUT
	}
	if err := c.interest(k, unix.EPOLL_CTL_MOD, events); err != nil {
		c.broke(k, r, err)
	}
}

// read takes what has come; n > 0 when that makes a whole answer.
func (k *conn) read() (a answer, n int, err error) {
	if cap(k.in)-len(k.in) < readBytes/2 {
		k.in = append(make([]byte, 0, 2*cap(k.in)), k.in...)
	}
	got, err := unix.Read(k.fd, k.in[len(k.in):cap(k.in)])
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

// broke takes a connection out of the run: a loop with fewer connections than
// were asked for is another measurement, so it counts as a refusal.
func (c *Closed) broke(k *conn, r *Result, err error) {
	if k.state == broken {
		return
	}
	if k.state == waiting {
		c.waiting--
	}
	k.state, k.out = broken, nil
	r.refuse(err.Error())
	_ = c.interest(k, unix.EPOLL_CTL_DEL, 0)
}

func (c *Closed) interest(k *conn, op int, events uint32) error {
	return unix.EpollCtl(c.poller, op, k.fd, &unix.EpollEvent{Events: events, Fd: int32(k.fd)})
}
