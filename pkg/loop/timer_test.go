package loop

import (
	"slices"
	"testing"
	"time"
)

func TestTimersFireInTheOrderOfTheirTimes(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	var fired []int
	done := make(chan struct{})
	on(t, l, func() {
		note := func(i int) func() { return func() { fired = append(fired, i) } }
		l.After(30*time.Millisecond, note(5))
		l.After(10*time.Millisecond, note(2))
		l.After(20*time.Millisecond, note(4))
		l.After(0, note(1))
		l.After(-time.Hour, note(0))
		stopped := l.After(15*time.Millisecond, note(-1))
		moved := l.After(time.Hour, note(3))
		moved.Reset(15 * time.Millisecond)
		if !stopped.Stop() || stopped.Stop() {
			t.Error("Stop says the wrong thing")
		}
		l.After(50*time.Millisecond, func() { close(done) })
	})
	receive(t, done)
	on(t, l, func() {
		if !slices.Equal(fired, []int{0, 1, 2, 3, 4, 5}) {
			t.Error(fired)
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
