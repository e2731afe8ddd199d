package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/queend/queend/chaos/history"
)

// What is asked of every outage of PostgreSQL that a queend lives through: all pushes are
// accepted, the first soon and the others at once; /health tells; the buffer is delivered
// soon.

// The bounds of these measures.
const (
	firstAnswerMax = 3 * time.Second
	laterAnswerP99 = 50 * time.Millisecond
	toldMax        = 2 * time.Second // by /health, from the first buffered answer
	deliverBase    = 5 * time.Second // for a buffer to be empty, beside its messages
	deliverRate    = 10_000          // messages a second
	linesMax       = 60              // that a queend logs of one
)

// outage is one, on the trial's clock.
type outage struct {
	name      string
	from, to  time.Duration // pushes that were under way then belong to it
	healed    time.Duration // PostgreSQL runs again
	empty     time.Duration // the buffers are; 0: they were not seen empty
	backlog   int           // messages that waited when it ended
	replayed  int           // from then until they were empty
	lines     int           // that the queends logged meanwhile, all together
	unhealthy map[int]time.Duration
	healthy   map[int]time.Duration
}

// outage does the harm, waits, ends it, and waits until the buffers are empty.
func (t *Trial) outage(ctx context.Context, name string, hold time.Duration, harm, heal func() error) error {
	o := &outage{name: name, unhealthy: map[int]time.Duration{}, healthy: map[int]time.Duration{}}
	t.outages = append(t.outages, o)
	t.Say("%v: %s", t.clock.Now().Round(time.Millisecond), name)
	stop := t.watchHealth(ctx, o)
	defer stop()
	o.lines = -t.logged()
	o.from = t.clock.Now()
	if err := harm(); err != nil {
		return err
	}
	if !wait(ctx, hold) {
		return ctx.Err()
	}
	o.backlog = t.pendingAll()
	buffered := t.load.Buffered()
	o.to = t.clock.Now()
	if err := heal(); err != nil {
		return err
	}
	o.healed = t.clock.Now()
	t.Say("%v: PostgreSQL is back, %d messages are buffered", o.healed.Round(time.Millisecond), t.pendingAll())
	if err := t.buffersEmpty(ctx); err != nil {
		t.broken("I8", "after %s: %v", name, err)
		return nil
	}
	o.empty = t.clock.Now()
	o.replayed = o.backlog + int(t.load.Buffered()-buffered)
	for _, q := range t.queends {
		if err := t.healthy(ctx, q); err != nil {
			t.broken("I10", "after %s: %v", name, err)
			return nil
		}
	}
	o.lines += t.logged()
	return nil
}

// logged is how many lines the queends have logged so far.
func (t *Trial) logged() (lines int) {
	for _, q := range t.queends {
		lines += q.Logged("\n")
	}
	return lines
}

// watchHealth notes when each queend says that it is ill, and that it is well again.
func (t *Trial) watchHealth(ctx context.Context, o *outage) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	var mu sync.Mutex
	for i, q := range t.queends {
		all.Go(func() {
			for wait(ctx, 50*time.Millisecond) {
				status, _ := request(q, "GET", "/health", "")
				mu.Lock()
				_, ill := o.unhealthy[i]
				_, well := o.healthy[i]
				switch {
				case status == 503 && !ill:
					o.unhealthy[i] = t.clock.Now()
				case status == 503:
					delete(o.healthy, i) // not yet
				case status == 200 && ill && !well:
					o.healthy[i] = t.clock.Now()
				}
				mu.Unlock()
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// failover is DB_FAILOVER_MS as queend has it: what is over before that may be a backlog.
const failover = 2 * time.Second

// judgeOutage looks at what clients saw of it.
func (t *Trial) judgeOutage(h *history.History, o *outage) {
	if o.to == 0 {
		return // it was never over; that is told already
	}
	opened := o.opened(h)
	var first time.Duration
	var later []time.Duration
	pushes, unanswered, refused, slow, buffered, example := 0, 0, 0, 0, 0, ""
	for i := range h.Calls {
		x := &h.Calls[i]
		if !strings.HasPrefix(x.Route, "POST /api/v1/push") || x.End < o.from || x.Start >= o.to {
			continue
		}
		pushes++
		switch {
		case x.Status == 0:
			unanswered++
			example = x.Why
		case x.Status == 503 && strings.Contains(x.Why, "the disk does not answer"):
			slow++ // so the disk is what took too long
		case x.Status == 503 && strings.Contains(x.Why, "did not answer in time") && o.to-o.from < failover:
			slow++ // so short an outage need not be seen as one
		case x.Status < 200 || x.Status > 299 && x.Status < 400 || x.Status > 499:
			refused++
			example = x.Why
		}
		if since, ok := opened[x.Server]; ok && x.Start > since {
			later = append(later, x.End-x.Start)
		} else {
			first = max(first, x.End-x.Start)
		}
	}
	for _, m := range h.Messages {
		for i := range m.Attempts {
			if a := &m.Attempts[i]; a.Buffered && a.End >= o.from && a.Start < o.to {
				buffered++
			}
		}
	}
	p := percentile(later, 99)
	text := fmt.Sprintf("%s of %v: %d pushes (%d messages buffered), first %v, then p99 %v", o.name, (o.to - o.from).Round(10*time.Millisecond),
		pushes, buffered, first.Round(10*time.Millisecond), p.Round(100*time.Microsecond))
	if o.empty > 0 {
		took := o.empty - o.healed
		text += fmt.Sprintf(", backlog %d delivered in %v (%d/s)", o.replayed, took.Round(10*time.Millisecond), int(float64(o.replayed)/max(took.Seconds(), 0.001)))
		if limit := deliverBase + time.Duration(o.replayed)*time.Second/deliverRate; took > limit {
			t.late("after %s %d messages were delivered in %v", o.name, o.replayed, took)
		}
	}
	text += fmt.Sprintf(", %d lines logged", o.lines)
	t.remark("%s", text)
	if o.lines > linesMax*len(t.queends) {
		t.broken("I10", "%d lines were logged in %s by %d queends", o.lines, o.name, len(t.queends))
	}
	if unanswered > 0 {
		t.broken("2xx", "%d of %d pushes were not answered in %s: %s", unanswered, pushes, o.name, example)
	}
	if refused > 0 {
		t.broken("2xx", "%d of %d pushes were refused in %s: %.200s", refused, pushes, o.name, example)
	}
	if slow > 0 {
		t.late("%d of %d pushes were refused in %s when their time was over", slow, pushes, o.name)
	}
	if first > firstAnswerMax {
		t.late("the first answer in %s took %v", o.name, first)
	}
	if p > laterAnswerP99 {
		t.late("once pushes were buffered in %s, p99 was %v", o.name, p)
	}
	t.judgeHealth(o, opened)
}

// opened is when each queend first answered that it buffers.
func (o *outage) opened(h *history.History) map[int]time.Duration {
	opened := map[int]time.Duration{}
	for _, m := range h.Messages {
		for i := range m.Attempts {
			a := &m.Attempts[i]
			if !a.Buffered || a.End < o.from || a.Start >= o.to {
				continue
			}
			if at, ok := opened[a.Server]; !ok || a.End < at {
				opened[a.Server] = a.End
			}
		}
	}
	return opened
}

// judgeHealth looks at what /health said of it, where there was time to notice.
func (t *Trial) judgeHealth(o *outage, opened map[int]time.Duration) {
	for i, since := range opened {
		if o.to-since < 2*toldMax {
			continue
		}
		at, ok := o.unhealthy[i]
		switch {
		case !ok:
			t.broken("I10", "/health of queend-%d was never 503 in %s, %v after it began to buffer", i+1, o.name, o.to-since)
		case at-since > toldMax:
			t.late("/health of queend-%d was 503 %v after it began to buffer in %s", i+1, at-since, o.name)
		}
	}
	for i, at := range o.healthy {
		if at-o.healed > 2*deliverBase {
			t.late("/health of queend-%d was 200 again %v after the end of %s", i+1, at-o.healed, o.name)
		}
	}
}
