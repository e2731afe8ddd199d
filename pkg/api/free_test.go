package api

import (
	"testing"
	"time"
)

func TestAFreeListKeepsWhatIsUsed(t *testing.T) {
	type call struct{ used int }
	var l freeList[call]
	now := 3 * time.Second
	burst := func(n, kept int) {
		t.Helper()
		var all []*call
		for range n {
			c := l.take()
			if c == nil {
				c = &call{}
			}
			if c.used++; c.used != 1 {
				t.Fatal("a call is used twice at a time")
			}
			all = append(all, c)
		}
		for _, c := range all {
			c.used--
			l.give(c, now)
		}
		if len(l.calls) != kept {
			t.Errorf("%d at a time leave %d, want %d", n, len(l.calls), kept)
		}
	}
	burst(100, 100)
	burst(3, 100) // it was just now
	now += freeRest
	burst(3, 100) // that there were so many was found out now
	now += freeRest - 1
	burst(2, 100)
	now++
	burst(1, 3)
	burst(5, 5)
	now += freeRest
	burst(4, 5)
	now += freeRest
	burst(4, 4)
	l.most = 6
	burst(20, 6)
	if most := newWorld().router.popCalls.most; most != popCallsKept {
		t.Errorf("%d pops are kept", most)
	}
}
