package main

import (
	"bytes"
	"encoding/xml"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// sampleReport is two rounds of every curve, made up: push carries 10,000 and 12,000
// messages/s, the pool a fifth, and what is divided by them is a fixed ratio.
func sampleReport() *Report {
	r := &Report{Command: "bench report -full", Machine: proc.ThisMachine(), Commit: strings.Repeat("ab", 20), Dirty: true, Seed: 7,
		Started: time.Unix(1e9, 0).UTC(), Rounds: 2, Took: 100, Load: []float64{1, 2}, Method: "as it is",
		PostgreSQL: PostgreSQL{Version: "PostgreSQL 15", Settings: map[string]string{"fsync": "on", "shared_buffers": "512MB"}}}
	share := map[string]float64{armLoop: 1, armLegacy: 0.2, armBaseline: 0.15, armHello: 4, armUnnest: 1.25, armHundred: 1.5, armCapacity: 1.6}
	for _, c := range curves(fullSizes, 4) {
		out := &Curve{Name: c.name, Title: c.title, X: c.x, Note: c.note}
		for _, p := range c.points {
			out.Labels = append(out.Labels, p.label)
		}
		for round := range 2 {
			for _, s := range c.steps([]int{16, 32}) {
				rate := (10000 + 2000*float64(round)) * share[s.arm]
				if s.pool == 32 {
					rate *= 0.9
				}
				sample := Sample{Series: s.arm, Load: s.point.load, Cell: Cell{Arm: s.arm, Pool: s.pool, Generator: "closed", Connections: s.point.load.Connections, Round: round,
					Rate: rate, P50: 1e8 / rate, P99: 2e8 / rate, P999: 3e8 / rate, Max: 4e8 / rate, ServerCPU: 1e5 / rate, PostgresCPU: 2e5 / rate, Voluntary: 0.1, RSS: 30 << 20,
					Curves: &Curves{Latency: []load.Point{{Percent: 0, Micros: 100}, {Percent: 50, Micros: 1000}, {Percent: 99, Micros: 9000}, {Percent: 100, Micros: 20000}}}}}
				for i, p := range c.points {
					if p.label == s.point.label {
						sample.Point = i
					}
				}
				if s.point.load.Fraction > 0 {
					sample.Offered = s.point.load.Fraction * rate
				}
				out.Samples = append(out.Samples, sample)
			}
		}
		r.Curves = append(r.Curves, out)
	}
	r.Floors = []floorPoint{{Way: "copy", Batch: 1000, Conns: 4, Rate: 34567}}
	r.judge(goals)
	return r
}

func pageOf(t *testing.T, r *Report) string {
	t.Helper()
	var out bytes.Buffer
	if err := r.HTML(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestThePageHasEveryCurveEveryGoalAndTheSetup(t *testing.T) {
	r := sampleReport()
	page := pageOf(t, r)
	for _, c := range r.Curves {
		if !strings.Contains(page, `<h2 id="`+c.Name+`">`) {
			t.Errorf("there is no section %s", c.Name)
		}
	}
	for _, g := range r.Goals {
		if !strings.Contains(page, ">"+strings.ReplaceAll(g.Name, "+", "&#43;")+"<") {
			t.Errorf("there is no goal %q", g.Name)
		}
	}
	for _, want := range []string{strings.Repeat("ab", 20) + ", and changes that are not committed", "shared_buffers", "512MB", "bench report -full", "<th>Seed</th><td>7</td>",
		"messages/s offered", "p99.9, ms", "µs of CPU", "floor, unnest", ">99.9 %<", "took 1 min 40 s", "34567 rows/s by copy"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") || strings.Contains(page, "ZgotmplZ") {
		t.Error("the page has what is no number")
	}
}

// Nothing is fetched: no script, no link but to the page itself, no url() and no import.
func TestThePageFetchesNothing(t *testing.T) {
	page := pageOf(t, sampleReport())
	for _, bad := range []string{"http://", "https://", "<script", "<link", "<img", "<iframe", "url(", "@import", "src="} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	for _, m := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(m[1], "#") {
			t.Errorf("the page links to %s", m[1])
		}
		if !strings.Contains(page, `id="`+m[1][1:]+`"`) {
			t.Errorf("the page has no %s", m[1])
		}
	}
}

func TestThePageIsReadableInTheDark(t *testing.T) {
	if page := pageOf(t, sampleReport()); !strings.Contains(page, "prefers-color-scheme: dark") || !strings.Contains(page, `content="light dark"`) {
		t.Error("the page has one colour scheme")
	}
}

func TestWhatCouldNotBeMeasuredIsOnTop(t *testing.T) {
	r := sampleReport()
	r.Failures = []string{"round 1: rows 10M: push: stuck"}
	if page := pageOf(t, r); !strings.Contains(page, "1 cells could not be measured") || !strings.Contains(page, "rows 10M: push: stuck") {
		t.Error("the page does not say so")
	}
}

func TestAServerThatLosesMessagesIsOnTop(t *testing.T) {
	const says = "No figure here is worth anything"
	r := sampleReport()
	if strings.Contains(pageOf(t, r), says) {
		t.Error("an honest report says so")
	}
	r.Curves[0].Samples[0].Missing = 1
	if page := pageOf(t, r); !strings.Contains(page, says) || !strings.Contains(page, "1 answered that are no row") {
		t.Error("the page does not say so")
	}
}

func TestTablesForTheReadmeHaveTheBestPool(t *testing.T) {
	var out bytes.Buffer
	sampleReport().Markdown(&out)
	for _, want := range []string{"| messages: push / push-legacy, 64 connections | ≥ 5.00 | 5.00 | 5.00-5.00 | met |", "| 64 | 11000 (10000-12000) | 2200 (2000-2400) |", "PostgreSQL 15, 2 rounds"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%.3000s", want, &out)
		}
	}
}

func TestAReportOfNothingIsAPage(t *testing.T) {
	r := &Report{Started: time.Unix(1e9, 0)}
	r.judge(goals)
	page := pageOf(t, r)
	if !strings.Contains(page, "0 met, 0 missed") {
		t.Fatal(page)
	}
}

func TestTextIsEscaped(t *testing.T) {
	r := sampleReport()
	r.Curves[1].Samples[0].Series = "<b>&"
	page := pageOf(t, r)
	if strings.Contains(page, "<b>") || !strings.Contains(page, "&lt;b&gt;&amp;") {
		t.Error("a name is markup")
	}
}

func TestChartsAreWellFormedAndInsideTheirFrame(t *testing.T) {
	n := 0
	for _, c := range sampleReport().Curves {
		for _, ch := range c.charts() {
			svg := ch.svg()
			if svg == "" {
				t.Errorf("%s: %q is empty", c.Name, ch.Title)
			}
			for d := xml.NewDecoder(strings.NewReader(svg)); ; n++ {
				if _, err := d.Token(); err != nil {
					if err.Error() != "EOF" {
						t.Fatalf("%s: %q: %v", c.Name, ch.Title, err)
					}
					break
				}
			}
			p := ch.pen()
			for _, s := range ch.Series {
				for _, q := range s.Points {
					if x, y := p.x(q.X), p.y(q.Y); x < frameLeft-1 || x > chartWidth-frameRight+1 || y < frameTop-1 || y > chartHeight-frameBottom+1 {
						t.Errorf("%s: %q: %s at %v is drawn at %.0f, %.0f", c.Name, ch.Title, s.Name, q, x, y)
					}
				}
			}
			if ch.X == "" || ch.Y == "" {
				t.Errorf("%s: %q has an axis without a name", c.Name, ch.Title)
			}
		}
	}
	if n == 0 {
		t.Fatal("there are no charts")
	}
}

func TestAChartOfNothingIsNotDrawn(t *testing.T) {
	for _, ch := range []*chart{{}, {Series: []series{{Name: "x"}}}, {YLog: true, Series: []series{{Points: []point{{Y: 0}}}}}, {Series: []series{{Points: []point{{Y: math.NaN()}}}}}} {
		if got := ch.svg(); got != "" {
			t.Errorf("%+v: %s", ch, got)
		}
	}
}

func TestTicksAreRoundAndEnclose(t *testing.T) {
	f := func(got []float64, want ...float64) {
		t.Helper()
		same := len(got) == len(want)
		for i := range got {
			same = same && math.Abs(got[i]-want[i]) < 1e-9*max(1, want[i])
		}
		if !same {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	f(linearTicks(10), 0, 2, 4, 6, 8, 10)
	f(linearTicks(43), 0, 10, 20, 30, 40, 50)
	f(linearTicks(0.9), 0, 0.2, 0.4, 0.6, 0.8, 1)
	f(linearTicks(0), 0, 1)
	f(logTicks(3, 450), 2, 5, 10, 20, 50, 100, 200, 500)
	f(logTicks(1, 1), 1, 2)
	f(logTicks(0.5, 1e5), 0.1, 1, 10, 100, 1000, 1e4, 1e5)
	f(logTicks(1000, 1000), 1000, 2000)
}

func TestAPercentileCurveIsReadAtAnyPercentile(t *testing.T) {
	curve := []load.Point{{Percent: 0, Micros: 1}, {Percent: 50, Micros: 10}, {Percent: 99, Micros: 100}, {Percent: 100, Micros: 900}}
	f := func(q, want float64, ok bool) {
		t.Helper()
		if got, has := atPercentile(curve, q); got != want || has != ok {
			t.Fatalf("p%v is %v, %v", q, got, has)
		}
	}
	f(0, 1, true)
	f(50, 10, true)
	f(90, 100, true)
	f(99, 100, true)
	f(99.9, 0, false) // one sample, the slowest, is all that is known there
}
