package loop

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// wellBehaved runs clients that ask and wait, until stop is closed, and fails the test
// if one is not served.
func (b *bench) wellBehaved(clients int, stop <-chan struct{}) *sync.WaitGroup {
	var done sync.WaitGroup
	for i := range clients {
		c := b.dial()
		done.Add(1)
		go func() {
			defer done.Done()
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				body := fmt.Sprint("client ", i, " round ", round)
				if _, err := c.Write([]byte(post("/echo", body))); err != nil {
					b.t.Errorf("client %d, round %d: %v", i, round, err)
					return
				}
				answer := make([]byte, 4096)
				n, err := c.Read(answer)
				if err != nil || !strings.HasSuffix(string(answer[:n]), "\r\n\r\n"+body) {
					b.t.Errorf("client %d, round %d: %q, %v", i, round, answer[:n], err)
					return
				}
			}
		}()
	}
	return &done
}

func TestSlowClientsAreCutOffWhileOthersAreServed(t *testing.T) {
	const slow, deaf = 200, 100
	b := newBench(t, Options{
		Loops:       2,
		HeadTimeout: 700 * time.Millisecond, BodyTimeout: 500 * time.Millisecond,
		WriteTimeout: 300 * time.Millisecond, LingerTimeout: 100 * time.Millisecond,
		StalledBytesMax: 64 << 20, // or a slow machine would close some for that
	})
	stop := make(chan struct{})
	others := b.wellBehaved(8, stop)
	var bad []*client
	for i := range slow {
		c := b.dial()
		switch i % 4 {
		case 0:
			c.send("GET / HTTP/1.1\r\nHost:")
		case 1:
			c.send("\r\nP")
		case 2:
			c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n" + strings.Repeat("x", 3000))
		case 3:
			c.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1")
		}
		bad = append(bad, c)
	}
	for range deaf {
		c := b.dial()
		_ = c.SetReadBuffer(4096)
		c.send(get("/kilo?narrow"))
		bad = append(bad, c)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v", b.Stats())
		}
	})
	eventually(t, "the slow ones are cut off", func() bool {
		s := b.Stats()
		return s.TimeoutsHead == slow/2 && s.TimeoutsBody == slow/2 && s.Refused[408] == slow && s.TimeoutsWrite == deaf
	})
	eventually(t, "only the others are left", func() bool { return b.Stats().ConnsOpen == 8 })
	close(stop)
	others.Wait()
	for _, c := range bad[:slow] {
		c.hears(408, "")
		c.hearsEnd()
	}
	for _, c := range bad[slow:] {
		c.isCut()
	}
	for _, l := range b.Loops() {
		on(t, l, func() {
			if l.inbound != 0 || l.outbound != 0 || len(l.slow) != 0 {
				t.Errorf("left over: %d in, %d out, %d watched", l.inbound, l.outbound, len(l.slow))
			}
		})
	}
	if s := b.Stats(); s.Panics != 0 {
		t.Fatal("panics:", s.Panics)
	}
}

func TestIdleConnectionsHoldNoBuffers(t *testing.T) {
	b := newBench(t, Options{Loops: 2})
	stop := make(chan struct{})
	others := b.wellBehaved(8, stop)
	for range 1000 {
		c := b.dial()
		c.send(get("/a") + "GET")
		c.send(" /b HTTP/1.1\r\nHost: x\r\n\r\n")
		c.hears(200, "/a")
		c.hears(200, "/b")
	}
	close(stop)
	others.Wait()
	for _, l := range b.Loops() {
		on(t, l, func() {
			for _, c := range l.conns {
				if c.in != nil || c.out != nil || c.first != nil || c.phase != idle {
					t.Error("an idle connection holds something")
				}
			}
			if l.inbound != 0 {
				t.Error("kept:", l.inbound)
			}
		})
	}
}

// Clients that come, ask, and leave in every way, at random moments; replies that come
// at random moments too. What counts is that nothing is left afterwards, and that who
// stays gets what is theirs.
func TestClientsThatLeaveAtAnyMomentLeaveNothingBehind(t *testing.T) {
	const staying, leaving, rounds = 4, 8, 40
	b := newBench(t, Options{Loops: 2, PipelineRequestsMax: 4, OutputBytesMax: 64 << 10})
	stop := make(chan struct{})
	others := b.wellBehaved(staying, stop)
	enough, answered := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(answered)
		for {
			select {
			case x := <-b.held:
				l := x.Loop()
				l.Post(func() { x.Reply(200, nil, make([]byte, 30_000), false) })
			case <-enough:
				return
			}
		}
	}()
	var leavers sync.WaitGroup
	for i := range leaving {
		leavers.Add(1)
		go func() {
			defer leavers.Done()
			for round := range rounds {
				c := b.dial()
				requests := strings.Repeat(get("/hold")+get("/a"), 1+round%7) + post("/hold", "body")
				cut := len(requests) - (i*rounds+round)%len(requests)
				_, _ = c.Write([]byte(requests[:cut]))
				switch round % 4 {
				case 0:
					c.reset()
				case 1:
					_ = c.Close()
				case 2:
					_ = c.CloseWrite()
					c.isCut()
				case 3:
					_ = c.CloseWrite()
					c.reset()
				}
				_ = c.Close()
			}
		}()
	}
	leavers.Wait()
	close(stop)
	others.Wait()
	// The last of those that left may have yet to be accepted, or have a request that comes to be held.
	eventually(t, "all have gone and are answered", func() bool {
		s := b.Stats()
		open := s.ConnsAccepted < staying+leaving*rounds || s.ConnsOpen > staying
		for _, l := range b.Loops() {
			on(t, l, func() { open = open || l.inbound != 0 || l.exchanges.open != 0 })
		}
		return !open
	})
	close(enough)
	receive(t, answered)
	for _, l := range b.Loops() {
		on(t, l, func() {
			if l.inbound != 0 || l.outbound != 0 || len(l.slow) != 0 || l.halfs != 0 || l.exchanges.open != 0 {
				t.Errorf("left over: %d in, %d out, %d watched, %d half-closed", l.inbound, l.outbound, len(l.slow), l.halfs)
			}
		})
	}
	if s := b.Stats(); s.Panics != 0 {
		t.Fatal("panics:", s.Panics)
	}
}
