package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/queend/queend/bench/floor"
)

// Load is what an arm is measured under: everything that a curve varies, and what it
// holds.
type Load struct {
	Connections  int     `json:"connections"`
	Batch        int     `json:"batch"` // messages in a request
	Partitions   int     `json:"partitions"`
	PayloadBytes int     `json:"payload_bytes"`
	Fraction     float64 `json:"fraction_of_saturated,omitempty"` // an open loop at this part of what the arm carried in the curve's closed loop
	FractionOf   string  `json:"fraction_of_arm,omitempty"`       // or of what that arm carried
	Rate         float64 `json:"rate,omitempty"`                  // an open loop, messages/s
	Rows         int     `json:"rows,omitempty"`                  // in the table when the run began; 0: emptied each time
	Loops        int     `json:"loops,omitempty"`                 // of queend; 0: as many as it makes by itself

	Mode      string `json:"mode,omitempty"` // of package load; empty: push
	Consumers int    `json:"consumers,omitempty"`
	PopBatch  int    `json:"pop_batch,omitempty"`
	AutoAck   bool   `json:"auto_ack,omitempty"`
	Groups    int    `json:"groups,omitempty"`
	Backlog   int    `json:"backlog,omitempty"`
}

// baseLoad is what every curve holds but for what it varies.
var baseLoad = Load{Connections: 64, Batch: 1, Partitions: 100, PayloadBytes: 200}

// curve is one thing varied: points on its axis, each measured with each of its arms.
// It is a plan; Curve is what became of it.
type curve struct {
	name, title string
	x           string // the axis, with its unit
	note        string
	points      []curvePoint
}

// curvePoint is one value of x.
type curvePoint struct {
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
	curveModes       = "modes"
)

var curveNames = []string{curveArms, curveConnections, curveBatch, curvePartitions, curvePayload, curveRows, curveLoops, curveRate, curveModes}

// The floors that are measured by turns with the other arms, as they are called there.
// Each is the best that a sweep has found.
const (
	armUnnest   = "floor, unnest"
	armHundred  = "floor, 100 rows a statement"
	armCapacity = "floor, the best"
)

// floorKind is a floor that is measured: the best of this way and batch; "" and 0 stand for any.
type floorKind struct {
	arm   string
	way   string
	batch int
}

var floorKinds = []floorKind{{armUnnest, floor.Unnest, 0}, {armHundred, "", 100}, anyFloor}

var anyFloor = floorKind{arm: armCapacity}

// floorKindOf is the kind that an arm is the best of, if it is a floor.
func floorKindOf(arm string) (k floorKind, ok bool) {
	i := slices.IndexFunc(floorKinds, func(k floorKind) bool { return k.arm == arm })
	if i < 0 {
		return k, false
	}
	return floorKinds[i], true
}

func isFloor(arm string) bool {
	_, ok := floorKindOf(arm)
	return ok
}

// sizes are the values of x that a run takes: those of the short report, and all.
type sizes struct {
	connections, batch, partitions, payload, rows []int
	fractions                                     []float64
}

var shortSizes = sizes{
	connections: []int{1, 16, 64, 256, 1024},
	batch:       []int{1, 10, 100, 1000},
	partitions:  []int{1, 10, 100, 1000, 10_000},
	payload:     []int{20, 200, 2 << 10, 64 << 10},
	rows:        []int{0, 100_000, 1_000_000},
	fractions:   []float64{0.2, 0.5, 0.8, 0.9},
}

var fullSizes = sizes{
	connections: []int{1, 4, 16, 64, 256, 1024},
	batch:       shortSizes.batch,
	partitions:  []int{1, 10, 100, 1000, 10_000, 100_000},
	payload:     []int{20, 200, 2 << 10, 16 << 10, 64 << 10},
	rows:        []int{0, 10_000, 100_000, 1_000_000, 10_000_000},
	fractions:   []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05},
}

// pooledArms are those with a pool to choose.
var pooledArms = []string{armLegacy, armBaseline}

// curves makes the plan of one round.
func curves(s sizes, cores int) []curve {
	return []curve{
		{name: curveArms, title: "All arms", x: "connections", points: armPoints(),
			note: "hello is the loop's server asked for GET /livez, which touches no database: what a request costs as such. The floor puts the same rows into the same table with pgconn alone: no HTTP, no order, no heads."},
		{name: curveConnections, title: "Against connections", x: "connections",
			points: ints(s.connections, plain, func(l *Load, n int) { l.Connections = n }, armNames...)},
		{name: curveBatch, title: "Against the batch", x: "messages in a request", points: batchPoints(s.batch),
			note: "64 connections; 8 where a request has 1,000 messages, since 64 of them would be more than a second's work in flight. The floor is at its best size, whatever the batch of the others."},
		{name: curvePartitions, title: "Against the partitions that are pushed to", x: "partitions",
			points: ints(s.partitions, plain, func(l *Load, n int) { l.Partitions = n }, armLoop, armLegacy)},
		{name: curvePayload, title: "Against the payload", x: "payload",
			points: ints(s.payload, bytesName, func(l *Load, n int) { l.PayloadBytes = n }, armLoop, armLegacy)},
		{name: curveRows, title: "Against what is stored", x: "rows in the table", note: "Each size is a database of its own, filled beforehand and pushed to in the same partitions.",
			points: ints(s.rows, plain, func(l *Load, n int) { l.Rows = n }, armLoop, armLegacy)},
		{name: curveLoops, title: "Against the event loops", x: "loops",
			points: ints(loopCounts(cores), plain, func(l *Load, n int) { l.Loops = n }, armLoop, armLegacy)},
		{name: curveRate, title: "Latency against the offered rate", x: "messages/s offered", points: ratePoints(s.fractions),
			note: "An open loop over 256 connections: requests are sent when they are due, and latency counts from then, whatever the server does meanwhile. Each arm is offered fractions of what it carried in a closed loop in the same round; and /push, once more, 80 % of what the pool carries."},
		{name: curveModes, title: "Consumers", x: "load", points: modePoints(),
			note: "A message is a delivery where consumers are what is measured. pop: 8 consumers empty a full queue, latency is a pop's. pipeline: 100 messages/s, latency from when a push was due to the message at a consumer that waits. fan-out: 3 groups get 500 messages/s each. mixed: pushes while consumers are at work."},
	}
}

// armPoints are where every arm is measured, with every pool; next to push those that take a
// moment.
func armPoints() []curvePoint {
	points := ints([]int{1, 64, 256}, plain, func(l *Load, n int) { l.Connections = n }, armHello, armLoop, armLegacy, armBaseline)
	points[2].arms = slices.Insert(slices.Clone(points[2].arms), 0, armHundred)
	return points
}

// batchPoints have the floor where a request has a hundred messages.
func batchPoints(all []int) []curvePoint {
	points := ints(all, plain, func(l *Load, n int) { l.Batch = n }, armNames...)
	for i := range points {
		switch points[i].load.Batch {
		case 100:
			points[i].arms = append(slices.Clone(points[i].arms), armUnnest, armCapacity)
		case 1000:
			points[i].load.Connections = 8
		}
	}
	return points
}

// saturated is the point of the rate curve that the others are fractions of.
const saturated = "closed loop"

func ratePoints(fractions []float64) []curvePoint {
	points := []curvePoint{{label: saturated, load: baseLoad, arms: armNames}}
	for _, f := range fractions {
		p := curvePoint{label: fmt.Sprintf("%.0f %%", 100*f), load: baseLoad, arms: armNames}
		p.load.Fraction = f
		points = append(points, p)
	}
	same := curvePoint{label: samePoolRate, load: baseLoad, arms: []string{armLoop}}
	same.load.Fraction, same.load.FractionOf = 0.8, armLegacy
	points = append(points, same)
	for i := range points {
		points[i].load.Connections = 256
	}
	return points
}

// samePoolRate is the point at which push has the rate of the pool's own 80 %.
const samePoolRate = "80 % of the pool's"

// The points of the modes.
const (
	modePush    = "push"
	modePopAuto = "pop, autoAck"
	modePopAck  = "pop + ack"
)

func modePoints() []curvePoint {
	batch := Load{Connections: 8, Batch: 100, Partitions: 100, PayloadBytes: 200}
	pop := batch
	pop.Mode, pop.Consumers, pop.PopBatch, pop.Backlog = "pop", 8, 100, 60_000
	auto := pop
	auto.AutoAck = true
	live := Load{Connections: 32, Batch: 1, Partitions: 100, PayloadBytes: 200, Consumers: 8, PopBatch: 100}
	pipeline, fan, mixed := live, live, live
	pipeline.Mode, pipeline.Rate, pipeline.Partitions = "pipeline", 100, 10
	fan.Mode, fan.Rate, fan.Groups, fan.Consumers = "fan-out", 500, 3, 9
	mixed.Mode = "mixed"
	var points []curvePoint
	for _, p := range []struct {
		label string
		load  Load
	}{{modePush, batch}, {modePopAuto, auto}, {modePopAck, pop}, {"pipeline", pipeline}, {"fan-out", fan}, {"mixed", mixed}} {
		points = append(points, curvePoint{label: p.label, load: p.load, arms: []string{armLoop}})
	}
	return points
}

// ints makes a point of each number.
func ints(all []int, name func(int) string, set func(*Load, int), arms ...string) []curvePoint {
	points := make([]curvePoint, len(all))
	for i, n := range all {
		points[i] = curvePoint{label: name(n), load: baseLoad, arms: arms}
		set(&points[i].load, n)
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
	return fmt.Sprintf("%s %s: %s", s.curve.name, s.point.label, name)
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

// backwards has the arms of each point take turns the other way round, so that what a server
// leaves behind, or the machine's hour brings, does not always fall on the same.
func backwards(all []step) []step {
	all = slices.Clone(all)
	for from := 0; from < len(all); {
		to := from + 1
		for to < len(all) && all[to].point == all[from].point {
			to++
		}
		slices.Reverse(all[from:to])
		from = to
	}
	return all
}

// times are how long a cell is loaded, and what it takes beside that: the table is
// emptied, a checkpoint is written, what was answered is compared with the rows.
type times struct{ warm, window, beside time.Duration }

func (t times) cell() time.Duration { return t.warm + t.window + t.beside }

// judged are how long at least a cell is measured that a goal is made of: in a shorter time a
// checkpoint's full pages, or what the server keeps for the cell before, are most of it.
var judged = times{warm: 500 * time.Millisecond, window: 2 * time.Second}

// of is how long a step is measured: twice as long at a rate, since the slowest of a
// thousand are looked for and the pool is offered few.
func (t times) of(s step) times {
	if d := &s.point.load; d.Fraction > 0 || d.Rate > 0 {
		t.window *= 2
	}
	if s.isJudged() {
		t.warm, t.window = max(t.warm, judged.warm), max(t.window, judged.window)
	}
	return t
}

// isJudged says whether a goal is made of the step, or it is compared with one that is.
func (s step) isJudged() bool {
	d := &s.point.load
	switch s.curve.name {
	case curveArms:
		return d.Connections > 1
	case curveBatch:
		return d.Batch == 100 && (s.arm == armLoop || s.arm == armUnnest)
	case curvePartitions:
		return s.arm == armLoop && slices.Contains([]int{1, 100, 1000}, d.Partitions)
	case curveRows:
		return s.arm == armLoop && (d.Rows == 0 || d.Rows >= 1_000_000)
	case curveModes:
		return s.point.label == modePush
	}
	return false
}
