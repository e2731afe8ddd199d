package loop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for something that must happen before it calls it
// a hang. No test passes or fails by being faster or slower than that.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		children[role]()
		return
	}
	goleak.VerifyTestMain(m,
		// gnet's worker pool is the process's, and keeps its workers for ten seconds.
		goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"),
	)
}

// journal collects a server's log; it is shown when the test fails.
type journal struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes.String()
}

func (j *journal) count(s string) int { return strings.Count(j.String(), s) }

// bench is a running server and what its handler held back.
type bench struct {
	*Server
	t    testing.TB
	log  *journal
	held chan *Exchange // requests for /hold
	gone chan string    // ids of requests for /hold whose client is gone
}

// newBench starts a server with a handler that knows a few paths; see handle. A
// time-out that the test does not set is as long as its patience, so that a slow
// machine is not taken for a slow client.
func newBench(t testing.TB, o Options) *bench {
	t.Helper()
	b := newListener(t, o)
	b.start()
	return b
}

// newListener is newBench before the loops run: clients can connect and send, and
// nobody reads.
func newListener(t testing.TB, o Options) *bench {
	t.Helper()
	b := &bench{t: t, log: new(journal), held: make(chan *Exchange, 10_000), gone: make(chan string, 10_000)}
	if o.Handler == nil {
		o.Handler = b.handle
	}
	o.Log = zerolog.New(b.log)
	for _, d := range []*time.Duration{&o.IdleTimeout, &o.HeadTimeout, &o.BodyTimeout, &o.BodyTotalTimeout, &o.RateGrace, &o.WriteTimeout, &o.LingerTimeout} {
		if *d == 0 {
			*d = patience
		}
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	t.Cleanup(b.stop)
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) start() {
	b.t.Helper()
	if err := b.Start(); err != nil {
		b.t.Fatal(err)
	}
}

// stop ends the server at once, if the test has not.
func (b *bench) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = b.Shutdown(ctx)
}

func (b *bench) handle(x *Exchange) {
	r := x.Request()
	if bytes.Contains(r.Query, []byte("narrow")) { // the kernel shall take little
		_ = unix.SetsockoptInt(x.conn.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)
	}
	if _, n, ok := bytes.Cut(r.Query, []byte("expect=")); ok {
		size, _ := strconv.Atoi(string(n))
		x.Expect(size)
	}
	switch path := string(r.Path); path {
	case "/hold": // until the test replies
		id := string(x.RequestID())
		x.OnGone(func() { b.gone <- id })
		b.held <- x
	case "/hold-and-panic":
		b.held <- x
		panic("planted")
	case "/panic":
		panic("planted")
	case "/panic-after-reply":
		x.Reply(200, nil, []byte("ok"), false)
		panic("planted")
	case "/twice":
		x.Reply(200, nil, []byte("ok"), false)
		x.Reply(200, nil, []byte("ok"), false)
	case "/close":
		x.Reply(200, nil, []byte("bye"), true)
	case "/204":
		x.Reply(204, nil, []byte("never sent"), false)
	case "/304":
		x.Reply(304, nil, []byte("never sent"), false)
	case "/header":
		x.Reply(200, []byte("Content-Type: text/plain\r\nX-More: 1\r\n"), []byte("ok"), false)
	case "/kilo":
		x.Reply(200, nil, bytes.Repeat([]byte("k"), 256<<10), false)
	case "/mega":
		x.Reply(200, nil, bytes.Repeat([]byte("m"), 1<<20), false)
	default: // echo the body, or the path
		body := r.Body
		if len(body) == 0 {
			body = r.Path
		}
		x.Reply(200, nil, body, false)
	}
}

// reply answers a held request from the test's goroutine.
func (b *bench) reply(x *Exchange, status int, body string) {
	x.Loop().Post(func() { x.Reply(status, nil, []byte(body), false) })
}

// take is the next held request.
func (b *bench) take() *Exchange {
	b.t.Helper()
	return receive(b.t, b.held)
}

func receive[T any](t testing.TB, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return v
}

// eventually waits until something is true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never true: " + what)
		}
	}
}

// on runs f on a loop and waits for it.
func on(t testing.TB, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	l.Post(func() { defer close(done); f() })
	receive(t, done)
}

// client is a raw connection to a bench.
type client struct {
	*net.TCPConn
	t testing.TB
	r *bufio.Reader
}

func (b *bench) dial() *client {
	b.t.Helper()
	nc, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &client{nc.(*net.TCPConn), b.t, bufio.NewReader(nc)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal("cannot send:", err)
	}
}

// reset closes with RST.
func (c *client) reset() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// answer reads one answer to a GET or POST.
func (c *client) answer() (*http.Response, string) {
	c.t.Helper()
	return c.answerTo("GET")
}

func (c *client) answerTo(method string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal("no answer:", err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal("no whole answer:", err)
	}
	return r, string(body)
}

// hears wants the next answer to be that.
func (c *client) hears(status int, body string) *http.Response {
	c.t.Helper()
	r, got := c.answer()
	if r.StatusCode != status || body != "" && got != body {
		c.t.Fatalf("answer is %d %.200q, want %d %.200q", r.StatusCode, got, status, body)
	}
	return r
}

// hearsEnd wants the connection to end, in an orderly way.
func (c *client) hearsEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("instead of the end: %.200q, %v", rest, err)
	}
}

// isCut waits until the connection has ended, in whatever way.
func (c *client) isCut() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.r)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		c.t.Fatal("the connection does not end")
	}
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

func TestASecondListenerOnThePortIsRefusedWithASentence(t *testing.T) {
	b := newBench(t, Options{})
	other, err := New(Options{Handler: b.handle})
	if err != nil {
		t.Fatal(err)
	}
	err = other.Listen(b.Addr().String())
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "another process listens there") {
		t.Fatal(err)
	}
	if err := other.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestASecondListenerIsLetInForHandOver(t *testing.T) {
	b := newBench(t, Options{HandOver: true})
	next, err := New(Options{Handler: b.handle, HandOver: true, Log: zerolog.New(b.log)})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Listen(b.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if err := next.Start(); err != nil {
		t.Fatal(err)
	}
	if err := b.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	c := (&bench{Server: next, t: t}).dial()
	c.send(get("/hello"))
	c.hears(200, "/hello")
	_ = c.Close()
	if err := next.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	f := func(o Options) {
		t.Helper()
		if _, err := New(o); err == nil {
			t.Fatal("accepted")
		}
	}
	h := func(*Exchange) {}
	f(Options{})
	f(Options{Handler: h, Loops: -1})
	f(Options{Handler: h, Loops: loopsMax + 1})
	f(Options{Handler: h, Header: "X: 1"})
	f(Options{Handler: h, Header: "X: 1\r\n\r\n"})
	f(Options{Handler: h, IdleTimeout: -1})
}

func TestLoopsRunBeforeAnybodyListens(t *testing.T) {
	s, err := New(Options{Loops: 3, Handler: func(x *Exchange) { x.Reply(200, nil, nil, false) }})
	if err != nil {
		t.Fatal(err)
	}
	early := make(chan int, 3)
	for _, l := range s.Loops() {
		l.Post(func() { early <- l.Index() })
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for range 3 {
		seen[receive(t, early)] = true
	}
	if len(seen) != 3 {
		t.Fatal("loops that ran:", seen)
	}
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	b := &bench{Server: s, t: t}
	c := b.dial()
	c.send(get("/"))
	c.hears(200, "")
	_ = c.Close()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.Loops()[0].Post(func() { t.Error("ran after Shutdown") })
	if err := s.Start(); err == nil {
		t.Fatal("started twice")
	}
	if err := s.Listen("127.0.0.1:0"); err == nil {
		t.Fatal("listens after Shutdown")
	}
}

func TestAServerThatNeverStartedCanBeShutDown(t *testing.T) {
	s, err := New(Options{Handler: func(*Exchange) {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	address := s.Addr().String()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", address); err == nil {
		t.Fatal("something listens still")
	}
}

func TestShutdownLetsOpenRequestsHaveTheirAnswers(t *testing.T) {
	b := newBench(t, Options{Loops: 2})
	address := b.Addr().String()
	idle, waiting, sending := b.dial(), b.dial(), b.dial()
	idle.send(get("/a"))
	idle.hears(200, "/a")
	waiting.send(get("/hold") + get("/hold"))
	x, y := b.take(), b.take()
	sending.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
	eventually(t, "half a body arrived", func() bool {
		n := 0
		for _, l := range b.Loops() {
			on(t, l, func() {
				for _, c := range l.conns {
					if c.phase == body {
						n++
					}
				}
			})
		}
		return n == 1
	})

	down := make(chan error)
	go func() { down <- b.Shutdown(context.Background()) }()
	idle.hearsEnd()
	if _, err := net.Dial("tcp", address); err == nil {
		t.Fatal("a client is accepted while the server drains")
	}
	select {
	case err := <-down:
		t.Fatal("did not wait:", err)
	default:
	}
	for _, l := range b.Loops() {
		eventually(t, "each loop drains", func() (drains bool) {
			on(t, l, func() { drains = l.draining })
			return drains
		})
	}
	b.reply(y, 200, "second")
	b.reply(x, 200, "first")
	if r := waiting.hears(200, "first"); r.Close {
		t.Fatal("the first of two answers says close")
	}
	if r := waiting.hears(200, "second"); !r.Close {
		t.Fatal("the last answer does not say close")
	}
	waiting.hearsEnd()
	_ = waiting.Close()
	sending.send("cd")
	b.reply(b.take(), 201, "whole")
	if r := sending.hears(201, "whole"); !r.Close {
		t.Fatal("the last answer does not say close")
	}
	sending.hearsEnd()
	_ = sending.Close()
	if err := receive(t, down); err != nil {
		t.Fatal(err)
	}
	if n := b.Stats().ConnsOpen; n != 0 {
		t.Fatal("connections left:", n)
	}
}

func TestShutdownEndsWithItsContextOrWithASecondCall(t *testing.T) {
	f := func(hurry func(b *bench, cancel func()), want error) {
		t.Helper()
		b := newBench(t, Options{})
		c := b.dial()
		c.send(get("/hold"))
		x := b.take()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		down := make(chan error)
		go func() { down <- b.Shutdown(ctx) }()
		eventually(t, "it drains", b.draining.Load)
		hurry(b, cancel)
		c.isCut()
		receive(t, b.gone)
		if err := receive(t, down); !errors.Is(err, want) {
			t.Fatal(err)
		}
		b.reply(x, 200, "nobody hears this")
	}
	f(func(_ *bench, cancel func()) { cancel() }, context.Canceled)
	f(func(b *bench, _ func()) { _ = b.Shutdown(context.Background()) }, nil)
	f(func(b *bench, _ func()) { _ = b.Drain(context.Background()) }, nil)
}

func TestDrainLeavesGuestsAliveAndShutdownDoesNot(t *testing.T) {
	b := newBench(t, Options{})
	g := attach(t, b.Loops()[0])
	c := b.dial()
	c.send(get("/a"))
	c.hears(200, "/a")
	if err := b.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.hearsEnd()
	g.peerSends("still here")
	g.hears("still here")
	if err := b.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, g.ended); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
}
