package main

import (
	"context"
	"math"
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
	trimEvery = 10 * time.Second

	// trimBytes is how much more memory than after the last time makes it worth the while.
	trimBytes = 16 << 20
)

// trimmer gives memory back to the system.
type trimmer struct {
	read func() heap // how it is now
	free func()      // collects, and gives back what is not used
	last heap
	base uint64 // heap.held that nothing more can be had of
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
		debug.FreeOSMemory()
	}}
	t.last = t.read()
	t.base = t.last.held
	return t
}

// look frees memory if there is much, and the collector has done nothing since the last look.
func (t *trimmer) look() {
	now := t.read()
	if now.collections == t.last.collections && now.held > t.base+trimBytes {
		t.free()
		t.n.Add(1)
		now = t.read()
		t.base = math.MaxUint64
	}
	t.base = min(t.base, now.held)
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

// forgetCalls has the routers let go of what they keep for calls to come. A loop that has no
// time for it does so later.
func (s *server) forgetCalls() {
	done := make(chan struct{}, len(s.routers))
	for i, l := range s.loops.Loops() {
		l.Post(func() {
			s.routers[i].Trim()
			done <- struct{}{}
		})
	}
	late := time.After(time.Second)
	for range s.routers {
		select {
		case <-done:
		case <-late:
			return
		}
	}
}
