package main

import (
	"fmt"
	"testing"
)

// points are ways to put rows, the best first.
func points(ways ...string) (all []floorPoint) {
	for i, way := range ways {
		p := floorPoint{Rate: float64(1000 - i)}
		fmt.Sscan(way, &p.Way, &p.Batch, &p.Conns)
		all = append(all, p)
	}
	return all
}

func TestTheBestOfASweepIsFound(t *testing.T) {
	all := points("copy 1000 4", "unnest 1000 2", "copy 100 4", "unnest 100 4")
	f := func(way string, batch int, want string) {
		t.Helper()
		p, ok := bestFloor(all, floorKind{way: way, batch: batch})
		if ok != (want != "") || ok && p.String() != want {
			t.Fatalf("%q, %d: %v, %v", way, batch, p, ok)
		}
	}
	f("", 0, "floor(copy, 1000, 4)")
	f("", 100, "floor(copy, 100, 4)")
	f("unnest", 0, "floor(unnest, 1000, 2)")
	f("unnest", 100, "floor(unnest, 100, 4)")
	f("unnest", 7, "")
	if got := limit(all); got.String() != all[0].String() {
		t.Fatalf("%v", got)
	}
}

// What may be the best of a kind is tried again, and only that.
func TestTheFinalistsOfASweepAreTheBestOfEachKind(t *testing.T) {
	all := points("copy 1000 4", "copy 1000 2", "copy 1000 8", "copy 1000 1", "unnest 1000 2", "copy 100 4", "unnest 100 4", "copy 100 8", "unnest 1000 1", "unnest 100 8")
	in, out := finals(all, floorKinds)
	if got, want := fmt.Sprint(in), fmt.Sprint(points("copy 1000 4", "copy 1000 2", "unnest 1000 2", "copy 100 4", "unnest 100 4")); got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if got, want := fmt.Sprint(out), fmt.Sprint(points("copy 1000 8", "copy 1000 1", "copy 100 8", "unnest 1000 1", "unnest 100 8")); got != want {
		t.Errorf("%s are left out, not %s", got, want)
	}
}
