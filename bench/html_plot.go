package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// chart is one plot of the report. It becomes inline SVG whose colours are the page's
// CSS variables, so that it can be read on dark and on light; series differ in colour,
// marker and dash, so that it can be read without colours too.
type chart struct {
	Title  string
	X, Y   string // of the axes, with units
	Labels []string
	Scale  scale
	YLog   bool
	Series []series
}

// scale is what becomes of x.
type scale int

const (
	ordinal    scale = iota // x is an index of Labels, which stand at equal distances
	linear                  // from 0
	percentile              // 1/(100-x), logarithmic: 0, 90, 99, 99.9, …
)

// series is one line of a chart. Slot chooses its looks: an arm looks the same in all
// charts.
type series struct {
	Name   string
	Slot   int
	Points []point
}

// point is a median and how far the rounds were spread; no spread where Low is High.
type point struct{ X, Y, Low, High float64 }

// The size of a chart in its own units, and of the frame in it.
const (
	chartWidth, chartHeight = 440.0, 300.0
	frameLeft, frameRight   = 62.0, 20.0
	frameTop, frameBottom   = 30.0, 44.0
	legendLine              = 16.0
)

// looks are how many series can be told apart.
const looks = 8

var dashes = [looks]string{"", "6 3", "2 3", "8 3 2 3", "", "6 3", "2 3", "8 3 2 3"}

// svg draws the chart; empty when there is nothing to draw.
func (c *chart) svg() string {
	p := c.pen()
	if p == nil {
		return ""
	}
	legend := legendLine * math.Ceil(float64(len(c.Series))/2)
	fmt.Fprintf(&p.b, `<svg class="chart" viewBox="0 0 %g %g" role="img" aria-label="%s">`, chartWidth, chartHeight+legend, html.EscapeString(c.Title))
	p.text(frameLeft, 18, "title", "start", c.Title)
	p.grid()
	for i := range c.Series {
		p.series(&c.Series[i])
	}
	p.text((frameLeft+chartWidth-frameRight)/2, chartHeight-8, "axis", "middle", c.X)
	fmt.Fprintf(&p.b, `<text class="axis" transform="translate(13 %g) rotate(-90)" text-anchor="middle">%s</text>`, (frameTop+chartHeight-frameBottom)/2, html.EscapeString(c.Y))
	for i := range c.Series {
		s := &c.Series[i]
		x, y := frameLeft+float64(i%2)*(chartWidth-frameLeft)/2, chartHeight+legendLine*float64(i/2)+6
		fmt.Fprintf(&p.b, `<g class="s%d"><path class="line" d="M%g %gh26"%s/>`, s.Slot%looks, x, y, dash(s.Slot))
		p.marker(x+13, y, s.Slot)
		p.b.WriteString(`</g>`)
		p.text(x+32, y+4, "key", "start", s.Name)
	}
	p.b.WriteString(`</svg>`)
	return p.b.String()
}

// pen draws one chart, whose ranges it knows.
type pen struct {
	*chart
	b          strings.Builder
	xMax       float64
	yMin, yMax float64
	yTicks     []float64
}

// logFrom is how far apart the values of an axis must be for it to be logarithmic.
const logFrom = 40

// pen finds the ranges. On a logarithmic axis what is not positive is left out.
func (c *chart) pen() *pen {
	p := &pen{chart: c, yMin: math.Inf(1), yMax: math.Inf(-1)}
	for i := range c.Series {
		s := &c.Series[i]
		s.Points = slices.DeleteFunc(s.Points, func(q point) bool { return math.IsNaN(q.Y) || math.IsInf(q.Y, 0) || c.YLog && q.Y <= 0 })
		for _, q := range s.Points {
			p.xMax = max(p.xMax, p.across(q.X))
			if !c.YLog || q.Low > 0 {
				p.yMin = min(p.yMin, q.Low)
			}
			p.yMin, p.yMax = min(p.yMin, q.Y), max(p.yMax, q.Y, q.High)
		}
	}
	c.Series = slices.DeleteFunc(c.Series, func(s series) bool { return len(s.Points) == 0 })
	if len(c.Series) == 0 {
		return nil
	}
	switch {
	case c.YLog:
		p.yTicks = logTicks(p.yMin, p.yMax)
	default:
		p.yTicks = linearTicks(p.yMax)
	}
	p.yMin, p.yMax = p.yTicks[0], p.yTicks[len(p.yTicks)-1]
	switch c.Scale {
	case ordinal:
		p.xMax = float64(max(1, len(c.Labels)-1))
	case linear:
		ticks := linearTicks(p.xMax)
		p.xMax = ticks[len(ticks)-1]
	case percentile:
		p.xMax = max(2, math.Ceil(p.xMax))
	}
	return p
}

// across is x on the axis, before it is scaled to the frame.
func (p *pen) across(x float64) float64 {
	if p.Scale == percentile {
		return -math.Log10(max(1e-6, 1-x/100))
	}
	return x
}

// inset keeps the first and the last of a row of labels off the frame.
func (p *pen) inset() float64 {
	if p.Scale == ordinal {
		return 20
	}
	return 0
}

func (p *pen) x(x float64) float64 {
	width := chartWidth - frameLeft - frameRight - 2*p.inset()
	if p.Scale == ordinal && len(p.Labels) == 1 {
		return frameLeft + p.inset() + width/2
	}
	return frameLeft + p.inset() + width*p.across(x)/p.xMax
}

func (p *pen) y(y float64) float64 {
	height := chartHeight - frameTop - frameBottom
	if p.YLog {
		y = max(y, p.yMin)
		return chartHeight - frameBottom - height*math.Log(y/p.yMin)/math.Log(p.yMax/p.yMin)
	}
	return chartHeight - frameBottom - height*y/p.yMax
}

func (p *pen) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(&p.b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, x, y, anchor, html.EscapeString(text))
}

// grid draws the frame, and each axis's ticks.
func (p *pen) grid() {
	bottom, right := chartHeight-frameBottom, chartWidth-frameRight
	for _, t := range p.yTicks {
		fmt.Fprintf(&p.b, `<path class="grid" d="M%g %.1fH%g"/>`, frameLeft, p.y(t), right)
		p.text(frameLeft-6, p.y(t)+4, "tick", "end", tick(t))
	}
	mark := func(at float64, label string) {
		fmt.Fprintf(&p.b, `<path class="grid" d="M%.1f %gV%g"/>`, at, frameTop, bottom)
		p.text(at, bottom+16, "tick", "middle", label)
	}
	switch p.Scale {
	case ordinal:
		for i, label := range p.Labels {
			mark(p.x(float64(i)), label)
		}
	case linear:
		for _, t := range linearTicks(p.xMax) {
			mark(p.x(t), tick(t))
		}
	case percentile:
		for i := 0.0; i <= p.xMax; i++ {
			q := 100 - 100*math.Pow(10, -i)
			mark(p.x(q), strings.TrimSuffix(fmt.Sprintf("%.*f", max(0, int(i)-2), q), ".0")+" %")
		}
	}
	fmt.Fprintf(&p.b, `<path class="frame" d="M%g %gV%gH%g"/>`, frameLeft, frameTop, bottom, right)
}

func (p *pen) series(s *series) {
	fmt.Fprintf(&p.b, `<g class="s%d">`, s.Slot%looks)
	for i, q := range s.Points {
		if i == 0 {
			fmt.Fprintf(&p.b, `<path class="line"%s d="M`, dash(s.Slot))
		} else {
			p.b.WriteByte('L')
		}
		fmt.Fprintf(&p.b, "%.1f %.1f", p.x(q.X), p.y(q.Y))
	}
	p.b.WriteString(`"/>`)
	if p.Scale != percentile { // a curve of its own, without measured points
		for _, q := range s.Points {
			p.point(s, q)
		}
	}
	p.b.WriteString(`</g>`)
}

// point draws a median, the spread of its rounds, and says both to whom points at it.
func (p *pen) point(s *series, q point) {
	x := p.x(q.X)
	fmt.Fprintf(&p.b, `<g><title>%s, %s: %s`, html.EscapeString(s.Name), html.EscapeString(p.at(q.X)), number(q.Y))
	if q.Low < q.High {
		fmt.Fprintf(&p.b, " (%s–%s)", number(q.Low), number(q.High))
	}
	p.b.WriteString(`</title>`)
	if q.Low < q.High {
		fmt.Fprintf(&p.b, `<path class="spread" d="M%.1f %.1fV%.1f"/>`, x, p.y(q.Low), p.y(q.High))
	}
	p.marker(x, p.y(q.Y), s.Slot)
	p.b.WriteString(`</g>`)
}

// at is what a point's x is called.
func (p *pen) at(x float64) string {
	if i := int(x); p.Scale == ordinal && i < len(p.Labels) {
		return p.Labels[i]
	}
	return number(x)
}

// marker is a circle, a square, a triangle or a diamond.
func (p *pen) marker(x, y float64, slot int) {
	shape := ""
	switch slot % 4 {
	case 0:
		shape = "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0"
	case 1:
		shape = "m-3.2 -3.2h6.4v6.4h-6.4z"
	case 2:
		shape = "m0 -4.2l4 7.4h-8z"
	case 3:
		shape = "m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z"
	}
	fmt.Fprintf(&p.b, `<path class="mark" d="M%.1f %.1f%s"/>`, x, y, shape)
}

func dash(slot int) string {
	if d := dashes[slot%looks]; d != "" {
		return fmt.Sprintf(` stroke-dasharray="%s"`, d)
	}
	return ""
}

// linearTicks are 4 to 8 round numbers from 0 to at least most.
func linearTicks(most float64) []float64 {
	if !(most > 0) {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, f := range []float64{0.2, 0.25, 0.5, 1, 2} {
		if most/(step*f) <= 6 {
			step *= f
			break
		}
	}
	n := int(math.Ceil(most/step - 1e-9))
	ticks := make([]float64, n+1)
	for i := range ticks {
		ticks[i] = float64(i) * step
	}
	return ticks
}

// logTicks are powers of ten, with 2 and 5 times them where there are few.
func logTicks(least, most float64) (ticks []float64) {
	factors := []float64{1}
	if most/least < 2000 {
		factors = []float64{1, 2, 5}
	}
	for power := math.Floor(math.Log10(least)); ; power++ {
		for _, f := range factors {
			t := f * math.Pow(10, power)
			if n := len(ticks); n > 1 && ticks[n-1] >= most {
				return ticks
			}
			if len(ticks) == 1 && t <= least*(1+1e-9) {
				ticks[0] = t
				continue
			}
			ticks = append(ticks, t)
		}
	}
}

// tick prints the number at a tick.
func tick(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%gk", v/1e3)
	case v >= 1000:
		return fmt.Sprintf("%d,%03d", int(v)/1000, int(v)%1000)
	}
	return fmt.Sprintf("%.4g", v)
}
