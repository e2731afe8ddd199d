package load

import (
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run heard.
type Result struct {
	Elapsed time.Duration // of the window in which requests were sent
	Count   int64         // messages that the costs of the window are divided by; see the modes
	InTime  int64         // messages inside the window: what a rate is made of. In a closed loop, those in flight at its end count for their part
	Queued  int64         // messages answered `queued` in all, with those in flight at its end
	Refused int64         // answers other than were asked for, and broken connections
	Refusal string        // the first of them
	Latency *hdrhistogram.Histogram
	IDs     []ID          // of every queued message, those of the warm-up included
	CPU     time.Duration // that the generator used: its whole process

	// An open loop:
	Offered int64                   // messages that came due in the window
	Waited  int64                   // requests that came due while no connection was free
	Unsent  int64                   // messages that were not sent, long after the window: the rate is far from kept
	Lag     *hdrhistogram.Histogram // how late the generator itself was with the others

	// Where there are consumers:
	Delivered int64                   // messages that came to consumers, over all groups
	Missing   int64                   // messages that were queued and never came to a group
	Twice     int64                   // messages that came to a group again
	PushTime  *hdrhistogram.Histogram // from when a push was due to its answer
	PopTime   *hdrhistogram.Histogram // of pops that brought messages, from request to answer
	AckTime   *hdrhistogram.Histogram
	EndToEnd  *hdrhistogram.Histogram // from when a push was due to the message at its consumer
	Pops      int64                   // answers with messages

	pushedInTime int64
}

// latencyMax bounds a histogram's range; a longer wait counts as this long.
const latencyMax = time.Minute

// NewHistogram counts microseconds, up to a minute, to three significant digits.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), 3)
}

// NewResult has heard nothing yet.
func NewResult() *Result { return &Result{Latency: NewHistogram(), Lag: NewHistogram()} }

// Record adds one latency.
func Record(h *hdrhistogram.Histogram, d time.Duration) {
	us := min(max(d.Microseconds(), 1), latencyMax.Microseconds())
	if err := h.RecordValue(us); err != nil {
		panic("BUG: a latency outside the histogram: " + err.Error())
	}
}

// Rate is messages per second.
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

// Point is one point of a percentile curve: Percent of the samples took at most
// Micros.
type Point struct {
	Percent float64 `json:"percent"`
	Micros  int64   `json:"us"`
}

// Curve is the percentile curve of a histogram: two points each time the distance to
// 100 % is halved, as far as there are samples, and the highest. nil gives none.
func Curve(h *hdrhistogram.Histogram) (all []Point) {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	n := float64(h.TotalCount())
	all = append(all, Point{0, h.ValueAtQuantile(0)})
	for rest := 100.0; rest/100*n >= 1; rest /= 2 {
		for _, at := range []float64{rest, rest * 3 / 4} {
			if q := 100 - at; q > 0 {
				all = append(all, Point{q, h.ValueAtQuantile(q)})
			}
		}
	}
	return append(all, Point{100, h.Max()})
}

// onOneThread runs the generator on a thread of its own and notes what its process
// used: the collector's threads, too, are a cost of the generator.
func onOneThread(run func() (*Result, error)) (*Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cpu := ProcessCPU()
	r, err := run()
	if r != nil {
		r.CPU = ProcessCPU() - cpu
	}
	return r, err
}
