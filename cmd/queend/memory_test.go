package main

import (
	"runtime"
	"testing"
)

func TestMemoryIsGivenBackAfterABurstAndOnlyThen(t *testing.T) {
	var now heap
	freed, rests := 0, uint64(3<<20)
	tr := &trimmer{base: 8 << 20, read: func() heap { return now }, free: func() {
		freed++
		now = heap{held: rests, collections: now.collections + 2}
	}}
	look := func(held, collections uint64, want int) {
		t.Helper()
		now = heap{held: held, collections: collections}
		tr.look()
		if freed != want {
			t.Errorf("%d bytes after %d collections: freed %d times, not %d", held, collections, freed, want)
		}
	}
	look(8<<20+trimBytes, 0, 0)
	look(100<<20, 1, 0) // the collector is at it
	look(100<<20, 2, 0)
	look(100<<20, 2, 1)
	look(3<<20+trimBytes, 4, 1) // beyond what was left, and not by enough
	look(4<<20+trimBytes, 4, 2)
	rests = 90 << 20 // all of it is used
	look(100<<20, 6, 3)
	look(100<<20, 8, 3)
	look(100<<20, 8, 3)
	look(20<<20, 9, 3) // the collector has given it back
	look(21<<20+trimBytes, 9, 4)
	if n := tr.n.Load(); n != 4 {
		t.Errorf("it counts %d", n)
	}
}

func TestTheTrimmerSeesTheHeap(t *testing.T) {
	forgot := false
	var burst []byte
	tr := newTrimmer(func() { forgot, burst = true, nil })
	burst = make([]byte, 4*trimBytes)
	for i := range burst {
		burst[i] = 1
	}
	runtime.KeepAlive(burst)
	before := tr.read()
	tr.last = before
	tr.look()
	if after := tr.read(); !forgot || tr.n.Load() != 1 || after.held+3*trimBytes > before.held || after.collections == before.collections {
		t.Errorf("%+v, then %+v", before, tr.read())
	}
}
