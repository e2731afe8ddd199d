package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// This file gives memory back after a burst. Go's collector runs when twice as much is
// allocated as was alive the last time, or after two minutes; a push allocates next to
// nothing, so that what a burst has needed would stay for minutes, also under load.

const (
	// trimEvery is how often it is looked whether the collector has rested for that long.
	trimEvery = 3 * time.Second

	// trimBytes is how much more memory than the process has got along with makes it worth
	// the while.
	trimBytes = 8 << 20

	// trimRestMax is how many looks it rests at most after it has found little to give back:
	// what is there is used, and each time is a collection.
	trimRestMax = 20
)

// trimmer gives memory back to the system.
type trimmer struct {
	read func() heap // how it is now
	free func()      // collects, and gives back what is not used
	last heap
	low  uint64 // the least heap.held so far
	left uint64 // heap.held after the last time
	rest int    // looks that are left out after a time that gave back little
	wait int    // so many of them are still to come
	n    atomic.Uint64
}

// heap is what Go's heap has of the system's memory.
type heap struct {
	held        uint64 // bytes
	collections uint64 // since the start
}

// newTrimmer has forget let go first of what is only kept for later.
func newTrimmer(forget func()) *trimmer {
	t := &trimmer{read: newHeapReader(), free: func() {
		forget()
		runtime.GC() // what is in a sync.Pool outlives one collection
		debug.FreeOSMemory()
	}}
	t.last = t.read()
	t.low = t.last.held
	return t
}

// look frees memory if there is much, and the collector has done nothing since the last look.
func (t *trimmer) look() {
	now := t.read()
	switch {
	case t.wait > 0 && now.held <= t.left+trimBytes: // else it is another burst
		t.wait--
	case now.collections == t.last.collections && now.held > t.low+trimBytes:
		held := now.held
		t.free()
		t.n.Add(1)
		if now = t.read(); now.held+trimBytes > held {
			t.rest = min(2*t.rest+1, trimRestMax)
		} else {
			t.rest = 0
		}
		t.left, t.wait = now.held, t.rest
	}
	t.low = min(t.low, now.held)
	t.last = now
}

// run looks now and then, until ctx ends.
func (t *trimmer) run(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.look()
		case <-ctx.Done():
			return
		}
	}
}

// newHeapReader returns what reads the heap of this process.
func newHeapReader() func() heap {
	samples := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	return func() (h heap) {
		metrics.Read(samples)
		h.collections = samples[0].Value.Uint64()
		for _, s := range samples[1:] {
			h.held += s.Value.Uint64()
		}
		return h
	}
}

// forget has the loops let go of what they keep for requests to come. A loop that has no time
// for it does so later.
func (s *server) forget() {
	loops := s.loops.Loops()
	done := make(chan struct{}, len(loops))
	for i, l := range loops {
		l.Post(func() {
			s.routers[i].Trim()
			l.Trim()
			if s.database.Load() != nil { // else there are no lanes yet
				s.lanes[i].trim()
			}
			done <- struct{}{}
		})
	}
	late := time.After(time.Second)
	for range loops {
		select {
		case <-done:
		case <-late:
			return
		}
	}
}
