package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Load is what an arm is measured under: everything that a curve varies, and what it
// holds.
type Load struct {
	Connections  int     `json:"connections"`
	Batch        int     `json:"batch"` // messages in a request
	Partitions   int     `json:"partitions"`
	PayloadBytes int     `json:"payload_bytes"`
	Fraction     float64 `json:"fraction_of_saturated,omitempty"` // of an open loop's rate; 0: a closed loop
	Rows         int     `json:"rows,omitempty"`                  // in the table when the run began; 0: emptied each time
	Loops        int     `json:"loops,omitempty"`                 // of queend; 0: as many as it makes by itself
}

// baseLoad is what every curve holds but for what it varies.
var baseLoad = Load{Connections: 64, Batch: 1, Partitions: 100, PayloadBytes: 200}

// curve is one thing varied: points on its axis, each measured with each of its arms.
// It is a plan; Curve is what became of it.
type curve struct {
	name, title string
	x           string // the axis, with its unit
	note        string
	scale       scale
	points      []curvePoint
	goals       bool // some of the goals are made of it
}

// curvePoint is one value of x.
type curvePoint struct {
	x     float64
	label string
	load  Load
	arms  []string
}

// The curves, in the order in which a round measures them.
const (
	curveArms        = "arms"
	curveConnections = "connections"
	curveBatch       = "batch"
	curvePartitions  = "partitions"
	curvePayload     = "payload"
	curveRows        = "rows"
	curveLoops       = "loops"
	curveRate        = "rate"
)

var curveNames = []string{curveArms, curveConnections, curveBatch, curvePartitions, curvePayload, curveRows, curveLoops, curveRate}

// sizes are the values of x that a run takes: those of the short report, and all.
type sizes struct {
	connections, batch, partitions, payload, rows []int
	fractions                                     []float64
}

var shortSizes = sizes{
	connections: []int{1, 4, 16, 64, 256, 1024},
	batch:       []int{1, 10, 100, 1000},
	partitions:  []int{1, 10, 100, 1000, 10_000},
	payload:     []int{20, 200, 2 << 10, 16 << 10, 64 << 10},
	rows:        []int{0, 100_000, 1_000_000},
	fractions:   []float64{0.2, 0.5, 0.7, 0.8, 0.9},
}

var fullSizes = sizes{
	connections: shortSizes.connections,
	batch:       shortSizes.batch,
	partitions:  []int{1, 10, 100, 1000, 10_000, 100_000},
	payload:     shortSizes.payload,
	rows:        []int{0, 10_000, 100_000, 1_000_000, 10_000_000},
	fractions:   []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05},
}

// pooledArms are those with a pool to choose.
var pooledArms = []string{armLegacy, armBaseline}

// curves makes the plan of one round.
func curves(s sizes, cores int, only []string) []curve {
	all := []curve{
		{name: curveArms, title: "All arms", x: "connections", goals: true,
			points: ints([]int{1, 64, 256}, plain, func(l *Load, n int) { l.Connections = n }, armNames...)},
		{name: curveConnections, title: "Throughput and cost against connections", x: "connections",
			points: ints(s.connections, plain, func(l *Load, n int) { l.Connections = n }, armNames...)},
		{name: curveBatch, title: "Against the batch", x: "messages in a request", goals: true,
			points: ints(s.batch, plain, func(l *Load, n int) { l.Batch = n }, armNames...)},
		{name: curvePartitions, title: "Against the partitions that are pushed to", x: "partitions", goals: true,
			points: ints(s.partitions, plain, func(l *Load, n int) { l.Partitions = n }, armLoop, armLegacy)},
		{name: curvePayload, title: "Against the payload", x: "bytes of payload",
			points: ints(s.payload, bytesName, func(l *Load, n int) { l.PayloadBytes = n }, armLoop, armLegacy)},
		{name: curveRows, title: "Against what is stored", x: "rows in the table", goals: true,
			points: ints(s.rows, plain, func(l *Load, n int) { l.Rows = n }, armLoop, armLegacy)},
		{name: curveLoops, title: "Against the event loops", x: "loops",
			points: ints(loopCounts(cores), plain, func(l *Load, n int) { l.Loops = n }, armLoop, armLegacy)},
		{name: curveRate, title: "Latency against the offered rate", x: "messages/s offered", scale: linear,
			note:   "An open loop: requests are sent when they are due, and latency counts from then, whatever the server does meanwhile. Each arm is offered fractions of what it carries itself when it is saturated.",
			points: fractions(s.fractions)},
	}
	return slices.DeleteFunc(all, func(c curve) bool { return len(only) > 0 && !slices.Contains(only, c.name) })
}

// ints makes a point of each number.
func ints(all []int, name func(int) string, set func(*Load, int), arms ...string) []curvePoint {
	points := make([]curvePoint, len(all))
	for i, n := range all {
		points[i] = curvePoint{x: float64(i), label: name(n), load: baseLoad, arms: arms}
		set(&points[i].load, n)
	}
	return points
}

func fractions(all []float64) []curvePoint {
	points := make([]curvePoint, len(all))
	for i, f := range all {
		points[i] = curvePoint{label: fmt.Sprintf("%.0f %%", 100*f), load: baseLoad, arms: armNames}
		points[i].load.Fraction = f
	}
	return points
}

// loopCounts are 1, 2, 4, … and the number of cores.
func loopCounts(cores int) (all []int) {
	for n := 1; n < cores; n *= 2 {
		all = append(all, n)
	}
	return append(all, cores)
}

// plain writes thousands apart.
func plain(n int) string {
	text := strconv.Itoa(n)
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return strconv.Itoa(n/1_000_000) + "M"
	case n >= 10_000 && n%1000 == 0:
		return strconv.Itoa(n/1000) + "k"
	case n >= 1000:
		return text[:len(text)-3] + "," + text[len(text)-3:]
	}
	return text
}

func bytesName(n int) string {
	if n >= 1<<10 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// step is one cell of the plan: an arm at a point of a curve.
type step struct {
	curve *curve
	point *curvePoint
	arm   string
	pool  int // 0: no pool to choose, or the one that was chosen
}

func (s step) String() string {
	name := s.arm
	if s.pool > 0 {
		name = fmt.Sprintf("%s (pool of %d)", s.arm, s.pool)
	}
	return fmt.Sprintf("%s, %s %s: %s", s.curve.name, s.point.label, strings.TrimPrefix(s.curve.x, "messages/s "), name)
}

// steps are one round's. Arms take turns at each point, so that what is compared is
// measured within seconds.
func (c *curve) steps(pools []int) (all []step) {
	for i := range c.points {
		p := &c.points[i]
		for _, arm := range p.arms {
			sizes := []int{0}
			if c.name == curveArms && slices.Contains(pooledArms, arm) {
				sizes = pools
				if p.load.Connections == 1 {
					sizes = pools[:1] // one client uses one connection of a pool, whatever its size
				}
			}
			for _, size := range sizes {
				all = append(all, step{curve: c, point: p, arm: arm, pool: size})
			}
		}
	}
	return all
}

// times are how long a cell is loaded, and what it takes beside that: the table is
// emptied, a checkpoint is written, what was answered is compared with the rows.
type times struct{ warm, window, beside time.Duration }

func (t times) cell() time.Duration { return t.warm + t.window + t.beside }

// roundCost is about how long a round of these curves takes.
func roundCost(all []curve, pools []int, t times) (steps int, d time.Duration) {
	for i := range all {
		steps += len(all[i].steps(pools))
	}
	return steps, time.Duration(steps) * t.cell()
}
