package loop

import (
	"time"

	"github.com/queend/queend/pkg/httpparse"
)

// Exchange is one request and the answer it waits for. The handler that gets it owns
// it until it replies: exactly once, at once or later, on the loop; after that the
// Exchange is somebody else's. All its methods are for the loop.
type Exchange struct {
	loop *Loop
	conn *conn     // nil: the client is gone
	next *Exchange // of its connection, in the order of the requests; or in the pool

	state     exchangeState
	handling  bool // its handler has not returned
	abandoned bool // its handler panicked: a Reply that still comes is ignored
	isHead    bool
	minor     int8
	keep      bool   // the client wants the connection to stay
	last      bool   // answered: the connection ends with this answer
	held      []byte // answered: the answer, until those before it are
	request   *httpparse.Request
	accepted  time.Duration
	expected  int // bytes of the answer, as far as Expect said
	gone      func()
	halfGone  func()

	idLength int
	id       [RequestIDBytesMax]byte
}

type exchangeState uint8

const (
	free     exchangeState = iota // in the pool
	open                          // waits for Reply
	answered                      // replied to; the answer waits for its turn
)

// RequestIDBytesMax bounds the client's X-Request-Id. A longer one is not used: the
// request gets one of ours.
const RequestIDBytesMax = 128

// Request is what the client asked for. It is valid until the handler returns or
// replies, whichever is first, and nil afterwards.
func (x *Exchange) Request() *httpparse.Request { return x.request }

// RequestID is the client's X-Request-Id if it sent a usable one, else 16 hexadecimal
// digits that no other request of this process has. It goes into the answer. The slice
// is valid until Reply.
func (x *Exchange) RequestID() []byte { return x.id[:x.idLength] }

// Accepted is when the request was complete, by the loop's clock.
func (x *Exchange) Accepted() time.Duration { return x.accepted }

// Loop is the loop that the exchange lives on.
func (x *Exchange) Loop() *Loop { return x.loop }

// OnGone asks for f to be called, once, if the client's connection ends before Reply.
// The exchange still has to be replied to; the reply goes nowhere. A client that has
// shut down its sending side and waits is not gone: see IsHalfClosed.
func (x *Exchange) OnGone(f func()) { x.gone = f }

// OnHalfClosed asks for f to be called, once, if the client shuts down its sending side
// before Reply: it may be gone for good, see IsHalfClosed. f may
// reply.
func (x *Exchange) OnHalfClosed(f func()) { x.halfGone = f }

// IsGone says whether the client's connection has ended.
func (x *Exchange) IsGone() bool { return x.conn == nil }

// IsHalfClosed says whether the client will send no more. It may wait for its answer,
// or be gone for good: nothing tells the two apart before an answer is written.
func (x *Exchange) IsHalfClosed() bool { return x.conn != nil && x.conn.half }

// Expect says how many bytes the answer may have, about, if they are many; it is called
// before the handler returns. While those that
// are expected on a connection are more than it may have unsent (OutputBytesMax), no further
// request is read from it: a client that sends many at once and reads what it is answered
// is not to be told, when they are done, that there is no room for the answers.
func (x *Exchange) Expect(bytes int) {
	if x.state != open || x.conn == nil {
		return
	}
	x.conn.expected += bytes - x.expected
	x.expected = bytes
}

// announced is how many bytes of a held answer Expect has spoken of.
func (x *Exchange) announced() int {
	if x.expected == 0 {
		return 0
	}
	return len(x.held)
}

// setID takes the client's request id or makes one.
func (x *Exchange) setID(given []byte) {
	if isRequestID(given) {
		x.idLength = copy(x.id[:], given)
		return
	}
	x.loop.lastID += uint64(len(x.loop.server.loops))
	x.idLength = len(appendHex(x.id[:0], x.loop.lastID))
}

// isRequestID wants printable ASCII: the id goes into logs and into a header.
func isRequestID(id []byte) bool {
	if len(id) == 0 || len(id) > RequestIDBytesMax {
		return false
	}
	for _, b := range id {
		if b <= ' ' || b > '~' {
			return false
		}
	}
	return true
}

// appendHex appends v as 16 hexadecimal digits.
func appendHex(to []byte, v uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		to = append(to, "0123456789abcdef"[v>>shift&15])
	}
	return to
}

// exchangePool is a loop's exchanges that are free, the longest free one first out:
// an Exchange rests for a while before it is used again, so that a second Reply by
// mistake meets a free one and is found out.
type exchangePool struct {
	first, last *Exchange
	count       int
	open        int // exchanges that are in use
}

const (
	exchangesResting = 64
	exchangesKept    = 4_096
)

// trim leaves those that were used last: they are to rest.
func (p *exchangePool) trim() {
	for p.count > exchangesResting {
		p.first = p.first.next
		p.count--
	}
}

// exchange returns an open exchange for c.
func (l *Loop) exchange(c *conn) *Exchange {
	p := &l.exchanges
	x := p.first
	if p.count > exchangesResting {
		p.first = x.next
		p.count--
	} else {
		x = &Exchange{loop: l}
	}
	p.open++
	x.conn, x.next, x.state, x.accepted = c, nil, open, l.clock
	return x
}

// release gives x back, unless its handler still looks at it: then serve does.
func (x *Exchange) release() {
	x.request, x.gone, x.conn, x.next = nil, nil, nil, nil
	x.held, x.expected = nil, 0
	x.state = free
	x.loop.exchanges.open--
	if !x.handling {
		x.pool()
	}
}

// pool puts x behind those that are free. One whose handler panicked is left to the
// collector: a store may still have it, and must not find another request in it.
func (x *Exchange) pool() {
	p := &x.loop.exchanges
	if x.abandoned || p.count >= exchangesKept {
		return
	}
	if p.first == nil {
		p.first = x
	} else {
		p.last.next = x
	}
	p.last = x
	p.count++
}
