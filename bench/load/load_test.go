package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var shape = Shape{Path: "/api/v1/push", Queue: "bench", Partitions: 100, Items: 1, PayloadBytes: 200, Seed: 7}

func TestABodyIsWhatItsShapeSays(t *testing.T) {
	s := shape
	s.Items = 5
	var push struct {
		Items []struct {
			Queue, Partition string
			Payload          json.RawMessage
			TransactionID    *string
		}
	}
	if err := json.Unmarshal(s.Body(rand.New(rand.NewPCG(1, 1))), &push); err != nil {
		t.Fatal(err)
	}
	if len(push.Items) != 5 {
		t.Fatalf("%d items", len(push.Items))
	}
	for _, item := range push.Items {
		if item.Queue != "bench" || !strings.HasPrefix(item.Partition, "p") || len(item.Payload) != 200 || item.TransactionID != nil {
			t.Errorf("%+v", item)
		}
	}
}

func TestTheSameSeedMakesTheSameRequests(t *testing.T) {
	a, b := shape.Requests("h:1"), shape.Requests("h:1")
	other := shape
	other.Seed++
	c := other.Requests("h:1")
	if !bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil)) {
		t.Error("two sets of one seed differ")
	}
	if bytes.Equal(bytes.Join(a, nil), bytes.Join(c, nil)) {
		t.Error("two seeds give one set")
	}
}

func TestAnAnswerIsCutWhenItIsWhole(t *testing.T) {
	f := func(buf string, status, n int, body string, ok bool) {
		t.Helper()
		a, got, err := cutAnswer([]byte(buf))
		if got != n || (err == nil) != ok || n > 0 && (a.status != status || string(a.body) != body) {
			t.Fatalf("cutAnswer(%q) = %+v, %d, %v", buf, a, got, err)
		}
	}
	whole := "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n[]"
	f(whole, 201, len(whole), "[]", true)
	f(whole+"HTTP/1.1", 201, len(whole), "[]", true)
	for i := range len(whole) {
		f(whole[:i], 0, 0, "", true)
	}
	f("HTTP/1.1 204 No Content\r\n\r\n", 204, 27, "", true)
	f("HTTP/1.1 200 OK\r\n\r\n", 0, 0, "", false)
	f("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 0, 0, "", false)
	f("HTTP/1.1 2x1 C\r\nContent-Length: 0\r\n\r\n", 0, 0, "", false)
	f("SSH-2.0 hello there\r\n\r\n", 0, 0, "", false)
	f("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 0, 0, "", false)
}

func TestOnlyQueuedItemsGiveTheirIDs(t *testing.T) {
	const id = "019dc9b7-cb4f-7c1a-9b21-7e8a5c3a40e1"
	f := func(body string, want int) {
		t.Helper()
		got := appendQueued(nil, []byte(body))
		if len(got) != want {
			t.Fatalf("%s: %d ids, want %d", body, len(got), want)
		}
		for _, g := range got {
			if g[0] != 0x01 || g[6] != 0x7c || g[15] != 0xe1 {
				t.Errorf("%x", g)
			}
		}
	}
	queued := `{"index":0,"message_id":"` + id + `","partition_id":"c0","status":"queued"}`
	f("["+queued+"]", 1)
	f("["+queued+","+queued+"]", 2)
	f("["+strings.Replace(queued, "queued", "duplicate", 1)+","+queued+"]", 1)
	f(`[{"status":"queued","message_id":"`+id+`"}]`, 1)
	f(`[{"status":"queued","message_id":"`+id[:35]+`x"}]`, 0)
	f(`[{"status":"queued","message_id":"short"}]`, 0)
	f(`[]`, 0)
	f(``, 0)
}

// pushed is a server that answers pushes of one item, and counts them.
func pushed(t *testing.T, wrap func(http.ResponseWriter, *http.Request, int64) bool) (addr string, count *atomic.Int64) {
	t.Helper()
	count = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		n := count.Add(1)
		if wrap != nil && !wrap(w, r, n) {
			return
		}
		w.WriteHeader(201)
		fmt.Fprintf(w, `[{"message_id":"00000000-0000-7000-8000-%012x","status":"queued"}]`, n)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), count
}

func run(t *testing.T, addr string, s Shape, connections int, d time.Duration) *Result {
	t.Helper()
	c := &Closed{Requests: s.Requests(addr), Items: s.Items, Seed: s.Seed}
	if err := c.Open(context.Background(), addr, connections); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Run(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEveryAnswerIsCountedOnce(t *testing.T) {
	addr, count := pushed(t, nil)
	r := run(t, addr, shape, 16, 100*time.Millisecond)
	if r.Queued != count.Load() || r.Refused != 0 || int64(len(r.IDs)) != r.Queued || r.InTime > r.Queued {
		t.Fatalf("served %d, heard %+v", count.Load(), r)
	}
	if r.Latency.TotalCount() != r.Queued || r.CPU <= 0 {
		t.Fatalf("%d latencies, %d in time, %v of CPU", r.Latency.TotalCount(), r.InTime, r.CPU)
	}
	seen := map[ID]bool{}
	for _, id := range r.IDs {
		seen[id] = true
	}
	if len(seen) != len(r.IDs) {
		t.Fatalf("%d ids, %d of them different", len(r.IDs), len(seen))
	}
}

func TestWhatIsInFlightAtTheEndCountsForItsPart(t *testing.T) {
	start := time.Now()
	heard := func(every, sent, answered time.Duration) int64 {
		p := &producers{r: NewResult(), items: 10, every: every, due: 1, most: 1, sent: 1, idle: newRing(5), start: start, end: start.Add(100 * time.Millisecond),
			hear: func(*Result, answer, int) int64 { return 10 }}
		for range 5 {
			p.heard(&conn{at: start.Add(sent * time.Millisecond)}, answer{}, start.Add(answered*time.Millisecond))
		}
		return p.r.InTime
	}
	f := func(got, want int64) {
		t.Helper()
		if got != want {
			t.Fatalf("%d messages in time, not %d", got, want)
		}
	}
	f(heard(0, 0, 99), 50)
	f(heard(0, 0, 200), 25)
	f(heard(0, 90, 190), 5)
	f(heard(0, 95, 120), 10)
	f(heard(0, 100, 200), 0)
	f(heard(time.Hour, 0, 99), 50) // at a rate nothing is lost at the end that is not due later
	f(heard(time.Hour, 0, 200), 0)
}

func TestAWindowCanFollowAnother(t *testing.T) {
	addr, count := pushed(t, nil)
	c := &Closed{Requests: shape.Requests(addr), Items: 1}
	if err := c.Open(context.Background(), addr, 4); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var heard int64
	for range 3 {
		r, err := c.Run(context.Background(), 20*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		heard += r.Queued
	}
	if heard != count.Load() {
		t.Fatalf("served %d, heard %d", count.Load(), heard)
	}
}

func TestRequestsLargerThanASocketTakesAreSentWhole(t *testing.T) {
	s := shape
	s.PayloadBytes = 4 << 20
	body := s.Body(rand.New(rand.NewPCG(1, 1)))
	addr, count := pushed(t, func(_ http.ResponseWriter, r *http.Request, _ int64) bool {
		if r.ContentLength != int64(len(body)) {
			t.Errorf("a request of %d bytes, not %d", r.ContentLength, len(body))
		}
		return true
	})
	c := &Closed{Items: 1, Requests: [][]byte{fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)}}
	if err := c.Open(context.Background(), addr, 3); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Run(context.Background(), 50*time.Millisecond)
	if err != nil || r.Refused != 0 || r.Queued != count.Load() || r.Queued < 3 {
		t.Fatalf("served %d, heard %+v, %v", count.Load(), r, err)
	}
}

func TestRefusalsAreCountedAndTheFirstIsKept(t *testing.T) {
	addr, count := pushed(t, func(w http.ResponseWriter, _ *http.Request, n int64) bool {
		if n%2 == 0 {
			http.Error(w, "not today", http.StatusServiceUnavailable)
		}
		return n%2 == 1
	})
	r := run(t, addr, shape, 4, 50*time.Millisecond)
	if r.Latency.TotalCount() != r.Queued {
		t.Errorf("%d latencies of %d messages", r.Latency.TotalCount(), r.Queued)
	}
	if r.Queued+r.Refused != count.Load() || r.Refused < 1 || !strings.Contains(r.Refusal, "503 not today") {
		t.Fatalf("served %d, heard %+v", count.Load(), r)
	}
}

func TestABrokenConnectionIsARefusalAndEndsNoRun(t *testing.T) {
	addr, _ := pushed(t, func(w http.ResponseWriter, _ *http.Request, n int64) bool {
		if n == 1 {
			panic(http.ErrAbortHandler)
		}
		return true
	})
	r := run(t, addr, shape, 4, 50*time.Millisecond)
	if r.Refused != 1 || !strings.Contains(r.Refusal, "closed") || r.Queued < 3 {
		t.Fatalf("%+v", r)
	}
}

func TestAnAnswerThatNobodyAskedForIsARefusal(t *testing.T) {
	addr := scripted(t, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
	r := run(t, addr, shape, 1, 50*time.Millisecond)
	if r.Queued != 0 || r.Refused < 1 {
		t.Fatalf("%+v", r)
	}
}

func TestAServerThatNeverAnswersEndsWithTheContext(t *testing.T) {
	addr := scripted(t, "")
	c := &Closed{Requests: shape.Requests(addr), Items: 1}
	if err := c.Open(context.Background(), addr, 2); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Run(ctx, time.Millisecond); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// scripted answers the first bytes of every connection with the same words, and
// keeps it open until the test ends.
func scripted(t *testing.T, words string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepting := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(accepting)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, nc)
			if _, err := nc.Read(make([]byte, 4096)); err != nil {
				return
			}
			if _, err := io.WriteString(nc, words); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-accepting
		for _, nc := range conns {
			nc.Close()
		}
	})
	return l.Addr().String()
}

func TestOnceMakesExactlyAsManyRequests(t *testing.T) {
	addr, count := pushed(t, func(_ http.ResponseWriter, r *http.Request, _ int64) bool {
		if r.ProtoMajor != 1 || r.ProtoMinor != 0 {
			t.Errorf("%s", r.Proto)
		}
		return true
	})
	r, err := Once(context.Background(), addr, shape, shape.Body(rand.New(rand.NewPCG(1, 1))), 100, 8)
	if err != nil || count.Load() != 100 || r.Queued != 100 || r.Refused != 0 || len(r.IDs) != 100 {
		t.Fatalf("served %d, heard %+v, %v", count.Load(), r, err)
	}
}

func TestQuantilesAreThoseOfWhatWasRecorded(t *testing.T) {
	r := &Result{Latency: NewHistogram()}
	for us := 1; us <= 1000; us++ {
		Record(r.Latency, time.Duration(us)*time.Microsecond)
	}
	f := func(q float64, want time.Duration) {
		t.Helper()
		if got := r.Quantile(q); got < want-want/500 || got > want+want/500 {
			t.Fatalf("p%v is %v, want %v", q, got, want)
		}
	}
	f(50, 500*time.Microsecond)
	f(99, 990*time.Microsecond)
	f(100, 1000*time.Microsecond)
	Record(r.Latency, -time.Second) // a clock that stepped
	Record(r.Latency, time.Hour)
	if got := r.Quantile(100); got < latencyMax-latencyMax/500 {
		t.Fatalf("the longest is %v", got)
	}
}

func TestARateIsOfWhatCameInTime(t *testing.T) {
	r := &Result{InTime: 500, Queued: 600, Elapsed: 2 * time.Second}
	if r.Rate() != 250 {
		t.Fatal(r.Rate())
	}
}

func TestWrksFiguresAreRead(t *testing.T) {
	r, err := parseWrk([]byte("Running 2s test\n  1 threads\nfigures: 81234 2003456 3 1340 5210\n"))
	if err != nil || r.Answered != 81234 || r.Errors != 3 || r.Elapsed != 2003456*time.Microsecond || r.P50 != 1340*time.Microsecond || r.P99 != 5210*time.Microsecond {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "figures: 1 2", "figures: 1 0 0 0 0"} {
		if _, err := parseWrk([]byte(bad)); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestLuaReadsBackWhatWasQuoted(t *testing.T) {
	if got, want := string(luaString([]byte("a\r\n\"\\é"))), `"a\013\010\034\092\195\169"`; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
}

func TestABsFiguresAreRead(t *testing.T) {
	out := "Concurrency Level:      100\nTime taken for tests:   0.745 seconds\nComplete requests:      10000\nFailed requests:        2\n%sTotal transferred:      1\n"
	csv := "Percentage served,Time in ms\n0,0.300\n50,6.875\n99,21.5\n100,30\n"
	f := func(extra string, answered, errors int64) {
		t.Helper()
		r, err := parseAB(fmt.Appendf(nil, out, extra), []byte(csv))
		if err != nil || r.Answered != answered || r.Errors != errors || r.Elapsed != 745*time.Millisecond || r.P50 != 6875*time.Microsecond || r.P99 != 21500*time.Microsecond {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	f("", 10000, 2)
	f("Non-2xx responses:      9000\n", 1000, 9002)
	if _, err := parseAB([]byte("apr_socket_recv: Connection refused"), nil); err == nil {
		t.Error("no figures are no error")
	}
}
