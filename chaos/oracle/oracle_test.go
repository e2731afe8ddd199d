package oracle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/chaos/history"
)

const ms = time.Millisecond

// tale is a small trial in which all is well: a producer sends m1, m2 and m3 to one
// partition; the group g gets them and acknowledges them under two leases, the second of
// which is given after the first; the group tx acknowledges by transactions, with a child
// for each.
type tale struct {
	h *history.History
	s *Snapshot
	r Rules
}

const partition = "p-1"

func good() *tale {
	w := &tale{h: &history.History{Clock: history.NewClock()}, s: &Snapshot{Audited: true}}
	w.r = Rules{Groups: map[string][]string{"q": {"g", "tx"}}, TransactionQueue: "q", TransactionGroup: "tx", CallMax: 5 * time.Second, PollSlack: time.Second, Drained: true}
	at := func(d time.Duration) time.Time { return w.h.Clock.Wall(d) }
	for i := 1; i <= 3; i++ {
		uid := fmt.Sprintf("m%d", i)
		payload := fmt.Sprintf(`{"uid":%q}`, uid)
		start := time.Duration(10*i) * ms
		w.h.Messages = append(w.h.Messages, &history.Message{
			UID: uid, Queue: "q", Partition: "a", Key: "k" + uid, Payload: payload, Producer: "p", N: i,
			Attempts: []history.Attempt{{Start: start, End: start + ms, Outcome: history.OK, Status: 201, ID: "id" + uid}},
		})
		w.s.Rows = append(w.s.Rows, Row{"id" + uid, "k" + uid, "q", "a", partition, payload})
		child := fmt.Sprintf(`{"uid":"c%d"}`, i)
		w.h.Messages = append(w.h.Messages, &history.Message{
			UID: fmt.Sprintf("c%d", i), Queue: "out", Partition: "b", Payload: child, Producer: "t", N: i, Parent: uid,
			Attempts: []history.Attempt{{Start: 200 * ms, End: 210 * ms, Outcome: history.OK, Status: 200}},
		})
		w.s.Rows = append(w.s.Rows, Row{fmt.Sprintf("idc%d", i), "made", "out", "b", "p-2", child})
		lease, popped := "l1", 100*ms
		if i == 3 {
			lease, popped = "l2", 130*ms
		}
		for _, group := range []string{"g", "tx"} {
			w.h.Deliveries = append(w.h.Deliveries, history.Delivery{
				Consumer: group, Group: group, Queue: "q", Partition: "a", PartitionID: partition, MessageID: "id" + uid, Key: "k" + uid,
				Lease: lease, Payload: payload, Start: popped, End: popped + 10*ms, At: i,
			})
			w.h.Acks = append(w.h.Acks, history.Ack{
				Consumer: group, Group: group, PartitionID: partition, MessageID: "id" + uid, Lease: lease, Status: "completed",
				Start: popped + 15*ms, End: popped + 20*ms, Outcome: history.OK,
			})
		}
	}
	for _, group := range []string{"g", "tx"} {
		w.s.Cursors = append(w.s.Cursors,
			Cursor{At: at(105 * ms), PartitionID: partition, Group: group, NewWorker: "l1", NewExpires: at(1105 * ms)},
			Cursor{At: at(117 * ms), PartitionID: partition, Group: group, OldWorker: "l1", OldExpires: at(1105 * ms)},
			Cursor{At: at(135 * ms), PartitionID: partition, Group: group, NewWorker: "l2", NewExpires: at(1135 * ms)},
			Cursor{At: at(147 * ms), PartitionID: partition, Group: group, OldWorker: "l2", OldExpires: at(1135 * ms)})
	}
	w.h.Calls = []history.Call{
		{Route: "POST /api/v1/push", Status: 201, Start: 0, End: 4 * time.Second},
		{Route: "GET /api/v1/pop", Status: 200, Start: 0, End: 30*time.Second + 900*ms, Wait: 30 * time.Second},
		{Route: "POST /api/v1/push", Status: 503, RetryAfter: true, Start: 0, End: 1},
		{Route: "POST /api/v1/push", Status: 400, Start: 0, End: 1},
	}
	return w
}

func TestAGoodTrialBreaksNothing(t *testing.T) {
	w := good()
	if got := Check(w.h, w.s, w.r); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestPlantedFaultsAreFound(t *testing.T) {
	f := func(what, promise, words string, plant func(*tale)) {
		t.Helper()
		w := good()
		plant(w)
		for _, v := range Check(w.h, w.s, w.r) {
			if v.Promise == promise && strings.Contains(v.What, words) {
				return
			}
		}
		t.Errorf("%s: %s is not found broken, but %v", what, promise, Check(w.h, w.s, w.r))
	}
	remove := func(w *tale, id string) {
		var left []Row
		for _, row := range w.s.Rows {
			if row.ID != id {
				left = append(left, row)
			}
		}
		w.s.Rows = left
	}
	attempt := func(w *tale, n int) *history.Attempt { return &w.h.Messages[2*n-2].Attempts[0] }

	f("a message that was answered is gone", "I1", "m2", func(w *tale) { remove(w, "idm2") })
	f("it is gone though only a retry was answered", "I1", "m2", func(w *tale) {
		remove(w, "idm2")
		w.h.Messages[2].Attempts = append([]history.Attempt{{Outcome: history.Unknown}}, w.h.Messages[2].Attempts...)
	})
	f("a group never gets one", "I1", "never came to group \"g\"", func(w *tale) { w.h.Deliveries = w.h.Deliveries[1:] })
	f("an unknown push was stored and is not delivered", "I1", "never came", func(w *tale) {
		attempt(w, 1).Outcome = history.Unknown
		w.h.Deliveries = w.h.Deliveries[1:]
	})
	f("it does not drain", "I1", "drained", func(w *tale) { w.r.Drained = false })
	f("a message is stored twice", "I2", "2 times", func(w *tale) {
		w.s.Rows = append(w.s.Rows, Row{"other", "x", "q", "a", partition, `{"uid":"m1"}`})
	})
	f("what was refused is stored", "I2", "refused", func(w *tale) { attempt(w, 1).Outcome = history.Fail })
	f("it has another id than the answer said", "I2", "answered with id", func(w *tale) { attempt(w, 1).ID = "no" })
	f("what PostgreSQL refuses is stored", "I2", "refuses", func(w *tale) { w.h.Messages[2].Doomed = true })
	f("it was answered with another transactionId", "I3", "answered with transactionId", func(w *tale) { attempt(w, 1).Key = "other" })
	f("a message that was buffered is gone", "I1", "m2", func(w *tale) {
		attempt(w, 2).Buffered = true
		remove(w, "idm2")
	})
	f("more is lost than was damaged", "I1", "m2", func(w *tale) {
		w.r.LostMax = 1
		for _, n := range []int{1, 2} {
			attempt(w, n).Buffered = true
			remove(w, fmt.Sprintf("idm%d", n))
		}
	})
	f("damage excuses nothing that was in the database", "I1", "m2", func(w *tale) {
		w.r.LostMax = 1
		remove(w, "idm2")
	})
	f("a row that nobody sent", "I3", "nobody sent", func(w *tale) {
		w.s.Rows = append(w.s.Rows, Row{"x", "x", "q", "a", partition, `{"uid":"zz"}`})
	})
	f("a delivery that nobody sent", "I3", "nobody sent", func(w *tale) { w.h.Deliveries[0].Payload = `{"uid":"zz"}` })
	f("a payload was changed in the database", "I3", "another payload", func(w *tale) { w.s.Rows[0].Payload = `{"uid":"m1" }` })
	f("a payload was changed on its way", "I3", "from", func(w *tale) { w.h.Deliveries[0].Payload = `{"uid":"m1" }` })
	f("it came from another partition", "I3", "from q/z", func(w *tale) { w.h.Deliveries[0].Partition = "z" })
	f("another key", "I3", "has zz", func(w *tale) { w.s.Rows[0].Key = "zz" })
	f("two are stored in the wrong order", "I4", "stored behind", func(w *tale) { w.s.Rows[0], w.s.Rows[2] = w.s.Rows[2], w.s.Rows[0] })
	f("a buffered one is stored behind a later one of the same queend", "I4", "stored behind", func(w *tale) {
		for n := 1; n <= 3; n++ {
			attempt(w, n).Buffered = true
		}
		attempt(w, 2).Server = 1
		w.s.Rows[0], w.s.Rows[4] = w.s.Rows[4], w.s.Rows[0]
	})
	f("one that was in the database is overtaken by another queend's", "I4", "stored behind", func(w *tale) {
		attempt(w, 3).Server = 1
		w.s.Rows[0], w.s.Rows[4] = w.s.Rows[4], w.s.Rows[0]
	})
	f("two are delivered in the wrong order", "I4", "group \"g\"", func(w *tale) {
		w.h.Deliveries[0].MessageID, w.h.Deliveries[2].MessageID = w.h.Deliveries[2].MessageID, w.h.Deliveries[0].MessageID
		w.h.Deliveries[0].Payload, w.h.Deliveries[2].Payload = w.h.Deliveries[2].Payload, w.h.Deliveries[0].Payload
	})
	f("a lease is given while another one lasts", "I5", "lease l2", func(w *tale) {
		w.s.Cursors[2].OldWorker, w.s.Cursors[2].OldExpires = "l1", w.s.Cursors[0].NewExpires
	})
	f("an ack under a lease that never was", "I5", "never had", func(w *tale) { w.h.Acks[0].Lease = "l9" })
	f("the cursor goes back", "I6", "went back", func(w *tale) { w.s.Cursors[3].Back = true })
	f("an acknowledged message comes again", "I6", "was acknowledged", func(w *tale) {
		d := w.h.Deliveries[0]
		d.Start, d.End = 150*ms, 160*ms
		w.h.Deliveries = append(w.h.Deliveries, d)
	})
	f("one before an acknowledged message comes again", "I6", "was acknowledged", func(w *tale) {
		d := w.h.Deliveries[0]
		d.Start, d.End = 151*ms, 160*ms
		w.h.Deliveries = append(w.h.Deliveries, d)
		w.h.Acks = w.h.Acks[4:] // only m3's
	})
	f("a late ack has success", "I6", "after the end of lease", func(w *tale) { w.s.Cursors[0].NewExpires = w.h.Clock.Wall(50 * ms) })
	f("autoAck gets one twice", "I6", "twice", func(w *tale) {
		for range 2 {
			d := w.h.Deliveries[0]
			d.Group, d.Auto = "auto", true
			w.h.Deliveries = append(w.h.Deliveries, d)
		}
	})
	f("an acknowledgment without its push", "I7", "without the push", func(w *tale) { remove(w, "idc2") })
	f("two transactions for one message", "I7", "by 2 transactions", func(w *tale) { w.h.Messages[3].Parent = "m1" })
	f("a slow push", "I8", "took 6s", func(w *tale) { w.h.Calls[0].End = 6 * time.Second })
	f("a slow long poll", "I8", "took 31.5s", func(w *tale) { w.h.Calls[1].End = 31500 * ms })
	f("a fault of the server", "I10", "500", func(w *tale) { w.h.Calls[0].Status = 500 })
	f("503 without Retry-After", "I10", "without Retry-After", func(w *tale) { w.h.Calls[2].RetryAfter = false })
	f("an answer that cannot be read", "I10", "nonsense", func(w *tale) { w.h.Wrong = []string{"nonsense"} })
}

// What a client does not know may have been done or not; both are right.
func TestTheUnknownMayBeEither(t *testing.T) {
	f := func(what string, change func(*tale)) {
		t.Helper()
		w := good()
		change(w)
		if got := Check(w.h, w.s, w.r); len(got) != 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
	f("a push without an answer was stored", func(w *tale) { w.h.Messages[0].Attempts[0] = history.Attempt{Outcome: history.Unknown} })
	f("a push without an answer was not stored", func(w *tale) {
		w.h.Messages = append(w.h.Messages, &history.Message{UID: "m9", Producer: "p", N: 9, Attempts: []history.Attempt{{Outcome: history.Unknown}}})
	})
	f("a push without an answer is stored behind later ones", func(w *tale) {
		w.h.Messages[0].Attempts[0] = history.Attempt{Outcome: history.Unknown}
		w.h.Messages[0].N, w.h.Messages[2].N, w.h.Messages[4].N = 2, 4, 3
		w.h.Messages[4].Attempts[0] = history.Attempt{Outcome: history.Unknown}
	})
	f("a buffered push overtaken by what another queend got", func(w *tale) {
		w.h.Messages[0].Attempts[0].Buffered, w.h.Messages[2].Attempts[0].Buffered = true, true
		w.h.Messages[4].Attempts[0].Server = 1
		w.s.Rows[0], w.s.Rows[2], w.s.Rows[4] = w.s.Rows[4], w.s.Rows[0], w.s.Rows[2]
		w.h.Deliveries, w.h.Acks, w.s.Cursors, w.r.TransactionQueue, w.r.Groups = nil, nil, nil, "", nil
	})
	f("what was damaged on the disk is lost", func(w *tale) {
		w.h.Messages[2].Attempts[0].Buffered, w.r.LostMax = true, 1
		w.s.Rows = append(w.s.Rows[:2], w.s.Rows[3:]...)
		w.h.Deliveries, w.h.Acks, w.s.Cursors, w.r.TransactionQueue, w.r.Groups = nil, nil, nil, "", nil
	})
	f("what PostgreSQL refuses is not there", func(w *tale) {
		w.h.Messages = append(w.h.Messages, &history.Message{UID: "m9", Doomed: true, Producer: "p", N: 9, Attempts: []history.Attempt{{Outcome: history.OK, Buffered: true}}})
	})
	f("an ack without an answer was not done", func(w *tale) {
		w.h.Acks[0].Outcome = history.Unknown
		w.h.Acks[2].Outcome = history.Unknown
		d := w.h.Deliveries[0]
		d.Start, d.End = 124*ms, 126*ms
		w.h.Deliveries = append(w.h.Deliveries, d)
	})
	f("a pop that began before the ack ended brings it again", func(w *tale) {
		d := w.h.Deliveries[0]
		d.Start, d.End = 119*ms, 160*ms
		w.h.Deliveries = append(w.h.Deliveries, d)
	})
	f("a long call while the server stood still", func(w *tale) {
		w.h.Calls[0].End = time.Minute
		w.r.Excused = func(start, end time.Duration) bool { return end > 30*time.Second }
	})
}
