package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/queend/queend/bench/proc"
)

// Report is what a run leaves behind: enough to judge it, and to repeat it.
type Report struct {
	Command     string       `json:"command,omitempty"`
	Started     time.Time    `json:"started"`
	Machine     proc.Machine `json:"machine"`
	PostgreSQL  PostgreSQL   `json:"postgresql"`
	Commit      string       `json:"commit"`
	Dirty       bool         `json:"dirty"` // the tree differed from the commit
	Seed        uint64       `json:"seed"`
	Method      string       `json:"method"`
	FlushBefore float64      `json:"flush_us_before"` // median write+fdatasync of 8 KiB
	FlushAfter  float64      `json:"flush_us_after"`
	Load        []float64    `json:"load,omitempty"` // before and after: load average of a minute
	Took        float64      `json:"seconds,omitempty"`
	Rounds      int          `json:"rounds,omitempty"`
	Warm        float64      `json:"warm_seconds,omitempty"`
	Window      float64      `json:"window_seconds,omitempty"`
	Cells       []Cell       `json:"cells,omitempty"`
	Curves      []*Curve     `json:"curves,omitempty"`
	Failures    []string     `json:"failures,omitempty"` // cells that could not be measured
	Floors      []floorPoint `json:"floors,omitempty"`   // of a sweep, the best first
	Figures     []*Figures   `json:"figures,omitempty"`  // of other commands that ran as a part of this one
	Goals       []*Goal      `json:"goals,omitempty"`
}

// PostgreSQL is the server under all arms.
type PostgreSQL struct {
	Version  string            `json:"version"`
	Settings map[string]string `json:"settings"`
}

const method = "closed loop, one message a request, 200-byte payloads, transactionId absent, partitions drawn uniformly from 100; " +
	"client, servers and PostgreSQL share the machine; arms take turns within each round; table emptied and checkpoint written before each measurement; " +
	"every answered id compared with the rows afterwards"

// row is the cells of one arm under one load, over all rounds.
type row []Cell

// rows groups cells by generator, connections, arm and pool, in the order of their
// first measurement.
func rows(cells []Cell) (all []row) {
	at := map[Cell]int{}
	for _, c := range cells {
		key := Cell{Generator: c.Generator, Connections: c.Connections, Arm: c.Arm, Pool: c.Pool}
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			all = append(all, nil)
		}
		all[i] = append(all[i], c)
	}
	slices.SortStableFunc(all, func(a, b row) int {
		return cmp.Or(cmp.Compare(generatorOrder[a[0].Generator], generatorOrder[b[0].Generator]), cmp.Compare(a[0].Connections, b[0].Connections))
	})
	return all
}

var generatorOrder = map[string]int{"closed": 0, "wrk": 1, "ab": 2, "once": 3}

// median of one figure over the rounds.
func (r row) median(figure func(Cell) float64) float64 {
	return median(r.all(figure))
}

// all is one figure of each round.
func (r row) all(figure func(Cell) float64) []float64 {
	all := make([]float64, len(r))
	for i, c := range r {
		all[i] = figure(c)
	}
	return all
}

// median of an even number of values is the mean of the middle two.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func rate(c Cell) float64 { return c.Rate }

// busiest is the wanted number of connections if it was measured, else the highest.
func busiest(cells []Cell, wanted int) (n int) {
	for _, c := range cells {
		if c.Connections == wanted {
			return wanted
		}
		n = max(n, c.Connections)
	}
	return n
}

// bestPool is the pool with which an arm carried most at that many connections.
func bestPool(cells []Cell, arm string, connections int) (pool int) {
	best := -1.0
	for _, r := range rows(cells) {
		c := r[0]
		if c.Generator != "closed" || c.Arm != arm || c.Connections != connections {
			continue
		}
		if m := r.median(rate); m > best {
			best, pool = m, c.Pool
		}
	}
	return pool
}

// Table prints the medians of all rounds, and how far messages/s was spread.
func (r *Report) Table(out io.Writer) {
	r.heading(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "load\tconns\tarm\tpool\tmsg/s\tfrom-to\tp50 ms\tp99 ms\tserver µs\tPG µs\tload µs\tvol sw\tinvol sw\tallocs\tper commit\tWAL B\tRSS MiB\trows = answers\t")
	for _, row := range rows(r.Cells) {
		row.print(t)
	}
	t.Flush()
	fmt.Fprintln(out, "µs are CPU per message; sw are the server's context switches per message; load is the generator's own CPU.")
	fmt.Fprintln(out)
	for _, other := range []string{armLegacy, armBaseline} {
		for _, n := range connectionCounts(r.Cells) {
			r.compare(out, other, n)
		}
	}
}

func (r *Report) heading(out io.Writer) {
	dirty := ""
	if r.Dirty {
		dirty = " + changes"
	}
	fmt.Fprintf(out, "%s · %d cores · %s · %s · %s\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.System, r.Machine.Go)
	fmt.Fprintf(out, "%.40s · commit %.12s%s · seed %d · flush %.0f µs before, %.0f after\n\n",
		r.PostgreSQL.Version, r.Commit, dirty, r.Seed, r.FlushBefore, r.FlushAfter)
}

func (r row) print(t io.Writer) {
	c := r[0]
	rates := r.all(rate)
	pool := "-"
	if c.Pool > 0 {
		pool = fmt.Sprint(c.Pool)
	}
	m := r.median
	perCommit := "-"
	if n := m(func(c Cell) float64 { return c.PerCommit }); n > 0 {
		perCommit = fmt.Sprintf("%.1f", n)
	}
	fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%.0f\t%.0f-%.0f\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%s\t%.0f\t%.0f\t%s\t\n",
		c.Generator, c.Connections, c.Arm, pool, m(rate), slices.Min(rates), slices.Max(rates),
		m(func(c Cell) float64 { return c.P50 })/1000, m(func(c Cell) float64 { return c.P99 })/1000,
		m(func(c Cell) float64 { return c.ServerCPU }), m(func(c Cell) float64 { return c.PostgresCPU }), m(func(c Cell) float64 { return c.GeneratorCPU }),
		m(func(c Cell) float64 { return c.Voluntary }), m(func(c Cell) float64 { return c.Involuntary }), m(func(c Cell) float64 { return c.Allocations }), perCommit,
		m(func(c Cell) float64 { return c.WALBytes }), m(func(c Cell) float64 { return float64(c.RSS) })/(1<<20), r.verdict())
}

// verdict says whether what was answered is what was stored, in all rounds.
func (r row) verdict() string {
	honest, refused := "yes", int64(0)
	for i := range r {
		refused += r[i].Refused
		if !r[i].honest() {
			honest = "NO"
		}
	}
	if refused > 0 {
		honest += fmt.Sprintf(", %d refused", refused)
	}
	return honest
}

func connectionCounts(cells []Cell) (all []int) {
	for _, c := range cells {
		if c.Generator == "closed" && !slices.Contains(all, c.Connections) {
			all = append(all, c.Connections)
		}
	}
	slices.Sort(all)
	return all
}

// compare prints /push against the best pool of another arm, as ratios made within
// each round: the median, and the lowest and highest.
func (r *Report) compare(out io.Writer, other string, connections int) {
	pool := bestPool(r.Cells, other, connections)
	loop, pooled := r.row(armLoop, 0, connections), r.row(other, pool, connections)
	if len(loop) == 0 || len(loop) != len(pooled) {
		return
	}
	ratio := func(figure func(Cell) float64) string {
		all := make([]float64, len(loop))
		for i := range loop {
			all[i] = figure(loop[i]) / figure(pooled[i])
		}
		return fmt.Sprintf("%.2f (%.2f-%.2f)", median(all), slices.Min(all), slices.Max(all))
	}
	fmt.Fprintf(out, "push / %s (pool of %d), %d connections: messages %s · p50 %s · server CPU %s · PostgreSQL CPU %s\n",
		other, pool, connections, ratio(rate), ratio(func(c Cell) float64 { return c.P50 }),
		ratio(func(c Cell) float64 { return c.ServerCPU }), ratio(func(c Cell) float64 { return c.PostgresCPU }))
}

// row finds the cells of one arm under our own load.
func (r *Report) row(arm string, pool, connections int) row {
	for _, row := range rows(r.Cells) {
		if c := row[0]; c.Generator == "closed" && c.Arm == arm && c.Pool == pool && c.Connections == connections {
			return row
		}
	}
	return nil
}

// verdict is an error when a server said what is not so: figures of a server that
// loses messages are no figures.
func (r *Report) verdict() error {
	all := slices.Clone(r.Cells)
	for _, c := range r.Curves {
		all = append(all, c.cells()...)
	}
	for _, c := range all {
		if !c.honest() {
			return fmt.Errorf("%s at %d connections (%s, round %d): %d answered that are no row, %d rows that were not answered (%d refused, the first with %q)",
				c.Arm, c.Connections, c.Generator, c.Round, c.Missing, c.Untold, c.Refused, c.Refusal)
		}
	}
	return nil
}
