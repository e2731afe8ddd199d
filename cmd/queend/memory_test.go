package main

import (
	"runtime"
	"slices"
	"testing"
)

func TestMemoryIsGivenBackAfterABurstAndOnlyThen(t *testing.T) {
	var now heap
	freed, rests := 0, uint64(3<<20)
	tr := &trimmer{low: 8 << 20, read: func() heap { return now }, free: func() {
		freed++
		now = heap{held: rests, collections: now.collections + 3}
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
	look(3<<20+trimBytes, 5, 1) // beyond what was left, and not by enough
	look(4<<20+trimBytes, 5, 2)
	if n := tr.n.Load(); n != 2 {
		t.Errorf("it counts %d", n)
	}
}

// Memory that is used cannot be given back; to try costs a collection each time.
func TestATrimmerThatFindsLittleRests(t *testing.T) {
	var now heap
	freed, rests := 0, uint64(100<<20)
	tr := &trimmer{low: 8 << 20, read: func() heap { return now }, free: func() {
		freed++
		now.held = rests
	}}
	until := func(n int) (looks int) {
		for freed < n {
			now.held = 100 << 20
			tr.look()
			if looks++; looks > 100 {
				t.Fatal("it never frees")
			}
		}
		return looks
	}
	var looks []int
	for n := 1; n <= 7; n++ {
		looks = append(looks, until(n))
	}
	if want := []int{1, 2, 4, 8, 16, 1 + trimRestMax, 1 + trimRestMax}; !slices.Equal(looks, want) {
		t.Errorf("after %v looks, not %v", looks, want)
	}
	rests = 20 << 20 // now it is not used any more
	if until(8); tr.rest != 0 {
		t.Error("it rests after a time that was worth it")
	}
	if looks := until(9); looks != 1 {
		t.Errorf("it frees after %d looks", looks)
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
