package api

import (
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// PopCounters count pops.
type PopCounters struct {
	Latency metrics.Histogram // acceptance to answer, of pops that got messages and did not wait

	// Requests, by how they ended: with messages, without, when their time was over, because
	// pops are paused, with an error, turned down at the door (400).
	Delivered, Empty, Expired, Paused, Failed, Refused atomic.Uint64

	Messages, AutoAcked, Bytes atomic.Uint64 // what was delivered
}

func (c *PopCounters) count(op *queue.Op, took time.Duration) {
	p := &op.Pop
	switch {
	case op.Fault.Code != queue.OK:
		c.Failed.Add(1)
	case p.Count > 0:
		c.Delivered.Add(1)
		c.Messages.Add(uint64(p.Count))
		c.Bytes.Add(uint64(len(p.Messages)))
		if p.AutoAck {
			c.AutoAcked.Add(uint64(p.Count))
		}
		if !p.Wait {
			c.Latency.Observe(took)
		}
	case p.Paused:
		c.Paused.Add(1)
	case p.Expired:
		c.Expired.Add(1)
	default:
		c.Empty.Add(1)
	}
}

// exportPops names the counters of all routers' pops, added up.
func exportPops(set *metrics.Set, routers []*Router, sum func(of func(*Counters) *atomic.Uint64) func() float64) {
	requests := func(outcome string, field func(*PopCounters) *atomic.Uint64) {
		set.Counter("queend_pop_requests_total", "Pop requests by outcome.",
			sum(func(c *Counters) *atomic.Uint64 { return field(&c.Pop) }), "outcome", outcome)
	}
	requests("delivered", func(p *PopCounters) *atomic.Uint64 { return &p.Delivered })
	requests("empty", func(p *PopCounters) *atomic.Uint64 { return &p.Empty })
	requests("expired", func(p *PopCounters) *atomic.Uint64 { return &p.Expired })
	requests("paused", func(p *PopCounters) *atomic.Uint64 { return &p.Paused })
	requests("failed", func(p *PopCounters) *atomic.Uint64 { return &p.Failed })
	requests("refused", func(p *PopCounters) *atomic.Uint64 { return &p.Refused })
	set.Counter("queend_pop_messages_total", "Messages delivered by pops.",
		sum(func(c *Counters) *atomic.Uint64 { return &c.Pop.Messages }))
	set.Counter("queend_pop_auto_acked_total", "Messages delivered by pops with autoAck.",
		sum(func(c *Counters) *atomic.Uint64 { return &c.Pop.AutoAcked }))
	set.Counter("queend_pop_bytes_total", "Bytes of messages delivered by pops.",
		sum(func(c *Counters) *atomic.Uint64 { return &c.Pop.Bytes }))
	set.Histogram("queend_pop_seconds", "Time from a pop's last byte to its answer, of those that got messages without waiting.",
		func() metrics.Distribution {
			total := routers[0].Counters.Pop.Latency.Snapshot()
			for _, r := range routers[1:] {
				total.Add(r.Counters.Pop.Latency.Snapshot())
			}
			return total
		})
}
