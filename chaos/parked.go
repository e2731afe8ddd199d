package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/queend/queend/chaos/oracle"
)

// idleQueue is where nothing comes but for those who are parked.
const idleQueue = "chaos.idle"

// parkedMax is how long a long poll may take to hear of its message before it counts as
// forgotten.
const parkedMax = 30 * time.Second

// parked are long polls that wait through a fault, one for each partition of idleQueue.
type parked struct {
	t     *Trial
	conns []net.Conn
}

// park sends the long polls. Their answers are due when there are messages.
func (t *Trial) park(ctx context.Context, n int) (*parked, error) {
	p := &parked{t: t}
	for i := range n {
		conn, err := t.queends[i%len(t.queends)].Dial()
		if err != nil {
			p.close()
			return nil, err
		}
		p.conns = append(p.conns, conn)
		fmt.Fprintf(conn, "GET /api/v1/pop/queue/%s/partition/%d?wait=true&timeout=%d HTTP/1.1\r\nHost: chaos\r\n\r\n", idleQueue, i, (5 * time.Minute).Milliseconds())
	}
	return p, nil
}

// finish pushes to each and looks at what they hear.
func (p *parked) finish(ctx context.Context) {
	t := p.t
	c := t.load.Client("parked")
	defer c.Close()
	for i, conn := range p.conns {
		m := c.Message(idleQueue, fmt.Sprint(i))
		for tries := 0; !c.Push(m); tries++ {
			if tries == 100 || !wait(ctx, 100*time.Millisecond) {
				t.broken("I8", "a push after the fault is not stored: %+v", m.Attempts[len(m.Attempts)-1])
				return
			}
		}
		began := time.Now()
		_ = conn.SetDeadline(began.Add(parkedMax))
		r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "GET"})
		if err != nil {
			t.broken("I9", "a long poll of partition %d that waited through the fault has not heard of %s: %v", i, m.UID, err)
			continue
		}
		text, _ := io.ReadAll(r.Body)
		var a struct {
			Messages []struct{ Data json.RawMessage }
		}
		if json.Unmarshal(text, &a) != nil || len(a.Messages) != 1 || oracle.UID(string(a.Messages[0].Data)) != m.UID {
			t.broken("I9", "a long poll that waited through the fault heard %d %.300s and not %s", r.StatusCode, text, m.UID)
		} else if took := time.Since(began); took > 2*time.Second {
			t.late("a long poll that waited through the fault heard of its message after %v", took)
		}
	}
}

// dismissed looks at what those hear who wait at a server that stops.
func (p *parked) dismissed(server int, state string) {
	t := p.t
	limit := atOnceMax
	if state == "hung" {
		limit = firstAnswerMax // it is no long poll yet: its first look waits for PostgreSQL
	}
	began := time.Now()
	for i, conn := range p.conns {
		if i%len(t.queends) != server {
			continue
		}
		_ = conn.SetDeadline(began.Add(parkedMax))
		r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "GET"})
		if err != nil {
			t.broken("I10", "with PostgreSQL %s a long poll was not answered when the server stopped: %v", state, err)
			return
		}
		if text, _ := io.ReadAll(r.Body); r.StatusCode != 200 && r.StatusCode != 204 && r.StatusCode != 503 {
			t.broken("I10", "with PostgreSQL %s a long poll heard %d %.200s when the server stopped", state, r.StatusCode, text)
		}
		if took := time.Since(began); took > limit {
			t.late("with PostgreSQL %s a long poll was answered %v after SIGTERM", state, took)
			return
		}
		_ = conn.Close() // as who was told that the connection ends
	}
}

func (p *parked) close() {
	for _, c := range p.conns {
		_ = c.Close()
	}
}
