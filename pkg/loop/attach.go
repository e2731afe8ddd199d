package loop

import (
	"errors"
	"net"
)

// guest is a socket that is not a client's: PostgreSQL's. Its owner gets the bytes on
// the loop and writes through gnet, which keeps what the kernel does not take. All but
// Attach runs on the loop.
type guest struct {
	loop   *Loop
	socket socket // nil: not opened yet, or ended
	came   bool   // it was opened
	inside int    // depth of write and close: hear of the end later

	onOpened func(write func([]byte) error, close func())
	onData   func([]byte)
	onClosed func(error)
	over     bool // onClosed was called, or is about to be
}

// ErrClosed is what a guest's write returns after its end.
var ErrClosed = errors.New("the socket is closed")

// Attach gives nc, a *net.TCPConn or *net.UnixConn, to the loop, which polls a
// duplicate of its descriptor; nc itself is closed. On the loop, then:
//
//   - opened is called once, with the means to write and to close. write takes all it is
//     given, keeps in memory what cannot be sent yet, and never blocks; ErrClosed says that
//     the socket has ended. Both are for the loop.
//   - data is called for what arrives. The slice is valid during the call.
//   - closed is called exactly once, last, with nil if close was called, io.EOF (wrapped)
//     if the peer ended the connection, ErrStopped if the loop ends, or what else went
//     wrong; alone, if the socket could not be taken. It is not called from within write
//     and close, but after them.
//
// After Shutdown has begun to stop the loops, nc is closed and nothing is called. A
// panic in a callback ends the guest. Any goroutine.
func (l *Loop) Attach(nc net.Conn, opened func(write func([]byte) error, close func()), data func([]byte), closed func(error)) {
	g := &guest{loop: l, onOpened: opened, onData: data, onClosed: closed}
	if !l.up.Load() {
		l.Post(func() { l.enrollGuest(nc, g) })
		return
	}
	l.enrollGuest(nc, g)
}

// enrollGuest starts the enrollment and sees to it that a failure is heard of.
func (l *Loop) enrollGuest(nc net.Conn, g *guest) {
	l.mu.Lock()
	if l.noGuests {
		l.mu.Unlock()
		_ = nc.Close()
		return
	}
	l.guests.Add(1)
	l.mu.Unlock()
	enrollment, err := enroll(l.home, nc, g)
	if err != nil {
		l.guests.Done()
		l.Post(func() { g.end(err) })
		return
	}
	go func() {
		defer l.guests.Done()
		err := enrollment.wait()
		l.Post(func() {
			if err == nil && !g.came {
				err = errNotPolled
			}
			if err != nil {
				g.end(err)
			}
		})
	}()
}

func (g *guest) opened(s socket) {
	g.loop.clock = g.loop.Now()
	g.socket, g.came = s, true
	g.loop.attached[g] = struct{}{}
	g.do(func() { g.onOpened(g.write, g.close) })
	g.loop.leave()
}

func (g *guest) readable(data []byte) {
	l := g.loop
	l.clock = l.Now()
	g.receive(data)
	l.leave()
}

func (g *guest) receive(data []byte) {
	defer g.rescue()
	g.onData(data)
}

func (g *guest) write(p []byte) error {
	if g.socket == nil {
		return ErrClosed
	}
	g.inside++
	_, err := g.socket.Write(p) // an error ends the socket before it returns
	g.inside--
	if g.socket == nil {
		if err == nil {
			err = ErrClosed
		}
		return err
	}
	return nil
}

func (g *guest) close() { g.shut(nil) }

// shut closes the socket for a reason of ours.
func (g *guest) shut(reason error) {
	if g.socket == nil {
		return
	}
	s := g.socket
	g.socket = nil
	g.inside++
	if err := closeSocket(s); err != nil {
		g.loop.server.log.Error().Err(err).Msg("cannot close an attached socket")
	}
	g.inside--
	g.gone(reason)
}

// ended: gnet closes the socket.
func (g *guest) ended(err error) {
	if g.socket == nil {
		return // shut tells
	}
	g.socket = nil
	g.loop.clock = g.loop.Now()
	g.gone(err)
	if g.inside == 0 {
		g.loop.leave()
	}
}

func (g *guest) gone(err error) {
	l := g.loop
	delete(l.attached, g)
	if g.inside > 0 || err == nil || err == ErrStopped {
		l.Defer(func() { g.end(err) })
		return
	}
	g.end(err)
}

// end calls closed.
func (g *guest) end(err error) {
	if g.over {
		return
	}
	g.over = true
	g.loop.call(func() { g.onClosed(err) })
}

func (g *guest) do(f func()) {
	defer g.rescue()
	f()
}

// rescue ends a guest whose callback panicked: its owner hears closed, and can begin
// anew.
func (g *guest) rescue() {
	if p := recover(); p != nil {
		g.loop.bug("a guest's callback", p)
		g.shut(errors.New("a callback panicked"))
	}
}
