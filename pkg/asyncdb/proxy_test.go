package asyncdb

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between a lane and PostgreSQL. It can cut a connection after so many
// bytes of either direction, and delay what it carries.
type proxy struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	wait     sync.WaitGroup

	delay atomic.Int64 // of each direction, in nanoseconds

	mu    sync.Mutex
	conns map[net.Conn]bool
	armed bool
	way   direction // armed: cut in this direction
	after int       // when so many bytes have passed
	hard  bool      // with a reset in place of an end
	cuts  int
	seen  [2][]byte // what passed since arm
}

type direction int

const (
	toServer direction = iota
	toLane
)

func newProxy(t *testing.T, dial func() (net.Conn, error)) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, dial: dial, conns: make(map[net.Conn]bool)}
	p.wait.Add(1)
	go p.accept()
	t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *proxy) accept() {
	defer p.wait.Done()
	for {
		lane, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := p.dial()
		if err != nil {
			lane.Close()
			continue
		}
		p.mu.Lock()
		p.conns[lane], p.conns[server] = true, true
		p.mu.Unlock()
		p.wait.Add(2)
		go p.carry(lane, server, toServer)
		go p.carry(server, lane, toLane)
	}
}

// carry copies one direction until either side ends.
func (p *proxy) carry(from, to net.Conn, way direction) {
	defer p.wait.Done()
	type piece struct {
		bytes []byte
		due   time.Time
	}
	line := make(chan piece, 1024) // what is on the way
	p.wait.Add(1)
	go func() {
		defer p.wait.Done()
		for x := range line {
			time.Sleep(time.Until(x.due))
			_, _ = to.Write(x.bytes)
		}
		p.forget(from)
		p.forget(to)
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			passed, cut := p.pass(way, buf[:n])
			line <- piece{append([]byte(nil), passed...), time.Now().Add(time.Duration(p.delay.Load()))}
			if cut {
				close(line)
				return
			}
		}
		if err != nil {
			close(line)
			return
		}
	}
}

// pass says how much of b may pass, and whether the connection ends then.
func (p *proxy) pass(way direction, b []byte) (passed []byte, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[way] = append(p.seen[way], b...)
	if !p.armed || way != p.way {
		return b, false
	}
	if len(b) < p.after {
		p.after -= len(b)
		return b, false
	}
	p.armed = false
	p.cuts++
	if p.hard {
		for c := range p.conns {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
		}
	}
	return b[:p.after], true
}

func (p *proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

// arm lets the connection be cut when after bytes have passed that way from now on.
func (p *proxy) arm(way direction, after int, hard bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.way, p.after, p.hard = true, way, after, hard
	p.seen = [2][]byte{}
}

// disarm says how many cuts there were, and what has passed since arm.
func (p *proxy) disarm() (cuts int, seen [2][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	return p.cuts, p.seen
}

// boundaries are the offsets at which messages begin in b, and its end.
func boundaries(b []byte) (at []int) {
	for i := 0; i <= len(b); {
		at = append(at, i)
		if i+headerBytes > len(b) {
			break
		}
		i += 1 + int(binary.BigEndian.Uint32(b[i+1:]))
	}
	return at
}

// readAll reads until n bytes are there.
func readAll(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
