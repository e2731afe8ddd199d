package load

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// settings are of pushes to a fake server.
func settings(addr string, connections int, rate float64, window time.Duration) Settings {
	return Settings{Target: Target{Addr: addr}, Shape: shape, Connections: connections, Rate: rate, Window: window}
}

func push(t *testing.T, s Settings) *Result {
	t.Helper()
	r, err := Push(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAClosedLoopByModeCountsWhatItHears(t *testing.T) {
	addr, count := pushed(t, nil)
	s := settings(addr, 4, 0, 50*time.Millisecond)
	s.Warm = 20 * time.Millisecond
	r := push(t, s)
	if r.Refused != 0 || r.Count != r.Queued || r.Queued < 4 || int64(len(r.IDs)) != count.Load() || int64(len(r.IDs)) <= r.Queued {
		t.Fatalf("served %d, heard %d of %d, %d refused", count.Load(), r.Queued, len(r.IDs), r.Refused)
	}
}

func TestAnOpenLoopSendsWhatIsDueAndNoMore(t *testing.T) {
	addr, count := pushed(t, nil)
	r := push(t, settings(addr, 8, 500, 200*time.Millisecond))
	if r.Offered != 100 || r.Queued != 100 || count.Load() != 100 || r.Unsent != 0 || r.Latency.TotalCount() != 100 {
		t.Fatalf("served %d, offered %d, heard %d, %d latencies", count.Load(), r.Offered, r.Queued, r.Latency.TotalCount())
	}
}

// The server stalls for a while: in that time 100 requests become due, and all wait for
// its end, though only two connections can. A generator that paused with its server
// would have two slow answers, and a p99 as if nothing had been.
func TestAStallIsPaidByEveryRequestThatCameDueInIt(t *testing.T) {
	const stall, rate = 200 * time.Millisecond, 1000
	var once sync.Once
	over := make(chan struct{})
	addr, count := pushed(t, func(_ http.ResponseWriter, _ *http.Request, n int64) bool {
		if n == 50 {
			once.Do(func() { time.AfterFunc(stall, func() { close(over) }) })
		}
		if n >= 50 {
			<-over
		}
		return true
	})
	r := push(t, settings(addr, 2, rate, 400*time.Millisecond))
	if r.Offered != 400 || r.Queued != 400 || count.Load() != 400 {
		t.Fatalf("served %d, offered %d, heard %d", count.Load(), r.Offered, r.Queued)
	}
	slow := int64(0)
	for _, bar := range r.Latency.Distribution() {
		if bar.From >= (stall / 2).Microseconds() {
			slow += bar.Count
		}
	}
	if half := int64(rate * stall.Seconds() / 2); slow < half-4 {
		t.Errorf("%d requests waited half a stall or longer, not %d", slow, half)
	}
	if got := r.Quantile(99); got < stall*3/4 {
		t.Errorf("the p99 is %v beside a stall of %v", got, stall)
	}
	if r.Waited < 50 {
		t.Errorf("%d requests stood in the queue", r.Waited)
	}
}

func TestWhatCannotBeSentIsGivenUpAndCounted(t *testing.T) {
	addr, count := pushed(t, func(http.ResponseWriter, *http.Request, int64) bool {
		time.Sleep(100 * time.Millisecond)
		return true
	})
	r := push(t, settings(addr, 1, 1000, 100*time.Millisecond))
	if r.Offered != 100 || r.Queued != count.Load() || r.Queued+r.Unsent != 100 || r.Unsent < 50 || r.Latency.TotalCount() != 100 {
		t.Fatalf("served %d, offered %d, heard %d, %d unsent, %d latencies", count.Load(), r.Offered, r.Queued, r.Unsent, r.Latency.TotalCount())
	}
	if r.Quantile(99) < time.Second {
		t.Fatalf("the p99 of what was never sent is %v", r.Quantile(99))
	}
}

func TestAnOpenLoopGoesOnWithTheConnectionsThatAreLeft(t *testing.T) {
	addr, _ := pushed(t, func(_ http.ResponseWriter, _ *http.Request, n int64) bool {
		if n == 3 {
			panic(http.ErrAbortHandler)
		}
		return true
	})
	r := push(t, settings(addr, 4, 500, 200*time.Millisecond))
	if r.Refused != 1 || r.Queued != 99 {
		t.Fatalf("heard %d, refused %d: %s", r.Queued, r.Refused, r.Refusal)
	}
}

func TestAnOpenLoopWithoutConnectionsEnds(t *testing.T) {
	addr, _ := pushed(t, func(http.ResponseWriter, *http.Request, int64) bool { panic(http.ErrAbortHandler) })
	r := push(t, settings(addr, 2, 1000, 50*time.Millisecond))
	if r.Refused != 2 || r.Queued != 0 {
		t.Fatalf("heard %d, refused %d: %s", r.Queued, r.Refused, r.Refusal)
	}
}

func TestARateIsOfMessages(t *testing.T) {
	addr, count := pushed(t, nil)
	s := settings(addr, 2, 1000, 100*time.Millisecond)
	s.Shape.Items = 10
	r := push(t, s)
	if r.Offered != 100 || count.Load() != 10 {
		t.Fatalf("%d requests for %d messages", count.Load(), r.Offered)
	}
}

func TestHelloCountsSuccesses(t *testing.T) {
	addr, _ := pushed(t, func(w http.ResponseWriter, r *http.Request, n int64) bool {
		if r.URL.Path != HelloPath || r.Method != "GET" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		if n == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
		return n > 1
	})
	r, err := Hello(context.Background(), settings(addr, 2, 0, 50*time.Millisecond))
	if err != nil || r.Refused != 1 || !strings.Contains(r.Refusal, "not yet") || r.Count < 2 || len(r.IDs) != 0 {
		t.Fatalf("%+v, %v", brief(r), err)
	}
}

func TestHooksAreCalledAroundTheWindow(t *testing.T) {
	addr, count := pushed(t, nil)
	s := settings(addr, 2, 0, 20*time.Millisecond)
	s.Warm = 20 * time.Millisecond
	var before, after int64
	s.Before = func() error { before = count.Load(); return nil }
	s.After = func() error { after = count.Load(); return nil }
	r := push(t, s)
	if before == 0 || after-before != r.Count || after != count.Load() {
		t.Fatalf("%d before, %d after, %d served; %d counted", before, after, count.Load(), r.Count)
	}
}
