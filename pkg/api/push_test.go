package api

import (
	"strings"
	"testing"

	"github.com/queend/queend/pkg/queue"
)

// burst pushes n times with so many items each before the first of them is answered, and
// then answers them all.
func (w *world) burst(t *testing.T, n, items int) {
	t.Helper()
	body := `{"items":[` + strings.Repeat(`{"queue":"q","payload":1},`, items-1) + `{"queue":"q","payload":1}]}`
	first := len(w.store.ops)
	for range n {
		w.send(t, "POST", "/api/v1/push", body)
	}
	for _, op := range w.store.ops[first:] {
		op.Fault.Code = queue.Unavailable
		op.Done.OpDone(op)
	}
	w.store.ops = w.store.ops[:first]
}

func TestABurstOfLargePushesLeavesWhatIsUsedBehind(t *testing.T) {
	w := newWorld()
	f := func(n, items, kept int) {
		t.Helper()
		w.burst(t, n, items)
		if got := len(w.router.calls); got != kept {
			t.Errorf("%d pushes of %d items leave %d calls, want %d", n, items, got, kept)
		}
		for _, c := range w.router.calls[:kept] {
			if c == nil || c.exchange != nil {
				t.Fatal("a call is not free")
			}
		}
	}
	f(100, 500, 100)
	f(3, 1, 100) // it was just now
	w.later += callsRest
	f(3, 1, 100) // that there were so many was found out now
	w.later += callsRest - 1
	f(2, 1, 100)
	w.later++
	f(1, 1, 3)
	f(5, 1, 5)
	w.later += callsRest
	f(4, 1, 5)
	w.later += callsRest
	f(4, 1, 4)
}
