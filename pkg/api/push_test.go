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

func TestABurstOfLargePushesLeavesABoundedAmountBehind(t *testing.T) {
	w := newWorld()
	f := func(n, items, callsMin, callsMax, bytesMin int) {
		t.Helper()
		w.burst(t, n, items)
		sum := 0
		for _, c := range w.router.calls {
			sum += c.kept
			if c.kept == 0 && c.op.Memory()+cap(c.body) > pushCallBytesFew {
				t.Fatal("a call that has grown is not counted")
			}
		}
		if got := len(w.router.calls); got < callsMin || got > callsMax || sum != w.router.callsBytes || sum < bytesMin || sum > pushCallBytesKept {
			t.Errorf("%d pushes of %d items leave %d calls, with %d bytes as counted and %d in fact", n, items, got, w.router.callsBytes, sum)
		}
	}
	f(100, 1, 100, 100, 0)                                   // all are small
	f(100, 500, 1, 99, pushCallBytesKept*3/4)                // most of them have grown too large together
	f(500, 1, 400, 500, 0)                                   // which is in nobody's way
	f(pushCallsKept+100, 1, pushCallsKept, pushCallsKept, 0) // nor are there more than one batch needs
	f(1, 500, pushCallsKept-1, pushCallsKept, 0)
}
