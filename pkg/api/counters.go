package api

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// Counters are what one router counts. Its loop writes; anybody reads.
type Counters struct {
	Push, PushLegacy PushCounters
	Pop              PopCounters
	Admin            AdminCounters
	Ack              AckCounters
	Extend           AckCounters
	Transaction      AckCounters
	NotFound         atomic.Uint64
	Scrapes          atomic.Uint64
}

// PushCounters count one push route.
type PushCounters struct {
	Latency metrics.Histogram // acceptance to answer, of pushes that reached a store

	Requests, Refused                           atomic.Uint64 // answered by a store; turned down at the door (400)
	Queued, Duplicate, Failed, Buffered         atomic.Uint64 // items
	Unavailable, Overloaded, Internal, Rejected atomic.Uint64 // requests, by what went wrong in the store
}

// AdminCounters count the administrative routes, all together.
type AdminCounters struct {
	Requests    atomic.Uint64 // reached the database
	Overloaded  atomic.Uint64 // turned away at the door, full or without PostgreSQL: 503
	Refused     atomic.Uint64 // of Requests: 4xx
	Unavailable atomic.Uint64 // of Requests: 503
}

func (c *PushCounters) count(op *queue.Op, status int, took time.Duration) {
	c.Requests.Add(1)
	c.Latency.Observe(took)
	switch op.Fault.Code {
	case queue.OK:
	case queue.Unavailable, queue.Outage:
		c.Unavailable.Add(1)
		return
	case queue.Overloaded:
		c.Overloaded.Add(1)
		return
	case queue.Internal:
		c.Internal.Add(1)
		return
	default:
		c.Rejected.Add(1)
		return
	}
	var queued, duplicate, failed, buffered uint64
	for i := range op.Items {
		switch op.Items[i].Status {
		case queue.Queued:
			queued++
		case queue.Duplicate:
			duplicate++
		case queue.Failed:
			failed++
		case queue.Buffered:
			buffered++
		default:
			panic("BUG: a push was answered with an item undecided, item " + strconv.Itoa(i))
		}
	}
	c.Queued.Add(queued)
	if duplicate > 0 {
		c.Duplicate.Add(duplicate)
	}
	if failed > 0 {
		c.Failed.Add(failed)
	}
	if buffered > 0 {
		c.Buffered.Add(buffered)
	}
}

// Export names the counters of all routers, added up.
func Export(set *metrics.Set, routers []*Router) {
	sum := func(of func(*Counters) *atomic.Uint64) func() float64 {
		return func() float64 {
			var n uint64
			for _, r := range routers {
				n += of(&r.Counters).Load()
			}
			return float64(n)
		}
	}
	type pick = func(*Counters) *PushCounters
	for route, of := range map[string]pick{
		"push":        func(c *Counters) *PushCounters { return &c.Push },
		"push-legacy": func(c *Counters) *PushCounters { return &c.PushLegacy },
	} {
		requests := func(outcome string, field func(*PushCounters) *atomic.Uint64) {
			set.Counter("queend_push_requests_total", "Push requests by route and outcome.",
				sum(func(c *Counters) *atomic.Uint64 { return field(of(c)) }), "route", route, "outcome", outcome)
		}
		requests("answered", func(p *PushCounters) *atomic.Uint64 { return &p.Requests })
		requests("refused", func(p *PushCounters) *atomic.Uint64 { return &p.Refused })
		requests("unavailable", func(p *PushCounters) *atomic.Uint64 { return &p.Unavailable })
		requests("overloaded", func(p *PushCounters) *atomic.Uint64 { return &p.Overloaded })
		requests("internal", func(p *PushCounters) *atomic.Uint64 { return &p.Internal })
		requests("rejected", func(p *PushCounters) *atomic.Uint64 { return &p.Rejected })
		messages := func(status string, field func(*PushCounters) *atomic.Uint64) {
			set.Counter("queend_push_messages_total", "Pushed messages by route and status.",
				sum(func(c *Counters) *atomic.Uint64 { return field(of(c)) }), "route", route, "status", status)
		}
		messages("queued", func(p *PushCounters) *atomic.Uint64 { return &p.Queued })
		messages("duplicate", func(p *PushCounters) *atomic.Uint64 { return &p.Duplicate })
		messages("failed", func(p *PushCounters) *atomic.Uint64 { return &p.Failed })
		messages("buffered", func(p *PushCounters) *atomic.Uint64 { return &p.Buffered })
		set.Histogram("queend_push_seconds", "Time from a push's last byte to its answer.", func() metrics.Distribution {
			total := routers[0].Counters.latency(of)
			for _, r := range routers[1:] {
				total.Add(r.Counters.latency(of))
			}
			return total
		}, "route", route)
	}
	admin := func(outcome string, field func(*AdminCounters) *atomic.Uint64) {
		set.Counter("queend_admin_requests_total", "Administrative requests by outcome; taken counts refused and unavailable too.",
			sum(func(c *Counters) *atomic.Uint64 { return field(&c.Admin) }), "outcome", outcome)
	}
	admin("taken", func(c *AdminCounters) *atomic.Uint64 { return &c.Requests })
	admin("refused", func(c *AdminCounters) *atomic.Uint64 { return &c.Refused })
	admin("unavailable", func(c *AdminCounters) *atomic.Uint64 { return &c.Unavailable })
	admin("overloaded", func(c *AdminCounters) *atomic.Uint64 { return &c.Overloaded })
	exportAcks(set, routers, sum)
	exportPops(set, routers, sum)
	set.Counter("queend_not_found_total", "Requests for a path that has no route.",
		sum(func(c *Counters) *atomic.Uint64 { return &c.NotFound }))
	set.Counter("queend_scrapes_total", "Expositions of these metrics.",
		sum(func(c *Counters) *atomic.Uint64 { return &c.Scrapes }))
}

func (c *Counters) latency(of func(*Counters) *PushCounters) metrics.Distribution {
	return of(c).Latency.Snapshot()
}
