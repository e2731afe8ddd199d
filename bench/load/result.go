package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run heard.
type Result struct {
	Elapsed time.Duration // of the window in which requests were sent
	InTime  int64         // messages answered inside the window: what a rate is made of
	Queued  int64         // messages answered `queued` in all, with those in flight at its end
	Refused int64         // answers without the queued items that were asked for, and broken connections
	Refusal string        // the first of them
	Latency *hdrhistogram.Histogram
	IDs     []ID          // of every queued message
	CPU     time.Duration // that the generator used
}

// latencyMax bounds a histogram's range; a longer wait counts as this long.
const latencyMax = time.Minute

// newHistogram counts microseconds to three significant digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), 3)
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	us := min(max(d.Microseconds(), 1), latencyMax.Microseconds())
	if err := h.RecordValue(us); err != nil {
		panic("BUG: a latency outside the histogram: " + err.Error())
	}
}

// Rate is messages answered per second.
func (r *Result) Rate() float64 { return float64(r.InTime) / r.Elapsed.Seconds() }

// Quantile is the latency that q percent of the answers did not exceed.
func (r *Result) Quantile(q float64) time.Duration {
	return time.Duration(r.Latency.ValueAtQuantile(q)) * time.Microsecond
}

func (r *Result) refuse(why string) {
	if r.Refused++; r.Refused == 1 {
		r.Refusal = why
	}
}
