package queue

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// reader is what a consumer group in one partition is, told as a story and not as a row:
// which messages it was given and which are behind it. Messages are 1, 2, …
type reader struct {
	done    int    // all up to here are behind it
	holder  string // who has a live lease, ""
	given   int    // the last message of the lease
	retries int
	dead    []int
}

// ask is one item of a call.
type ask struct {
	message int // 0: one that there is none of
	status  string
	lease   string
}

// call is the rules of acknowledgments said a second time: item by item, in words.
func (m *reader) call(limit int, asks []ask) []string {
	answers := make([]string, len(asks))
	order := make([]int, len(asks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(asks[a].message, asks[b].message) })
	holder, worn, again := m.holder, m.retries >= limit, false
	free := func() { m.holder, m.given = "", 0 }
	pass := func(message int) bool {
		if message > m.done {
			m.done, m.retries = message, 0
		}
		if m.holder != "" && m.done >= m.given {
			free()
			return true
		}
		return false
	}
	for _, i := range order {
		a := asks[i]
		switch {
		case a.message == 0:
			answers[i] = "no notfound"
		case a.lease != "" && a.lease != holder:
			answers[i] = "no nolease"
		case a.status == "weird":
			answers[i] = "no"
		case a.status == "retry":
			again = true
			free()
			answers[i] = "yes released"
		case a.status == "failed" && (again || !worn):
			if !again && m.holder != "" {
				m.retries++
			}
			if !again {
				free()
			}
			again = true
			answers[i] = "yes released"
		case again:
			answers[i] = "no stopped"
		case a.status == "completed":
			answers[i] = "yes"
			if pass(a.message) {
				answers[i] = "yes released"
			}
		default:
			answers[i] = "yes dead"
			if !slices.Contains(m.dead, a.message) {
				m.dead = append(m.dead, a.message)
			}
			pass(a.message)
		}
	}
	return answers
}

func TestTheRulesAreTheModels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const messages = 8
		at := func(n int) place { return place{at: int64(n) / 3, id: UUID{0: byte(n)}} }
		limit := rapid.IntRange(0, 3).Draw(t, "limit")
		c := cursor{there: true, at: beginning}
		m := &reader{}
		leases := 0
		for step := range rapid.IntRange(1, 20).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "lease") && m.holder == "" && m.done < messages {
				leases++
				n := rapid.IntRange(1, messages-m.done).Draw(t, "size")
				m.holder, m.given = fmt.Sprint("L", leases), m.done+n
				c.hasWorker, c.worker, c.hasEnd, c.expires, c.live = true, m.holder, true, int64(leases), true
				c.size, c.acked, c.hasLast, c.last = n, 0, true, at(m.given)
			}
			var asks []ask
			var refs []ackRef
			items := make([]AckItem, rapid.IntRange(1, 6).Draw(t, "items"))
			for i := range items {
				a := ask{
					message: rapid.IntRange(0, messages).Draw(t, "message"),
					status:  rapid.SampledFrom([]string{"completed", "completed", "failed", "retry", "dlq", "weird"}).Draw(t, "status"),
					lease:   rapid.SampledFrom([]string{"", m.holder, m.holder, "X"}).Draw(t, "lease id"),
				}
				asks = append(asks, a)
				items[i] = AckItem{Status: []byte(a.status), LeaseID: []byte(a.lease)}
				refs = append(refs, ackRef{item: int32(i), ack: &items[i], found: a.message > 0, at: at(a.message), seq: int64(a.message)})
			}
			slices.SortStableFunc(refs, func(a, b ackRef) int { return a.at.compare(b.at) })
			was := c
			var e effect
			c.acknowledge(refs, limit, false, &e)
			want := strings.Join(m.call(limit, asks), ", ")
			if got := outcomes(&Op{Acks: items}); got != want {
				t.Fatalf("step %d: %+v: %s, want %s", step, asks, got, want)
			}
			wantAt := beginning
			if m.done > 0 {
				wantAt = at(m.done)
			}
			if c.at != wantAt || c.live != (m.holder != "") || c.worker != m.holder || c.retries != m.retries || c.leased() != c.live {
				t.Fatalf("step %d: %+v: %+v, want %+v", step, asks, c, m)
			}
			if was.at.after(c.at) {
				t.Fatalf("the cursor went back from %+v to %+v", was.at, c.at)
			}
			var dead []int
			for _, d := range e.dead {
				dead = append(dead, int(d.ref.seq))
			}
			if !slices.Equal(dead, m.dead) {
				t.Fatalf("step %d: %+v: dead %v, want %v", step, asks, dead, m.dead)
			}
			m.dead = nil
		}
	})
}

// No failure that is to be delivered again is ever passed in the same call, whatever else
// the call says.
func TestAFailureIsNeverPassedInItsCall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := cursor{there: true, at: beginning, hasWorker: true, worker: "L", hasEnd: true, live: true, size: 9, hasLast: true, last: place{at: 9}, retries: rapid.IntRange(0, 2).Draw(t, "retries")}
		items := make([]AckItem, rapid.IntRange(1, 9).Draw(t, "items"))
		var refs []ackRef
		for i := range items {
			items[i].Status = []byte(rapid.SampledFrom([]string{"completed", "failed", "retry", "dlq"}).Draw(t, "status"))
			refs = append(refs, ackRef{ack: &items[i], found: true, at: place{at: int64(i + 1), id: UUID{1}}})
		}
		var e effect
		c.acknowledge(refs, 2, false, &e)
		for i := range items {
			if s := string(items[i].Status); (s == "failed" || s == "retry") && !items[i].Dead && !refs[i].at.after(c.at) {
				t.Fatalf("item %d (%s) was passed: %+v", i, s, c.at)
			}
		}
	})
}
