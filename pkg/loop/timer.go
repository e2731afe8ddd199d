package loop

import (
	"container/heap"
	"sync/atomic"
	"time"
)

// Timer runs a function on its loop at a time. Its methods are for the loop.
type Timer struct {
	loop *Loop
	f    func()
	when time.Duration // of the loop's clock
	turn uint64        // of two timers for one time the older one goes first
	at   int           // in the heap; -1: not set
}

// After runs f on the loop in d, and not before. A function that is wanted again and
// again should keep its Timer and Reset it: that allocates nothing. On the loop.
func (l *Loop) After(d time.Duration, f func()) *Timer {
	t := &Timer{loop: l, f: f, at: -1}
	t.Reset(d)
	return t
}

// Stop keeps the timer from firing, and says whether it was going to.
func (t *Timer) Stop() bool {
	if t.at < 0 {
		return false
	}
	heap.Remove(&t.loop.timers.heap, t.at)
	return true
}

// Reset lets the timer fire in d from now, once, whether it has fired or not.
func (t *Timer) Reset(d time.Duration) {
	t.Stop()
	s := &t.loop.timers
	if s.stopped {
		return
	}
	t.when, t.turn = t.loop.Now()+d, s.turns
	s.turns++
	heap.Push(&s.heap, t)
	s.arm(t.loop)
}

// timers are the timers of a loop. One alarm clock of the runtime wakes the loop for
// all of them; it is set anew only when an earlier one comes first.
type timers struct {
	heap    timerHeap
	turns   uint64
	alarm   *time.Timer
	alarmAt time.Duration // what it is set to; 0: it is not set
	rang    atomic.Bool
	stopped bool
}

func (s *timers) init(wake func()) {
	s.alarm = time.AfterFunc(time.Hour, func() {
		s.rang.Store(true)
		wake()
	})
	s.alarm.Stop()
}

// arm sets the alarm clock for the first timer, unless it rings before that anyway.
func (s *timers) arm(l *Loop) {
	if len(s.heap) == 0 {
		return
	}
	when := s.heap[0].when
	if s.alarmAt != 0 && s.alarmAt <= when {
		return
	}
	s.alarmAt = when
	s.alarm.Reset(when - l.Now())
}

// run fires what is due. What is set meanwhile waits for the next pass, due or not.
func (s *timers) run(l *Loop) {
	if s.rang.Swap(false) {
		s.alarmAt = 0
	}
	turns := s.turns
	for len(s.heap) > 0 && s.heap[0].when <= l.clock && s.heap[0].turn < turns {
		t := heap.Pop(&s.heap).(*Timer)
		l.call(t.f)
	}
	s.arm(l)
}

func (s *timers) stop() {
	s.stopped = true
	s.alarm.Stop()
	for _, t := range s.heap {
		t.at = -1
	}
	s.heap = nil
}

// timerHeap implements heap.Interface; the first to fire is on top.
type timerHeap []*Timer

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	if h[i].when != h[j].when {
		return h[i].when < h[j].when
	}
	return h[i].turn < h[j].turn
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) {
	t := x.(*Timer)
	t.at = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.at = -1
	return t
}
