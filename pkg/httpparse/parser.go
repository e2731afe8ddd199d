// Package httpparse turns bytes into HTTP/1.1 requests (RFC 9112), one
// connection's bytes after the other: incrementally, in place, without
// allocating.
//
// It is pure. It does no I/O, starts no goroutine, reads no clock and knows no
// socket; whoever owns the connection owns the buffer too, grows it, and asks
// Parser.Next what is in it. It writes no answers: it says which status and which
// sentence a broken request deserves (Error).
//
// It is strict. What RFC 9112 calls malformed, and what two implementations may
// read in two ways, is refused with 400 and the connection has to be closed: on a
// connection that is shared through a proxy a lenient reading is somebody else's
// request (RFC 9112 §11.2). The rules, each beside the line that keeps it:
//
//   - a line ends with CR LF and nothing else; CR appears nowhere else (§2.2, which
//     lets a recipient take LF alone for a line's end: two readers who disagree
//     about that see different requests, and no client of today sends it)
//   - one space between method, target and version (§3)
//   - no space before a field's colon, no folded lines, no control bytes (§5)
//   - one way to know the length: one Content-Length with one number, or
//     "Transfer-Encoding: chunked", never both (§6)
//   - exactly one valid Host in an HTTP/1.1 request (§3.2)
//
// Memory: every slice of a Request points into the buffer that was given to the
// last Next. Nothing here keeps a slice longer than that.
package httpparse

import "bytes"

// Event is what Next found.
type Event uint8

const (
	// NeedMore: the request goes on after the bytes at hand. Call Next again when
	// there are more; Need says how many if that is known.
	NeedMore Event = iota
	// HeadDone: the head is whole and valid, the body is not there yet. It is said
	// once in a request, and not at all when the body is whole by then: now is the
	// time to look at budgets and to answer an expectation (Request.ExpectContinue).
	// Go on as after NeedMore.
	HeadDone
	// Complete: Parser.Request is whole.
	Complete
	// Failed: the request cannot be served; answer the error and close.
	Failed
)

// String is the event's name, for tests and logs.
func (e Event) String() string {
	return [...]string{"NeedMore", "HeadDone", "Complete", "Failed"}[e]
}

// state is where in a request the parser stands. It only moves downwards, but for
// the three chunk states, which go round:
//
//	 beforeLine ─→ inLine ─→ inFields ─┬─→ inLength ──────────────────────────┬─→ whole
//	                                   └─→ inChunkLine ⇄ inChunk ⇄ afterChunk │
//	                                            └─→ inTrailers ───────────────┘
//	any state ─→ broken
type state uint8

const (
	beforeLine  state = iota // empty lines before the request line
	inLine                   // the request line
	inFields                 // field lines, up to the empty line
	inLength                 // a body of known length (0: none)
	inChunkLine              // a chunk's size and its extensions
	inChunk                  // a chunk's data
	afterChunk               // the CR LF behind a chunk's data
	inTrailers               // field lines behind the last chunk
	whole                    // Complete was said; the next Next begins a request
	broken                   // Failed was said; only Reset helps
)

// span is a piece of the buffer. The buffer may move between two calls of Next,
// so what was found is remembered by offset and made into slices at the end.
type span struct{ from, to int }

func (s span) of(buf []byte) []byte { return buf[s.from:s.to:s.to] }

// Parser reads the requests of one connection, one after the other. Its zero
// value reads with DefaultLimits. It may be used again for another connection
// after Reset.
type Parser struct {
	// Request is what was read: whole after Complete, all but Body after HeadDone.
	// After Failed it holds what was understood before the fault (for a log line, and
	// IsHead). It is valid until the next call of Next or Reset, and no longer than
	// the buffer stays as it is.
	Request Request

	limits *Limits
	err    *Error // broken: why

	state state
	minor int8 // of the version, at most 1
	empty int8 // empty lines before the request line

	hosts      int8 // Host fields seen: 0 or 1
	hasLength  bool // Content-Length seen
	codings    coding
	close      bool // Connection: close seen
	keepAlive  bool // Connection: keep-alive seen
	expect     bool // Expect: 100-continue seen
	expectElse bool // another expectation seen

	fields int // field lines so far, trailers included

	// line ≤ scanned ≤ len(buf): the line being read begins at line, and
	// buf[line:scanned] holds no LF. So no byte is searched twice, however the
	// bytes trickle in.
	line, scanned int

	method, target, path, query, host span
	head                              span // the field lines, each with its CR LF

	body      span  // the body as far as it is whole; chunks are moved together
	length    int64 // Content-Length
	read      int   // inChunk, afterChunk: the next byte to look at; body.to ≤ read
	remaining int   // inChunk: bytes of data still to come
	framing   int   // bytes of chunk lines and their ends
	trailers  int   // where the trailers begin
}

// Reset makes the parser ready for a new connection. The limits are kept by
// reference and may be shared; nil means DefaultLimits.
func (p *Parser) Reset(l *Limits) {
	*p = Parser{limits: l.orDefault()}
}

// Next reads on in buf, which begins with the first byte of the current request
// and holds everything received since. Between two calls the buffer may grow and
// may move, but what was in it must not change (the parser itself moves chunks
// together in it).
//
// n counts only for Complete: that many bytes of buf were this request; what
// follows them belongs to the next one, and the next call of Next wants a buffer
// that begins there. err is not nil exactly for Failed; it is sticky until Reset.
//
// The result does not depend on how the bytes were cut into calls: only HeadDone
// may be missing when the body was there already.
func (p *Parser) Next(buf []byte) (event Event, n int, err *Error) {
	if p.state >= whole {
		if p.state == broken {
			p.Request = Request{}
			return Failed, 0, p.err
		}
		p.begin()
	}
	if p.limits == nil {
		p.limits = &defaultLimits
	}
	if len(buf) < p.scanned {
		panic("BUG: the buffer shrank within a request")
	}
	early := p.state < inLength
	if early {
		done, err := p.readHead(buf)
		if err != nil {
			return p.fail(buf, err)
		}
		if !done {
			return NeedMore, 0, nil
		}
	}
	done, err := p.readBody(buf)
	switch {
	case err != nil:
		return p.fail(buf, err)
	case done:
		n = p.line
		p.show(buf)
		p.state = whole
		return Complete, n, nil
	case early:
		p.show(buf)
		return HeadDone, 0, nil
	}
	return NeedMore, 0, nil
}

// Need is how long the buffer will be when the current request is whole, if that
// is known already (Content-Length), so that its owner can grow it once; else 0.
// It is never more than HeaderBytesMax + BodyBytesMax.
func (p *Parser) Need() int {
	if p.state != inLength {
		return 0
	}
	return p.body.from + int(p.length)
}

// Started says that a request was begun: a byte of its request line was seen.
// Before that a connection is idle, even if its client sent an empty line.
func (p *Parser) Started() bool { return p.state > beforeLine && p.state < whole }

func (p *Parser) begin() {
	*p = Parser{limits: p.limits}
}

func (p *Parser) fail(buf []byte, err *Error) (Event, int, *Error) {
	p.show(buf)
	p.state, p.err = broken, err
	return Failed, 0, err
}

// show makes the slices of Request from what was found in buf.
func (p *Parser) show(buf []byte) {
	r := &p.Request
	r.Method = p.method.of(buf)
	r.Target = p.target.of(buf)
	r.Path = p.path.of(buf)
	if p.path.from > 0 && len(r.Path) == 0 {
		r.Path = rootPath // "http://host" (RFC 9112 §3.2.1)
	}
	r.Query = p.query.of(buf)
	r.Host = p.host.of(buf)
	r.Body = p.body.of(buf)
	r.head = p.head.of(buf)
	r.Minor = int(p.minor)
	r.IsHead = string(r.Method) == "HEAD"
	r.KeepAlive = !p.close && (p.minor == 1 || p.keepAlive)
	r.ExpectContinue = p.expect
	r.ContentLength = p.length
	if p.codings != 0 {
		r.ContentLength = -1
	}
}

var rootPath = []byte("/")

// lineEnd looks for the LF of the line that begins at p.line, before offset end.
// It returns the LF's offset, or -1; long says that there is none before end and
// never will be. The answer is the same whether the bytes behind end are there
// or not.
func (p *Parser) lineEnd(buf []byte, end int) (lf int, long bool) {
	window := buf[:min(len(buf), end)]
	if p.scanned < len(window) {
		if i := bytes.IndexByte(window[p.scanned:], '\n'); i >= 0 {
			return p.scanned + i, false
		}
		p.scanned = len(window)
	}
	return -1, len(window) == end
}

// nextLine goes on behind the byte at lf, the last one of a line.
func (p *Parser) nextLine(lf int) {
	p.line, p.scanned = lf+1, lf+1
}

// readBody reads what follows the head. It reports whether the request is whole;
// p.line is its end then.
func (p *Parser) readBody(buf []byte) (bool, *Error) {
	if p.state != inLength {
		return p.readChunks(buf)
	}
	end := p.body.from + int(p.length)
	if len(buf) < end {
		return false, nil
	}
	p.body.to = end
	p.nextLine(end - 1)
	return true, nil
}
