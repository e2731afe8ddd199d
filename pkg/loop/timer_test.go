package loop

import (
	"cmp"
	"slices"
	"testing"
	"time"
)

func TestTimersFireInTheOrderOfTheirTimes(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	var fired []*Timer
	done := make(chan struct{})
	on(t, l, func() {
		after := func(d time.Duration) (t *Timer) {
			t = l.After(d, func() { fired = append(fired, t) })
			return t
		}
		for _, ms := range []time.Duration{30, 10, 20, 0, 20, 1} {
			after(ms * time.Millisecond)
		}
		after(-time.Hour)
		if stopped := after(15 * time.Millisecond); !stopped.Stop() || stopped.Stop() {
			t.Error("Stop says the wrong thing")
		}
		after(time.Hour).Reset(15 * time.Millisecond)
		after(time.Millisecond).Reset(25 * time.Millisecond)
		l.After(50*time.Millisecond, func() { close(done) })
	})
	receive(t, done)
	on(t, l, func() {
		if len(fired) != 9 || !slices.IsSortedFunc(fired, func(a, b *Timer) int { return cmp.Compare(a.when, b.when) }) {
			t.Error("fired:", fired)
		}
	})
}

func TestATimerNeverFiresEarlyAndCanBeUsedAgain(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	done := make(chan struct{})
	on(t, l, func() {
		const d = 2 * time.Millisecond
		var due time.Duration
		var timer *Timer
		rounds := 0
		timer = l.After(d, func() {
			if l.Now() < due {
				t.Error("early by", due-l.Now())
			}
			if rounds++; rounds == 20 {
				close(done)
				return
			}
			due = l.Now() + d
			timer.Reset(d)
		})
		due = timer.when
	})
	receive(t, done)
}

func TestATimerThatIsAlwaysDueDoesNotKeepTheLoop(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	stop := false
	var timer *Timer
	on(t, l, func() {
		timer = l.After(0, func() {
			if !stop {
				timer.Reset(0)
			}
		})
	})
	c := b.dial()
	for range 10 {
		c.send(get("/a"))
		c.hears(200, "/a")
	}
	on(t, l, func() { stop = true })
}

func TestManyTimersAtRandom(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	const many = 2_000
	fired := make([]int, many)
	done := make(chan struct{})
	on(t, l, func() {
		last := time.Duration(0)
		left := many / 2
		timers := make([]*Timer, many)
		for i := range timers {
			d := time.Duration(i*7919%50) * time.Millisecond
			timers[i] = l.After(d, func() {
				if timers[i].when < last {
					t.Error("out of order")
				}
				last = timers[i].when
				fired[i]++
				if left--; left == 0 {
					l.After(60*time.Millisecond, func() { close(done) })
				}
			})
		}
		for i := 0; i < many; i += 2 {
			timers[i].Stop()
		}
	})
	receive(t, done)
	for i, n := range fired {
		if n != i%2 {
			t.Fatal("timer", i, "fired", n, "times")
		}
	}
}
