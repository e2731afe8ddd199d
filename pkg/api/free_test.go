package api

import (
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/queue"
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

// The memory of a large answer goes with that of its request.
func TestALargeAnswersMemoryGoesWhenSmallOnesFollowForLong(t *testing.T) {
	w := newWorld()
	push := func(items int) {
		t.Helper()
		item := `{"queue":"q","payload":"` + strings.Repeat("x", 100) + `"},`
		x := w.send(t, "POST", "/api/v1/push", `{"items":[`+strings.TrimSuffix(strings.Repeat(item, items), ",")+`]}`)
		op := w.store.ops[len(w.store.ops)-1]
		for i := range op.Items {
			op.Items[i].Status, op.Items[i].WinnerID = queue.Queued, op.Items[i].ID
		}
		if op.Done.OpDone(op); x.status != 201 {
			t.Fatal(x.status)
		}
	}
	kept := func() int { return cap(w.router.calls.calls[0].body) }
	push(100)
	large := kept()
	for i := 0; kept() == large; i++ {
		if push(1); i > 1000 {
			t.Fatalf("%d bytes are kept", kept())
		}
	}
	if kept() > large/10 {
		t.Errorf("%d bytes are kept of %d", kept(), large)
	}
}

func TestATrimmedRouterKeepsWhatIsUnderWayAndNothingElse(t *testing.T) {
	w := newWorld()
	body := `{"items":[{"queue":"q","payload":1}]}`
	w.send(t, "POST", "/api/v1/push", `{"items":[]}`) // over at once
	under := w.send(t, "POST", "/api/v1/push", body)
	w.send(t, "POST", "/api/v1/push", body)
	w.send(t, "POST", "/api/v1/ack", `{}`)
	w.send(t, "GET", "/api/v1/pop?batch=x", "")
	end := func(i int) {
		op := w.store.ops[i]
		op.Items[0].Status, op.Items[0].WinnerID = queue.Queued, op.Items[0].ID
		op.Done.OpDone(op)
	}
	end(1)
	kept := func() int {
		return len(w.router.calls.calls) + len(w.router.popCalls.calls) + len(w.router.ackCalls.calls)
	}
	before := kept()
	w.router.Trim()
	if before < 2 || kept() != 0 {
		t.Errorf("%d calls are kept, and then %d", before, kept())
	}
	end(0)
	if under.replies != 1 || under.status != 201 || kept() != 1 {
		t.Errorf("%d answers, %d; %d calls are kept", under.replies, under.status, kept())
	}
	if x := w.send(t, "POST", "/api/v1/push", body); len(w.store.ops) != 3 || x.replies != 0 {
		t.Error("the next push reaches no store")
	}
}
