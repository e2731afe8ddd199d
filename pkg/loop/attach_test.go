package loop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketpair is two ends of a stream.
func socketpair(t testing.TB) (ours, theirs net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) net.Conn {
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		nc, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	return conn(pair[0]), conn(pair[1])
}

// lodger is an attached socket that notes what it hears.
type lodger struct {
	t     testing.TB
	loop  *Loop
	peer  net.Conn
	write func([]byte) error // on the loop
	close func()             // on the loop
	data  chan string
	ended chan error
}

func attach(t testing.TB, l *Loop) *lodger {
	t.Helper()
	ours, theirs := socketpair(t)
	t.Cleanup(func() { _ = theirs.Close() })
	_ = theirs.SetDeadline(time.Now().Add(patience))
	g := &lodger{t: t, loop: l, peer: theirs, data: make(chan string, 100), ended: make(chan error, 2)}
	opened := make(chan struct{})
	l.Attach(ours,
		func(write func([]byte) error, end func()) { g.write, g.close = write, end; close(opened) },
		func(p []byte) { g.data <- string(p) },
		func(err error) { g.ended <- err })
	receive(t, opened)
	return g
}

func (g *lodger) peerSends(s string) {
	g.t.Helper()
	if _, err := io.WriteString(g.peer, s); err != nil {
		g.t.Fatal(err)
	}
}

func (g *lodger) hears(s string) {
	g.t.Helper()
	if got := receive(g.t, g.data); got != s {
		g.t.Fatalf("heard %q, want %q", got, s)
	}
}

func TestAGuestHearsWhyItEnded(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	f := func(end func(g *lodger), want error) {
		t.Helper()
		g := attach(t, l)
		end(g)
		err := receive(t, g.ended)
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Fatal(err)
		}
		on(t, l, func() {
			if err := g.write([]byte("x")); !errors.Is(err, ErrClosed) {
				t.Error("write after the end:", err)
			}
			g.close()
		})
		on(t, l, func() {})
		if len(g.ended) > 0 {
			t.Fatal("closed was called twice")
		}
	}
	f(func(g *lodger) { on(t, l, func() { g.close(); g.close() }) }, nil)
	f(func(g *lodger) { _ = g.peer.Close() }, io.EOF)
	f(func(g *lodger) {
		// The write finds the peer gone, if the loop has not yet.
		on(t, l, func() {
			_ = g.peer.Close()
			_ = g.write([]byte("x"))
			if len(g.ended) > 0 {
				t.Error("closed was called within write")
			}
		})
	}, unix.EPIPE)
}

func TestAGuestMayBeClosedAsSoonAsItIsOpened(t *testing.T) {
	b := newBench(t, Options{})
	for range 100 {
		ours, theirs := socketpair(t)
		ended := make(chan error, 2)
		b.Loops()[0].Attach(ours, func(_ func([]byte) error, end func()) { end() }, nil, func(err error) { ended <- err })
		if err := receive(t, ended); err != nil {
			t.Fatal(err)
		}
		_ = theirs.Close()
	}
}

func TestAGuestThatCannotBeTakenHearsClosedAlone(t *testing.T) {
	b := newBench(t, Options{})
	ended := make(chan error, 1)
	ours, theirs := net.Pipe() // no descriptor
	defer theirs.Close()
	b.Loops()[0].Attach(stranger{ours}, func(func([]byte) error, func()) { t.Error("opened") }, nil, func(err error) { ended <- err })
	if err := receive(t, ended); err == nil {
		t.Fatal("closed without a reason")
	}
}

// stranger is a net.Conn of a type that nobody knows.
type stranger struct{ net.Conn }

func TestAPanicInACallbackEndsTheGuestAndNotTheLoop(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	ours, theirs := socketpair(t)
	defer theirs.Close()
	ended := make(chan error, 1)
	l.Attach(ours, func(func([]byte) error, func()) {}, func([]byte) { panic("planted") }, func(err error) { ended <- err })
	_, _ = theirs.Write([]byte("x"))
	if err := receive(t, ended); err == nil {
		t.Fatal("closed without a reason")
	}
	on(t, l, func() {})
	if n := b.Stats().Panics; n != 1 {
		t.Fatal("panics counted:", n)
	}
}

func TestAttachBeforeTheStart(t *testing.T) {
	s, err := New(Options{Handler: func(*Exchange) {}})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Server: s, t: t}
	defer b.stop()
	ours, theirs := socketpair(t)
	defer theirs.Close()
	heard := make(chan string, 1)
	s.Loops()[0].Attach(ours, func(func([]byte) error, func()) {}, func(p []byte) { heard <- string(p) }, func(error) {})
	_, _ = theirs.Write([]byte("early"))
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, heard); got != "early" {
		t.Fatal(got)
	}
}

// The peer does not read until it has written everything, so that both directions are
// full at once: the loop must go on reading while it cannot write.
func TestAGuestEchoesManyBytesWhileBothSidesAreFull(t *testing.T) {
	const size = 8 << 20
	b := newBench(t, Options{})
	ours, theirs := socketpair(t)
	defer theirs.Close()
	_ = theirs.SetDeadline(time.Now().Add(patience))
	var write func([]byte) error
	b.Loops()[0].Attach(ours,
		func(w func([]byte) error, _ func()) { write = w },
		func(p []byte) { _ = write(p) },
		func(error) {})
	sent := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(sent)
	if _, err := theirs.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(theirs, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Fatal("bytes were changed")
	}
}
