package metrics

import (
	"sync/atomic"
	"time"
)

// latencyBoundsCount is the number of finite buckets of a Histogram.
const latencyBoundsCount = 18

// latencyBounds are the upper bounds of a latency histogram's buckets, in
// seconds. They double from 100 µs, so that a commit on a fast disk and one on a
// slow disk both fall in the middle, and end above every deadline of ours.
var latencyBounds = [latencyBoundsCount]float64{
	0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256,
	0.0512, 0.1024, 0.2048, 0.4096, 0.8192, 1.6384, 3.2768, 6.5536, 13.1072,
}

// Histogram counts durations. It has one writer (the loop that owns it) and any
// number of readers; Observe costs two uncontended atomic additions.
type Histogram struct {
	buckets [latencyBoundsCount + 1]atomic.Uint64 // not cumulative; the last one is +Inf
	nanos   atomic.Uint64
}

// Observe counts one duration. A negative one counts as zero.
func (h *Histogram) Observe(d time.Duration) {
	if d < 0 {
		d = 0
	}
	// The first bound is 100 µs and each is twice the one before.
	i, bound := 0, 100*time.Microsecond
	for i < latencyBoundsCount && d > bound {
		bound *= 2
		i++
	}
	h.buckets[i].Add(1)
	h.nanos.Add(uint64(d))
}

// Distribution is a snapshot of a histogram, as a Set exports it.
type Distribution struct {
	Count      uint64
	Sum        float64            // seconds, or whatever is measured
	Cumulative map[float64]uint64 // upper bound → observations at or below it
}

// Snapshot may be called from any goroutine. Buckets and sum are read one after
// another, so a snapshot taken under load may be a few observations apart.
func (h *Histogram) Snapshot() Distribution {
	d := Distribution{Cumulative: make(map[float64]uint64, latencyBoundsCount)}
	for i := range h.buckets {
		d.Count += h.buckets[i].Load()
		if i < latencyBoundsCount {
			d.Cumulative[latencyBounds[i]] = d.Count
		}
	}
	d.Sum = float64(h.nanos.Load()) / 1e9
	return d
}

// Add adds another snapshot of the same bounds.
func (d *Distribution) Add(other Distribution) {
	d.Count += other.Count
	d.Sum += other.Sum
	for bound, n := range other.Cumulative {
		d.Cumulative[bound] += n
	}
}
