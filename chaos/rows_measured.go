package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/world"
)

// The rows of this file measure: a figure before the harm and the same figure during it, in
// one run, since a machine is only comparable to itself.

// phase is how long each of the two is.
const phase = 10 * time.Second

// calm is the first of the two: the load alone.
func (t *Trial) calm(ctx context.Context) span {
	from := t.clock.Now()
	wait(ctx, phase)
	return span{from, t.clock.Now()}
}

// p99 of the pushes that were stored and began in s.
func p99(h *history.History, s span) (time.Duration, int) {
	var took []time.Duration
	for i := range h.Calls {
		if x := &h.Calls[i]; x.Route == "POST /api/v1/push" && x.Status == 201 && x.Start >= s.from && x.Start < s.to {
			took = append(took, x.End-x.Start)
		}
	}
	return percentile(took, 99), len(took)
}

// percentile sorts; 0 of nothing.
func percentile(took []time.Duration, percent int) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[min(len(took)-1, len(took)*percent/100)]
}

// compare remarks both figures, and that the second is at most twice the first.
func (t *Trial) compare(h *history.History, before, during span) {
	was, n := p99(h, before)
	is, m := p99(h, during)
	t.remark("p99 of pushes %v before (%d), %v during (%d), ratio %.2f", was.Round(100*time.Microsecond), n, is.Round(100*time.Microsecond), m, float64(is)/float64(max(1, was)))
	if m == 0 || is > 2*was {
		t.late("p99 of pushes was %v and became %v", was, is)
	}
}

const (
	slowHeads  = 500
	slowBodies = 500
	nonReaders = 500
)

func row19() *Row {
	return &Row{
		ID: "19", Title: "slow senders and clients that do not read",
		What: fmt.Sprintf("%d clients send a head and %d a body at a byte a second; %d, one each %v, pop %d KiB, ask again until they get it, do not read it and go on asking", slowHeads, slowBodies, nonReaders, askEvery, largeBytes>>10),
		Pass: "p99 of the others at most doubles; each is cut within 30 s, of those that do not read after the head of the answer; at most 64 MiB more resident; I1-I7",
		Slow: true,
		Run: func(ctx context.Context, t *Trial) error {
			var before, during span
			t.after = func(h *history.History) { t.compare(h, before, during) }
			return t.storm(ctx, Storm{Queends: 1}, func(ctx context.Context) (err error) {
				before = t.calm(ctx)
				during, err = t.slow(ctx)
				return err
			})
		},
	}
}

// slowMax is how long it may take until all slow clients have had their turn.
const slowMax = 3 * time.Minute

// askEvery is how often one of those who do not read asks at most, and only one at a time
// waits for the head of its answer: it is the unread answers that are looked at, and not how
// many can be made.
const askEvery = 100 * time.Millisecond

// slow has slow clients until all are cut. The span is when all were at it.
func (t *Trial) slow(ctx context.Context) (during span, err error) {
	t.Faults = fmt.Sprintf("%d slow clients", slowHeads+slowBodies+nonReaders)
	q := t.queends[0]
	resident := world.Process(q.Pid()).RSS
	ctx, cancel := context.WithTimeout(ctx, slowMax)
	defer cancel()
	crew := crew{longest: map[string]time.Duration{}, left: map[string]int{}}
	defer crew.wait.Wait()
	start := func(kind string, n int, run func(context.Context, net.Conn) time.Duration) error {
		for range n {
			c, err := q.Dial()
			if err != nil {
				return fmt.Errorf("slow client: %w", err)
			}
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10) // what is not read is soon queend's to keep
			crew.add(ctx, kind, c, run)
		}
		return nil
	}
	err = start("head", slowHeads, dribble("POST /api/v1/push HTTP/1.1\r\nHost: chaos\r\nX-Slow: ", "x"))
	if err == nil {
		err = start("body", slowBodies, dribble("POST /api/v1/push HTTP/1.1\r\nHost: chaos\r\nContent-Length: 100000\r\n\r\n", " "))
	}
	if err == nil {
		err = t.largeMessage()
	}
	asking := make(chan struct{}, 1)
	for group := 0; err == nil && group < nonReaders; group++ {
		err = start("unread", 1, ignore(asking, fmt.Sprintf("GET /api/v1/pop/queue/%s?batch=1&autoAck=true&consumerGroup=unread-%d HTTP/1.1\r\nHost: chaos\r\n\r\n", unreadQueue, group)))
	}
	if err != nil {
		cancel()
		return during, err
	}
	during.from = t.clock.Now()
	peak := resident
	for crew.open.Load() > 0 && ctx.Err() == nil {
		peak = max(peak, world.Process(q.Pid()).RSS)
		if t.clock.Now() < during.from+phase {
			during.to = t.clock.Now()
		}
		wait(ctx, 100*time.Millisecond)
	}
	took := t.clock.Now() - during.from
	cancel()
	crew.wait.Wait()
	longest, left := crew.longest, crew.left
	t.remark("resident %d MiB, at most %d MiB, %d MiB in the end; cut after at most: head %v, body %v, unread %v; never cut %d, %d, %d; all had gone after %v", resident>>20, peak>>20, world.Process(q.Pid()).RSS>>20,
		longest["head"].Round(time.Second), longest["body"].Round(time.Second), longest["unread"].Round(time.Second), left["head"], left["body"], left["unread"], took.Round(time.Second))
	if peak > resident+64<<20 {
		t.broken("I9", "resident memory grew from %d to %d MiB", resident>>20, peak>>20)
	}
	for _, kind := range []string{"head", "body", "unread"} {
		if left[kind] > 0 {
			t.broken("I9", "%d slow clients (%s) were not cut within %v", left[kind], kind, slowMax)
		} else if longest[kind] > 30*time.Second {
			t.late("slow clients (%s) were cut after %v", kind, longest[kind])
		}
	}
	return during, nil
}

// crew is the slow clients of a trial.
type crew struct {
	wait    sync.WaitGroup
	open    atomic.Int64
	mu      sync.Mutex
	longest map[string]time.Duration // by kind: until one was cut
	left    map[string]int           // and how many were not
}

// add lets a client run until it is cut or ctx ends; run says how long it was borne.
func (w *crew) add(ctx context.Context, kind string, c net.Conn, run func(context.Context, net.Conn) time.Duration) {
	w.open.Add(1)
	w.mu.Lock()
	w.left[kind]++
	w.mu.Unlock()
	w.wait.Go(func() {
		defer w.open.Add(-1)
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
		borne := run(ctx, c)
		w.mu.Lock()
		defer w.mu.Unlock()
		if ctx.Err() == nil {
			w.left[kind]--
			w.longest[kind] = max(w.longest[kind], borne)
		}
	})
}

// unreadQueue is where those pop who do not read the answer.
const unreadQueue = "chaos.unread"

// largeBytes is the size of a message that is not read. A kernel keeps little of it for
// these clients, and all together are far more than queend keeps.
const largeBytes = 1 << 20

// largeMessage pushes one. It is of random letters: that PostgreSQL could compress it would
// make each pop dear for reasons that are not looked at here.
func (t *Trial) largeMessage() error {
	c := t.load.Client("unread")
	defer c.Close()
	pad := make([]byte, largeBytes)
	for i := range pad {
		pad[i] = 'a' + byte(t.rng.IntN(26))
	}
	for tries := 1; ; tries++ {
		m := c.Message(unreadQueue, "Default")
		m.Payload = fmt.Sprintf(`{"uid":%q,"pad":"%s"}`, m.UID, pad)
		if c.Push(m) {
			return nil
		}
		if tries == 5 {
			return fmt.Errorf("cannot push a large message: %+v", m.Attempts)
		}
	}
}

// dribble makes a client that sends first, and then more once a second, until it is cut. It
// reads nothing.
func dribble(first, more string) func(context.Context, net.Conn) time.Duration {
	return func(ctx context.Context, c net.Conn) time.Duration {
		began := time.Now()
		_, err := c.Write([]byte(first))
		for err == nil && wait(ctx, time.Second) {
			_, err = c.Write([]byte(more))
		}
		return time.Since(began)
	}
}

// ignore makes a client that asks until it gets the head of a large answer, and then reads
// nothing any more and goes on asking, until it is cut. It asks when there is room for it in
// asking, and may hear that there is nothing yet.
func ignore(asking chan struct{}, request string) func(context.Context, net.Conn) time.Duration {
	return func(ctx context.Context, c net.Conn) time.Duration {
		select {
		case asking <- struct{}{}:
		case <-ctx.Done():
			return 0
		}
		next := time.After(askEvery)
		err := ask(ctx, c, request)
		select {
		case <-next:
		case <-ctx.Done():
		}
		<-asking
		if err != nil {
			return 0
		}
		return dribble(request, request)(ctx, c)
	}
}

// ask asks until it has read the head of a large answer.
func ask(ctx context.Context, c net.Conn, request string) error {
	r := bufio.NewReaderSize(c, 1<<10)
	for {
		if _, err := c.Write([]byte(request)); err != nil {
			return err
		}
		answer, err := http.ReadResponse(r, nil)
		if err != nil || answer.ContentLength >= largeBytes {
			return err
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			return err
		}
		wait(ctx, 100*time.Millisecond)
	}
}

const (
	descriptorsMax = 256
	crowd          = 1000
)

func row21() *Row {
	return &Row{
		ID: "21", Title: "queend has no descriptors left",
		What: fmt.Sprintf("%d descriptors, from the start or of a sudden (prlimit), and %d clients", descriptorsMax, crowd),
		Pass: "no crash; at most 20 % of a core more; pushes over open connections are stored all the time; a new client is served within 1 s when the crowd is gone; I1-I7",
		Slow: true,
		Run: func(ctx context.Context, t *Trial) error {
			storm := Storm{Queends: 1}
			sudden := t.rng.IntN(2) == 0
			if !sudden {
				storm.Limit = descriptorsMax
			}
			return t.storm(ctx, storm, func(ctx context.Context) error { return t.crowd(ctx, sudden) })
		},
	}
}

func (t *Trial) crowd(ctx context.Context, sudden bool) error {
	q := t.queends[0]
	used := func() float64 { // share of a core, over 3 s
		before, began := world.Process(q.Pid()).CPU, time.Now()
		wait(ctx, 3*time.Second)
		return float64(world.Process(q.Pid()).CPU-before) / float64(time.Since(began))
	}
	alone := used()
	t.Faults = fmt.Sprintf("%d clients, limit from the start", crowd)
	if sudden {
		t.Faults = fmt.Sprintf("%d clients, sudden limit", crowd)
		if err := world.LimitDescriptors(q.Pid(), descriptorsMax); err != nil {
			return err
		}
	}
	var conns []net.Conn
	closeAll := func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	defer closeAll()
	for range crowd {
		c, err := q.Dial()
		if err != nil {
			break // refused: as good an answer as any
		}
		conns = append(conns, c)
	}
	stored, _ := t.load.Stored()
	crowded := used()
	after, _ := t.load.Stored()
	t.remark("%d connected; CPU %.0f %% of a core before, %.0f %% with the crowd; descriptors %d; stored %d meanwhile", len(conns), 100*alone, 100*crowded, world.Process(q.Pid()).Descriptors, after-stored)
	if err := q.Ended(); err != nil {
		t.broken("I10", "%v", err)
		return nil
	}
	if crowded > alone+0.2 {
		t.late("CPU rose from %.2f to %.2f of a core", alone, crowded)
	}
	if after == stored {
		t.broken("I9", "nothing was stored while there were no descriptors")
	}
	closeAll()
	began := time.Now()
	for {
		if status, _ := request(q, "GET", "/livez", ""); status == 200 {
			break
		}
		if time.Since(began) > world.Hang || ctx.Err() != nil {
			t.broken("I9", "no new client is served when the crowd is gone")
			return nil
		}
		wait(ctx, 10*time.Millisecond)
	}
	took := time.Since(began)
	t.remark("a new client was served after %v", took.Round(time.Millisecond))
	if took > time.Second {
		t.late("a new client was served %v after the crowd had gone", took)
	}
	return nil
}

const (
	idleClients   = 10_000
	activeClients = 500
)

func row22() *Row {
	return &Row{
		ID: "22", Title: "very many idle connections",
		What: fmt.Sprintf("%d clients push, then %d more connect and are idle", activeClients, idleClients),
		Pass: "at most 256 MiB resident; p99 of pushes at most doubles; I1-I7",
		Slow: true,
		Run: func(ctx context.Context, t *Trial) error {
			size := t.Size
			size.Producers = activeClients
			var before, during span
			t.after = func(h *history.History) { t.compare(h, before, during) }
			return t.storm(ctx, Storm{Queends: 1, Size: &size}, func(ctx context.Context) error {
				t.Faults = fmt.Sprintf("%d idle, %d active", idleClients, activeClients)
				q := t.queends[0]
				before = t.calm(ctx)
				var conns []net.Conn
				defer func() {
					for _, c := range conns {
						_ = c.Close()
					}
				}()
				for range idleClients {
					c, err := q.Dial()
					if err != nil {
						return fmt.Errorf("after %d connections: %w", len(conns), err)
					}
					conns = append(conns, c)
				}
				during = t.calm(ctx)
				u := world.Process(q.Pid())
				t.remark("resident %d MiB (at most %d), descriptors %d", u.RSS>>20, u.Peak>>20, u.Descriptors)
				if u.Descriptors < idleClients {
					t.broken("I9", "%d idle clients were connected and %d descriptors are open", idleClients, u.Descriptors)
				}
				if u.Peak > 256<<20 {
					t.broken("I9", "resident memory was %d MiB", u.Peak>>20)
				}
				return nil
			})
		},
	}
}

// overload of row 23: behind a way of 500 ms there and back, two loops with batches of 50
// messages carry 200 messages a second. These pushes are about 440, and what clients send
// again comes on top.
var (
	overload          = load.Size{Rate: 250, Producers: 400, Partitions: 100, Pad: 200}
	overloadBatchRows = 50
)

func row23() *Row {
	return &Row{
		ID: "23", Title: "PostgreSQL is far away, and there is too much to do",
		What: "500 ms more to PostgreSQL and back, batches of at most 50 messages, twice as many pushes as that can carry, for 15 s, under a memory limit of 512 MiB",
		Pass: "no OOM; what is too much hears 503 with Retry-After, 99 % within 50 ms; no 503 any more 5 s after the way is short again; I1-I3",
		Slow: true,
		Run: func(ctx context.Context, t *Trial) error {
			size := overload
			var far span
			t.after = func(h *history.History) { t.overloaded(h, far) }
			storm := Storm{Queends: 1, Proxy: true, PushOnly: true, Size: &size, Recovery: 5 * time.Second, Env: []string{fmt.Sprintf("QUEEN_PUSH_MAX_BATCH_SIZE=%d", overloadBatchRows)}}
			return t.storm(ctx, storm, func(ctx context.Context) error {
				t.Faults = "500 ms, 512 MiB"
				q := t.queends[0]
				remove, err := world.LimitMemory(q.Pid(), 512<<20)
				if err != nil {
					t.remark("no memory cgroup here (%v): only the peak was looked at", err)
				} else {
					t.atEnd = append(t.atEnd, remove)
				}
				far.from = t.clock.Now()
				t.proxy.SetDelay(250 * time.Millisecond)
				wait(ctx, 15*time.Second)
				t.proxy.SetDelay(0)
				far.to = t.clock.Now()
				if err := q.Ended(); err != nil {
					t.broken("I9", "%v", err)
					return nil
				}
				peak := world.Process(q.Pid()).Peak
				t.remark("at most %d MiB resident", peak>>20)
				if peak >= 512<<20 {
					t.broken("I9", "resident memory was %d MiB", peak>>20)
				}
				wait(ctx, 7*time.Second)
				return nil
			})
		},
	}
}

// overloaded looks at what the pushes of row 23 heard.
func (t *Trial) overloaded(h *history.History, far span) {
	var refusals, stored []time.Duration
	after := 0
	for i := range h.Calls {
		x := &h.Calls[i]
		if !strings.HasPrefix(x.Route, "POST /api/v1/push") {
			continue
		}
		inside := x.Start >= far.from+time.Second && x.Start < far.to
		switch {
		case inside && x.Status == 201:
			stored = append(stored, x.End-x.Start)
		case inside && x.Status == 503 && !strings.Contains(x.Why, "in time"): // refused at the door, not given up later
			refusals = append(refusals, x.End-x.Start)
		case x.Status == 503 && x.Start > far.to+5*time.Second:
			after++
		}
	}
	p := percentile(refusals, 99)
	t.remark("%d stored (p99 %v), %d refused (p99 %v); %d refused later than 5 s after", len(stored), percentile(stored, 99).Round(time.Millisecond), len(refusals), p.Round(time.Millisecond), after)
	if len(refusals) == 0 {
		t.remark("it was no overload")
	}
	if p > 50*time.Millisecond {
		t.late("a refusal takes %v", p)
	}
	if after > 0 {
		t.late("%d pushes were refused later than 5 s after the way was short again", after)
	}
}
