package loop

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/queend/queend/pkg/httpparse"
	"github.com/queend/queend/pkg/offheap"
)

// conn is one client's connection. It reads requests, keeps the line of exchanges that
// wait for their replies, and writes the answers. All of it runs on its loop.
//
// What it does with what arrives is its phase; answers go on beside it:
//
//	 opened         first byte          head is valid         body is whole
//	 ──────→ idle ────────────→ head ─────────────────→ body ─────────────→ Handler
//	          ↑ │ 60 s: close    │ 10 s: 408             │ 30 s, rate: 408     │
//	          │ │                │ malformed: 4xx        │ budget: 503         │
//	          │ │                │                       │                     │
//	          └─┼────────────────┼───────────────────────┼─────────────────────┤ keep-alive
//	            │                │                       │                     │
//	paused ←────┤ at a bound     └──────────→ deaf ←─────┘ ←───────────────────┘ close, refused,
//	   └────────┘ room again                   │                                 end of input
//	                                           │ every answer is written
//	                       our FIN is sent     ↓
//	            closed ←──────── draining ←────┴──→ closed (nothing can be on its way)
//	                  client's FIN, 5 s
//
// paused keeps what arrives unparsed, up to a bound; deaf and draining throw it away.
//
// When the client shuts down its sending side while it waits (half), gnet closes its
// descriptor; the connection goes on with a duplicate, deaf, until its line is empty.
type conn struct {
	loop      *Loop
	index     int // in loop.conns
	wasOpened bool
	socket    socket // gnet's; nil: half-closed, or closed
	fd        int    // where answers are written: gnet's descriptor or our duplicate
	half      bool   // half-closed: the client sends no more, fd is ours

	phase  phase
	linger bool          // the client may be sending: drain before closing
	owed   bool          // "100 Continue" waits for the answers before it
	since  time.Duration // idle: the last event; head, body, draining: its beginning
	moved  time.Duration // body: the last progress

	parser httpparse.Parser
	in     []byte // begins with the current request's first byte; nil: nothing is kept

	first, newest *Exchange // the line: requests that are not answered, in order
	open          int       // how many
	held          int       // bytes of answers that wait for others before them
	announced     int       // of these, those that Expect has spoken of
	expected      int       // bytes of answers that are to come, as Expect has them
	handling      bool      // a handler looks at in

	out      []byte          // out[sent:] is ready to be written
	aside    *offheap.Region // that out is in; nil: it is in none
	sent     int
	dirty    bool // settle is due at the end of this callback
	full     bool // the kernel takes no more; the watcher will tell
	ticket   uint64
	outSince time.Duration // blocked: since when out has not been empty
	outMoved time.Duration // blocked: the last progress
	outBytes int           // blocked: written since outSince
	weighed  int           // what loop.outbound counts for it
	blocked  bool          // outSince is set
}

type phase uint8

const (
	idle phase = iota
	head
	body
	paused
	deaf
	draining
	closed
)

// opened: the acceptor gave us the client, gnet polls it.
func (c *conn) opened(s socket) {
	l := c.loop
	l.clock = l.Now()
	c.socket, c.fd, c.wasOpened = s, s.Fd(), true
	c.since = l.clock
	l.admit(c)
	if l.draining {
		c.lastOrders()
	}
	l.leave()
}

func (c *conn) readable(data []byte) {
	l := c.loop
	l.clock = l.Now()
	l.count.bytesIn.Add(uint64(len(data)))
	c.receive(data)
	l.leave()
}

// receive parses what arrived, in gnet's buffer if the connection keeps nothing, which
// is the common case: then nothing is copied.
func (c *conn) receive(data []byte) {
	defer c.rescue()
	switch {
	case c.phase >= deaf:
		// Thrown away: refused, or after the last request.
	case c.phase == paused:
		if len(c.in)+len(data) > c.unreadMax() {
			c.refuse(503, "too many requests were sent on one connection without reading the answers")
			return
		}
		c.keep(data)
	case len(c.in) == 0:
		c.keep(c.parse(data))
	case c.keep(data):
		c.shift(c.parse(c.in))
	}
}

// flushBytes is when answers are written although more may come in the same callback.
const flushBytes = 64 << 10

// parse serves the requests in buf, as many as are complete and allowed, and returns
// the rest, which begins with the first byte of the next one.
func (c *conn) parse(buf []byte) (rest []byte) {
	for c.phase < paused && len(buf) > 0 {
		if c.unsent() >= flushBytes && !c.full {
			c.flush()
			continue // it may be full now, or closed
		}
		if c.phase == idle && c.isAtBound() { // never within a request
			c.phase = paused
			return buf
		}
		event, n, err := c.parser.Next(buf)
		switch event {
		case httpparse.Complete:
			c.phase = idle
			c.serve()
			buf = buf[n:]
		case httpparse.HeadDone:
			c.headDone(buf)
		case httpparse.NeedMore:
			now := c.loop.clock
			if c.phase == body {
				c.moved = now
			} else if c.phase == idle && c.parser.Started() {
				c.phase, c.since = head, now
			}
			return buf
		case httpparse.Failed:
			c.refuse(err.Status, err.Reason)
		}
	}
	if c.phase < deaf {
		return buf
	}
	if len(buf) > 0 {
		c.linger = true // there is more than we want to read
	}
	return nil
}

// isAtBound says whether another request would be too much: the client does not read
// as fast as it asks, or asks faster than it is answered.
func (c *conn) isAtBound() bool {
	o := &c.loop.server.options
	return c.full || c.open >= o.PipelineRequestsMax || c.held+c.expected >= o.OutputBytesMax
}

// unreadMax is how many bytes are kept of requests that are not parsed. Of a client that reads,
// and only has to wait for a long answer, as many as one request may have.
func (c *conn) unreadMax() int {
	o := &c.loop.server.options
	if !c.full && c.expected > 0 && c.open < o.PipelineRequestsMax {
		return max(o.UnreadBytesMax, o.Limits.HeaderBytesMax+int(o.Limits.BodyBytesMax))
	}
	return o.UnreadBytesMax
}

// headDone looks at a request whose body is still to come.
func (c *conn) headDone(buf []byte) {
	l := c.loop
	c.phase, c.since, c.moved = body, l.clock, l.clock
	if need := c.parser.Need(); l.inbound-cap(c.in)+max(need, len(buf)) > l.server.options.InboundBytesMax {
		c.refuse(503, "the server holds too many unfinished requests, try again in a second")
		return
	}
	if !c.parser.Request.ExpectContinue {
		return
	}
	c.owed = true
	c.touch()
}

// serve calls the handler for the request that the parser holds.
func (c *conn) serve() {
	l, r := c.loop, &c.parser.Request
	x := l.exchange(c)
	x.request, x.isHead, x.minor, x.keep = r, r.IsHead, int8(r.Minor), r.KeepAlive
	x.setID(r.Field("X-Request-Id"))
	c.enqueue(x)
	c.owed = false // the body came without it
	if !x.keep || l.draining {
		c.phase = deaf
	}
	x.handling, c.handling = true, true
	if l.exchanges.open > l.server.options.RequestsMax {
		l.count.refused(503)
		x.Reply(503, []byte(refusalHeader+retryLater), appendRefusal(nil, "too many requests wait for their answers, try again in a second"), false)
	} else {
		l.count.requests.Add(1)
		c.handle(x)
	}
	c.handling, x.handling = false, false
	x.request = nil
	if x.state == free {
		x.pool()
	}
	if cap(c.in) > bufferBytesKept {
		c.parser.Reset(&l.server.options.Limits) // else it would hold on to a large body
	}
}

// handle calls the handler. If it panics, its client hears 500, and its connection
// ends; other requests do not notice.
func (c *conn) handle(x *Exchange) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		c.loop.bug("a handler, request "+string(x.RequestID()), p)
		if x.state == open {
			x.Reply(500, []byte(refusalHeader), appendRefusal(nil, "the server made a mistake, which was logged with the id of this request"), true)
		} else if c.phase != closed {
			c.stopReading()
		}
		x.abandoned = true
	}()
	c.loop.server.options.Handler(x)
}

// stopReading lets the connection end when its line is answered.
func (c *conn) stopReading() {
	if c.phase < deaf {
		c.phase = deaf
	}
	c.linger = true
	c.touch()
}

// enqueue puts x at the end of the line.
func (c *conn) enqueue(x *Exchange) {
	if c.first == nil {
		c.first = x
	} else {
		c.newest.next = x
	}
	c.newest = x
	c.open++
}

// refuse answers a request that cannot be served, in its turn, and ends the connection.
func (c *conn) refuse(status int, reason string) {
	l := c.loop
	l.count.refused(status)
	x := l.exchange(c)
	x.isHead, x.minor, x.keep = c.phase != paused && c.parser.Request.IsHead, 1, false
	x.setID(nil)
	c.phase, c.linger, c.owed = deaf, true, false
	c.drop()
	c.enqueue(x)
	header := refusalHeader
	if status == 503 {
		header += retryLater
	}
	x.Reply(status, []byte(header), appendRefusal(nil, reason), true)
}

// trickleBytes is the memory of a request of which no more has come.
const trickleBytes = 256

// keep appends data to what is kept of the current request. It says whether it could:
// else the connection was refused.
func (c *conn) keep(data []byte) bool {
	if len(data) == 0 {
		return true
	}
	l := c.loop
	if c.in == nil {
		if len(data) <= trickleBytes { // very many may send so little, and then nothing
			c.in = make([]byte, 0, trickleBytes)
		} else {
			c.in = l.take()
		}
		l.inbound += cap(c.in)
	}
	size, room := len(c.in)+len(data), cap(c.in)
	if size > room {
		// Doubled, so that a length that is only claimed costs nothing, and not beyond
		// the length that is claimed.
		room = max(2*room, size)
		if need := c.parser.Need(); need > 0 {
			room = max(min(room, need), size)
		}
	}
	if l.inbound-cap(c.in)+room > l.server.options.InboundBytesMax {
		c.refuse(503, "the server holds too many unfinished requests, try again in a second")
		return false
	}
	if room > cap(c.in) {
		grown := append(make([]byte, 0, room), c.in...)
		c.drop()
		c.in = grown
		l.inbound += cap(c.in)
	}
	c.in = append(c.in, data...)
	return true
}

// shift moves the rest of in to its beginning, and gives the buffer back if it is
// empty, or much too large.
func (c *conn) shift(rest []byte) {
	l := c.loop
	switch {
	case c.phase >= deaf || len(rest) == 0:
		c.drop()
	case cap(c.in) > bufferBytesKept && len(rest) < cap(c.in)/4 && c.parser.Need() == 0:
		small := append(make([]byte, 0, max(len(rest), bufferBytesMin)), rest...)
		c.drop()
		c.in = small
		l.inbound += cap(c.in)
	case len(rest) < len(c.in):
		c.in = c.in[:copy(c.in, rest)]
	}
}

// drop gives in back.
func (c *conn) drop() {
	if c.in == nil {
		return
	}
	c.loop.inbound -= cap(c.in)
	if !c.handling { // else a handler looks at it, and somebody might get it meanwhile
		c.loop.give(c.in)
	}
	c.in = nil
}

// buffer is out, to append to.
func (c *conn) buffer() []byte {
	if c.out == nil {
		c.out = c.loop.take()
	}
	return c.out
}

// unsent is how many bytes wait to be written.
func (c *conn) unsent() int { return len(c.out) - c.sent }

// touch asks for settle at the end of this callback.
func (c *conn) touch() {
	if !c.dirty {
		c.dirty = true
		c.loop.dirty = append(c.loop.dirty, c)
	}
}

// settle writes what is ready and does what follows from it.
func (c *conn) settle() {
	defer c.rescue()
	if c.phase == closed {
		return
	}
	if c.owed && c.open == 0 {
		// RFC 9110 §10.1.1; behind the answers to the requests before this one.
		c.owed = false
		c.since, c.moved = c.loop.clock, c.loop.clock
		c.out = append(c.buffer(), "HTTP/1.1 100 Continue\r\n\r\n"...)
	}
	c.flush()
	c.loop.shed()
	if c.phase == closed {
		return
	}
	if c.phase == paused && !c.isAtBound() {
		c.phase = idle
		c.shift(c.parse(c.in))
		if c.half && c.phase < paused {
			c.stopReading() // what is left will never be whole
		}
	}
	switch {
	case c.phase == idle && c.open == 0:
		c.since = c.loop.clock
	case c.phase == deaf && c.open == 0 && c.unsent() == 0:
		c.finish()
	}
}

// flush writes what is ready, as far as the kernel takes it.
func (c *conn) flush() {
	l := c.loop
	for !c.full && c.unsent() > 0 {
		n, err := unix.Write(c.fd, c.out[c.sent:])
		if n > 0 {
			c.sent += n
			c.outBytes += n
			c.outMoved = l.clock
			l.count.bytesOut.Add(uint64(n))
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN, err == nil && c.unsent() > 0:
			if !c.blocked {
				c.blocked = true
				c.outSince, c.outMoved, c.outBytes = l.clock, l.clock, 0
			}
			c.watch()
		case err != nil:
			c.givenUp(err)
			c.close()
		}
	}
	switch {
	case c.unsent() == 0 && c.out != nil:
		c.dropOut()
		c.blocked = false
	case c.blocked && c.sent > shrinkBytes && c.sent > cap(c.out)/2,
		c.blocked && c.aside == nil && c.unsent() > shrinkBytes:
		// The kernel has most of it, or it will be here for a while.
		c.setOut(c.out[c.sent:], nil)
	}
	c.weigh()
}

// flushWith is flush for a large body that follows what is ready: what the kernel takes of
// it is not copied.
func (c *conn) flushWith(body []byte) {
	for len(body) > 0 {
		n, err := unix.Writev(c.fd, [][]byte{c.out[c.sent:], body})
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			break // flush will meet it again
		}
		ready := min(n, c.unsent())
		c.sent += ready
		body = body[n-ready:]
		c.loop.count.bytesOut.Add(uint64(n))
	}
	if len(body) > 0 {
		c.setOut(c.out[c.sent:], body)
	}
	c.flush()
}

// setOut makes a copy of both parts, which may be in out, what is ready to be written. If it
// is large, that is memory that goes back to the system as soon as it is written: on the
// heap, answers that are not read would make the collector wait until there is twice as
// much of everything.
func (c *conn) setOut(ready, body []byte) {
	size := len(ready) + len(body)
	var out []byte
	var aside *offheap.Region
	if size > shrinkBytes {
		aside = offheap.NewLasting(size)
	}
	if aside != nil {
		out = aside.Empty()
	} else { // it is small, or the system has no more: the heap may have
		out = make([]byte, 0, size)
	}
	out = append(append(out, ready...), body...)
	c.dropOut()
	c.out, c.aside = out, aside
}

// dropOut lets go of out.
func (c *conn) dropOut() {
	if !c.aside.Holds(c.out) {
		c.loop.give(c.out)
	}
	c.dropAside()
	c.out, c.sent = nil, 0
}

// dropAside gives the memory back that out is in, or was.
func (c *conn) dropAside() {
	c.aside.Free()
	c.aside = nil
}

// shrinkBytes is how much of an answer must have been written, or be left, for the rest to
// be moved.
const shrinkBytes = 64 << 10

// shed closes connections whose clients do not read while more is unsent than a loop
// keeps: first the one that has not moved for longest. A single one may be above a bound.
func (l *Loop) shed() {
	o := &l.server.options
	for l.outbound > o.OutboundBytesMax {
		victim, blocked, _ := l.slowest(0)
		if blocked < 2 {
			break
		}
		l.count.readersClosed.Add(1)
		victim.abort()
	}
	if l.outbound > o.StalledBytesMax && l.clock >= l.shedAt {
		l.shedAt = l.clock + shedEvery
		l.shedStalled()
	}
}

// shedEvery is how often those that stand still are looked for at most.
const shedEvery = 100 * time.Millisecond

// shedStalled is shed for those that stand still.
func (l *Loop) shedStalled() {
	o := &l.server.options
	for l.outbound > o.StalledBytesMax {
		victim, stalled, bytes := l.slowest(o.StallGrace)
		if stalled < 2 || bytes <= o.StalledBytesMax {
			return
		}
		l.count.readersClosed.Add(1)
		victim.abort()
	}
}

// slowest returns, of the connections that have bytes to write and have not moved for at
// least that long, the one that has not for longest, how many they are, and what is unsent
// on them together.
func (l *Loop) slowest(still time.Duration) (slowest *conn, n, bytes int) {
	for _, c := range l.slow {
		if !c.full || c.weighed == 0 || l.clock-c.outMoved < still {
			continue
		}
		n++
		bytes += c.weighed
		if slowest == nil || c.outMoved < slowest.outMoved {
			slowest = c
		}
	}
	return slowest, n, bytes
}

// weigh corrects what the loop counts as unsent for slow readers.
func (c *conn) weigh() {
	if c.aside != nil && !c.aside.Holds(c.out) {
		c.dropAside()
	}
	weight := c.held
	if c.full {
		weight += cap(c.out)
	}
	c.loop.outbound += weight - c.weighed
	c.weighed = weight
}

// finish ends the connection: all is answered and written.
func (c *conn) finish() {
	if !c.linger || c.half {
		c.close()
		return
	}
	// Closing while bytes arrive would make the kernel send a reset, which can overtake
	// the answer (RFC 9112 §9.6): send our FIN, and wait for the client's.
	if err := unix.Shutdown(c.fd, unix.SHUT_WR); err != nil {
		c.close()
		return
	}
	c.phase, c.since = draining, c.loop.clock
	c.drop()
}

// lastOrders: the server drains.
func (c *conn) lastOrders() {
	switch {
	case c.phase == paused, c.phase == idle && c.open > 0:
		c.phase, c.linger = deaf, true // what waits is answered, the last one says close
		c.drop()
		c.touch()
	case c.phase == idle && !c.hasInput():
		c.phase = deaf // and closed at once
		c.touch()
	}
	// Else a request has begun to arrive, and will be the last one.
}

// hasInput says whether bytes have arrived that gnet has not read yet.
func (c *conn) hasInput() bool {
	var b [1]byte
	n, _, err := unix.Recvfrom(c.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n > 0 && err == nil
}

// isOverdue says whether the connection has used up its time.
func (c *conn) isOverdue(now time.Duration) bool {
	o := &c.loop.server.options
	if c.full && (now >= c.outMoved+o.WriteTimeout || isTooSlow(o, now-c.outSince, c.outBytes)) {
		return true
	}
	switch c.phase {
	case idle:
		return c.open == 0 && c.unsent() == 0 && now >= c.since+o.IdleTimeout
	case head:
		return now >= c.since+o.HeadTimeout
	case body:
		return !c.owed && (now >= c.moved+o.BodyTimeout || now >= c.since+o.BodyTotalTimeout ||
			isTooSlow(o, now-c.since, len(c.in)))
	case draining:
		patience := o.LingerTimeout
		if c.loop.draining {
			patience = min(patience, drainLinger)
		}
		return now >= c.since+patience
	}
	return false // paused, deaf: the answers decide
}

func isTooSlow(o *Options, took time.Duration, bytes int) bool {
	return took > o.RateGrace && float64(bytes) < (took-o.RateGrace).Seconds()*float64(o.RateBytesMin)
}

// timeOut ends a connection that is overdue.
func (c *conn) timeOut() {
	l := c.loop
	switch {
	case c.phase == closed:
	case c.full:
		l.count.timeouts[timeoutWrite].Add(1)
		c.abort()
	case c.phase < paused && c.hasInput():
		// It is we who are late: the process was stopped for a while, say.
	case c.phase == head:
		l.count.timeouts[timeoutHead].Add(1)
		c.refuse(408, "the head of the request took too long")
	case c.phase == body:
		l.count.timeouts[timeoutBody].Add(1)
		c.refuse(408, "the body of the request took too long")
	default:
		if c.phase == idle {
			l.count.timeouts[timeoutIdle].Add(1)
		}
		c.close()
	}
}

// givenUp counts a client that the kernel has given up, if it was that: it vanished, or
// took nothing for too long of what the kernel held for it (tcp(7), TCP_USER_TIMEOUT).
func (c *conn) givenUp(err error) {
	if !errors.Is(err, unix.ETIMEDOUT) {
		return
	}
	kind := timeoutSilent
	if c.blocked {
		kind = timeoutWrite // we were about to
	}
	c.loop.count.timeouts[kind].Add(1)
}

// drainLinger is LingerTimeout while the server stops, which waits for it.
const drainLinger = time.Second

// abort ends the connection of a client that does not read, with a reset: else the
// kernel would keep what it does not read, megabytes, for minutes.
func (c *conn) abort() {
	if c.phase != closed {
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
		c.close()
	}
}

// close ends the connection now. What waits for a reply is told.
func (c *conn) close() {
	if c.phase == closed {
		return
	}
	s := c.socket
	c.bury()
	if s == nil {
		_ = unix.Close(c.fd)
	} else if err := closeSocket(s); err != nil { // calls ended, which finds us closed
		c.loop.server.log.Error().Err(err).Msg("cannot close a connection")
	}
	c.fd = -1
	c.forsake()
}

// bury takes the connection out of the loop's books.
func (c *conn) bury() {
	l := c.loop
	c.unwatch()
	c.phase, c.socket, c.held, c.announced = closed, nil, 0, 0
	c.weigh()
	c.drop()
	if c.out != nil {
		c.dropOut()
	}
	if c.half {
		l.halfs--
	}
	l.dismiss(c)
}

// forsake cuts the exchanges of the line off from the connection. From here on a
// reply to one of them is dropped.
func (c *conn) forsake() {
	x := c.first
	c.first, c.newest, c.open, c.held, c.announced, c.expected = nil, nil, 0, 0, 0, 0
	for x != nil {
		next := x.next
		x.conn, x.next = nil, nil
		if x.state == answered {
			c.loop.give(x.held)
			x.release()
		} else if gone := x.gone; gone != nil {
			x.gone, x.halfGone = nil, nil
			c.loop.call(gone)
		}
		x = next
	}
}

// ended: gnet is about to close the descriptor.
func (c *conn) ended(err error) {
	if c.phase == closed {
		return // it was us
	}
	l := c.loop
	l.clock = l.Now()
	if !isEndOfInput(err) || !c.goOn() {
		c.givenUp(err)
		c.bury()
		c.fd = -1
		c.forsake()
	} else {
		c.tellHalf()
	}
	l.leave()
}

// tellHalf tells the exchanges that the client will send no more. What one of them does may
// end the connection, and so all are asked before any is told.
func (c *conn) tellHalf() {
	var tell []func()
	for x := c.first; x != nil; x = x.next {
		if x.state == open && x.halfGone != nil {
			tell = append(tell, x.halfGone)
			x.halfGone = nil
		}
	}
	for _, f := range tell {
		c.loop.call(f)
	}
}

// goOn keeps a half-closed connection that waits for answers: it gets a duplicate of
// the descriptor that gnet closes. It says whether it did.
func (c *conn) goOn() bool {
	l := c.loop
	if c.phase == draining || c.open == 0 && c.unsent() == 0 && c.phase != paused ||
		l.halfs >= l.server.options.HalfClosedMax {
		return false
	}
	fd, err := c.socket.Dup()
	if err != nil {
		return false
	}
	c.unwatch()
	c.socket, c.fd, c.half = nil, fd, true
	l.halfs++
	if c.phase != paused {
		c.phase, c.owed = deaf, false
		c.drop()
	}
	c.watch()
	c.touch()
	return true
}

// rescue is deferred around the connection's own work: a bug in it ends the connection
// and not the process.
func (c *conn) rescue() {
	if p := recover(); p != nil {
		c.loop.bug("a connection", p)
		c.handling = false
		c.close()
	}
}
