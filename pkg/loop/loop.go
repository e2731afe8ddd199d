package loop

import (
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Loop is one event loop: a goroutine, its sockets, its timers. Everything in it that
// has no lock belongs to that goroutine.
type Loop struct {
	server *Server
	index  int

	home socket      // the waker's: the way into this loop
	up   atomic.Bool // start has succeeded, home may be used

	// The way in for other goroutines.
	mu       sync.Mutex
	posted   []func()
	writable []readiness // from the watcher
	guests   sync.WaitGroup
	noGuests bool // no more Attach
	over     bool // no more Post
	woken    atomic.Bool
	wakeLock sync.RWMutex // held for writing while wakeFD is closed
	wakeFD   int          // the other end of the waker's socketpair; -1: not started, or ended

	clock     time.Duration // when the current callback began
	passing   bool          // within pass, before the deferred functions
	runs      []func()      // scratch: posted functions being run
	ready     []readiness   // scratch: the same of writable
	deferred  []func()
	deferRuns []func() // scratch: deferred functions being run
	timers    timers

	conns    []*conn // in no order; each knows its index
	sweeper  *Timer
	swept    int // conns[swept:] is looked at next
	overdue  []*conn
	dirty    []*conn // have bytes to write, or a state to look at, when the callback ends
	leaving  bool
	draining bool
	slow     map[uint64]*conn // watched by the watcher, by ticket
	ticket   uint64
	halfs    int           // half-closed connections
	inbound  int           // capacity of all conn.in
	outbound int           // bytes unsent on connections that are watched
	shedAt   time.Duration // those that stand still are looked for from then on

	attached map[*guest]struct{}

	exchanges exchangePool

	buffers      [][]byte // free
	buffersBytes int      // what they can hold

	lastID  uint64
	heading heading

	count counters
}

// epoch is when Now was zero.
var epoch = time.Now()

func newLoop(s *Server, index int, nonce uint64) *Loop {
	l := &Loop{
		server: s, index: index, wakeFD: -1,
		slow: map[uint64]*conn{}, attached: map[*guest]struct{}{},
		lastID: nonce + uint64(index),
	}
	l.heading.fixed = []byte("X-Content-Type-Options: nosniff\r\n" + s.options.Header)
	l.timers.init(l.wake)
	return l
}

// Index is the loop's number, from 0. Any goroutine.
func (l *Loop) Index() int { return l.index }

// Now is the monotonic time since an instant shared by all loops of the process, in
// nanoseconds. Any goroutine.
func (l *Loop) Now() time.Duration { return time.Since(epoch) }

// Post runs f on the loop, soon; functions posted by one goroutine run in its order.
// Posted before Start, it runs at the start; after Shutdown, never. Any goroutine, the
// loop's own included.
func (l *Loop) Post(f func()) {
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		return
	}
	l.posted = append(l.posted, f)
	l.mu.Unlock()
	l.wake()
}

// Defer runs f at the end of this pass: after the sockets that were found ready
// together with the one being served. A function deferred by a deferred function runs
// one pass later, so it cannot keep the loop from its sockets. On the loop.
func (l *Loop) Defer(f func()) {
	l.deferred = append(l.deferred, f)
	if !l.passing {
		l.wake()
	}
}

// wake makes the loop run a pass. gnet has no hook at the end of a pass; a byte through
// the waker's socketpair is polled by the next one. It allocates nothing, and is one
// system call however many functions wait (gnet's Execute costs 1.7 µs less where this
// was measured, and two allocations). Any goroutine.
func (l *Loop) wake() {
	if l.woken.Swap(true) {
		return
	}
	l.wakeLock.RLock()
	defer l.wakeLock.RUnlock()
	if l.wakeFD < 0 {
		return
	}
	for {
		// EAGAIN would mean that the loop has bytes to read: it wakes up anyway.
		if _, err := unix.Write(l.wakeFD, wakeByte); err != unix.EINTR {
			return
		}
	}
}

var wakeByte = []byte{0}

// waker is a Loop as the owner of its socketpair.
type waker Loop

func (w *waker) opened(s socket) {
	l := (*Loop)(w)
	l.home = s
	l.pass() // what was posted before the start
}

func (w *waker) readable([]byte) { (*Loop)(w).pass() }

func (w *waker) ended(error) {}

// start enrolls the waker; the loop is reachable when it returns.
func (l *Loop) start(e *engine) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot make a socketpair: %w", err)
	}
	file := os.NewFile(uintptr(pair[0]), "waker")
	nc, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		_ = unix.Close(pair[1])
		return fmt.Errorf("cannot use a socketpair: %w", err)
	}
	l.wakeLock.Lock()
	l.wakeFD = pair[1]
	l.wakeLock.Unlock()
	if err := e.enrollAnywhere(nc, (*waker)(l)); err != nil {
		l.dispose()
		return fmt.Errorf("cannot enroll a socketpair: %w", err)
	}
	for _, other := range l.server.loops[:l.index] {
		if other.home.EventLoop() == l.home.EventLoop() {
			panic("BUG: two wakers were enrolled in one loop")
		}
	}
	l.up.Store(true)
	return nil
}

// pass runs what waits: connections that became writable, timers, posted and deferred
// functions.
func (l *Loop) pass() {
	l.woken.Store(false) // from here on a Post wakes again
	l.clock = l.Now()
	l.passing = true
	l.mu.Lock()
	l.posted, l.runs = l.runs[:0], l.posted
	l.writable, l.ready = l.ready[:0], l.writable
	l.mu.Unlock()
	for _, r := range l.ready {
		l.nowWritable(r)
	}
	l.timers.run(l)
	for i, f := range l.runs {
		l.runs[i] = nil
		l.call(f)
	}
	l.passing = false
	l.deferred, l.deferRuns = l.deferRuns[:0], l.deferred
	for i, f := range l.deferRuns {
		l.deferRuns[i] = nil
		l.call(f)
	}
	l.leave()
}

// call runs a function that is not ours. A panic in it is a bug that is logged and
// counted, and not the end of the other requests.
func (l *Loop) call(f func()) {
	defer l.rescue("a function on the loop")
	f()
}

// rescue is deferred around what is not ours.
func (l *Loop) rescue(where string) {
	if p := recover(); p != nil {
		l.bug(where, p)
	}
}

// bug logs and counts a panic. It is called while the panic's stack is still there.
func (l *Loop) bug(where string, p any) {
	l.count.panics.Add(1)
	l.server.log.Error().Int("loop", l.index).Str("in", where).Str("panic", fmt.Sprint(p)).
		Bytes("stack", debug.Stack()).Msg("BUG: a panic was caught")
}

// leave ends a callback: what its replies left on connections is written, one write
// for each connection however many answers it got.
func (l *Loop) leave() {
	if l.leaving {
		return
	}
	l.leaving = true
	for i := 0; i < len(l.dirty); i++ { // settling one may dirty another
		c := l.dirty[i]
		l.dirty[i] = nil
		c.dirty = false
		c.settle()
	}
	l.dirty = l.dirty[:0]
	l.leaving = false
}

// bufferBytesKept is the largest buffer that is kept for the next user, and buffersKept how
// many are: one for each of a thousand connections that are answered in one pass. Those that
// have grown are kept as long as all together have no more than buffersBytesKept.
const (
	bufferBytesMin   = 4 << 10
	bufferBytesKept  = 64 << 10
	buffersKept      = 1024
	buffersBytesKept = buffersKept * bufferBytesMin
)

// take returns an empty buffer; give it back with give.
func (l *Loop) take() []byte {
	if n := len(l.buffers); n > 0 {
		b := l.buffers[n-1]
		l.buffers[n-1] = nil
		l.buffers = l.buffers[:n-1]
		l.buffersBytes -= cap(b)
		return b
	}
	return make([]byte, 0, bufferBytesMin)
}

// give takes a buffer back; small and large ones are left to the collector.
func (l *Loop) give(b []byte) {
	grown := cap(b) > 2*bufferBytesMin
	if cap(b) < bufferBytesMin || cap(b) > bufferBytesKept || len(l.buffers) >= buffersKept || grown && l.buffersBytes+cap(b) > buffersBytesKept {
		return
	}
	l.buffers = append(l.buffers, b[:0])
	l.buffersBytes += cap(b)
}

// Trim lets go of what is kept for requests to come: buffers, and exchanges but those that
// rest. On the loop.
func (l *Loop) Trim() {
	l.buffers, l.buffersBytes = nil, 0
	l.exchanges.trim()
}

// sweep closes what is overdue. It looks at a part of the connections at a time and
// comes back for the rest, so that many connections do not stop the loop.
func (l *Loop) sweep() {
	const atOnce = 2_000
	if l.swept >= len(l.conns) {
		l.swept = 0
	}
	part := l.conns[l.swept:min(l.swept+atOnce, len(l.conns))]
	l.swept += len(part)
	for _, c := range part {
		if c.isOverdue(l.clock) {
			l.overdue = append(l.overdue, c)
		}
	}
	for i, c := range l.overdue { // closing moves others within l.conns
		l.overdue[i] = nil
		c.timeOut()
	}
	l.overdue = l.overdue[:0]
	l.shedStalled()
	switch {
	case len(l.conns) == 0:
	case l.swept < len(l.conns):
		l.sweeper.Reset(time.Millisecond)
	default:
		l.sweeper.Reset(l.server.options.sweepEvery())
	}
}

// admit makes c one of the loop's connections.
func (l *Loop) admit(c *conn) {
	c.index = len(l.conns)
	l.conns = append(l.conns, c)
	if len(l.conns) > 1 {
		return
	}
	if l.sweeper == nil {
		l.sweeper = l.After(l.server.options.sweepEvery(), l.sweep)
	} else {
		l.sweeper.Reset(l.server.options.sweepEvery())
	}
}

// dismiss undoes admit.
func (l *Loop) dismiss(c *conn) {
	last := len(l.conns) - 1
	moved := l.conns[last]
	l.conns[c.index], moved.index = moved, c.index
	l.conns[last] = nil
	l.conns = l.conns[:last]
	l.server.left()
}

// left counts a client that is gone.
func (s *Server) left() {
	if s.conns.Add(-1) == 0 && s.draining.Load() {
		select {
		case s.emptied <- struct{}{}:
		default:
		}
	}
}

// lastOrders begins to drain: no connection gets another request served than those
// that have begun to arrive.
func (l *Loop) lastOrders() {
	l.draining = true
	for _, c := range l.conns { // none is closed before the callback ends
		c.lastOrders()
	}
}

// closeConns cuts all connections off.
func (l *Loop) closeConns() {
	for len(l.conns) > 0 {
		l.conns[len(l.conns)-1].close()
	}
}

// refuseGuests makes Attach refuse, and waits for those that are on their way in.
func (l *Loop) refuseGuests() {
	l.mu.Lock()
	l.noGuests = true
	l.mu.Unlock()
	l.guests.Wait()
}

// end lets guests go and runs what waits for the last time.
func (l *Loop) end() {
	for g := range l.attached {
		g.shut(ErrStopped)
	}
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.timers.stop()
}

// dispose lets go of the way in.
func (l *Loop) dispose() {
	l.up.Store(false)
	l.wakeLock.Lock()
	defer l.wakeLock.Unlock()
	if l.wakeFD >= 0 {
		_ = unix.Close(l.wakeFD)
		l.wakeFD = -1
	}
}
