package loop

import (
	"io"
	"runtime"
	"testing"
	"time"
)

// allocations counts what the whole process allocates while f runs, per call of f.
func allocations(rounds int, f func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(rounds)
}

// A thousand connections that are answered in one pass use the buffers of the pass before;
// what is kept for them is bounded.
func TestBuffersOfAPassAreThoseOfThePassBefore(t *testing.T) {
	l := &Loop{}
	held := make([][]byte, 0, 10_000)
	pass := func(n, size int) {
		for range n {
			held = append(held, l.take())
		}
		for _, b := range held {
			if cap(b) < size {
				b = make([]byte, 0, size) // it has grown
			}
			l.give(b)
		}
		held = held[:0]
	}
	pass(1000, bufferBytesMin)
	if n := testing.AllocsPerRun(10, func() { pass(1000, bufferBytesMin) }); n > 0 {
		t.Errorf("%v allocations in a pass", n)
	}
	for _, size := range []int{bufferBytesMin, bufferBytesKept, 2 * bufferBytesKept} {
		pass(10_000, size)
		kept := 0
		for _, b := range l.buffers {
			kept += cap(b)
		}
		if kept != l.buffersBytes || kept > buffersBytesKept {
			t.Errorf("%d bytes are kept of buffers of %d, and %d are counted", kept, size, l.buffersBytes)
		}
	}
	l = &Loop{}
	pass(64, bufferBytesKept) // all that may have grown
	for range 3 {
		pass(900, bufferBytesMin)
	}
	if n := testing.AllocsPerRun(10, func() { pass(900, bufferBytesMin) }); n > 0 {
		t.Errorf("%v allocations in a pass after one with large answers", n)
	}
}

func TestATrimmedLoopKeepsOnlyWhatRests(t *testing.T) {
	b := newBench(t, Options{Handler: func(x *Exchange) { x.Reply(200, nil, []byte("hi"), false) }})
	c := b.dial()
	talk := func() {
		for range 2 * exchangesResting {
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			c.hears(200, "hi")
		}
	}
	talk()
	kept := func() (n int) {
		done := make(chan struct{})
		l := b.Loops()[0]
		l.Post(func() {
			l.Trim()
			for x := l.exchanges.first; x != nil; x = x.next {
				n++
			}
			if n != l.exchanges.count || len(l.buffers) > 0 || l.buffersBytes != 0 {
				t.Errorf("%d exchanges, of which it knows %d; %d buffers, %d bytes", n, l.exchanges.count, len(l.buffers), l.buffersBytes)
			}
			close(done)
		})
		<-done
		return n
	}
	if n := kept(); n > exchangesResting {
		t.Errorf("%d exchanges are kept", n)
	}
	talk()
}

func TestARequestAllocatesNothing(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	var waiting []*Exchange
	body := []byte(`[{"status":"queued"}]`)
	header := []byte("Content-Type: application/json\r\n")
	replyAll := func() {
		for i := len(waiting) - 1; i >= 0; i-- { // out of order, where there are several
			waiting[i].Reply(201, header, body, false)
		}
		waiting = waiting[:0]
	}
	var retry *Timer
	b := newBench(t, Options{Handler: func(x *Exchange) {
		switch string(x.Request().Path) {
		case "/now":
			x.Reply(201, header, body, false)
			return
		case "/deferred":
			if len(waiting) == 0 {
				x.Loop().Defer(replyAll)
			}
		case "/posted":
			if len(waiting) == 0 {
				x.Loop().Post(replyAll)
			}
		case "/timed":
			if retry == nil {
				retry = x.Loop().After(0, replyAll)
			} else if len(waiting) == 0 {
				retry.Reset(0)
			}
		}
		waiting = append(waiting, x)
	}})
	c := b.dial()
	f := func(name, request string, answers, rounds int) {
		t.Helper()
		sent := []byte(request)
		c.send(request)
		size := 0
		for range answers {
			c.hears(201, string(body))
		}
		c.send(request) // once more, to learn how long the answers are
		buffer := make([]byte, 64<<10)
		for n := 0; n < answers; {
			got, err := c.Read(buffer[size:])
			if err != nil {
				t.Fatal(err)
			}
			size += got
			n = count(buffer[:size], body)
		}
		once := func() {
			if _, err := c.Write(sent); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c.TCPConn, buffer[:size]); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 {
			once()
		}
		// The best of some tries: other goroutines of the process allocate too.
		best := 1e9
		for range 5 {
			_ = c.SetDeadline(time.Now().Add(patience))
			if best = min(best, allocations(rounds, once)); best < 0.1 {
				break
			}
		}
		t.Logf("%s: %.4f allocations for %d requests", name, best, answers)
		if best >= 0.1 {
			t.Errorf("%s: %.2f allocations", name, best)
		}
	}
	push := func(path string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: x\r\nX-Request-Id: abc\r\nContent-Length: 5\r\n\r\n12345"
	}
	f("at once", push("/now"), 1, 2_000)
	f("deferred", push("/deferred"), 1, 2_000)
	f("posted", push("/posted"), 1, 2_000)
	f("timed", push("/timed"), 1, 1_000)
	f("pipelined, out of order", push("/deferred")+push("/deferred")+push("/deferred"), 3, 1_000)
	f("http/1.0", "POST /now HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n12345", 1, 1_000)
}

func count(in, what []byte) (n int) {
	for i := 0; i+len(what) <= len(in); i++ {
		if string(in[i:i+len(what)]) == string(what) {
			n++
		}
	}
	return n
}

func BenchmarkRequest(b *testing.B) {
	body := []byte(`[{"status":"queued"}]`)
	s := newBench(b, Options{Handler: func(x *Exchange) { x.Reply(201, nil, body, false) }})
	c := s.dial()
	sent := []byte("POST /api/v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n12345")
	buffer := make([]byte, 4096)
	_ = c.SetDeadline(time.Time{})
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Write(sent)
		if _, err := c.Read(buffer); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPost is the way of a function through Post from another goroutine and back.
func BenchmarkPost(b *testing.B) {
	l := newBench(b, Options{}).Loops()[0]
	done := make(chan struct{}, 1)
	f := func() { done <- struct{}{} }
	b.ReportAllocs()
	for b.Loop() {
		l.Post(f)
		<-done
	}
}

// BenchmarkDefer is what one deferred function costs the loop: a byte written, polled
// and read.
func BenchmarkDefer(b *testing.B) {
	l := newBench(b, Options{}).Loops()[0]
	done := make(chan struct{})
	n := 0
	var f func()
	f = func() {
		if n--; n > 0 {
			l.Defer(f)
			return
		}
		done <- struct{}{}
	}
	b.ReportAllocs()
	l.Post(func() {
		n = b.N
		l.Defer(f)
	})
	<-done
}
