package loop

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/queend/queend/pkg/httpparse"
)

func TestPipelinedRequestsAreAnsweredInOrderWhateverTheOrderOfReplies(t *testing.T) {
	b := newBench(t, Options{})
	f := func(order ...int) {
		t.Helper()
		c := b.dial()
		var all strings.Builder
		for i := range order {
			all.WriteString(post("/hold", fmt.Sprint("body ", i)))
		}
		c.send(all.String())
		xs := make([]*Exchange, len(order))
		for i := range xs {
			xs[i] = b.take()
		}
		for _, i := range order {
			b.reply(xs[i], 200+i, fmt.Sprint("answer ", i))
		}
		for i := range order {
			c.hears(200+i, fmt.Sprint("answer ", i))
		}
	}
	f(0)
	f(0, 1, 2, 3)
	f(3, 2, 1, 0)
	f(1, 3, 0, 2)
	f(2, 0, 3, 1)
	f(1, 2, 3, 0)
}

func TestAnswersReadyInOneCallbackLeaveInOneWrite(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	c.send(strings.Repeat(get("/hold"), 3))
	x, y, z := b.take(), b.take(), b.take()
	on(t, x.Loop(), func() {
		k := x.conn
		z.Reply(200, nil, []byte("z"), false)
		x.Reply(200, nil, []byte("x"), false)
		y.Reply(200, nil, []byte("y"), false)
		if k.sent != 0 || k.open != 0 || k.held != 0 || bytes.Count(k.out, []byte("HTTP/1.1 200")) != 3 {
			t.Errorf("sent %d, open %d, held %d, out %q", k.sent, k.open, k.held, k.out)
		}
	})
	c.hears(200, "x")
	c.hears(200, "y")
	c.hears(200, "z")
}

func TestAMixOfRequestsOnOneConnection(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	c.send(get("/a") + post("/b", "body") + "\r\n" + "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" + get("/d"))
	c.hears(200, "/a")
	c.hears(200, "body")
	c.hears(200, "abcde")
	c.hears(200, "/d")
	if s := b.Stats(); s.Requests != 4 || s.Answers[2] != 4 || s.ConnsAccepted != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestARequestMayComeByteByByte(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	for _, s := range []string{get("/a"), post("/b", "body"), "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"} {
		for i := range s {
			c.send(s[i : i+1])
			on(t, b.Loops()[0], func() {}) // so that it is read before the next one
		}
	}
	c.hears(200, "/a")
	c.hears(200, "body")
	c.hears(200, "abcde")
	on(t, b.Loops()[0], func() {
		if l := b.Loops()[0]; l.inbound != 0 || l.conns[0].in != nil {
			t.Errorf("%d bytes are kept of nothing", l.inbound)
		}
	})
}

func TestBodiesOfManyMegabytes(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	size := 8 << 20
	if underRace {
		size = 2 << 20
	}
	big := strings.Repeat("0123456789abcdef", size/16)
	go c.send(post("/a", big))
	c.hears(200, big)
	go func() {
		c.send("POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		for i := 0; i < len(big); i += 1 << 16 {
			c.send(fmt.Sprintf("%x\r\n%s\r\n", 1<<16, big[i:i+1<<16]))
		}
		c.send("0\r\n\r\n" + get("/after"))
	}()
	c.hears(200, big)
	c.hears(200, "/after")
	l := b.Loops()[0]
	on(t, l, func() {
		if l.inbound != 0 || l.outbound != 0 {
			t.Errorf("kept: %d bytes in, %d bytes out", l.inbound, l.outbound)
		}
		for _, buffer := range l.buffers {
			if cap(buffer) > bufferBytesKept {
				t.Error("a large buffer was kept")
			}
		}
	})
}

func TestAClaimedLengthCostsNothingBeforeItsBytesCome(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 64<<20))
	l := b.Loops()[0]
	eventually(t, "the head has arrived", func() (in bool) {
		on(t, l, func() { in = len(l.conns) == 1 && l.conns[0].phase == body })
		return in
	})
	on(t, l, func() {
		if l.inbound > bufferBytesKept {
			t.Errorf("%d bytes for a head", l.inbound)
		}
	})
}

func TestHTTP10(t *testing.T) {
	b := newBench(t, Options{})
	// As ab sends it, without and with -k.
	c := b.dial()
	c.send("GET /a HTTP/1.0\r\nHost: x\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n")
	if r := c.hears(200, "/a"); !r.Close {
		t.Fatal("no Connection: close")
	}
	c.hearsEnd()
	c = b.dial()
	for range 3 {
		c.send("POST /a HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-length: 2\r\n\r\nhi")
		if r := c.hears(200, "hi"); r.Header.Get("Connection") != "keep-alive" {
			t.Fatal(r.Header)
		}
	}
}

func TestTheConnectionEndsWhenEitherSideSaysSo(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	c.send("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + get("/never"))
	if r := c.hears(200, "/a"); !r.Close {
		t.Fatal("no Connection: close")
	}
	c.hearsEnd()
	c = b.dial()
	c.send(get("/close") + get("/never"))
	if r := c.hears(200, "bye"); !r.Close {
		t.Fatal("no Connection: close")
	}
	c.hearsEnd()
	c = b.dial()
	c.send(get("/hold") + get("/hold"))
	x, y := b.take(), b.take()
	on(t, x.Loop(), func() { x.Reply(200, nil, []byte("last"), true) })
	c.hears(200, "last")
	c.hearsEnd()
	receive(t, b.gone)
	b.reply(y, 200, "dropped")
	eventually(t, "it was dropped", func() bool { return b.Stats().RepliesDropped == 1 })
	if n := b.Stats().Requests; n != 4 {
		t.Fatal("requests:", n)
	}
}

func TestWhatIsMalformedIsRefusedAndTheConnectionEnds(t *testing.T) {
	b := newBench(t, Options{Limits: httpparse.Limits{HeaderBytesMax: 400, TargetBytesMax: 100, FieldsMax: 5, BodyBytesMax: 1000}})
	f := func(request string, status int) {
		t.Helper()
		before := b.Stats().Refused[status]
		c := b.dial()
		c.send(get("/before") + request + get("/after"))
		c.hears(200, "/before")
		r, body := c.answer()
		if r.StatusCode != status || !r.Close || r.Header.Get("Content-Type") != "application/json" ||
			!strings.HasPrefix(body, `{"error":"`) || r.Header.Get("X-Request-Id") == "" {
			t.Fatalf("%d %v %q", r.StatusCode, r.Header, body)
		}
		c.hearsEnd()
		if n := b.Stats().Refused[status] - before; n != 1 {
			t.Fatal("counted", n, "times")
		}
	}
	f("GET / HTTP/1.1\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)
	f("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400)
	f("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501)
	f("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505)
	f("GET /"+strings.Repeat("a", 100)+" HTTP/1.1\r\nHost: x\r\n\r\n", 414)
	f("GET / HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 400)+"\r\n\r\n", 431)
	f("GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", 417)
	f(post("/", strings.Repeat("a", 1001)), 413)
}

// The body is still being sent, and is not read any more, when the answer is written:
// it must not be lost in a reset.
func TestA413IsHeardByAClientThatIsStillSending(t *testing.T) {
	b := newBench(t, Options{
		Limits: httpparse.Limits{HeaderBytesMax: 4096, TargetBytesMax: 100, FieldsMax: 50, BodyBytesMax: 1000},
	})
	c := b.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
	for range 20 { // more than the sockets' buffers hold: somebody has to read it
		c.send(strings.Repeat("a", 1_000_000))
	}
	c.hears(413, "")
	c.hearsEnd()
}

func TestAClientThatExpects100ContinueHearsIt(t *testing.T) {
	b := newBench(t, Options{})
	f := func(head, want string) {
		t.Helper()
		c := b.dial()
		c.send(head)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
		c.send("hi")
		c.hears(200, "hi")
	}
	const interim = "HTTP/1.1 100 Continue\r\n\r\n"
	f("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", interim)
	f("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", "")
	c := b.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
	c.hears(200, "hi") // it did not wait, so it is not told

	// Behind a request that is not answered yet.
	c = b.dial()
	c.send(get("/hold") + "POST /last HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	b.reply(b.take(), 200, "first")
	c.hears(200, "first")
	got := make([]byte, len(interim))
	if _, err := io.ReadFull(c.r, got); err != nil || string(got) != interim {
		t.Fatalf("%q, %v", got, err)
	}
	c.send("hi")
	c.hears(200, "hi")

	// The same, but it does not wait: then it is too late for a 100.
	c = b.dial()
	c.send(get("/hold") + "POST /last HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	x := b.take()
	eventually(t, "the head has come", func() (come bool) {
		on(t, x.Loop(), func() { come = x.conn.owed })
		return come
	})
	c.send("hi")
	eventually(t, "the body has come", func() bool { return b.Stats().Requests == 7 })
	b.reply(x, 200, "first")
	c.hears(200, "first")
	c.hears(200, "hi")
	c.send(get("/after"))
	c.hears(200, "/after")

	// Refused at the head.
	c = b.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n")
	c.hears(413, "")
	c.hearsEnd()
}

func TestAHalfClosedClientIsAnswered(t *testing.T) {
	b := newBench(t, Options{Loops: 2})
	f := func(requests string, replies ...func(x *Exchange)) *client {
		t.Helper()
		c := b.dial()
		c.send(requests)
		_ = c.CloseWrite()
		var xs []*Exchange
		for range replies {
			xs = append(xs, b.take())
		}
		for i, x := range xs {
			eventually(t, "the loop knows", func() (half bool) {
				on(t, x.Loop(), func() { half = x.IsHalfClosed() && x.conn.socket == nil })
				return half
			})
			on(t, x.Loop(), func() { replies[i](x) })
		}
		return c
	}
	ok := func(s string) func(x *Exchange) { return func(x *Exchange) { x.Reply(200, nil, []byte(s), false) } }
	for _, keepAlive := range []string{"HTTP/1.1", "HTTP/1.0"} {
		c := f("GET /hold "+keepAlive+"\r\nHost: x\r\n\r\n", ok("late"))
		c.hears(200, "late")
		c.hearsEnd()
	}
	c := f(get("/hold")+get("/a")+get("/hold"), ok("1"), ok("3"))
	c.hears(200, "1")
	c.hears(200, "/a")
	c.hears(200, "3")
	c.hearsEnd()
	c = f(get("/hold")+"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\npart", ok("1")) // the second one will never be whole
	c.hears(200, "1")
	c.hearsEnd()

	// More than the kernel takes at once, and from the handler itself.
	c = b.dial()
	c.send(strings.Repeat(get("/kilo?narrow"), 5))
	_ = c.CloseWrite()
	eventually(t, "the loop knows", func() bool {
		halfs := 0
		for _, l := range b.Loops() {
			on(t, l, func() {
				if halfs += l.halfs; l.halfs > 0 && (len(l.slow) != 1 || l.outbound == 0) {
					t.Error("nothing waits")
				}
			})
		}
		return halfs == 1
	})
	for range 5 {
		if r, body := c.answer(); r.StatusCode != 200 || len(body) != 256<<10 {
			t.Fatal(r.StatusCode, len(body))
		}
	}
	c.hearsEnd()
	big := strings.Repeat("0123456789abcdef", 8<<20/16)
	c = f(get("/hold"), ok(big))
	c.hears(200, big)
	c.hearsEnd()
	eventually(t, "all have gone", func() bool { return b.Stats().ConnsOpen == 0 })
	for _, l := range b.Loops() {
		on(t, l, func() {
			if l.halfs != 0 || len(l.slow) != 0 || l.outbound != 0 || l.inbound != 0 {
				t.Errorf("left over: %d half-closed, %d watched, %d and %d bytes", l.halfs, len(l.slow), l.outbound, l.inbound)
			}
		})
	}
}

func TestAClientThatVanishedIsNotWaitedFor(t *testing.T) {
	b := newBench(t, Options{})
	f := func(leave func(c *client, x *Exchange)) {
		t.Helper()
		dropped := b.Stats().RepliesDropped
		c := b.dial()
		c.send("GET /hold HTTP/1.1\r\nHost: x\r\nX-Request-Id: me\r\n\r\n")
		x := b.take()
		leave(c, x)
		if id := receive(t, b.gone); id != "me" {
			t.Fatal(id)
		}
		on(t, x.Loop(), func() {
			if !x.IsGone() || x.IsHalfClosed() {
				t.Error("it is still there")
			}
			x.Reply(200, nil, nil, false)
		})
		if n := b.Stats().RepliesDropped - dropped; n != 1 {
			t.Fatal("dropped:", n)
		}
	}
	f(func(c *client, _ *Exchange) { c.reset() })
	f(func(c *client, x *Exchange) { // first half, then whole
		_ = c.CloseWrite()
		eventually(t, "half", func() (half bool) {
			on(t, x.Loop(), func() { half = x.IsHalfClosed() })
			return half
		})
		c.reset()
	})
	if n := b.Stats().ConnsOpen; n != 0 {
		t.Fatal(n)
	}
}

func TestWhoAskedHearsThatTheClientStopsSending(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	c.send(get("/hold") + get("/hold") + get("/hold"))
	first, second, third := b.take(), b.take(), b.take()
	told := make(chan struct{}, 2)
	on(t, first.Loop(), func() {
		first.OnHalfClosed(func() { first.Reply(200, nil, []byte("one"), false) })
		second.OnHalfClosed(func() { told <- struct{}{} })
	})
	_ = c.CloseWrite()
	receive(t, told)
	on(t, first.Loop(), func() {
		third.Reply(200, nil, []byte("three"), false)
		second.Reply(200, nil, []byte("two"), false)
	})
	for _, want := range []string{"one", "two", "three"} {
		c.hears(200, want)
	}
	if len(told) != 0 {
		t.Error("told twice")
	}
}

func TestHalfClosedConnectionsAreBounded(t *testing.T) {
	b := newBench(t, Options{HalfClosedMax: 2})
	for range 3 {
		c := b.dial()
		c.send(get("/hold"))
		b.take()
		_ = c.CloseWrite()
	}
	receive(t, b.gone)
	on(t, b.Loops()[0], func() {
		if n := b.Loops()[0].halfs; n != 2 {
			t.Error(n)
		}
	})
}

// gnet's Write has no check: a reply that came after its client was gone was once read
// by the next client that got the same descriptor.
func TestALateReplyNeverReachesTheNextOwnerOfTheDescriptor(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	victim := b.dial()
	victim.send(get("/hold") + get("/hold"))
	x, y := b.take(), b.take()
	var fd int
	on(t, l, func() { fd = x.conn.fd })
	victim.reset()
	receive(t, b.gone)
	receive(t, b.gone)

	var stranger *client
	same := false
	for range 100 { // descriptors are given out lowest first, to everybody in this process
		stranger = b.dial()
		stranger.send(get("/hello"))
		stranger.hears(200, "/hello")
		on(t, l, func() { same = l.conns[len(l.conns)-1].fd == fd })
		if same {
			break
		}
	}
	if !same {
		// Somebody else was faster. If it is free again, it becomes the stranger's too.
		on(t, l, func() {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == unix.EBADF {
				if err := unix.Dup3(l.conns[len(l.conns)-1].fd, fd, unix.O_CLOEXEC); err != nil {
					t.Error(err)
				}
				t.Cleanup(func() { _ = unix.Close(fd) })
			} else {
				t.Log("the descriptor is in use by something else in this process")
			}
		})
	}
	on(t, l, func() {
		y.Reply(200, nil, []byte("for somebody else"), false)
		x.Reply(200, nil, []byte("for somebody else"), true)
	})
	stranger.send(get("/mine"))
	stranger.hears(200, "/mine")
	if n := b.Stats().RepliesDropped; n != 2 {
		t.Fatal("dropped:", n)
	}
}

func TestAPanicInAHandlerIsAnswered500AndCounted(t *testing.T) {
	b := newBench(t, Options{})
	f := func(path string, want ...int) {
		t.Helper()
		before := b.Stats().Panics
		c := b.dial()
		c.send(get("/a") + get(path) + get("/never"))
		c.hears(200, "/a")
		for _, status := range want {
			c.hears(status, "")
		}
		c.hearsEnd()
		if n := b.Stats().Panics - before; n != 1 {
			t.Fatal("panics counted:", n)
		}
	}
	f("/panic", 500)
	f("/panic-after-reply", 200)
	f("/twice", 200)
	if n := b.log.count(`"stack"`); n != 3 {
		t.Fatal("stacks logged:", n)
	}

	// Behind a request that waits, and with a store that replies after all.
	c := b.dial()
	c.send(get("/hold") + get("/hold-and-panic"))
	x, late := b.take(), b.take()
	on(t, x.Loop(), func() { late.Reply(200, nil, []byte("too late"), false) })
	b.reply(x, 200, "first")
	c.hears(200, "first")
	c.hears(500, "")
	c.hearsEnd()
	on(t, x.Loop(), func() { late.Reply(200, nil, []byte("too late"), false) })
}

func TestASecondReplyIsABug(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	c.send(get("/hold"))
	x := b.take()
	b.reply(x, 200, "once")
	c.hears(200, "once")
	b.reply(x, 200, "twice")
	eventually(t, "it is counted", func() bool { return b.Stats().Panics == 1 })
	c.send(get("/a"))
	c.hears(200, "/a")
	if b.log.count("replied to twice") != 1 {
		t.Fatal("not logged")
	}
}

func TestTimeOuts(t *testing.T) {
	const short = 50 * time.Millisecond
	f := func(o Options, send string, status int, count func(Stats) uint64) {
		t.Helper()
		b := newListener(t, o)
		defer b.stop()
		c := b.dial()
		c.send(send) // all of it is there when the loop begins to look at the time
		b.start()
		if status != 0 {
			c.hears(status, "")
		}
		c.hearsEnd()
		if n := count(b.Stats()); n != 1 {
			t.Fatal("counted:", n)
		}
	}
	idle := func(s Stats) uint64 { return s.TimeoutsIdle }
	head := func(s Stats) uint64 { return s.TimeoutsHead }
	body := func(s Stats) uint64 { return s.TimeoutsBody }
	f(Options{IdleTimeout: short}, "", 0, idle)
	f(Options{IdleTimeout: short}, "\r\n", 0, idle)
	f(Options{IdleTimeout: short}, get("/a"), 200, idle)
	f(Options{HeadTimeout: short}, "G", 408, head)
	f(Options{HeadTimeout: short}, "GET / HTTP/1.1\r\nHost: x\r\n", 408, head)
	f(Options{BodyTimeout: short}, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\npart", 408, body)
	f(Options{BodyTotalTimeout: short, LingerTimeout: short}, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\npart", 408, body)
	f(Options{RateGrace: short}, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", 408, body)
}

func TestAHeadThatTricklesInIsCutOff(t *testing.T) {
	b := newBench(t, Options{HeadTimeout: 100 * time.Millisecond})
	c := b.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := io.WriteString(c, "A: b\r\n"); err != nil {
				return
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-t.Context().Done():
				return
			}
		}
	}()
	c.hears(408, "")
	_ = c.Close()
	receive(t, done)
}

// The sweep asks this of each connection; what it should say does not need a clock.
func TestWhenAConnectionIsOverdue(t *testing.T) {
	o, err := Options{Handler: func(*Exchange) {}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := &Loop{server: &Server{options: o}}
	const s = time.Second
	f := func(c conn, now time.Duration, want bool) {
		t.Helper()
		c.loop = l
		if got := c.isOverdue(now); got != want {
			t.Fatalf("at %v: %v", now, got)
		}
	}
	f(conn{phase: idle, since: 5 * s}, 64*s, false)
	f(conn{phase: idle, since: 5 * s}, 65*s, true)
	f(conn{phase: idle, since: 5 * s, open: 1}, 650*s, false) // the answer is up to others
	f(conn{phase: idle, since: 5 * s, out: []byte("x")}, 650*s, false)
	f(conn{phase: head, since: 5 * s}, 14*s, false)
	f(conn{phase: head, since: 5 * s}, 15*s, true)
	kept := func(n int) []byte { return make([]byte, n) }
	f(conn{phase: body, since: 5 * s, moved: 5 * s}, 25*s, false)                                       // within the grace
	f(conn{phase: body, since: 5 * s, moved: 5 * s}, 26*s, true)                                        // nothing, that is too slow
	f(conn{phase: body, since: 5 * s, moved: 25 * s, in: kept(1024)}, 26*s, false)                      // just fast enough
	f(conn{phase: body, since: 5 * s, moved: 25 * s, in: kept(1023)}, 26*s, true)                       // just not
	f(conn{phase: body, since: 5 * s, moved: 25 * s, in: kept(1 << 20)}, 54*s, false)                   // ahead
	f(conn{phase: body, since: 5 * s, moved: 25 * s, in: kept(1 << 20)}, 55*s, true)                    // but stands still
	f(conn{phase: body, since: 5 * s, moved: 604 * s, in: kept(1 << 20)}, 604*s, false)                 // ten minutes
	f(conn{phase: body, since: 5 * s, moved: 604 * s, in: kept(1 << 20)}, 605*s, true)                  // and no more
	f(conn{phase: body, since: 5 * s, owed: true}, 500*s, false)                                        // it waits for our 100
	f(conn{phase: deaf, since: 5 * s, open: 1}, 500*s, false)                                           // it waits for its answer
	f(conn{phase: draining, since: 5 * s}, 9*s, false)                                                  // for its FIN
	f(conn{phase: draining, since: 5 * s}, 10*s, true)                                                  // long enough
	f(conn{phase: deaf, full: true, outSince: 5 * s, outMoved: 5 * s}, 25*s, false)                     // a reader in its grace
	f(conn{phase: deaf, full: true, outSince: 5 * s, outMoved: 24 * s, outBytes: 100}, 26*s, true)      // too slow
	f(conn{phase: idle, full: true, outSince: 5 * s, outMoved: 24 * s, outBytes: 1 << 20}, 48*s, false) // ahead
	f(conn{phase: idle, full: true, outSince: 5 * s, outMoved: 24 * s, outBytes: 1 << 20}, 49*s, true)  // but stands still
}

func TestTheSweepReachesEveryConnection(t *testing.T) {
	b := newBench(t, Options{IdleTimeout: 300 * time.Millisecond})
	clients := make([]*client, 300)
	for i := range clients {
		clients[i] = b.dial()
	}
	for _, c := range clients {
		c.hearsEnd()
	}
	if n := b.Stats().TimeoutsIdle; n != 300 {
		t.Fatal(n)
	}
}

func TestAReaderThatDoesNotReadIsClosed(t *testing.T) {
	// It asks for one answer and takes nothing of it.
	b := newBench(t, Options{WriteTimeout: 100 * time.Millisecond})
	c := b.dial()
	c.send(get("/hold?narrow"))
	b.reply(b.take(), 200, strings.Repeat("x", 8<<20))
	eventually(t, "it is closed", func() bool { return b.Stats().TimeoutsWrite == 1 && b.Stats().ConnsOpen == 0 })
	c.isCut()

	// It asks on and on: what waits unparsed is bounded.
	b = newBench(t, Options{})
	c = b.dial()
	all := []byte(strings.Repeat(get("/kilo?narrow"), 10_000))
	_, _ = c.Write(all) // it is cut in the middle
	eventually(t, "it is refused", func() bool { return b.Stats().Refused[503] == 1 })
	l := b.Loops()[0]
	on(t, l, func() {
		for _, k := range l.conns {
			if k.unsent() > 3<<20 || k.in != nil {
				t.Errorf("%d bytes unsent, %d kept", k.unsent(), cap(k.in))
			}
		}
	})

	// Its answers come later, all of a sudden: what waits unsent is bounded.
	b = newBench(t, Options{OutputBytesMax: 64 << 10})
	c = b.dial()
	const requests = 40
	c.send(get("/a?narrow") + strings.Repeat(get("/hold"), requests))
	var xs []*Exchange
	for range requests {
		xs = append(xs, b.take())
	}
	big := strings.Repeat("x", 1<<20)
	for _, x := range xs {
		b.reply(x, 200, big)
	}
	eventually(t, "it is closed", func() bool { return b.Stats().ReadersClosed == 1 && b.Stats().ConnsOpen == 0 })
	c.isCut()

	// The same, held back for an answer that does not come.
	b = newBench(t, Options{})
	c = b.dial()
	c.send(strings.Repeat(get("/hold"), 4))
	b.take()
	for range 3 {
		b.reply(b.take(), 200, big)
	}
	eventually(t, "it is closed", func() bool { return b.Stats().ReadersClosed == 1 && b.Stats().ConnsOpen == 0 })
	c.isCut()
}

func TestALargeAnswerThatOnlyWaitsForTheOneBeforeItIsSent(t *testing.T) {
	b := newBench(t, Options{OutputBytesMax: 64 << 10})
	c := b.dial()
	c.send(get("/hold") + get("/hold"))
	first, second := b.take(), b.take()
	big := strings.Repeat("x", 1<<20)
	b.reply(second, 200, big)
	b.reply(first, 200, "first")
	c.hears(200, "first")
	c.hears(200, big)
	if n := b.Stats().ReadersClosed; n != 0 {
		t.Error(n)
	}
}

// A client that sends many requests at once and reads has all of its answers, whatever their
// length, if the handler has announced it: what there is no room for is not asked for.
func TestAnnouncedAnswersAreNotAskedForBeforeThereIsRoomForThem(t *testing.T) {
	b := newBench(t, Options{OutputBytesMax: 64 << 10})
	big := strings.Repeat("x", 1<<20)
	none := func() {
		t.Helper()
		on(t, b.Loops()[0], func() {})
		if n := len(b.held); n != 0 {
			t.Fatalf("%d more were asked for", n)
		}
	}

	c := b.dial()
	c.send(strings.Repeat(get("/hold?expect=2147483647"), 5) + get("/last"))
	for range 5 { // one at a time
		x := b.take()
		none()
		b.reply(x, 200, big)
		c.hears(200, big)
	}
	c.hears(200, "/last")

	// As many as there is room for, and one more; in whatever order their answers come.
	c.send(strings.Repeat(get("/hold?expect=30000"), 5) + get("/hold?expect=1") + get("/hold"))
	xs := []*Exchange{b.take(), b.take(), b.take()}
	none()
	small := strings.Repeat("y", 30000)
	for _, i := range []int{2, 1, 0} {
		b.reply(xs[i], 200, small)
	}
	for range 3 {
		c.hears(200, small)
	}
	xs = []*Exchange{b.take(), b.take(), b.take(), b.take()}
	b.reply(xs[3], 200, "not announced")
	b.reply(xs[1], 200, big) // more than was announced
	b.reply(xs[2], 200, "z")
	b.reply(xs[0], 200, small)
	c.hears(200, small)
	c.hears(200, big)
	c.hears(200, "z")
	c.hears(200, "not announced")
	on(t, b.Loops()[0], func() {
		if k := b.Loops()[0].conns[0]; k.expected != 0 || k.announced != 0 || k.held != 0 {
			t.Errorf("%d bytes are expected, %d announced, %d held", k.expected, k.announced, k.held)
		}
	})
	if n := b.Stats().ReadersClosed; n != 0 {
		t.Errorf("%d readers were closed", n)
	}
}

// What is sent behind an answer that is waited for may be as long as any request.
func TestARequestBehindAnAnnouncedAnswerMayBeLong(t *testing.T) {
	b := newBench(t, Options{UnreadBytesMax: 4 << 10, Limits: httpparse.Limits{HeaderBytesMax: 1 << 10, BodyBytesMax: 1 << 20, TargetBytesMax: 100, FieldsMax: 10}})
	c := b.dial()
	long := strings.Repeat("x", 1<<20)
	post := "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(len(long)) + "\r\n\r\n" + long
	c.send(get("/hold?expect=2147483647") + post)
	x := b.take()
	eventually(t, "the request is kept", func() (kept bool) {
		on(t, b.Loops()[0], func() { kept = len(b.Loops()[0].conns[0].in) == len(post) })
		return kept
	})
	b.reply(x, 200, "first")
	c.hears(200, "first")
	c.hears(200, long)

	// And no longer.
	c.send(get("/hold?expect=2147483647") + post + post)
	b.take()
	eventually(t, "it is refused", func() bool { return b.Stats().Refused[503] == 1 })
}

// One that does not read is not asked for more, and one that leaves takes its announcements along.
func TestAnnouncementsEndWithTheirConnection(t *testing.T) {
	b := newBench(t, Options{WriteTimeout: 200 * time.Millisecond})
	c := b.dial()
	c.send(strings.Repeat(get("/hold?narrow&expect=2147483647"), 3))
	b.reply(b.take(), 200, strings.Repeat("x", 8<<20))
	eventually(t, "it is closed", func() bool { return b.Stats().TimeoutsWrite == 1 && b.Stats().ConnsOpen == 0 })
	if n := len(b.held); n != 0 {
		t.Errorf("%d more were asked for", n)
	}

	c = b.dial()
	c.send(get("/hold?expect=5") + get("/hold?expect=7"))
	x, y := b.take(), b.take()
	_ = c.SetLinger(0) // a reset: it does not wait for answers
	_ = c.Close()
	eventually(t, "it is gone", func() bool { return b.Stats().ConnsOpen == 0 })
	b.reply(x, 200, "x")
	b.reply(y, 200, "y")
	on(t, b.Loops()[0], func() {})
	if n := b.Stats().RepliesDropped; n != 2 {
		t.Errorf("%d replies were dropped", n)
	}
}

func TestALoopKeepsBoundedOutputForAllItsReaders(t *testing.T) {
	b := newBench(t, Options{OutboundBytesMax: 2 << 20})
	big := strings.Repeat("x", 1<<20)
	for range 4 {
		c := b.dial()
		_ = c.SetReadBuffer(4096)
		c.send(get("/hold?narrow") + get("/hold"))
		x, y := b.take(), b.take()
		b.reply(x, 200, big)
		b.reply(y, 200, "after that")
	}
	eventually(t, "some are closed", func() bool { return b.Stats().ReadersClosed > 0 })
}

// One answer each, and none of them read: those that have not moved for longest go, and
// the last one stays, whatever its size.
func TestReadersThatDoNotReadGoWhenTheLoopKeepsTooMuch(t *testing.T) {
	b := newBench(t, Options{OutboundBytesMax: 2 << 20})
	big := strings.Repeat("x", 6<<20)
	l := b.Loops()[0]
	blocked := func(n int) {
		t.Helper()
		eventually(t, "the kernel is full", func() (full bool) {
			on(t, l, func() { full = len(l.conns) == n && l.outbound > 0 })
			return full
		})
	}
	for i := range 4 {
		c := b.dial()
		_ = c.SetReadBuffer(4096)
		c.send(get("/hold?narrow"))
		b.reply(b.take(), 200, big)
		blocked(1)
		if got := b.Stats().ReadersClosed; got != uint64(i) {
			t.Fatalf("%d readers were closed after %d answers", got, i+1)
		}
	}
	on(t, l, func() {
		if c := l.conns[0]; cap(c.out) > 6<<20+1<<16 || l.outbound != cap(c.out) {
			t.Errorf("%d bytes are kept, %d are weighed", cap(c.out), l.outbound)
		}
	})
}

// Those that take nothing go long before the loop keeps as much as it may, and one that
// takes a little now and then does not.
func TestReadersThatStandStillGoBeforeThoseThatMove(t *testing.T) {
	b := newBench(t, Options{StalledBytesMax: 3 << 20, StallGrace: time.Second})
	big := strings.Repeat("x", 2<<20)
	ask := func() {
		c := b.dial()
		_ = c.SetReadBuffer(4096)
		c.send(get("/hold?narrow"))
		b.reply(b.take(), 200, big)
	}
	l := b.Loops()[0]
	for range 3 {
		ask()
	}
	eventually(t, "the kernel is full", func() (full bool) {
		on(t, l, func() { full = l.conns[0].full && l.conns[1].full && l.conns[2].full })
		return full
	})
	var first, last *conn
	on(t, l, func() { // as if it were a second later, and the first had moved just now
		for _, c := range l.conns {
			c.outMoved = l.clock - 2*time.Second
		}
		l.conns[0].outMoved = l.clock
		l.conns[1].outMoved--
		first, last = l.conns[0], l.conns[2]
		l.shedStalled()
		if got := b.Stats().ReadersClosed; got != 1 || len(l.conns) != 2 || first.phase == closed || last.phase == closed {
			t.Errorf("%d readers were closed, %d are left", got, len(l.conns))
		}
	})
}

// What fits into the kernel's memory is unread too: the client is given up.
func TestAClientThatTakesNothingOfWhatTheKernelHoldsIsClosed(t *testing.T) {
	b := newBench(t, Options{WriteTimeout: 500 * time.Millisecond})
	c := b.dial()
	_ = c.SetReadBuffer(4096)
	for range 3 { // less than the kernel takes, and more than the client's does
		c.send(get("/hold"))
		b.reply(b.take(), 200, strings.Repeat("x", 60<<10))
	}
	eventually(t, "it is closed", func() bool { return b.Stats().ConnsOpen == 0 })
	if s := b.Stats(); s.TimeoutsSilent != 1 || s.TimeoutsWrite != 0 || s.ReadersClosed != 0 {
		t.Fatalf("%+v", s)
	}
	c.isCut()
}

// What is kept for a reader for long is not on the heap, follows what it reads, and may be
// followed by further answers.
func TestWhatIsUnreadIsKeptBesideTheHeap(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	big := strings.Repeat("0123456789abcdef", 3<<20/16)
	c.send(get("/hold?narrow") + get("/hold"))
	x, y := b.take(), b.take()
	b.reply(x, 200, big)
	l := b.Loops()[0]
	var aside int
	eventually(t, "it is full", func() (full bool) {
		on(t, l, func() {
			k := l.conns[0]
			if full = k.full; full {
				aside = k.aside.Size()
				if !k.aside.Holds(k.out) || k.weighed != cap(k.out) {
					t.Errorf("%d bytes unsent, %d aside, %d weighed", k.unsent(), aside, k.weighed)
				}
			}
		})
		return full
	})
	part := make([]byte, len(big)-(512<<10))
	if _, err := io.ReadFull(c.r, part); err != nil {
		t.Fatal(err)
	}
	eventually(t, "less is kept", func() (less bool) {
		on(t, l, func() { less = l.conns[0].aside.Size() < aside })
		return less
	})
	b.reply(y, 200, "after that")
	rest := make([]byte, 1<<20)
	for got := 0; !bytes.HasSuffix(rest[:got], []byte("after that")); {
		n, err := c.r.Read(rest[got:])
		if got += n; err != nil {
			t.Fatal(err)
		}
	}
	on(t, l, func() {
		if k := l.conns[0]; k.out != nil || k.aside != nil || l.outbound != 0 {
			t.Errorf("%d bytes unsent, %d aside, %d weighed", k.unsent(), k.aside.Size(), l.outbound)
		}
	})
}

func TestTheKernelTakesLittleForAReaderThatDoesNotRead(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	_ = c.SetReadBuffer(4096)
	size := 4 << 20
	c.send(get("/hold"))
	b.reply(b.take(), 200, strings.Repeat("x", size))
	l := b.Loops()[0]
	eventually(t, "it is full", func() (full bool) {
		on(t, l, func() { full = l.conns[0].full })
		return full
	})
	on(t, l, func() {
		// What its own kernel has taken is not ours to bound: some hundreds of kilobytes.
		if left := l.conns[0].unsent(); left < size-2<<20 {
			t.Errorf("%d bytes of %d are left", left, size)
		}
	})
}

func TestASlowReaderGetsAllOfALargeAnswer(t *testing.T) {
	b := newBench(t, Options{})
	c := b.dial()
	c.send(get("/hold?narrow"))
	big := strings.Repeat("0123456789abcdef", 1<<20/16)
	b.reply(b.take(), 200, big)
	l := b.Loops()[0]
	eventually(t, "the kernel is full", func() (full bool) {
		on(t, l, func() { full = l.conns[0].full })
		return full
	})
	c.hears(200, big)
	c.send(get("/after"))
	c.hears(200, "/after")
	on(t, l, func() {
		if k := l.conns[0]; k.full || k.out != nil || k.aside != nil || l.outbound != 0 {
			t.Errorf("full %v, %d unsent, %d aside, %d weighed", k.full, k.unsent(), k.aside.Size(), l.outbound)
		}
	})
}

func TestAPipelineIsBoundedAndGoesOnWhenItIsAnswered(t *testing.T) {
	b := newBench(t, Options{PipelineRequestsMax: 3})
	c := b.dial()
	c.send(strings.Repeat(get("/hold"), 10))
	l := b.Loops()[0]
	for round := range 3 {
		x, y, z := b.take(), b.take(), b.take()
		on(t, l, func() {
			if k := l.conns[0]; k.phase != paused || k.open != 3 || len(b.held) != 0 {
				t.Errorf("phase %d, %d open, %d held", k.phase, k.open, len(b.held))
			}
		})
		for i, x := range []*Exchange{z, y, x} {
			b.reply(x, 200, fmt.Sprint(round, i))
		}
		for i := range 3 {
			c.hears(200, fmt.Sprint(round, 2-i))
		}
	}
	b.reply(b.take(), 200, "tenth")
	c.hears(200, "tenth")
	c.send(get("/a"))
	c.hears(200, "/a")
}

// A bound that is reached in the middle of a request does not stop that request.
func TestARequestThatHasBegunIsReadToItsEnd(t *testing.T) {
	b := newBench(t, Options{UnreadBytesMax: 1000, HeadTimeout: 200 * time.Millisecond})
	l := b.Loops()[0]
	c := b.dial()
	c.send(get("/hold?narrow") + "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
	x := b.take()
	eventually(t, "the body has begun", func() (begun bool) {
		on(t, l, func() { begun = x.conn.phase == body })
		return begun
	})
	k := x.conn
	big := strings.Repeat("x", 800_000)
	b.reply(x, 200, big)
	eventually(t, "the kernel is full", func() (full bool) {
		on(t, l, func() { full = k.full })
		return full
	})
	for range 100 {
		c.send(strings.Repeat("x", 999))
		on(t, l, func() {
			if k.phase != body && k.phase != idle {
				t.Fatalf("phase %d", k.phase)
			}
		})
	}
	c.send(strings.Repeat("x", 99))
	c.hears(200, big)
	c.hears(200, big[:100_000])
	c.send(get("/a"))
	c.hears(200, "/a")
}

func TestALargeBodyIsLetGoWithItsRequest(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	c := b.dial()
	c.send(post("/a", strings.Repeat("x", 200_000)))
	c.answer()
	on(t, l, func() {
		if k := l.conns[0]; k.in != nil || k.parser.Request.Body != nil {
			t.Errorf("%d bytes are kept", cap(k.in)+cap(k.parser.Request.Body))
		}
	})
}

func TestAHalfClosedClientsPipelineGoesOnToo(t *testing.T) {
	b := newBench(t, Options{PipelineRequestsMax: 2})
	c := b.dial()
	c.send(strings.Repeat(get("/hold"), 5) + "GET /cut")
	_ = c.CloseWrite()
	for i := range 5 {
		x := b.take()
		eventually(t, "half", func() (half bool) {
			on(t, x.Loop(), func() { half = x.IsHalfClosed() })
			return half
		})
		b.reply(x, 200, fmt.Sprint(i))
		c.hears(200, fmt.Sprint(i))
	}
	c.hearsEnd()
}

func TestRequestsThatWaitAreBoundedForALoop(t *testing.T) {
	b := newBench(t, Options{RequestsMax: 3})
	c, d := b.dial(), b.dial()
	c.send(get("/hold") + get("/hold"))
	x, y := b.take(), b.take()
	d.send(get("/hold"))
	z := b.take()
	d.send(get("/a"))
	for _, x := range []*Exchange{x, y, z} {
		eventually(t, "the surplus is counted", func() bool { return b.Stats().Refused[503] == 1 })
		b.reply(x, 200, "held")
	}
	c.hears(200, "held")
	c.hears(200, "held")
	d.hears(200, "held")
	if r := d.hears(503, ""); r.Header.Get("Retry-After") == "" || r.Close {
		t.Fatal(r.Header)
	}
	d.send(get("/b"))
	d.hears(200, "/b")
	on(t, b.Loops()[0], func() {
		if n := b.Loops()[0].exchanges.open; n != 0 {
			t.Error("in use:", n)
		}
	})
}

func TestUnparsedRequestsAreBounded(t *testing.T) {
	b := newBench(t, Options{PipelineRequestsMax: 1, UnreadBytesMax: 1000})
	c := b.dial()
	c.send(get("/hold") + get("/a"))
	x := b.take()
	l := b.Loops()[0]
	c.send(strings.Repeat(get("/b"), 100))
	eventually(t, "it is refused", func() bool { return b.Stats().Refused[503] == 1 })
	on(t, l, func() {
		if l.inbound != 0 {
			t.Error("kept:", l.inbound)
		}
	})
	b.reply(x, 200, "first")
	c.hears(200, "first")
	if r := c.hears(503, ""); r.Header.Get("Retry-After") == "" || !r.Close {
		t.Fatal(r.Header)
	}
	c.hearsEnd()
}

func TestUnfinishedRequestsAreBounded(t *testing.T) {
	b := newBench(t, Options{InboundBytesMax: 100_000})
	head := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n"
	var clients []*client
	for range 4 {
		c := b.dial()
		c.send(head + strings.Repeat("a", 30_000))
		clients = append(clients, c)
	}
	eventually(t, "one is refused", func() bool { return b.Stats().Refused[503] > 0 })
	l := b.Loops()[0]
	on(t, l, func() {
		if l.inbound > 100_000 {
			t.Error("kept:", l.inbound)
		}
	})
	// A length that is too much says so in the head.
	c := b.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
	if r := c.hears(503, ""); r.Header.Get("Retry-After") == "" || !r.Close {
		t.Fatal(r.Header)
	}
	for _, c := range clients {
		_ = c.Close()
	}
	eventually(t, "all is given back", func() (back bool) {
		on(t, l, func() { back = l.inbound == 0 })
		return back
	})
}

func TestANewConnectionMayBeClosedWithoutAWord(t *testing.T) {
	b := newBench(t, Options{Loops: 2})
	for i := range 20 {
		c := b.dial()
		if i%2 == 0 {
			c.reset()
		} else {
			_ = c.Close()
		}
	}
	eventually(t, "all are gone", func() bool {
		s := b.Stats()
		return s.ConnsAccepted+s.AcceptErrors >= 20 && s.ConnsOpen == 0
	})
}

func TestWritingToAClientThatIsGoneDoesNoHarm(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	c := b.dial()
	c.send(get("/hold") + get("/hold"))
	x, y := b.take(), b.take()
	on(t, l, func() {
		// The loop learns of the reset by writing.
		c.reset()
		k := x.conn
		for k.phase != closed {
			k.out = append(k.buffer(), "x"...)
			k.flush()
		}
		x.Reply(200, nil, nil, false)
		y.Reply(200, nil, nil, false)
	})
	if s := b.Stats(); s.RepliesDropped != 2 || s.ConnsOpen != 0 || s.Panics != 0 {
		t.Fatalf("%+v", s)
	}
}
