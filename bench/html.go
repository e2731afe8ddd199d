package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/queend/queend/bench/load"
)

// The page is one file: its style is in it, its plots are inline SVG, it has no script
// and fetches nothing.
//
//go:embed html_report.tmpl
var pageText string

var pageTemplate = template.Must(template.New("report").Parse(pageText))

// page is what the template is given.
type page struct {
	*Report
	Setup    [][2]string
	Settings [][2]string
	Sections []section
	Met      int
	Missed   int
	Unheard  int // goals that were not measured

	Dishonest error // a server lost messages, or stored some that nobody was told of
}

// section is a curve: plots for the eye, a table for the rest.
type section struct {
	Name, Title, Note string
	Charts            []template.HTML
	Head              []string
	Rows              [][]string
	Ratios            [][]string // name, then a value for each point
	RatioHead         []string
}

// HTML writes the report as a page.
func (r *Report) HTML(out io.Writer) error {
	p := page{Report: r, Setup: r.setup(), Dishonest: r.verdict()}
	for _, name := range slices.Sorted(maps.Keys(r.PostgreSQL.Settings)) {
		p.Settings = append(p.Settings, [2]string{name, r.PostgreSQL.Settings[name]})
	}
	for _, g := range r.Goals {
		switch {
		case len(g.Values) == 0:
			p.Unheard++
		case g.Met():
			p.Met++
		default:
			p.Missed++
		}
	}
	for _, c := range r.Curves {
		p.Sections = append(p.Sections, c.section())
	}
	return pageTemplate.Execute(out, p)
}

// setup is what the reader needs to judge the figures, and to repeat them.
func (r *Report) setup() [][2]string {
	commit := r.Commit
	if r.Dirty {
		commit += ", and changes that are not committed"
	}
	all := [][2]string{
		{"Command", r.Command},
		{"Begun", r.Started.Format("2006-01-02 15:04:05 MST") + fmt.Sprintf(", took %s", short(seconds(r.Took)))},
		{"Commit", commit},
		{"Machine", fmt.Sprintf("%s, %d cores, %.1f GiB", r.Machine.CPU, r.Machine.Cores, float64(r.Machine.MemoryBytes)/(1<<30))},
		{"System", fmt.Sprintf("%s, Linux %s, %s", r.Machine.System, r.Machine.Kernel, r.Machine.Go)},
		{"PostgreSQL", r.PostgreSQL.Version},
		{"Flush", fmt.Sprintf("%.0f µs before, %.0f µs after: an 8 KiB write and fdatasync, median", r.FlushBefore, r.FlushAfter)},
		{"Load average", fmt.Sprintf("%.1f before and after: what else the machine did", r.Load)},
		{"Rounds", fmt.Sprintf("%d; in each, every cell was warmed for %.2g s and measured for %.2g s, at a rate twice as long; for %.2g s at least where a goal is made of it", r.Rounds, r.Warm, r.Window, judged.window.Seconds())},
		{"Seed", fmt.Sprint(r.Seed)},
	}
	if len(r.Floors) > 0 {
		p := limit(r.Floors)
		all = append(all, [2]string{"Limit", fmt.Sprintf("%s rows/s by %s with %d rows a statement over %d connections: the most that PostgreSQL took here, in a sweep of %d ways", number(p.Rate), p.Way, p.Batch, p.Conns, len(r.Floors))})
	}
	return all
}

// section makes plots and a table of a curve.
func (c *Curve) section() section {
	s := section{Name: c.Name, Title: c.Title, Note: c.Note}
	for _, ch := range c.charts() {
		if svg := ch.svg(); svg != "" {
			s.Charts = append(s.Charts, template.HTML(svg)) // ours; its text is escaped
		}
	}
	s.Head = append([]string{c.X, "arm"}, columnNames()...)
	for _, row := range c.rows() {
		cells := []string{c.Labels[row.point], row.arm}
		for _, column := range columns {
			cells = append(cells, column.of(row.samples))
		}
		s.Rows = append(s.Rows, cells)
	}
	s.RatioHead, s.Ratios = c.ratioTable()
	return s
}

// slot gives each arm its looks, in all charts.
func slot(series string) int {
	return max(0, slices.Index(slices.Concat(armNames, []string{armExternal, armHello, armUnnest, armHundred, armCapacity}), series))
}

// charts are the plots of a curve.
func (c *Curve) charts() []*chart {
	switch c.Name {
	case curveArms, curveModes:
		return nil // these are for a table
	case curveRate:
		return c.rateCharts()
	}
	return []*chart{
		c.chart("Messages per second", "messages/s", true, rateOf),
		c.ratioChart(),
		c.chart("Server CPU per message", "µs of CPU", false, serverCPUOf),
		c.chart("PostgreSQL CPU per message", "µs of CPU", true, postgresCPUOf),
		c.chart("Latency, median", "p50, ms", false, p50Of),
		c.chart("Latency, 99 %", "p99, ms", false, p99Of),
	}
}

// rateCharts are the plots of an open loop: a percentile against the rate, and all
// percentiles at some rates.
func (c *Curve) rateCharts() (all []*chart) {
	for _, q := range []struct {
		title, y string
		of       figure
	}{{"Median", "p50, ms", p50Of}, {"99 %", "p99, ms", p99Of}, {"99.9 %", "p99.9, ms", p999Of}, {"The slowest", "max, ms", maxOf}} {
		ch := &chart{Title: q.title, X: c.X, Y: q.y, Scale: linear, YLog: true}
		for _, arm := range c.arms() {
			s := series{Name: arm, Slot: slot(arm)}
			for i, label := range c.Labels {
				match := func(s *Sample) bool { return s.Point == i && s.Series == arm }
				if label == saturated || len(c.at(q.of, match)) == 0 {
					continue
				}
				y, low, high := spread(c.at(q.of, match).values())
				s.Points = append(s.Points, point{X: median(c.at(offeredOf, match).values()), Y: y, Low: low, High: high})
			}
			slices.SortFunc(s.Points, func(a, b point) int { return cmp.Compare(a.X, b.X) })
			ch.Series = append(ch.Series, s)
		}
		all = append(all, ch)
	}
	for _, label := range []string{"50 %", "80 %", "90 %"} {
		all = append(all, c.percentiles("Each at "+label+" of what it carries", map[string]string{"": label}))
	}
	return append(all, c.percentiles("At the same rate: 80 % of what the pool carries", map[string]string{armLoop: samePoolRate, armLegacy: "80 %"}))
}

// percentiles draws all percentiles of the arms, each at a point; "" stands for any
// arm. What is drawn is the median of the rounds at each percentile that is a tick or
// between two.
func (c *Curve) percentiles(title string, points map[string]string) *chart {
	ch := &chart{Title: title, X: "percentile", Y: "ms", Scale: percentile, YLog: true}
	for _, arm := range c.arms() {
		label, ok := points[arm]
		if !ok {
			label, ok = points[""]
		}
		if !ok {
			continue
		}
		s := series{Name: arm, Slot: slot(arm)}
		for _, q := range percentileSteps {
			var all []float64
			for i := range c.Samples {
				d := &c.Samples[i]
				if d.Series == arm && c.Labels[d.Point] == label && d.Curves != nil {
					if v, ok := atPercentile(d.Curves.Latency, q); ok {
						all = append(all, v/1000)
					}
				}
			}
			if len(all) > 0 {
				s.Points = append(s.Points, point{X: q, Y: median(all), Low: median(all), High: median(all)})
			}
		}
		ch.Series = append(ch.Series, s)
	}
	return ch
}

// percentileSteps are where a percentile curve is drawn: ten between two ticks.
var percentileSteps = func() (all []float64) {
	for i := range 41 {
		all = append(all, 100-100*math.Pow(10, -float64(i)/10))
	}
	return all
}()

// atPercentile reads a percentile curve: the first point that is not below q. Beyond
// the last point but one there are no samples to tell.
func atPercentile(curve []load.Point, q float64) (micros float64, ok bool) {
	if len(curve) < 2 || q > curve[len(curve)-2].Percent {
		return 0, false
	}
	i := slices.IndexFunc(curve, func(p load.Point) bool { return p.Percent >= q-1e-9 })
	return float64(curve[max(i, 0)].Micros), i >= 0
}

// chart draws a figure of all arms; floors too, where they have it.
func (c *Curve) chart(title, y string, floors bool, f figure) *chart {
	ch := &chart{Title: title, X: c.X, Y: y, Labels: c.Labels}
	for _, arm := range c.arms() {
		floor := isFloor(arm) // has no x: a line across
		if floor && !floors {
			continue
		}
		ch.add(arm, slot(arm), c, func(point int) []float64 {
			return c.at(f, func(s *Sample) bool { return (s.Point == point || floor) && s.Series == arm }).values()
		})
	}
	return ch
}

// ratioChart shows push against the others, made within rounds.
func (c *Curve) ratioChart() *chart {
	ch := &chart{Title: "Messages: /push over another arm", X: c.X, Y: "times as many", Labels: c.Labels}
	for _, arm := range c.arms() {
		if arm != armLoop && !isFloor(arm) {
			ch.add("push / "+arm, slot(arm), c, func(point int) []float64 { return c.ratio(rateOf, arm, point) })
		}
	}
	return ch
}

// ratio divides push by another arm at a point, round by round.
func (c *Curve) ratio(f figure, arm string, point int) []float64 {
	at := func(arm string) rounds {
		return c.at(f, func(s *Sample) bool { return s.Point == point && s.Series == arm })
	}
	return at(armLoop).over(at(arm))
}

// add makes a series of a value at each point, and lets the axis be logarithmic where
// values are far apart.
func (ch *chart) add(name string, slot int, c *Curve, values func(point int) []float64) {
	s := series{Name: name, Slot: slot}
	for i := range c.Labels {
		if all := values(i); len(all) > 0 {
			mid, low, high := spread(all)
			s.Points = append(s.Points, point{X: float64(i), Y: mid, Low: low, High: high})
		}
	}
	ch.Series = append(ch.Series, s)
	ch.YLog = ch.apart() > logFrom
}

// apart is how many times the highest point is the lowest.
func (ch *chart) apart() float64 {
	low, high := 0.0, 0.0
	for _, s := range ch.Series {
		for _, q := range s.Points {
			if q.Y > 0 && (low == 0 || q.Y < low) {
				low = q.Y
			}
			high = max(high, q.Y)
		}
	}
	if low == 0 {
		return 1
	}
	return high / low
}

// tableRow is one arm at one point, over all rounds.
type tableRow struct {
	point   int
	arm     string
	first   int // index of its first sample
	samples row
}

func (c *Curve) rows() (all []tableRow) {
	type key struct {
		point, pool int
		arm         string
	}
	at := map[key]int{}
	for n, s := range c.Samples {
		k := key{s.Point, s.Pool, s.Series}
		i, ok := at[k]
		if !ok {
			i = len(all)
			at[k] = i
			name := s.Series
			switch {
			case s.Pool > 0:
				name = fmt.Sprintf("%s (%d)", s.Series, s.Pool)
			case s.Series != s.Arm:
				name = fmt.Sprintf("%s: %s", s.Series, s.Arm)
			}
			all = append(all, tableRow{point: s.Point, arm: name, first: n})
		}
		all[i].samples = append(all[i].samples, s.Cell)
	}
	slices.SortStableFunc(all, func(a, b tableRow) int {
		return cmp.Or(a.point-b.point, slot(c.Samples[a.first].Series)-slot(c.Samples[b.first].Series))
	})
	return all
}

// columns of a curve's table.
var columns = []struct {
	name string
	of   func(row) string
}{
	{"msg/s", func(r row) string { return number(r.median(rate)) }},
	{"from–to", func(r row) string {
		_, low, high := spread(r.all(rate))
		return number(low) + "–" + number(high)
	}},
	{"p50 ms", func(r row) string { return number(r.median(func(c Cell) float64 { return c.P50 / 1000 })) }},
	{"p99 ms", func(r row) string { return number(r.median(func(c Cell) float64 { return c.P99 / 1000 })) }},
	{"p99.9 ms", func(r row) string { return number(r.median(func(c Cell) float64 { return c.P999 / 1000 })) }},
	{"max ms", func(r row) string { return number(r.median(func(c Cell) float64 { return c.Max / 1000 })) }},
	{"server µs", func(r row) string { return number(r.median(func(c Cell) float64 { return c.ServerCPU })) }},
	{"PG µs", func(r row) string { return number(r.median(func(c Cell) float64 { return c.PostgresCPU })) }},
	{"load µs", func(r row) string { return number(r.median(func(c Cell) float64 { return c.GeneratorCPU })) }},
	{"vol sw", func(r row) string { return number(r.median(func(c Cell) float64 { return c.Voluntary })) }},
	{"invol sw", func(r row) string { return number(r.median(func(c Cell) float64 { return c.Involuntary })) }},
	{"syscalls", func(r row) string {
		if n := slices.Max(r.all(func(c Cell) float64 { return c.Syscalls })); n > 0 {
			return number(n) // counted in one round
		}
		return "-"
	}},
	{"allocs", func(r row) string { return number(r.median(func(c Cell) float64 { return c.Allocations })) }},
	{"per commit", func(r row) string {
		if n := r.median(func(c Cell) float64 { return c.PerCommit }); n > 0 {
			return number(n)
		}
		return "-"
	}},
	{"WAL B", func(r row) string { return number(r.median(func(c Cell) float64 { return c.WALBytes })) }},
	{"RSS MiB", func(r row) string {
		return number(r.median(func(c Cell) float64 { return float64(c.RSS) / (1 << 20) }))
	}},
	{"rows = answers", func(r row) string { return r.verdict() }},
}

func columnNames() (all []string) {
	for _, c := range columns {
		all = append(all, c.name)
	}
	return all
}

// ratioTable lists push against the other arms at each point.
func (c *Curve) ratioTable() (head []string, table [][]string) {
	if c.Name == curveRate || c.Name == curveModes {
		return nil, nil // arms are offered different rates; there is one arm
	}
	figures := []struct {
		name string
		of   figure
	}{{"messages", rateOf}, {"p50", p50Of}, {"server CPU", serverCPUOf}, {"PostgreSQL CPU", postgresCPUOf}}
	for _, arm := range c.arms() {
		if arm == armLoop {
			continue
		}
		for _, f := range figures {
			line := []string{fmt.Sprintf("%s: push / %s", f.name, arm)}
			for point := range c.Labels {
				cell := ""
				if all := c.bestRatio(f.of, arm, point); len(all) > 0 {
					mid, low, high := spread(all)
					cell = fmt.Sprintf("%s (%s–%s)", number(mid), number(low), number(high))
				}
				line = append(line, cell)
			}
			if strings.Join(line[1:], "") != "" {
				table = append(table, line)
			}
		}
	}
	return append([]string{c.X}, c.Labels...), table
}

// bestRatio is ratio with the arm's best pool at that point.
func (c *Curve) bestRatio(f figure, arm string, point int) []float64 {
	best := c.best(arm, point)
	if len(best) == 0 {
		return nil
	}
	at := func(arm string, pool int) rounds {
		return c.at(f, func(s *Sample) bool { return s.Point == point && s.Series == arm && s.Pool == pool })
	}
	return at(armLoop, 0).over(at(arm, best[0].Pool))
}
