package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// goal is what this project wants of itself: a ratio, or a count, of one run.
type goal struct {
	name     string
	relation string // ≥ or ≤
	bound    float64
	from     string // the curve or the command that it is made of
	values   func(r *Report) []float64
	each     bool // no round may pass the bound
}

// goals are held against each report. What a run did not measure is said to be so.
var goals = slices.Concat(
	[]goal{
		against("messages: push / push-legacy, 64 connections", "≥", 5, rateOf, armLegacy, 64),
		against("messages: push / push-legacy, 256 connections", "≥", 5, rateOf, armLegacy, 256),
		against("p50: push / push-legacy, 64 connections", "≤", 1./5, p50Of, armLegacy, 64),
		against("p50: push / push-legacy, 256 connections", "≤", 1./5, p50Of, armLegacy, 256),
		against("server CPU a message: push / push-legacy, 64 connections", "≤", 1./4, serverCPUOf, armLegacy, 64),
		against("server CPU a message: push / push-legacy, 256 connections", "≤", 1./4, serverCPUOf, armLegacy, 256),
		against("messages: push / net/http+pgxpool, 64 connections", "≥", 5, rateOf, armBaseline, 64),
		against("server CPU a message: push / net/http+pgxpool, 64 connections", "≤", 1./6, serverCPUOf, armBaseline, 64),
		alone("voluntary context switches a message, 64 connections", "≤", 0.25, voluntaryOf, 64),
		against("voluntary context switches: push / push-legacy, 64 connections", "≤", 1./3, voluntaryOf, armLegacy, 64),
		alone("allocations a message, 64 connections", "≤", 0.1, allocationsOf, 64),
		inEachRound(alone("resident MiB, 256 connections, in each round", "≤", 40, rssOf, 256)),
		{name: "messages: 1 partition / 100", relation: "≥", bound: 0.7, from: curvePartitions, values: func(r *Report) []float64 { return r.partitions(1) }},
		{name: "messages: 1,000 random partitions / 100", relation: "≥", bound: 0.7, from: curvePartitions, values: func(r *Report) []float64 { return r.partitions(1000) }},
		{name: "messages: a table of 1M rows / an empty one", relation: "≥", bound: 0.8, from: curveRows, values: func(r *Report) []float64 { return r.stored(1_000_000) }},
		{name: "messages: a table of 10M rows / an empty one", relation: "≥", bound: 0.8, from: curveRows, values: func(r *Report) []float64 { return r.stored(10_000_000) }},
	},
	[]goal{
		{name: "rows/s: push, 100 a request, 64 connections / floor, unnest", relation: "≥", bound: 0.75, from: curveBatch, values: func(r *Report) []float64 { return r.floor(rateOf) }},
		{name: "PostgreSQL CPU a row: push, 100 a request, 64 connections / floor, unnest", relation: "≤", bound: 1.35, from: curveBatch, values: func(r *Report) []float64 { return r.floor(postgresCPUOf) }},
		{name: "rows/s: push, 1 a request, 256 connections / floor, 100 rows a statement", relation: "≥", bound: 0.6, from: curveArms, values: func(r *Report) []float64 { return r.atMost(rateOf, armHundred) }},
		{name: "server CPU a message: push / hello, 256 connections", relation: "≤", bound: 1.4, from: curveArms, values: func(r *Report) []float64 { return r.atMost(serverCPUOf, armHello) }},
		{name: "messages: pop + ack / push, 100 a request, 8 connections", relation: "≥", bound: 0.6, from: curveModes, values: func(r *Report) []float64 { return r.popped(modePopAck) }},
		{name: "messages: pop with autoAck / push, 100 a request, 8 connections", relation: "≥", bound: 1, from: curveModes, values: func(r *Report) []float64 { return r.popped(modePopAuto) }},
		figured("wake", "p50 autoAck / (p50 push + p50 pop)", "≤", 1.2),
		figured("wake", "p50 ack / (p50 push + p50 pop)", "≤", 1.2),
		whereFlushesAreQuick(figured("wake", "p99 ms autoAck", "≤", 10)),
		whereFlushesAreQuick(figured("wake", "p99 ms ack", "≤", 10)),
	},
)

// armAt matches an arm, with a pool of that size, at so many connections.
func armAt(arm string, pool, connections int) func(*Sample) bool {
	return func(s *Sample) bool { return s.Series == arm && s.Pool == pool && s.Load.Connections == connections }
}

// inEachRound is a goal that no round may miss.
func inEachRound(g goal) goal {
	g.each = true
	return g
}

// against divides push by another arm, whose pool is at its best.
func against(name, relation string, bound float64, f figure, other string, connections int) goal {
	return goal{name: name, relation: relation, bound: bound, from: curveArms, values: func(r *Report) []float64 {
		c := r.curve(curveArms)
		return c.at(f, armAt(armLoop, 0, connections)).over(c.at(f, armAt(other, bestPool(c.cells(), other, connections), connections)))
	}}
}

// alone is a figure of push.
func alone(name, relation string, bound float64, f figure, connections int) goal {
	return goal{name: name, relation: relation, bound: bound, from: curveArms, values: func(r *Report) []float64 {
		return r.curve(curveArms).at(f, armAt(armLoop, 0, connections)).values()
	}}
}

// figured is a goal of another command, which ran as a part of this one.
func figured(command, name, relation string, bound float64) goal {
	return goal{name: name, relation: relation, bound: bound, from: command, values: func(r *Report) []float64 {
		for _, f := range r.Figures {
			for _, g := range f.Goals {
				if f.Command == command && g.Name == name {
					return g.Values
				}
			}
		}
		return nil
	}}
}

// flushMax is the slowest disk, in µs a flush, that a bound on milliseconds is for.
const flushMax = 1000

// whereFlushesAreQuick is a goal that is not for slow disks.
func whereFlushesAreQuick(g goal) goal {
	values := g.values
	g.values = func(r *Report) []float64 {
		if r.FlushBefore > flushMax {
			return nil
		}
		return values(r)
	}
	return g
}

// partitions divides push's messages/s with n partitions by those with 100.
func (r *Report) partitions(n int) []float64 {
	at := func(n int) rounds {
		return r.curve(curvePartitions).at(rateOf, func(s *Sample) bool { return s.Series == armLoop && s.Load.Partitions == n })
	}
	return at(n).over(at(100))
}

// stored divides push's messages/s with n rows in the table by those with none.
func (r *Report) stored(n int) []float64 {
	at := func(n int) rounds {
		return r.curve(curveRows).at(rateOf, func(s *Sample) bool { return s.Series == armLoop && s.Load.Rows == n })
	}
	return at(n).over(at(0))
}

// floor divides push with 100 messages a request by the unnest floor.
func (r *Report) floor(f figure) []float64 {
	c := r.curve(curveBatch)
	at := func(series string) rounds {
		return c.at(f, func(s *Sample) bool { return s.Series == series && s.Load.Batch == 100 })
	}
	return at(armLoop).over(at(armUnnest))
}

// atMost divides push at 256 connections by something that was measured there too.
func (r *Report) atMost(f figure, other string) []float64 {
	at := func(series string) rounds {
		return r.curve(curveArms).at(f, func(s *Sample) bool { return s.Series == series && s.Load.Connections == 256 })
	}
	return at(armLoop).over(at(other))
}

// popped divides consumers by producers.
func (r *Report) popped(mode string) []float64 {
	c := r.curve(curveModes)
	at := func(label string) rounds {
		return c.at(rateOf, func(s *Sample) bool { return c.Labels[s.Point] == label })
	}
	return at(mode).over(at(modePush))
}

// cells of a curve, without their points.
func (c *Curve) cells() (all []Cell) {
	if c == nil {
		return nil
	}
	for _, s := range c.Samples {
		all = append(all, s.Cell)
	}
	return all
}

// judge holds the report against the goals.
func (r *Report) judge(goals []goal) {
	r.Goals = nil
	for _, g := range goals {
		r.Goals = append(r.Goals, &Goal{Name: g.name, Bound: g.bound, AtLeast: g.relation == "≥", Each: g.each, From: g.from, Values: g.values(r)})
	}
}

// Relation is how a value stands to the bound when it is met.
func (g *Goal) Relation() string {
	if g.AtLeast {
		return "≥"
	}
	return "≤"
}

// Verdict is met, MISSED or not measured.
func (g *Goal) Verdict() string {
	switch {
	case len(g.Values) == 0:
		return "not measured"
	case g.Met():
		return "met"
	}
	return "MISSED"
}

// BoundText is the bound in three digits.
func (g *Goal) BoundText() string { return number(g.Bound) }

// Median and Spread are of the rounds, as text.
func (g *Goal) Median() string {
	if len(g.Values) == 0 {
		return "-"
	}
	return number(median(g.Values))
}

func (g *Goal) Spread() string {
	if len(g.Values) == 0 {
		return ""
	}
	_, low, high := spread(g.Values)
	return fmt.Sprintf("%s-%s", number(low), number(high))
}

// printGoals lists each with its bound, the median of the rounds, how far they were
// spread, and the verdict.
func printGoals(out io.Writer, goals []*Goal) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "goal\tmedian\tfrom-to\t")
	for _, g := range goals {
		fmt.Fprintf(t, "%s %s %s\t%s\t%s\t%s\n", g.Name, g.Relation(), number(g.Bound), g.Median(), g.Spread(), g.Verdict())
	}
	t.Flush()
}
