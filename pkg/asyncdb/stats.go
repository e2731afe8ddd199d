package asyncdb

import (
	"math/bits"
	"sync/atomic"

	"github.com/queend/queend/pkg/queue"
)

// classes is the number of queue's error classes.
const classes = int(queue.ClassDuplicate) + 1

// Stats are the counters of one store. The loop writes them, any goroutine reads
// them; none is shared between loops.
type Stats struct {
	Ops     atomic.Uint64 // accepted
	Batches atomic.Uint64 // decided
	Steps   atomic.Uint64 // sent: one Sync each
	Rows    atomic.Uint64 // items of decided batches

	Overloaded  atomic.Uint64 // ops refused at a bound of ours
	Unavailable atomic.Uint64 // ops refused because PostgreSQL is known to be away
	Expired     atomic.Uint64 // ops whose deadline came first

	Follows  atomic.Uint64 // batches that were sent behind another
	Earlies  atomic.Uint64 // batches that were stored before their turn, on a second connection
	Late     atomic.Uint64 // of these: in vain
	Turns    atomic.Uint64 // batches that waited for another lane of ours
	Retries  atomic.Uint64 // steps to be tried again after a wait
	Unknowns atomic.Uint64 // steps whose answer was lost with their connection
	Notices  atomic.Uint64 // notices of the server

	Connects        atomic.Uint64 // connections made
	ConnectFailures atomic.Uint64 // attempts that failed
	Losses          atomic.Uint64 // connections lost, whoever closed them
	Moves           atomic.Uint64 // of these: closed by us because another server is the primary now
	Hangs           atomic.Uint64 // of these: closed by us because nothing came

	Errors [classes]atomic.Uint64 // errors of steps, by queue.Class

	InFlightRows atomic.Int64 // items of the batches that are being worked on
	WaitingOps   atomic.Int64 // ops that gather behind it
	HeldBytes    atomic.Int64 // cost of all ops that were accepted and are not completed

	BatchRows  Histogram // items per decided batch
	BatchNanos Histogram // a batch's time from its first statement to its last answer
	StepNanos  Histogram // one Sync's time
}

// histogramBuckets covers durations to 2^39 ns (9 minutes).
const histogramBuckets = 40

// Histogram counts values in buckets that double: bucket i holds values from 2^(i-1)
// up to, not including, 2^i; bucket 0 holds 0; the last holds the rest. One writer, any
// number of readers.
type Histogram struct {
	buckets [histogramBuckets]atomic.Uint64
	sum     atomic.Uint64
}

// Observe counts one value.
func (h *Histogram) Observe(v uint64) {
	h.buckets[min(bits.Len64(v), histogramBuckets-1)].Add(1)
	h.sum.Add(v)
}

// Snapshot returns how many values were counted, their sum, and for each bound how
// many were at or below it; bounds and sum are multiplied by unit (1e-9 makes seconds
// of nanoseconds). Buckets are read one after another, so under load they may be a few
// observations apart.
func (h *Histogram) Snapshot(unit float64) (count uint64, sum float64, cumulative map[float64]uint64) {
	cumulative = make(map[float64]uint64, histogramBuckets-1)
	for i := range h.buckets {
		count += h.buckets[i].Load()
		if i < histogramBuckets-1 {
			cumulative[float64(uint64(1)<<i-1)*unit] = count
		}
	}
	return count, float64(h.sum.Load()) * unit, cumulative
}
