// Package proxy is a TCP proxy between queend and PostgreSQL that does harm on request:
// it cuts a connection at a message of the protocol or inside one, in either direction,
// by an end or by a reset, and it makes the way longer. It changes no byte, and knows no
// more of the protocol than where messages begin (PostgreSQL manual, "Message Formats").
// Connections must not be encrypted.
package proxy

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Way is a direction.
type Way int

const (
	// ToServer is what PostgreSQL receives.
	ToServer Way = iota
	// ToClient is what PostgreSQL answers.
	ToClient
)

// String says where to.
func (w Way) String() string { return [...]string{"to PostgreSQL", "to queend"}[w] }

// Cut is one harm: after so many whole messages of one connection and so many bytes of
// the next one, that connection ends.
type Cut struct {
	Way      Way
	Messages int
	Bytes    int
	Reset    bool // RST in place of FIN (SO_LINGER 0)
}

// String is a word for logs.
func (c Cut) String() string {
	how := "end"
	if c.Reset {
		how = "reset"
	}
	return fmt.Sprintf("%s %s after %d messages and %d bytes", how, c.Way, c.Messages, c.Bytes)
}

// activeWithin is how long ago a connection must have carried something to be cut.
const activeWithin = 300 * time.Millisecond

// piecesMax bounds what is on a way, in reads of 32 KiB.
const piecesMax = 1024

// Proxy is one. Its methods may be called from any goroutine.
type Proxy struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	wait     sync.WaitGroup
	delay    atomic.Int64  // of each direction, in nanoseconds
	held     chan struct{} // closed while bytes may pass

	mu      sync.Mutex
	pairs   map[*pair]bool
	armed   *Cut  // nil: none
	victim  *pair // whom armed is for; nil: the next who carries something
	cutting bool  // armed counts its bytes now
	fired   chan struct{}
}

// pair is one connection through the proxy.
type pair struct {
	client, server net.Conn
	frames         [2]framer
	last           time.Time // when it carried something
}

// New starts a proxy on a free port of 127.0.0.1. dial reaches PostgreSQL.
func New(dial func() (net.Conn, error)) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return On(listener, dial), nil
}

// On starts a proxy that listens as listener does, which is its own from now on.
func On(listener net.Listener, dial func() (net.Conn, error)) *Proxy {
	p := &Proxy{listener: listener, dial: dial, pairs: map[*pair]bool{}, held: make(chan struct{})}
	close(p.held)
	p.wait.Add(1)
	go p.accept()
	return p
}

// Port is where it listens, on 127.0.0.1.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Address is where it listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Close ends all connections and waits for what carried them.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.Hold(false)
	p.mu.Lock()
	for x := range p.pairs {
		x.close(false)
	}
	p.mu.Unlock()
	p.wait.Wait()
}

// SetDelay makes each direction so much longer.
func (p *Proxy) SetDelay(d time.Duration) { p.delay.Store(int64(d)) }

// Hold lets no byte pass in either direction from now on, or passes on what was held.
// Connections stay open meanwhile, and new ones are taken.
func (p *Proxy) Hold(hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.held:
		if hold {
			p.held = make(chan struct{})
		}
	default:
		if !hold {
			close(p.held)
		}
	}
}

// free waits until bytes may pass.
func (p *Proxy) free() {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	<-held
}

// Arm lets one of the connections that are in use, drawn by rng, be cut. The channel is
// closed when it was. A cut that is armed already is replaced.
func (p *Proxy) Arm(c Cut, rng *rand.Rand) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	var used []*pair
	for x := range p.pairs {
		if time.Since(x.last) < activeWithin {
			used = append(used, x)
		}
	}
	p.armed, p.victim, p.cutting, p.fired = &c, nil, false, make(chan struct{})
	if len(used) > 0 {
		p.victim = used[rng.IntN(len(used))]
	}
	return p.fired
}

// Disarm forgets a cut that has not happened.
func (p *Proxy) Disarm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.victim, p.cutting = nil, nil, false
}

func (p *Proxy) accept() {
	defer p.wait.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := p.dial()
		if err != nil {
			_ = client.Close()
			continue
		}
		x := &pair{client: client, server: server}
		x.frames[ToServer].bare = true
		p.mu.Lock()
		p.pairs[x] = true
		p.mu.Unlock()
		p.wait.Add(2)
		go p.carry(x, client, server, ToServer)
		go p.carry(x, server, client, ToClient)
	}
}

// carry copies one direction until either side ends.
func (p *Proxy) carry(x *pair, from, to net.Conn, way Way) {
	defer p.wait.Done()
	type piece struct {
		bytes []byte
		due   time.Time
		cut   *Cut // the connection ends behind it
	}
	line := make(chan piece, piecesMax)
	p.wait.Add(1)
	go func() {
		defer p.wait.Done()
		reset := false
		for one := range line {
			time.Sleep(time.Until(one.due))
			p.free()
			_, _ = to.Write(one.bytes)
			if one.cut != nil {
				reset = one.cut.Reset
			}
		}
		p.forget(x, reset)
	}()
	defer close(line)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			passed, cut := p.pass(x, way, buf[:n])
			line <- piece{append([]byte(nil), passed...), time.Now().Add(time.Duration(p.delay.Load())), cut}
			if cut != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass says how much of b may pass, and whether the connection ends then.
func (p *Proxy) pass(x *pair, way Way, b []byte) ([]byte, *Cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x.last = time.Now()
	f := &x.frames[way]
	for i := 0; i < len(b); {
		c := p.armed
		if c == nil || c.Way != way || p.victim != nil && p.victim != x {
			f.next(b[i:])
			if i += f.took; i == len(b) {
				break
			}
			continue
		}
		p.victim = x
		if c.Messages == 0 && (f.atStart() || p.cutting) {
			p.cutting = true
			if left := len(b) - i; left <= c.Bytes {
				c.Bytes -= left
				for ; i < len(b); i += f.took {
					f.next(b[i:])
				}
				break
			}
			cut := c
			p.armed, p.victim = nil, nil
			close(p.fired)
			return b[:i+c.Bytes], cut
		}
		ended := f.next(b[i:])
		i += f.took
		if ended && c.Messages > 0 {
			c.Messages--
		}
	}
	return b, nil
}

func (p *Proxy) forget(x *pair, reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, x)
	if p.victim == x { // it ended by itself: another one is cut
		p.victim, p.cutting = nil, false
	}
	x.close(reset)
}

func (x *pair) close(reset bool) {
	for _, c := range []net.Conn{x.client, x.server} {
		if tcp, ok := c.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// framer finds where messages end: a type byte, a length that counts itself, and the
// rest; the first message of a client has no type.
type framer struct {
	bare bool // the next message has no type
	head [5]byte
	have int // bytes of head
	rest int // bytes of the body that are to come
	body bool
	took int // by the last next
}

// atStart says that the next byte begins a message.
func (f *framer) atStart() bool { return f.have == 0 && !f.body }

// next moves to the end of the message in b, or of b, and says whether the message ended.
func (f *framer) next(b []byte) bool {
	f.took = 0
	for f.took < len(b) {
		if f.body {
			n := min(f.rest, len(b)-f.took)
			f.took += n
			if f.rest -= n; f.rest > 0 {
				return false
			}
			f.body, f.have, f.bare = false, 0, false
			return true
		}
		f.head[f.have] = b[f.took]
		f.have++
		f.took++
		headBytes := 5
		if f.bare {
			headBytes = 4
		}
		if f.have == headBytes {
			f.rest = int(binary.BigEndian.Uint32(f.head[headBytes-4:headBytes])) - 4
			f.body = true
			if f.rest <= 0 {
				f.body, f.have, f.bare = false, 0, false
				return true
			}
		}
	}
	return false
}
