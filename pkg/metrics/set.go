// Package metrics holds the counters that the rooms write and their exposition
// in Prometheus' text format.
//
// A counter is one line beside what it counts: each loop owns its own (an atomic
// that nobody else writes, so it costs what a plain addition costs), and a Set
// reads and adds them up when somebody scrapes. It knows nothing of what it
// counts and starts no goroutine.
package metrics

import (
	"bytes"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
)

// ContentType is the media type of what Exposition writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Set is a list of named readings. Fill it before the first Exposition; after
// that it may be read from any goroutine.
type Set struct {
	registry *prometheus.Registry
	readings []reading
}

type reading struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	value  func() float64
	spread func() Distribution
}

// NewSet makes a set that already holds Go's and the process's own readings
// (memory, goroutines, allocations, descriptors, CPU).
func NewSet() *Set {
	s := &Set{registry: prometheus.NewRegistry()}
	s.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return s
}

// Counter adds a reading that only grows. labels are name, value, name, value.
func (s *Set) Counter(name, help string, value func() float64, labels ...string) {
	s.add(name, help, reading{kind: prometheus.CounterValue, value: value}, labels)
}

// Gauge adds a reading that moves both ways.
func (s *Set) Gauge(name, help string, value func() float64, labels ...string) {
	s.add(name, help, reading{kind: prometheus.GaugeValue, value: value}, labels)
}

// Histogram adds a distribution.
func (s *Set) Histogram(name, help string, spread func() Distribution, labels ...string) {
	s.add(name, help, reading{spread: spread}, labels)
}

func (s *Set) add(name, help string, r reading, labels []string) {
	if len(labels)%2 != 0 {
		panic("BUG: a metric's labels come in pairs")
	}
	constant := prometheus.Labels{}
	for i := 0; i < len(labels); i += 2 {
		constant[labels[i]] = labels[i+1]
	}
	r.desc = prometheus.NewDesc(name, help, nil, constant)
	s.readings = append(s.readings, r)
}

// Seal ends the filling: the set is registered and read once, so that a name
// given twice with the same labels is a bug that shows here and not in front of a
// scraper.
func (s *Set) Seal() {
	s.registry.MustRegister((*collector)(s))
	if _, err := s.Exposition(); err != nil {
		panic("BUG: " + err.Error())
	}
}

// Exposition renders everything. It takes a millisecond or two and allocates:
// call it from a goroutine, not on a loop.
func (s *Set) Exposition() ([]byte, error) {
	families, err := s.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("cannot gather metrics: %w", err)
	}
	var out bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&out, family); err != nil {
			return nil, fmt.Errorf("cannot write metric %q: %w", family.GetName(), err)
		}
	}
	return out.Bytes(), nil
}

// collector is a Set as client_golang wants to see it.
type collector Set

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for i := range c.readings {
		out <- c.readings[i].desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	for i := range c.readings {
		r := &c.readings[i]
		if r.spread != nil {
			d := r.spread()
			out <- prometheus.MustNewConstHistogram(r.desc, d.Count, d.Sum, d.Cumulative)
			continue
		}
		out <- prometheus.MustNewConstMetric(r.desc, r.kind, r.value())
	}
}
