package loop

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// watcher tells loops when a connection whose client reads slowly can be written to
// again, and when a half-closed one is broken. gnet watches neither for us: it knows
// writable only for what is in its own buffers, and a half-closed connection is no
// longer its own. One epoll set and one goroutine serve all loops; a connection gets
// here only when the kernel did not take an answer at once.
type watcher struct {
	loops []*Loop
	file  *os.File // the epoll set; the runtime polls it, so no thread waits in it
	fd    int
	ended chan struct{}
}

// readiness is what the watcher tells a loop: the connection with that ticket.
type readiness struct {
	ticket uint64
	broken bool
}

// ticketLoopShift: a ticket's top byte is its loop. Tickets are never used again, so
// that readiness of a connection that is gone is nobody's.
const ticketLoopShift = 56

func newWatcher(loops []*Loop) (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make an epoll set: %w", err)
	}
	_ = unix.SetNonblock(fd, true) // only then does os.NewFile let the runtime poll it
	file := os.NewFile(uintptr(fd), "watcher")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("cannot use an epoll set: %w", err)
	}
	w := &watcher{loops: loops, file: file, fd: fd, ended: make(chan struct{})}
	go w.run(raw)
	return w, nil
}

func (w *watcher) run(raw syscall.RawConn) {
	defer close(w.ended)
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			got, err := unix.EpollWait(int(fd), events, 0)
			if err == unix.EINTR {
				got = 0
			}
			n = max(got, 0)
			return got != 0 // else wait until the set itself is readable
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:n] {
			ticket := uint64(uint32(e.Pad))<<32 | uint64(uint32(e.Fd))
			w.loops[ticket>>ticketLoopShift].postReadiness(readiness{
				ticket: ticket,
				broken: e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0,
			})
		}
	}
}

// stop ends the goroutine. No loop may watch any more.
func (w *watcher) stop() {
	_ = w.file.Close()
	<-w.ended
}

// watch asks for one readiness of fd: writable or broken, or only broken. op is
// EPOLL_CTL_ADD the first time, else EPOLL_CTL_MOD.
func (w *watcher) watch(op, fd int, ticket uint64, writable bool) error {
	event := unix.EpollEvent{
		Events: unix.EPOLLONESHOT,
		Fd:     int32(uint32(ticket)),
		Pad:    int32(uint32(ticket >> 32)),
	}
	if writable {
		event.Events |= unix.EPOLLOUT
	}
	return unix.EpollCtl(w.fd, op, fd, &event)
}

// forget undoes watch; before fd is closed.
func (w *watcher) forget(fd int) { _ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, fd, nil) }

// postReadiness is Post for the watcher, without a function. Any goroutine.
func (l *Loop) postReadiness(r readiness) {
	l.mu.Lock()
	l.writable = append(l.writable, r)
	l.mu.Unlock()
	l.wake()
}

// nowWritable lets a watched connection go on.
func (l *Loop) nowWritable(r readiness) {
	if c := l.slow[r.ticket]; c != nil {
		c.nowWritable(r.broken)
	}
}

// watch watches c from now on: for room when it has bytes to write, and for the end
// of its connection in any case.
func (c *conn) watch() {
	l, op := c.loop, unix.EPOLL_CTL_MOD
	if c.ticket == 0 {
		l.ticket++
		c.ticket = uint64(l.index)<<ticketLoopShift | l.ticket
		l.slow[c.ticket] = c
		op = unix.EPOLL_CTL_ADD
	}
	c.full = c.unsent() > 0
	if err := l.server.slow.watch(op, c.fd, c.ticket, c.full); err != nil {
		l.server.log.Warn().Err(err).Msg("cannot watch a connection; it is closed")
		c.close()
	}
}

// unwatch undoes watch; before the descriptor is closed or changed.
func (c *conn) unwatch() {
	if c.ticket == 0 {
		return
	}
	c.loop.server.slow.forget(c.fd)
	delete(c.loop.slow, c.ticket)
	c.ticket, c.full = 0, false
}

func (c *conn) nowWritable(broken bool) {
	if broken && c.half {
		c.close() // its client is gone, nobody waits for the answer
		return
	}
	if c.half {
		// Told once and then forgotten: ask again for the end of its connection.
		_ = c.loop.server.slow.watch(unix.EPOLL_CTL_MOD, c.fd, c.ticket, false)
	}
	c.full = false
	c.touch()
}
