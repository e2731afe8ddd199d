package metrics

import (
	"strings"
	"testing"
	"time"
)

func TestExpositionHoldsWhatWasCounted(t *testing.T) {
	s := NewSet()
	var h Histogram
	h.Observe(50 * time.Microsecond)
	h.Observe(100 * time.Microsecond)
	h.Observe(time.Hour)
	s.Counter("queend_test_total", "A counter.", func() float64 { return 3 }, "route", "push")
	s.Gauge("queend_test_open", "A gauge.", func() float64 { return 7 })
	s.Histogram("queend_test_seconds", "A histogram.", h.Snapshot)
	s.Seal()
	text, err := s.Exposition()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE queend_test_total counter\n", `queend_test_total{route="push"} 3` + "\n",
		"queend_test_open 7\n",
		`queend_test_seconds_bucket{le="0.0001"} 2` + "\n",
		`queend_test_seconds_bucket{le="13.1072"} 2` + "\n",
		`queend_test_seconds_bucket{le="+Inf"} 3` + "\n",
		"queend_test_seconds_count 3\n",
		"go_memstats_mallocs_total ", "process_cpu_seconds_total ",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the exposition lacks %q", want)
		}
	}
}

func TestADurationFallsInTheFirstBucketThatHoldsIt(t *testing.T) {
	f := func(d time.Duration, bucket int) {
		t.Helper()
		var h Histogram
		h.Observe(d)
		for i := range h.buckets {
			if got := h.buckets[i].Load(); (got == 1) != (i == bucket) {
				t.Errorf("%v: bucket %d holds %d, want it in bucket %d", d, i, got, bucket)
			}
		}
	}
	f(-time.Second, 0)
	f(0, 0)
	f(100*time.Microsecond, 0)
	f(101*time.Microsecond, 1)
	f(1638400*time.Microsecond, 14)
	f(time.Hour, latencyBoundsCount)
}

func TestOneNameWithTheSameLabelsTwiceIsFoundWhenSealed(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a doubled metric went unnoticed")
		}
	}()
	s := NewSet()
	s.Gauge("queend_twice", "Once.", func() float64 { return 0 })
	s.Gauge("queend_twice", "Once.", func() float64 { return 0 })
	s.Seal()
}

func TestObserveAllocatesNothing(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() { h.Observe(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
