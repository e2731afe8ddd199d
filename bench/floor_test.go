package main

import "testing"

func TestTheBestOfASweepIsFound(t *testing.T) {
	all := []floorPoint{{"copy", 1000, 4, 90}, {"unnest", 1000, 2, 80}, {"copy", 100, 4, 70}, {"unnest", 100, 4, 60}}
	f := func(way string, batch int, want string) {
		t.Helper()
		p, ok := bestFloor(all, way, batch)
		if ok != (want != "") || ok && p.String() != want {
			t.Fatalf("%q, %d: %v, %v", way, batch, p, ok)
		}
	}
	f("", 0, "floor(copy, 1000, 4)")
	f("", 100, "floor(copy, 100, 4)")
	f("unnest", 0, "floor(unnest, 1000, 2)")
	f("unnest", 100, "floor(unnest, 100, 4)")
	f("unnest", 7, "")
	if got := limit(all); got != all[0] {
		t.Fatalf("%v", got)
	}
}
