package main

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes the results in the form in which README.md keeps them: the goals, and
// of each curve the messages/s of all arms and the costs of push.
func (r *Report) Markdown(out io.Writer) {
	changes := ""
	if r.Dirty {
		changes = " and changes"
	}
	fmt.Fprintf(out, "`%s`, commit %.7s%s, seed %d, %s: %d cores (%s) for all, %s, %s, %d rounds of %g s. A flush takes %.0f µs, load average %.1f.\n\n",
		r.Command, r.Commit, changes, r.Seed, r.Started.Format("2006-01-02"), r.Machine.Cores, r.Machine.CPU, r.Machine.Go, postgresName(r.PostgreSQL.Version), r.Rounds, r.Window, r.FlushBefore, r.Load)
	tableLine(out, "goal", "bound", "median", "rounds", "")
	tableLine(out, "---", "---", "---", "---", "---")
	for _, g := range r.Goals {
		tableLine(out, g.Name, g.Relation()+" "+g.BoundText(), g.Median(), g.Spread(), g.Verdict())
	}
	for _, c := range r.Curves {
		fmt.Fprintf(out, "\n%s, messages/s:\n\n", c.Title)
		c.markdown(out)
	}
}

// postgresName is "PostgreSQL 15.18" of what version() says.
func postgresName(version string) string {
	words := strings.Fields(version)
	return strings.Join(words[:min(2, len(words))], " ")
}

func tableLine(out io.Writer, cells ...string) {
	fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | "))
}

// markdown is a line for each point. Of an arm with several pools, the best stands for
// all.
func (c *Curve) markdown(out io.Writer) {
	head, rule := []string{c.X}, []string{"---"}
	for _, arm := range c.arms() {
		head, rule = append(head, arm), append(rule, "---")
	}
	tableLine(out, append(head, "push: p50; p99 ms", "push: server; PostgreSQL µs")...)
	tableLine(out, append(rule, "---", "---")...)
	for point, label := range c.Labels {
		line := []string{label}
		var push row
		for _, arm := range c.arms() {
			best := c.best(arm, point)
			if arm == armLoop {
				push = best
			}
			line = append(line, best.rates())
		}
		latency, cpu := "", ""
		if len(push) > 0 {
			m := func(f figure) string { return number(push.median(func(c Cell) float64 { return f(&c) })) }
			latency, cpu = m(p50Of)+"; "+m(p99Of), m(serverCPUOf)+"; "+m(postgresCPUOf)
		}
		tableLine(out, append(line, latency, cpu)...)
	}
}

// best is an arm at a point, with the pool that carried most.
func (c *Curve) best(arm string, point int) (best row) {
	for _, r := range c.rows() {
		if r.point == point && c.Samples[r.first].Series == arm && (best == nil || r.samples.median(rate) > best.median(rate)) {
			best = r.samples
		}
	}
	return best
}

// rates are the median of the rounds, and in brackets the lowest and the highest.
func (r row) rates() string {
	if len(r) == 0 {
		return ""
	}
	mid, low, high := spread(r.all(rate))
	return fmt.Sprintf("%s (%s-%s)", number(mid), number(low), number(high))
}
