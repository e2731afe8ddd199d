package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// progress is the line that says how far a long run is: rewritten in place on a
// terminal, a line now and then otherwise. What is still to come is judged by how much
// longer the steps took so far than they were planned to.
type progress struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	mu      sync.Mutex // say may be called from any goroutine
	started time.Time
	steps   int           // planned, those done included
	done    int           // of them
	planned time.Duration // of all steps
	spent   time.Duration // planned, of what is done
	part    time.Duration // of that, of the step at work
	title   string        // of the step at work
	drawn   bool          // the line stands on the terminal
	last    time.Time     // when a line was printed that is not a terminal's
}

// progressEvery is how often a line is printed where it cannot be rewritten.
const progressEvery = 15 * time.Second

func newProgress(out *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &progress{out: out, terminal: err == nil, now: time.Now, started: time.Now()}
}

// plan adds steps that will take about so long.
func (p *progress) plan(steps int, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps += steps
	p.planned += d
}

// begin says what is done now.
func (p *progress) begin(title string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.title = title
	now := p.now()
	if !p.terminal && now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	p.draw(now)
}

// end: the step is done; d is what was planned for it.
func (p *progress) end(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.spent += d - p.part
	p.part = 0
}

// partly: so much of what is planned for the step at work is done.
func (p *progress) partly(d time.Duration, title string) {
	p.mu.Lock()
	p.spent += d - p.part
	p.part = d
	p.mu.Unlock()
	p.begin(title)
}

// slower is how much longer than planned a step takes here.
func (p *progress) slower() float64 {
	if p.spent < time.Second {
		return 1
	}
	return float64(p.now().Sub(p.started)) / float64(p.spent)
}

// still is about how long the rest of the plan takes.
func (p *progress) still() time.Duration {
	return time.Duration(float64(max(0, p.planned-p.spent)) * p.slower())
}

// expect is about how long something takes for which d is planned.
func (p *progress) expect(d time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(float64(d) * p.slower())
}

func (p *progress) elapsed() time.Duration { return p.now().Sub(p.started) }

func (p *progress) line(now time.Time) string {
	return fmt.Sprintf("%d of %d · %s · %s gone, about %s still", min(p.done+1, p.steps), p.steps, p.title, short(now.Sub(p.started)), short(p.still()))
}

// draw writes the line; ESC [ K removes what is left of the one before (ECMA-48, EL).
func (p *progress) draw(now time.Time) {
	if !p.terminal {
		fmt.Fprintln(p.out, p.line(now))
		return
	}
	fmt.Fprintf(p.out, "\r%.110s\x1b[K", p.line(now))
	p.drawn = true
}

// say prints a sentence above the line.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	fmt.Fprintf(p.out, format+"\n", args...)
	if p.drawn {
		p.draw(p.now())
	}
}

// clear removes the line: what follows is written by others.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

// short prints a duration in minutes and seconds.
func short(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d >= time.Hour:
		return fmt.Sprintf("%d h %02d min", d/time.Hour, d/time.Minute%60)
	case d >= time.Minute:
		return fmt.Sprintf("%d min %02d s", d/time.Minute, d/time.Second%60)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}
