package api

import (
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// AckCounters count acknowledgments, lease extensions or transactions.
type AckCounters struct {
	Latency metrics.Histogram // acceptance to answer, of requests that reached a store

	Requests, Refused                           atomic.Uint64 // answered by a store; turned down at the door (400)
	Unavailable, Overloaded, Internal, Rejected atomic.Uint64 // requests, by what went wrong in the store

	// Acknowledgments (those of a transaction too), leases or transactions, by what came of
	// each.
	Succeeded, Dead, Failed atomic.Uint64
}

func (c *AckCounters) count(op *queue.Op, took time.Duration) {
	c.Requests.Add(1)
	c.Latency.Observe(took)
	switch op.Fault.Code {
	case queue.OK:
	case queue.Unavailable:
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
	var succeeded, dead, failed uint64
	switch op.Verb {
	case queue.Ack:
		for i := range op.Acks {
			switch a := &op.Acks[i]; {
			case !a.Success:
				failed++
			case a.Dead:
				dead++
			default:
				succeeded++
			}
		}
	case queue.Extend:
		if succeeded = 1; op.Lease.Why != "" {
			succeeded, failed = 0, 1
		}
	case queue.Transaction:
		if succeeded = 1; queue.TransactionFailed(op) {
			succeeded, failed = 0, 1
		}
	}
	c.Succeeded.Add(succeeded)
	if dead > 0 {
		c.Dead.Add(dead)
	}
	if failed > 0 {
		c.Failed.Add(failed)
	}
}

// exportAcks names the counters of acknowledgments, extensions and transactions.
func exportAcks(set *metrics.Set, routers []*Router, sum func(of func(*Counters) *atomic.Uint64) func() float64) {
	for verb, of := range map[string]func(*Counters) *AckCounters{
		"ack":         func(c *Counters) *AckCounters { return &c.Ack },
		"extend":      func(c *Counters) *AckCounters { return &c.Extend },
		"transaction": func(c *Counters) *AckCounters { return &c.Transaction },
	} {
		requests := func(outcome string, field func(*AckCounters) *atomic.Uint64) {
			set.Counter("queend_"+verb+"_requests_total", "Requests of this kind by outcome.",
				sum(func(c *Counters) *atomic.Uint64 { return field(of(c)) }), "outcome", outcome)
		}
		requests("answered", func(a *AckCounters) *atomic.Uint64 { return &a.Requests })
		requests("refused", func(a *AckCounters) *atomic.Uint64 { return &a.Refused })
		requests("unavailable", func(a *AckCounters) *atomic.Uint64 { return &a.Unavailable })
		requests("overloaded", func(a *AckCounters) *atomic.Uint64 { return &a.Overloaded })
		requests("internal", func(a *AckCounters) *atomic.Uint64 { return &a.Internal })
		requests("rejected", func(a *AckCounters) *atomic.Uint64 { return &a.Rejected })
		set.Histogram("queend_"+verb+"_seconds", "Time from a request's last byte to its answer.", func() metrics.Distribution {
			total := of(&routers[0].Counters).Latency.Snapshot()
			for _, r := range routers[1:] {
				total.Add(of(&r.Counters).Latency.Snapshot())
			}
			return total
		})
	}
	count := func(name, help, outcome string, field func(*Counters) *atomic.Uint64) {
		set.Counter(name, help, sum(field), "outcome", outcome)
	}
	const acks, ackHelp = "queend_acknowledgments_total", "Acknowledgments, one by one or in batches, by what came of each."
	count(acks, ackHelp, "taken", func(c *Counters) *atomic.Uint64 { return &c.Ack.Succeeded })
	count(acks, ackHelp, "dead", func(c *Counters) *atomic.Uint64 { return &c.Ack.Dead })
	count(acks, ackHelp, "refused", func(c *Counters) *atomic.Uint64 { return &c.Ack.Failed })
	const leases, leaseHelp = "queend_lease_extensions_total", "Lease extensions by whether the lease was there and live."
	count(leases, leaseHelp, "extended", func(c *Counters) *atomic.Uint64 { return &c.Extend.Succeeded })
	count(leases, leaseHelp, "refused", func(c *Counters) *atomic.Uint64 { return &c.Extend.Failed })
	const transactions, transactionHelp = "queend_transactions_total", "Transactions by their end."
	count(transactions, transactionHelp, "committed", func(c *Counters) *atomic.Uint64 { return &c.Transaction.Succeeded })
	count(transactions, transactionHelp, "failed", func(c *Counters) *atomic.Uint64 { return &c.Transaction.Failed })
}
