package loop

import (
	"strconv"
	"time"
)

// Reply answers the request: status, header as raw "Name: value\r\n" lines (nil: none),
// body, and whether the connection ends after it. Both are copied before Reply
// returns. Content-Length, Date, Connection, X-Request-Id and the common header are
// ours to write. Answers leave in the order of the requests, whatever the order of
// replies; those that are ready when the current callback ends leave in one write, but
// what stands before a large body and the body leave at once.
//
// It is called exactly once, on the loop, also when the client is gone. Twice is a bug
// and panics.
func (x *Exchange) Reply(status int, header, body []byte, close bool) {
	if x.abandoned {
		return // its client heard 500 when the handler panicked
	}
	if x.state != open {
		panic("BUG: a request was replied to twice")
	}
	if status < 200 || status > 599 {
		panic("BUG: " + strconv.Itoa(status) + " is not the status of an answer")
	}
	l, c := x.loop, x.conn
	x.gone, x.halfGone = nil, nil
	l.count.answers[status/100].Add(1)
	if c == nil {
		// The one place where the reply to a connection that is gone is dropped.
		l.count.repliesDropped.Add(1)
		x.release()
		return
	}
	c.expected -= x.expected
	if !c.hasRoom(x) {
		l.count.readersClosed.Add(1)
		c.abort()
		x.release()
		return
	}
	x.state = answered
	x.last = close || !x.keep || l.draining && x.next == nil
	if close || l.draining {
		c.linger = true // the client may be sending the next request
	}
	switch {
	case x == c.first && len(body) >= flushBytes && !c.full && !x.isHead && (x.next == nil || x.next.state != answered):
		c.out = l.appendHead(c.buffer(), x, status, header, len(body))
		if status == 204 || status == 304 {
			body = nil
		}
		c.advance()
		c.flushWith(body)
	case x == c.first:
		c.out = l.appendAnswer(c.buffer(), x, status, header, body)
		c.advance()
	default:
		x.held = l.appendAnswer(l.take(), x, status, header, body)
		c.held += len(x.held)
		c.announced += x.announced()
		c.weigh()
	}
	c.touch()
}

// hasRoom says whether the answer to x may wait to be sent on c. It is not a matter of
// that answer's size but of what the client has left unread. What only waits for the answer
// that comes now is not that, and for what was announced (Expect) there was room when it was
// read.
func (c *conn) hasRoom(x *Exchange) bool {
	l, o := c.loop, &c.loop.server.options
	held := c.held - c.announced
	if x == c.first {
		held = 0
	}
	if c.unsent()+held > o.OutputBytesMax {
		c.flush() // maybe it is just we who have not written yet
	}
	return c.phase != closed && (x.expected > 0 || c.unsent()+held <= o.OutputBytesMax) &&
		(c.weighed == 0 || l.outbound <= o.OutboundBytesMax)
}

// advance takes the first exchange, whose answer is in out, from the line, and then
// those whose answers were held back for it.
func (c *conn) advance() {
	for {
		x := c.first
		last := x.last
		c.first = x.next
		if c.first == nil {
			c.newest = nil
		}
		c.open--
		x.release()
		if last {
			c.phase = deaf
			c.forsake() // what was asked after the last request is not answered
			return
		}
		next := c.first
		if next == nil || next.state != answered {
			return
		}
		c.out = append(c.out, next.held...)
		c.held -= len(next.held)
		c.announced -= next.announced()
		c.loop.give(next.held)
		next.held = nil
	}
}

// heading is what the heads of a loop's answers have in common.
type heading struct {
	fixed     []byte
	date      []byte        // "Date: …\r\n"
	dateUntil time.Duration // when the second ends
}

// appendAnswer appends the whole answer to x (RFC 9112 §4).
func (l *Loop) appendAnswer(to []byte, x *Exchange, status int, header, body []byte) []byte {
	to = l.appendHead(to, x, status, header, len(body))
	if status == 204 || status == 304 || x.isHead { // RFC 9110 §9.3.2: the length that GET would have
		return to
	}
	return append(to, body...)
}

// appendHead appends all of it but the body, which has so many bytes.
func (l *Loop) appendHead(to []byte, x *Exchange, status int, header []byte, bodyBytes int) []byte {
	to = append(to, statusLine(status)...)
	to = append(to, l.dateLine()...)
	to = append(to, l.heading.fixed...)
	to = append(to, "X-Request-Id: "...)
	to = append(to, x.RequestID()...)
	to = append(to, "\r\n"...)
	to = append(to, header...)
	switch {
	case x.last:
		to = append(to, "Connection: close\r\n"...)
	case x.minor == 0:
		to = append(to, "Connection: keep-alive\r\n"...)
	}
	if status == 204 || status == 304 { // RFC 9110 §8.6, §15.4.5
		return append(to, "\r\n"...)
	}
	to = append(to, "Content-Length: "...)
	to = strconv.AppendInt(to, int64(bodyBytes), 10)
	return append(to, "\r\n\r\n"...)
}

// dateLine is the Date field of this second (RFC 9110 §6.6.1).
func (l *Loop) dateLine() []byte {
	h := &l.heading
	if l.clock >= h.dateUntil || h.date == nil {
		now, wall := l.Now(), time.Now() // in this order the second never ends too late
		h.date = appendDateLine(h.date[:0], wall)
		h.dateUntil = now + time.Second - time.Duration(wall.Nanosecond())
	}
	return h.date
}

func appendDateLine(to []byte, t time.Time) []byte {
	to = append(to, "Date: "...)
	to = t.UTC().AppendFormat(to, "Mon, 02 Jan 2006 15:04:05 GMT")
	return append(to, "\r\n"...)
}

// reasons are the phrases of the statuses that queend uses, and of some that guests of
// this package may (RFC 9110 §15). The phrase is for people: a missing one is allowed.
var reasons = map[int]string{
	200: "OK", 201: "Created", 202: "Accepted", 204: "No Content",
	301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
	408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large",
	414: "URI Too Long", 415: "Unsupported Media Type", 417: "Expectation Failed", 422: "Unprocessable Content", 426: "Upgrade Required",
	429: "Too Many Requests", 431: "Request Header Fields Too Large",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
	505: "HTTP Version Not Supported",
}

var statusLines = func() (lines [600]string) {
	for status := range lines {
		lines[status] = "HTTP/1.1 " + strconv.Itoa(status) + " " + reasons[status] + "\r\n"
	}
	return lines
}()

func statusLine(status int) string { return statusLines[status] }

const (
	refusalHeader = "Content-Type: application/json\r\n"
	retryLater    = "Retry-After: 1\r\n"
)

// appendRefusal appends a refusal's body. The reason is ASCII without quotes.
func appendRefusal(to []byte, reason string) []byte {
	to = append(to, `{"error":"`...)
	to = append(to, reason...)
	return append(to, `"}`...)
}
