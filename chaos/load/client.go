package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/queend/queend/chaos/history"
)

// client is one keep-alive connection. It never sends anything twice by itself, as
// net/http's client may: what was sent how often is what a trial is about.
type client struct {
	dial    func() (net.Conn, int, error) // and which queend it is
	clock   *history.Clock
	log     *history.Log
	conn    net.Conn
	read    *bufio.Reader
	timeout time.Duration // of a call that does not wait
	server  int           // whom conn reaches
}

// answer is what came of a call. Status 0: nothing.
type answer struct {
	status     int
	body       []byte
	start, end time.Duration
	sent       bool // something may have left us
	push       bool // by a route that buffers
	server     int
	why        string
}

var get = &http.Request{Method: "GET"}

// call sends a request and waits for its answer; wait is the time-out of a long poll. It
// records the call.
func (c *client) call(method, path, body string, wait time.Duration) (a answer) {
	route, _, _ := strings.Cut(path, "?")
	a.start = c.clock.Now()
	a.push = strings.HasPrefix(route, "/api/v1/push")
	retryAfter := false
	err := c.exchange(method, path, body, wait, &a, &retryAfter)
	a.end = c.clock.Now()
	if err != nil {
		a.why = err.Error()
		c.close()
	} else if a.status >= 300 {
		a.why = string(a.body)
	}
	if a.sent {
		c.log.Calls = append(c.log.Calls, history.Call{
			Route: method + " " + route, Server: a.server, Status: a.status, Start: a.start, End: a.end, Wait: wait, RetryAfter: retryAfter, Why: a.why,
		})
	}
	return a
}

func (c *client) exchange(method, path, body string, wait time.Duration, a *answer, retryAfter *bool) error {
	if c.conn == nil {
		conn, server, err := c.dial()
		if err != nil {
			return err
		}
		c.conn, c.read, c.server = conn, bufio.NewReader(conn), server
	}
	a.server = c.server
	if err := c.conn.SetDeadline(time.Now().Add(c.timeout + wait)); err != nil {
		return err
	}
	a.sent = true
	if _, err := fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: chaos\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body); err != nil {
		return err
	}
	r, err := http.ReadResponse(c.read, get)
	if err != nil {
		return err
	}
	a.body, err = io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode == 0 {
		return errors.New("an answer without a status")
	}
	a.status = r.StatusCode
	*retryAfter = r.Header.Get("Retry-After") != ""
	if r.Close {
		c.close()
	}
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// inDoubt is in every 503 to a push that leaves open whether it was done. Every other one
// is held to it that it was not.
const inDoubt = "messages may "

// atTheDoor are the sentences of a 503 to another request that says that nothing was done.
// Every other one leaves that open.
var atTheDoor = []string{
	"too much waits for PostgreSQL already", "PostgreSQL is too slow for what waits already", "PostgreSQL is away, try again",
	"the database is not ready yet", "as many connections as it may have", "too many unfinished requests", "too many requests wait",
	"wait for the pool",
}

// outcome is what the sender knows.
func (a *answer) outcome() history.Outcome {
	switch {
	case !a.sent:
		return history.Fail
	case a.status >= 200 && a.status < 300:
		return history.OK
	case a.status >= 400 && a.status < 500:
		return history.Fail
	case a.status == 503 && a.push:
		if !strings.Contains(string(a.body), inDoubt) {
			return history.Fail
		}
	case a.status == 503:
		for _, sentence := range atTheDoor {
			if strings.Contains(string(a.body), sentence) {
				return history.Fail
			}
		}
	}
	return history.Unknown
}
