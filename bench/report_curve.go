package main

import (
	"math"
	"slices"
)

// Curve is what became of a curve: every cell, its point and its round.
type Curve struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	X       string   `json:"x"` // the axis, with its unit
	Note    string   `json:"note,omitempty"`
	Labels  []string `json:"points"`
	Samples []Sample `json:"samples"`
}

// Sample is one cell at one point of a curve.
type Sample struct {
	Point  int    `json:"point"` // index of Labels
	Series string `json:"series"`
	Load   Load   `json:"load"`
	Cell
}

// figure is a value of a cell, as charts and goals take it.
type figure func(*Cell) float64

func rateOf(c *Cell) float64        { return c.Rate }
func p50Of(c *Cell) float64         { return c.P50 / 1000 }
func p99Of(c *Cell) float64         { return c.P99 / 1000 }
func p999Of(c *Cell) float64        { return c.P999 / 1000 }
func maxOf(c *Cell) float64         { return c.Max / 1000 }
func offeredOf(c *Cell) float64     { return c.Offered }
func serverCPUOf(c *Cell) float64   { return c.ServerCPU }
func postgresCPUOf(c *Cell) float64 { return c.PostgresCPU }
func voluntaryOf(c *Cell) float64   { return c.Voluntary }
func allocationsOf(c *Cell) float64 { return c.Allocations }
func rssOf(c *Cell) float64         { return float64(c.RSS) / (1 << 20) }

// curve finds one by its name; nil where it was not measured.
func (r *Report) curve(name string) *Curve {
	if i := slices.IndexFunc(r.Curves, func(c *Curve) bool { return c.Name == name }); i >= 0 {
		return r.Curves[i]
	}
	return nil
}

// rounds is one figure of one arm at one place, by round.
type rounds map[int]float64

// at are the rounds of the samples that match.
func (c *Curve) at(f figure, match func(*Sample) bool) rounds {
	all := rounds{}
	if c == nil {
		return all
	}
	for i := range c.Samples {
		if s := &c.Samples[i]; match(s) {
			all[s.Round] = f(&s.Cell)
		}
	}
	return all
}

// values are in the order of the rounds.
func (r rounds) values() (all []float64) {
	for _, round := range r.order() {
		all = append(all, r[round])
	}
	return all
}

func (r rounds) order() (all []int) {
	for round := range r {
		all = append(all, round)
	}
	slices.Sort(all)
	return all
}

// over divides within rounds; a round that one of the two lacks is no pair.
func (r rounds) over(other rounds) (all []float64) {
	for _, round := range r.order() {
		if below, ok := other[round]; ok && below != 0 {
			all = append(all, r[round]/below)
		}
	}
	return all
}

// spread is a median of rounds, and the lowest and the highest of them.
func spread(all []float64) (mid, low, high float64) {
	if len(all) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	return median(all), slices.Min(all), slices.Max(all)
}

// arms are those that a curve has.
func (c *Curve) arms() (all []string) {
	for i := range c.Samples {
		if arm := c.Samples[i].Series; !slices.Contains(all, arm) {
			all = append(all, arm)
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return slot(a) - slot(b) })
	return all
}
