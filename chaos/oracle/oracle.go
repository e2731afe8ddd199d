// Package oracle judges a trial: it compares what clients saw (package history) with what
// the database holds, message by message, and names each contradiction by the promise
// that it breaks. It is pure: a trial's history and snapshot go in, violations come out.
//
// The promises, one function each:
//
//	I1  no loss: what was answered 2xx is one row, and every group got it
//	I2  no duplicate: one row for each message; none for what was refused
//	I3  no phantom: nothing is delivered or stored that nobody sent, and payloads are equal
//	I4  order: who waits for his answers finds his messages in that order
//	I5  leases: at most one that is not over for each (partition, group)
//	I6  acks: what is acknowledged, and all before it, does not come again; an
//	    acknowledgment under a lease that is over is refused; the cursor never goes back
//	I7  transactions: acknowledgment and push are both done, or neither
//	I8  liveness: each request ends in time (a long poll: its time-out + 1 s)
//	I10 honesty: only 2xx, 4xx, and 503 with Retry-After leave the server
//
// All but the sorting is linear in the size of the history.
package oracle

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/queend/queend/chaos/history"
)

// Violation is a promise that was broken.
type Violation struct {
	Promise string // "I1", …
	What    string // a sentence
}

// String is a line.
func (v Violation) String() string { return v.Promise + ": " + v.What }

// Rules say what is to be checked.
type Rules struct {
	// Groups are those that must get every message of a queue, by queue.
	Groups map[string][]string

	// In this queue and group each message is acknowledged by a transaction that pushes
	// one child, and by nothing else. "": there is none.
	TransactionQueue, TransactionGroup string

	// CallMax is how long a request may take, PollSlack how long a long poll may beyond its
	// time-out; CallMax 0: as long as they like.
	CallMax, PollSlack time.Duration

	// Excused says that a call that was under way then may take longer: the server was
	// stopped by us.
	Excused func(start, end time.Duration) bool

	// LateSlack is how long after the end of a lease an acknowledgment must begin to be
	// certainly late.
	LateSlack time.Duration

	// LostMax is how many of the messages that were answered that they will be stored may be
	// lost all the same: the row has damaged so many on the disk.
	LostMax int

	// Drained: all groups were seen at the end of their partitions. Otherwise not having
	// got a message is reported once, as a trial that did not drain.
	Drained bool
}

// ViolationsMax is how many violations of one promise are reported.
const ViolationsMax = 20

// Check compares.
func Check(h *history.History, s *Snapshot, r Rules) []Violation {
	c := &checker{h: h, s: s, r: r, counts: map[string]int{}}
	c.index()
	c.sent()
	c.delivered()
	c.order()
	c.leases()
	c.acks()
	c.transactions()
	c.calls()
	for _, promise := range slices.Sorted(keys(c.counts)) {
		if n := c.counts[promise]; n > ViolationsMax {
			c.found = append(c.found, Violation{promise, fmt.Sprintf("and %d more", n-ViolationsMax)})
		}
	}
	return c.found
}

func keys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// UID reads the uid of a payload that was made by a load.
func UID(payload string) string {
	var p struct {
		UID string `json:"uid"`
	}
	if json.Unmarshal([]byte(payload), &p) != nil {
		return ""
	}
	return p.UID
}

type checker struct {
	h *history.History
	s *Snapshot
	r Rules

	messages map[string]*history.Message // by uid
	rows     map[string][]*Row           // by uid
	place    map[string]int              // row id → position in delivery order of all rows
	byID     map[string]string           // row id → uid

	found  []Violation
	counts map[string]int
}

func (c *checker) broken(promise, format string, args ...any) {
	c.counts[promise]++
	if c.counts[promise] <= ViolationsMax {
		c.found = append(c.found, Violation{promise, fmt.Sprintf(format, args...)})
	}
}

func (c *checker) index() {
	c.messages = make(map[string]*history.Message, len(c.h.Messages))
	for _, m := range c.h.Messages {
		if c.messages[m.UID] != nil {
			panic("BUG: two messages have the uid " + m.UID)
		}
		c.messages[m.UID] = m
	}
	c.rows = make(map[string][]*Row, len(c.s.Rows))
	c.place = make(map[string]int, len(c.s.Rows))
	c.byID = make(map[string]string, len(c.s.Rows))
	for i := range c.s.Rows {
		row := &c.s.Rows[i]
		uid := UID(row.Payload)
		c.rows[uid] = append(c.rows[uid], row)
		c.place[row.ID] = i
		c.byID[row.ID] = uid
	}
}

// sent compares messages with rows: I1, I2, I3.
func (c *checker) sent() {
	lost := 0
	for _, m := range c.h.Messages {
		rows, outcome := c.rows[m.UID], m.Outcome()
		if m.Doomed {
			if len(rows) > 0 {
				c.broken("I2", "message %s, which PostgreSQL refuses, is stored %s", m.UID, tries(m))
			}
			continue
		}
		if outcome == history.OK && len(rows) == 0 && !m.Stored() && lost < c.r.LostMax {
			lost++
			continue
		}
		if outcome == history.OK && len(rows) == 0 {
			c.broken("I1", "message %s (%s/%s, key %q) was answered 2xx %s and is not stored", m.UID, m.Queue, m.Partition, m.Key, tries(m))
		}
		if len(rows) > 1 {
			c.broken("I2", "message %s (%s/%s, key %q) is stored %d times %s", m.UID, m.Queue, m.Partition, m.Key, len(rows), tries(m))
		}
		if outcome == history.Fail && len(rows) > 0 {
			c.broken("I2", "message %s (%s/%s, key %q) was refused and is stored %s", m.UID, m.Queue, m.Partition, m.Key, tries(m))
		}
		for i := range m.Attempts {
			a := &m.Attempts[i]
			if a.Outcome == history.OK && a.ID != "" && len(rows) == 1 && rows[0].ID != a.ID {
				c.broken("I2", "message %s was answered with id %s and is stored as %s", m.UID, a.ID, rows[0].ID)
			}
			if a.Outcome == history.OK && a.Key != "" && len(rows) == 1 && rows[0].Key != a.Key {
				c.broken("I3", "message %s was answered with transactionId %s and has %s", m.UID, a.Key, rows[0].Key)
			}
		}
		for _, row := range rows {
			switch {
			case row.Queue != m.Queue || row.Partition != m.Partition:
				c.broken("I3", "message %s was sent to %s/%s and is in %s/%s", m.UID, m.Queue, m.Partition, row.Queue, row.Partition)
			case row.Payload != m.Payload:
				c.broken("I3", "message %s is stored with another payload: %.200s", m.UID, row.Payload)
			case m.Key != "" && row.Key != m.Key:
				c.broken("I3", "message %s was sent with key %s and has %s", m.UID, m.Key, row.Key)
			}
		}
	}
	for uid, rows := range c.rows {
		if c.messages[uid] == nil {
			c.broken("I3", "a row (%s, %s/%s) that nobody sent: %.100s", rows[0].ID, rows[0].Queue, rows[0].Partition, rows[0].Payload)
		}
	}
}

func tries(m *history.Message) string {
	text := "("
	for i := range m.Attempts {
		a := &m.Attempts[i]
		if i > 0 {
			text += "; "
		}
		text += fmt.Sprintf("%v-%v %v %d", a.Start.Round(time.Millisecond), a.End.Round(time.Millisecond), a.Outcome, a.Status)
		if a.Why != "" {
			text += fmt.Sprintf(" %.120s", a.Why)
		}
	}
	return text + ")"
}

// delivered compares deliveries with messages: I1, I3.
func (c *checker) delivered() {
	type to struct{ group, uid string }
	got := make(map[to]bool, len(c.h.Deliveries))
	for i := range c.h.Deliveries {
		d := &c.h.Deliveries[i]
		uid := UID(d.Payload)
		m := c.messages[uid]
		if m == nil {
			c.broken("I3", "group %q got a message that nobody sent: %.100s", d.Group, d.Payload)
			continue
		}
		if m.Queue != d.Queue || m.Partition != d.Partition || m.Payload != d.Payload {
			c.broken("I3", "group %q got %s of %s/%s from %s/%s as %.200s", d.Group, uid, m.Queue, m.Partition, d.Queue, d.Partition, d.Payload)
		}
		if rows := c.rows[uid]; len(rows) == 1 && (rows[0].ID != d.MessageID || rows[0].Key != d.Key) {
			c.broken("I3", "group %q got %s with id %s and key %s; it is stored with %s and %s", d.Group, uid, d.MessageID, d.Key, rows[0].ID, rows[0].Key)
		} else if len(rows) == 0 {
			c.broken("I3", "group %q got %s, which is not stored", d.Group, uid)
		}
		if t := (to{d.Group, uid}); d.Auto && got[t] {
			c.broken("I6", "group %q, which acknowledges by popping, got %s twice", d.Group, uid)
		}
		got[to{d.Group, uid}] = true
	}
	if !c.r.Drained {
		c.broken("I1", "the queues were not drained in time")
		return
	}
	for queue, groups := range c.r.Groups {
		for uid := range c.rows {
			m := c.messages[uid]
			if m == nil || m.Queue != queue {
				continue
			}
			for _, group := range groups {
				if !got[to{group, uid}] {
					c.broken("I1", "message %s (%s/%s, %v) never came to group %q", uid, m.Queue, m.Partition, m.Outcome(), group)
				}
			}
		}
	}
}

// order checks I4 in the database and at each group. A message whose outcome its
// producer never learned may come late; all others may not.
func (c *checker) order() {
	type of struct{ producer, partition string }
	stored := map[of]*past{}
	for i := range c.s.Rows {
		row := &c.s.Rows[i]
		m := c.messages[c.byID[row.ID]]
		if m == nil || len(c.rows[m.UID]) > 1 {
			continue
		}
		k := of{m.Producer, row.PartitionID}
		if stored[k] == nil {
			stored[k] = &past{}
		}
		if n := stored[k].overtook(m); n != nil {
			c.broken("I4", "in %s/%s message %s of %s is stored behind its number %d", m.Queue, m.Partition, m.UID, m.Producer, n.N)
		}
	}

	type at struct{ group, consumer, producer, partition string }
	seen := map[at]*past{}
	type to struct{ group, uid string }
	got := map[to]bool{}
	for i := range c.h.Deliveries {
		d := &c.h.Deliveries[i]
		m := c.messages[UID(d.Payload)]
		if m == nil || got[to{d.Group, m.UID}] {
			continue // only the first time counts: later ones come again from the cursor on
		}
		got[to{d.Group, m.UID}] = true
		k := at{d.Group, "", m.Producer, d.PartitionID}
		if d.Auto {
			k.consumer = d.Consumer // without leases two answers may be under way at once
		}
		if seen[k] == nil {
			seen[k] = &past{}
		}
		if n := seen[k].overtook(m); n != nil {
			c.broken("I4", "group %q got message %s of %s behind its number %d (at %v)", d.Group, m.UID, m.Producer, n.N, d.End)
		}
	}
}

// past is what came of one producer so far, in one partition.
type past struct {
	all    []*history.Message
	newest int
}

// overtook adds m, and finds a message that came before it though its producer sent it
// after m was answered. Nil: there is none.
//
// While PostgreSQL is away each queend keeps the order of what it was sent itself. So a
// message may overtake one that was not in the database when it was sent, if it was given
// to a queend that has not got that one.
func (p *past) overtook(m *history.Message) (wrong *history.Message) {
	if m.N < p.newest && m.Outcome() == history.OK {
		for _, n := range p.all {
			if n.N > m.N && !elsewhere(n, m) {
				wrong = n
			}
		}
	}
	p.all, p.newest = append(p.all, m), max(p.newest, m.N)
	return wrong
}

// elsewhere says that n was given to a queend that does not have m to store before it.
func elsewhere(n, m *history.Message) bool {
	if m.Stored() {
		return false
	}
	for i := range n.Attempts {
		if !m.AcceptedBy(n.Attempts[i].Server) {
			return true
		}
	}
	return false
}

type lane struct{ partition, group string }

// leases checks I5 and the cursor's half of I6 by the audit.
func (c *checker) leases() {
	for i := range c.s.Cursors {
		x := &c.s.Cursors[i]
		if x.Back {
			c.broken("I6", "the cursor of group %q in partition %s went back at %s", x.Group, x.PartitionID, x.At.Format(time.StampMicro))
		}
		given := x.NewWorker != "" && x.NewWorker != x.OldWorker
		if given && x.OldWorker != "" && x.OldExpires.After(x.At) {
			c.broken("I5", "group %q, partition %s: lease %s was given at %s while %s lasted until %s", x.Group, x.PartitionID,
				x.NewWorker, x.At.Format(time.StampMicro), x.OldWorker, x.OldExpires.Format(time.StampMicro))
		}
	}
}

// acks checks I6 from the clients' side.
func (c *checker) acks() {
	// The end of each lease: the latest that it ever had.
	type lease struct {
		lane
		worker string
	}
	ends := map[lease]time.Time{}
	for i := range c.s.Cursors {
		x := &c.s.Cursors[i]
		if x.NewWorker != "" {
			k := lease{lane{x.PartitionID, x.Group}, x.NewWorker}
			if e := ends[k]; x.NewExpires.After(e) {
				ends[k] = x.NewExpires
			}
		}
	}

	type moved struct {
		end   time.Duration
		place int
	}
	cursors := map[lane][]moved{} // by end, place rising
	for i := range c.h.Acks {
		a := &c.h.Acks[i]
		if a.Outcome != history.OK {
			continue
		}
		l := lane{a.PartitionID, stored(a.Group)}
		if a.Lease != "" && c.s.Audited {
			end, ok := ends[lease{l, a.Lease}]
			begun := c.h.Clock.Wall(a.Start)
			switch {
			case !ok:
				c.broken("I5", "group %q acknowledged %s with success under lease %s, which it never had", a.Group, a.MessageID, a.Lease)
			case begun.After(end.Add(c.r.LateSlack)):
				c.broken("I6", "group %q acknowledged %s with success %v after the end of lease %s", a.Group, a.MessageID, begun.Sub(end), a.Lease)
			}
		}
		place, ok := c.place[a.MessageID]
		if !ok || !a.Moves() {
			continue
		}
		list := cursors[l]
		if n := len(list); n > 0 {
			place = max(place, list[n-1].place)
		}
		cursors[l] = append(list, moved{a.End, place})
	}
	for i := range c.h.Deliveries {
		d := &c.h.Deliveries[i]
		list := cursors[lane{d.PartitionID, stored(d.Group)}]
		n := sort.Search(len(list), func(i int) bool { return list[i].end >= d.Start })
		place, ok := c.place[d.MessageID]
		if n > 0 && ok && place <= list[n-1].place {
			c.broken("I6", "group %q got %s (%s) by a pop of %v-%v though it or one behind it was acknowledged by %v",
				d.Group, c.byID[d.MessageID], d.MessageID, d.Start, d.End, list[n-1].end)
		}
	}
}

// QueueMode is what the group "" is called in the database.
const QueueMode = "__QUEUE_MODE__"

func stored(group string) string { return cmp.Or(group, QueueMode) }

// transactions checks I7: by the end each source message has one child, since it was
// acknowledged once, and only together with a push.
func (c *checker) transactions() {
	if c.r.TransactionQueue == "" {
		return
	}
	children := map[string]int{}
	for _, m := range c.h.Messages {
		if m.Parent != "" {
			children[m.Parent] += len(c.rows[m.UID])
		}
	}
	for uid, rows := range c.rows {
		m := c.messages[uid]
		if m == nil || m.Queue != c.r.TransactionQueue || len(rows) != 1 {
			continue
		}
		switch n := children[uid]; {
		case n > 1:
			c.broken("I7", "message %s was acknowledged by %d transactions", uid, n)
		case n == 0 && c.r.Drained:
			c.broken("I7", "message %s was acknowledged without the push of its transaction", uid)
		}
	}
}

// calls checks I8 and I10.
func (c *checker) calls() {
	for _, what := range c.h.Wrong {
		c.broken("I10", "%s", what)
	}
	for i := range c.h.Calls {
		x := &c.h.Calls[i]
		switch {
		case x.Status == 503 && !x.RetryAfter:
			c.broken("I10", "%s was answered 503 without Retry-After: %.200s", x.Route, x.Why)
		case x.Status != 0 && x.Status != 503 && (x.Status < 200 || x.Status >= 300) && (x.Status < 400 || x.Status >= 500):
			c.broken("I10", "%s was answered %d: %.200s", x.Route, x.Status, x.Why)
		}
		if c.r.CallMax == 0 || c.r.Excused != nil && c.r.Excused(x.Start, x.End) {
			continue
		}
		limit := c.r.CallMax
		if x.Wait > 0 {
			limit = x.Wait + c.r.PollSlack
		}
		if took := x.End - x.Start; took > limit {
			c.broken("I8", "%s took %v (answer %d): %v-%v", x.Route, took.Round(time.Millisecond), x.Status, x.Start.Round(time.Millisecond), x.End.Round(time.Millisecond))
		}
	}
}
