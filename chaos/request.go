package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/queend/queend/chaos/world"
)

// request sends one request over a connection of its own; status 0: no answer.
func request(q *world.Queend, method, path, body string) (int, string) {
	conn, err := q.Dial()
	if err != nil {
		return 0, err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(world.Hang))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(text)
}
