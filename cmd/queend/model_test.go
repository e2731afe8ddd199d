package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// machine drives one queue of a running queend, one request at a time, and knows what each
// must be answered. It is written from the contract and shares nothing with the code: a
// message is its place in its partition, a cursor is how many messages are behind it.
type machine struct {
	*rapid.T
	p     *process
	db    *pgx.Conn
	queue string

	limit  int // retryLimit
	parts  map[string]*modelPart
	leases []string // ever handed out, and some that never were
	dead   []string // dead letters: transaction, group, error
	turn   int
	made   int
}

type modelPart struct {
	name, id string
	sent     []sent
	cursors  map[string]*modelCursor // by group
}

type sent struct{ transaction, id, data string }

type modelCursor struct {
	there   bool // it is known to have a row
	at      int  // messages behind it
	lease   string
	live    bool // the lease has not run out
	last    int  // the lease ends when at gets there
	retries int
	since   int  // the turn when it became claimable
	hidden  bool // and it became so by a way that is told to nobody
	taken   int  // the turn of the last pop that took it
	loose   bool // it was drained otherwise than by a pop, and may still stand in line
}

func (c *modelCursor) free() { c.lease, c.live, c.last = "", false, 0 }

// Groups; the last one never pops.
var modelGroups = []string{"__QUEUE_MODE__", "g", "never"}

// move takes a message as consumed. It says whether the lease ended.
func (c *modelCursor) move(to int) bool {
	c.there = true
	if to > c.at {
		c.at, c.retries = to, 0
	}
	if c.lease == "" || c.at < c.last {
		return false
	}
	c.free()
	c.retries = 0
	return true
}

func (c *modelCursor) holds(lease string) bool { return c.live && c.lease == lease }

func (m *modelPart) claimable(group string) bool {
	c := m.cursors[group]
	return !c.live && c.at < len(m.sent)
}

func (m *modelPart) find(transaction string) int {
	return slices.IndexFunc(m.sent, func(s sent) bool { return s.transaction == transaction })
}

// names of the partitions, in one order.
func (w *machine) names() []string { return slices.Sorted(maps.Keys(w.parts)) }

// before remembers what is claimable, and settle what has become so since.
func (w *machine) before() map[*modelCursor]bool {
	was := map[*modelCursor]bool{}
	for _, m := range w.parts {
		for g, c := range m.cursors {
			was[c] = m.claimable(g)
		}
	}
	return was
}

func (w *machine) settle(was map[*modelCursor]bool) {
	w.turn++
	for _, m := range w.parts {
		for g, c := range m.cursors {
			switch now := m.claimable(g); {
			case now && !was[c]:
				c.since = w.turn
			case !now && was[c] && c.taken != w.turn:
				c.loose = true
			}
		}
	}
}

// part draws a partition that there is; nil: there is none.
func (w *machine) part() *modelPart {
	if len(w.parts) == 0 {
		return nil
	}
	return w.parts[rapid.SampledFrom(w.names()).Draw(w.T, "partition")]
}

func (w *machine) group() string { return rapid.SampledFrom(modelGroups).Draw(w.T, "group") }

func (w *machine) popGroup() string { return rapid.SampledFrom(modelGroups[:2]).Draw(w.T, "group") }

func (w *machine) post(path string, body any, answer any) string {
	w.Helper()
	sent, err := json.Marshal(body)
	if err != nil {
		w.Fatal(err)
	}
	status, _, text := w.p.ask("POST", path, string(sent))
	if status != 200 && status != 201 {
		w.Fatalf("%s %s: %d %s", path, sent, status, text)
	}
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		w.Fatalf("%s %s: %v in %s", path, sent, err, text)
	}
	said := fmt.Sprintf("%s %s\nanswered %s", path, sent, text)
	w.Log(said)
	return said
}

// newMessage draws where a message goes and what it is called.
func (w *machine) newMessage() (name, transaction, data string) {
	name = rapid.SampledFrom([]string{"Default", "a", "b/c d%", "é"}).Draw(w.T, "name")
	if m := w.parts[name]; m != nil && len(m.sent) > 0 && rapid.IntRange(0, 9).Draw(w.T, "again") == 0 {
		return name, m.sent[rapid.IntRange(0, len(m.sent)-1).Draw(w.T, "duplicate")].transaction, `"again"`
	}
	w.made++
	return name, fmt.Sprintf("t%d", w.made), fmt.Sprint(w.made)
}

func (w *machine) partition(name, id string) *modelPart {
	m := w.parts[name]
	if m == nil {
		m = &modelPart{name: name, id: id, cursors: map[string]*modelCursor{}}
		for _, g := range modelGroups {
			m.cursors[g] = &modelCursor{}
		}
		w.parts[name] = m
	}
	return m
}

type object = map[string]any

func (w *machine) Push() {
	var items []object
	for range rapid.IntRange(1, 6).Draw(w.T, "items") {
		name, transaction, data := w.newMessage()
		items = append(items, object{"queue": w.queue, "partition": name, "transactionId": transaction, "payload": json.RawMessage(data)})
	}
	var answer []struct {
		Status      string
		MessageID   string `json:"message_id"`
		PartitionID string `json:"partition_id"`
	}
	said := w.post("/api/v1/push", object{"items": items}, &answer)
	if len(answer) != len(items) {
		w.Fatalf("%s", said)
	}
	was := w.before()
	for i, a := range answer {
		it := items[i]
		m := w.partition(it["partition"].(string), a.PartitionID)
		want, id := "queued", a.MessageID
		if j := m.find(it["transactionId"].(string)); j >= 0 {
			want, id, a.PartitionID = "duplicate", m.sent[j].id, m.id // a duplicate's is not said
		} else {
			m.sent = append(m.sent, sent{it["transactionId"].(string), a.MessageID, string(it["payload"].(json.RawMessage))})
		}
		if a.Status != want || a.MessageID != id || a.PartitionID != m.id {
			w.Fatalf("item %d: want %s %s in %s\n%s", i, want, id, m.id, said)
		}
	}
	w.settle(was)
}

// take checks that messages are those at the cursor of m, and takes them.
func (w *machine) take(m *modelPart, group, lease string, auto bool, got []message, said string) {
	c := m.cursors[group]
	if c.live || len(got) > len(m.sent)-c.at {
		w.Fatalf("partition %q: cursor %+v of %d\n%s", m.name, *c, len(m.sent), said)
	}
	for i, g := range got {
		s := m.sent[c.at+i]
		if g.TransactionID != s.transaction || g.ID != s.id || string(g.Data) != s.data || g.Queue != w.queue || g.Partition != m.name ||
			g.PartitionID != m.id || g.ConsumerGroup != group || g.LeaseID != lease || g.RetryCount != c.retries {
			w.Fatalf("partition %q: message %d: got %+v, want %+v (cursor %+v)\n%s", m.name, i, g, s, *c, said)
		}
	}
	c.there, c.hidden, c.loose, c.taken = true, false, false, w.turn+1
	if c.free(); auto {
		c.at += len(got)
		c.retries, c.since = 0, w.turn+1 // what is left goes to the end
		return
	}
	c.lease, c.live, c.last = lease, true, c.at+len(got)
}

func (w *machine) pop(path string) (popped, string) {
	a := w.p.pop(path)
	if a.status != 200 || a.Messages == nil {
		w.Fatalf("pop %s: %d %s", path, a.status, a.text)
	}
	if a.LeaseID != "" {
		w.leases = append(w.leases, a.LeaseID)
	}
	said := "pop " + path + "\nanswered " + a.Error + " " + a.LeaseID
	for _, m := range a.Messages {
		said += ", " + m.Partition + " " + m.TransactionID
	}
	w.Log(said)
	return a, said + "\n" + a.text
}

func (w *machine) PopPartition() {
	name := rapid.SampledFrom([]string{"Default", "a", "b/c d%", "é", "nowhere"}).Draw(w.T, "name")
	group, batch, auto := w.popGroup(), rapid.IntRange(0, 4).Draw(w.T, "batch"), rapid.Bool().Draw(w.T, "autoAck")
	a, said := w.pop(fmt.Sprintf("/queue/%s/partition/%s?batch=%d&autoAck=%v&consumerGroup=%s&partitions=5", url.PathEscape(w.queue), url.PathEscape(name), batch, auto, group))
	m := w.parts[name]
	switch {
	case m == nil:
		// A transaction that failed may have made it.
		if (a.Error != "partition_not_found") != a.Success || len(a.Messages) > 0 {
			w.Fatalf("%s", said)
		}
		return
	case m.cursors[group].live:
		if a.Error != "lease_held" || a.Success || len(a.Messages) > 0 {
			w.Fatalf("%s", said)
		}
		return
	}
	want := min(batch, len(m.sent)-m.cursors[group].at)
	if !a.Success || len(a.Messages) != want || (a.LeaseID != "") != (want > 0 && !auto) {
		w.Fatalf("want %d messages\n%s", want, said)
	}
	was := w.before()
	if want > 0 {
		w.take(m, group, a.LeaseID, auto, a.Messages, said)
	}
	w.settle(was)
}

func (w *machine) PopQueue() {
	group, batch, auto := w.popGroup(), rapid.IntRange(1, 6).Draw(w.T, "batch"), rapid.Bool().Draw(w.T, "autoAck")
	partitions := rapid.IntRange(1, 5).Draw(w.T, "partitions")
	path := "/queue/" + url.PathEscape(w.queue) + "?"
	if rapid.Bool().Draw(w.T, "by namespace") {
		path = "?namespace=" + url.QueryEscape(w.queue) + "&"
	}
	w.popAny(path, group, batch, partitions, auto)
}

func (w *machine) popAny(path, group string, batch, partitions int, auto bool) {
	a, said := w.pop(fmt.Sprintf("%sbatch=%d&autoAck=%v&consumerGroup=%s&partitions=%d", path, batch, auto, group, partitions))
	// Partition by partition.
	var claimed []*modelPart
	got := map[*modelPart][]message{}
	for _, msg := range a.Messages {
		m := w.parts[msg.Partition]
		if m == nil {
			w.Fatalf("%s", said)
		}
		if n := len(claimed); n == 0 || claimed[n-1] != m {
			if got[m] != nil {
				w.Fatalf("partition %q comes twice\n%s", m.name, said)
			}
			claimed = append(claimed, m)
		}
		got[m] = append(got[m], msg)
	}
	full := len(a.Messages) == batch
	if len(a.Messages) > batch || len(claimed) > partitions || a.Success != (len(claimed) > 0) || (a.LeaseID != "") != (a.Success && !auto) {
		w.Fatalf("%s", said)
	}
	// All that is claimable and known is delivered, the longest claimable first.
	latest := 0
	for i, m := range claimed {
		c := m.cursors[group]
		if !m.claimable(group) {
			w.Fatalf("partition %q is not claimable: %+v\n%s", m.name, *c, said)
		}
		if rest := len(m.sent) - c.at; len(got[m]) != rest && !(full && i == len(claimed)-1) {
			w.Fatalf("partition %q: %d of %d messages\n%s", m.name, len(got[m]), rest, said)
		}
		if !c.hidden && !c.loose && c.there {
			if c.since < latest {
				w.Fatalf("partition %q is claimable since turn %d and comes after one of turn %d\n%s", m.name, c.since, latest, said)
			}
			latest = c.since
		}
	}
	vain := 0 // tries that may have found nothing, or not looked
	for _, m := range w.parts {
		if c := m.cursors[group]; c.loose || !c.there {
			vain++
		}
	}
	for _, name := range w.names() {
		m := w.parts[name]
		c := m.cursors[group]
		// A partition that the group has not looked at yet may be passed over once.
		if got[m] != nil || !m.claimable(group) || c.hidden || !c.there && len(claimed) > 0 {
			continue
		}
		if !full && len(claimed)+vain < partitions || len(claimed) == 0 {
			w.Fatalf("partition %q is claimable and withheld: %+v\n%s", name, *c, said)
		}
		if c.since < latest && !c.loose {
			w.Fatalf("partition %q is claimable since turn %d and was passed over for one of turn %d\n%s", name, c.since, latest, said)
		}
	}
	was := w.before()
	for _, m := range claimed {
		w.take(m, group, a.LeaseID, auto, got[m], said)
	}
	w.settle(was)
}

// modelAck is an acknowledgment, and its answer.
type modelAck struct {
	m                          *modelPart
	transaction, status, lease string
	reason                     string
	at                         int // the message's place; -1: there is none

	dead, success bool
	why, released string
}

var modelStatuses = []string{"completed", "completed", "completed", "success", "failed", "failed", "retry", "dlq", "done"}

func (w *machine) newAck(group string) *modelAck {
	m := w.part()
	c := m.cursors[group]
	a := &modelAck{m: m, at: -1, transaction: "none", status: rapid.SampledFrom(modelStatuses).Draw(w.T, "status")}
	if len(m.sent) > 0 && rapid.IntRange(0, 15).Draw(w.T, "unknown") > 0 {
		lo, hi := 0, len(m.sent)-1
		if c.lease != "" && rapid.IntRange(0, 5).Draw(w.T, "any") > 0 {
			lo, hi = c.at, c.last-1
		}
		a.at = rapid.IntRange(min(lo, hi), hi).Draw(w.T, "message")
		a.transaction = m.sent[a.at].transaction
	}
	switch rapid.IntRange(0, 7).Draw(w.T, "lease") {
	case 0:
	case 1:
		a.lease = rapid.SampledFrom(append([]string{"00000000-0000-7000-8000-000000000000", "x"}, w.leases...)).Draw(w.T, "some lease")
	default:
		a.lease = c.lease
	}
	if rapid.Bool().Draw(w.T, "with reason") {
		a.reason = "since " + a.transaction
	}
	if !c.there && group != "never" {
		// A pop that found nothing here may have made the row, or be about to.
		if _, err := w.db.Exec(context.Background(), `INSERT INTO queen.partition_consumers (partition_id, consumer_group) VALUES ($1, $2) ON CONFLICT DO NOTHING`, m.id, group); err != nil {
			w.Fatal(err)
		}
		c.there = true
	}
	return a
}

func (a *modelAck) body() object {
	o := object{"transactionId": a.transaction, "partitionId": a.m.id, "status": a.status, "leaseId": nil, "error": nil, "consumerGroup": nil}
	if a.lease != "" {
		o["leaseId"] = a.lease
	}
	if a.reason != "" {
		o["error"] = a.reason
	}
	return o
}

// bury makes a dead letter. One that the cursor has passed is one already, unless it was
// passed in another way; one that was sought back to becomes one again.
func (w *machine) bury(a *modelAck, group, otherwise string, passed bool) {
	why := a.reason
	if why == "" {
		why = otherwise
	}
	for _, d := range w.dead {
		if passed && strings.HasPrefix(d, a.transaction+" "+group+" ") {
			return // it is one already
		}
	}
	w.dead = append(w.dead, a.transaction+" "+group+" "+why)
}

// apply is what one call does.
func (w *machine) apply(group string, acks []*modelAck) {
	sorted := slices.Clone(acks)
	sort.SliceStable(sorted, func(i, j int) bool { return sorted[i].at < sorted[j].at })
	stopped, first := map[*modelPart]bool{}, map[*modelPart]modelCursor{}
	for _, a := range sorted {
		if _, ok := first[a.m]; !ok {
			first[a.m] = *a.m.cursors[group]
		}
	}
	for _, a := range sorted {
		c, before := a.m.cursors[group], first[a.m]
		a.released = "false"
		exhausted := before.retries >= w.limit
		switch {
		case a.at < 0:
			a.why = "Message not found"
		case a.lease != "" && !before.holds(a.lease):
			a.why = "Invalid or expired lease"
		case a.status == "done":
		case !before.there && (a.status == "failed" || a.status == "dlq"):
			a.success, a.dead = true, true
			w.bury(a, group, "Retries exhausted", true)
		case !before.there:
			a.success, a.released = true, "null"
		case a.status == "retry":
			a.success, a.released = true, "true"
			c.free()
			stopped[a.m] = true
		case a.status == "failed" && (stopped[a.m] || !exhausted):
			a.success, a.released = true, "true"
			if !stopped[a.m] && c.live {
				c.retries++
			}
			c.free()
			stopped[a.m] = true
		case stopped[a.m]:
			a.why = "*"
		case a.status == "failed" || a.status == "dlq":
			a.success, a.dead = true, true
			w.bury(a, group, "Retries exhausted", a.at < c.at)
			c.move(a.at + 1)
		default:
			a.success = true
			if c.move(a.at + 1) {
				a.released = "true"
			}
		}
	}
}

func (w *machine) Ack() {
	if len(w.parts) == 0 {
		w.Skip("nothing is there")
	}
	group := w.group()
	acks := []*modelAck{w.newAck(group)}
	for range rapid.IntRange(0, 5).Draw(w.T, "more") {
		acks = append(acks, w.newAck(group))
	}
	path, body := "/api/v1/ack/batch", object{"consumerGroup": group}
	if len(acks) == 1 && rapid.Bool().Draw(w.T, "single") {
		path, body = "/api/v1/ack", acks[0].body()
		body["consumerGroup"] = group
	} else {
		var list []object
		for _, a := range acks {
			list = append(list, a.body())
		}
		body["acknowledgments"] = list
	}
	if group == modelGroups[0] {
		body["consumerGroup"] = nil
	}
	var answer []struct {
		DLQ, Success                            bool
		Error                                   *string
		LeaseReleased                           json.RawMessage
		Index                                   int
		TransactionID, QueueName, PartitionName string
	}
	said := w.post(path, body, &answer)
	was := w.before()
	w.apply(group, acks)
	w.settle(was)
	if len(answer) != len(acks) {
		w.Fatalf("%s", said)
	}
	for i, got := range answer {
		want, why := acks[i], ""
		if got.Error != nil {
			why = *got.Error
		}
		if want.why == "*" && why != "" {
			want.why = why // some sentence
		}
		if got.DLQ != want.dead || got.Success != want.success || why != want.why || string(got.LeaseReleased) != want.released ||
			got.Index != i || got.TransactionID != want.transaction || got.QueueName != w.queue || got.PartitionName != want.m.name {
			w.Fatalf("item %d: want dlq %v, success %v, error %q, released %s\n%s", i, want.dead, want.success, want.why, want.released, said)
		}
	}
}

func (w *machine) Extend() {
	lease := rapid.SampledFrom(append([]string{"00000000-0000-7000-8000-000000000000", "no lease"}, w.leases...)).Draw(w.T, "lease")
	want := "Lease not found"
	for _, m := range w.parts {
		for _, c := range m.cursors {
			if c.live && c.lease == lease {
				want = ""
			} else if c.lease == lease && want != "" {
				want = "Lease already expired"
			}
		}
	}
	var answer []struct {
		Error   string
		LeaseID string
		Success bool
	}
	said := w.post("/api/v1/lease/"+url.PathEscape(lease)+"/extend", object{"seconds": 700}, &answer)
	if len(answer) != 1 || answer[0].Error != want || answer[0].Success != (want == "") || answer[0].LeaseID != lease {
		w.Fatalf("want %q\n%s", want, said)
	}
}

// LeaseEnds lets a lease run out: pops of its partition see it, and others may.
func (w *machine) LeaseEnds() {
	m := w.part()
	if m == nil {
		w.Skip("nothing is there")
	}
	group := w.group()
	c := m.cursors[group]
	if !c.live {
		w.Skip("no lease is there")
	}
	was := w.before()
	if _, err := w.db.Exec(context.Background(), `UPDATE queen.partition_consumers SET lease_expires_at = now() - interval '1 second' WHERE partition_id = $1 AND consumer_group = $2`, m.id, group); err != nil {
		w.Fatal(err)
	}
	c.live, c.hidden = false, true
	w.settle(was)
}

func (w *machine) Transaction() {
	was := w.before()
	var operations []object
	type step struct {
		ack                     *modelAck
		group                   string
		name, transaction, data string
	}
	var steps []step
	for range rapid.IntRange(1, 4).Draw(w.T, "operations") {
		if len(w.parts) > 0 && rapid.Bool().Draw(w.T, "ack") {
			group := w.group()
			a := w.newAck(group)
			o := a.body()
			o["type"], o["consumerGroup"] = "ack", group
			operations, steps = append(operations, o), append(steps, step{ack: a, group: group})
			continue
		}
		var items []object
		for range rapid.IntRange(0, 3).Draw(w.T, "items") {
			name, transaction, data := w.newMessage()
			items = append(items, object{"queue": w.queue, "partition": name, "transactionId": transaction, "payload": json.RawMessage(data)})
			steps = append(steps, step{name: name, transaction: transaction, data: data})
		}
		if items == nil {
			items = []object{}
		}
		operations = append(operations, object{"type": "push", "items": items})
	}
	var answer struct {
		Error   string
		Success bool
		Results []struct {
			Type, TransactionID, MessageID, PartitionID, QueueName string
			Error                                                  *string
			Success, DLQ                                           bool
			Index                                                  int
		}
	}
	said := w.post("/api/v1/transaction", object{"operations": operations, "requiredLeases": []string{"x"}}, &answer)

	// What it does is worked out on copies.
	cursors, dead, made := map[*modelCursor]modelCursor{}, slices.Clone(w.dead), map[string]bool{}
	for _, m := range w.parts {
		for _, c := range m.cursors {
			cursors[c] = *c
		}
	}
	want, alone := "", false
	done := 0
	for _, s := range steps {
		done++
		if s.ack == nil {
			continue
		}
		a := s.ack
		c := a.m.cursors[s.group]
		before := cursors[c]
		switch {
		case a.at < 0:
			a.why = "Message not found"
		case a.lease != "" && !before.holds(a.lease):
			a.why = "Invalid or expired lease"
		case a.status == "retry" || a.status == "done":
			a.why = "Unknown error"
		case a.status == "failed" || a.status == "dlq":
			a.success, a.dead = true, true
			w.bury(a, s.group, "Unknown error", a.at < c.at)
			c.move(a.at + 1)
			c.free()
		default:
			a.success = true
			c.move(a.at + 1)
		}
		if a.why != "" {
			want = "ACK operation failed: " + a.why
			break
		}
	}
	for _, s := range steps {
		if s.ack != nil || want != "" {
			continue
		}
		m := w.parts[s.name]
		if made[s.name+" "+s.transaction] || m != nil && m.find(s.transaction) >= 0 {
			alone, done = true, 0
		}
		made[s.name+" "+s.transaction] = true
	}
	if want != "" || alone {
		for c, old := range cursors {
			*c = old
		}
		w.dead = dead
	}
	if answer.Success != (want == "" && !alone) || !alone && answer.Error != want || alone && !strings.Contains(answer.Error, "duplicate") || len(answer.Results) != done {
		w.Fatalf("want error %q, duplicate %v, %d results\n%s", want, alone, done, said)
	}
	for i, got := range answer.Results {
		s := steps[i]
		if got.Index != i {
			w.Fatalf("%s", said)
		}
		if s.ack == nil {
			if got.Type != "push" || got.TransactionID != s.transaction || !got.Success || got.QueueName != w.queue {
				w.Fatalf("result %d\n%s", i, said)
			}
			if answer.Success {
				m := w.partition(s.name, got.PartitionID)
				m.sent = append(m.sent, sent{s.transaction, got.MessageID, s.data})
				if got.PartitionID != m.id {
					w.Fatalf("result %d\n%s", i, said)
				}
			}
			continue
		}
		why := ""
		if got.Error != nil {
			why = *got.Error
		}
		if got.Type != "ack" || got.TransactionID != s.ack.transaction || got.Success != s.ack.success || got.DLQ != s.ack.dead || s.ack.why != "Unknown error" && why != s.ack.why {
			w.Fatalf("result %d: want %+v\n%s", i, s.ack, said)
		}
	}
	w.settle(was)
}

// Seek moves a group's cursors, also back.
func (w *machine) Seek() {
	group := w.group()
	body, places := object{"toEnd": true}, map[string]int{}
	for _, m := range w.parts {
		places[m.name] = len(m.sent)
	}
	if m := w.part(); m != nil && len(m.sent) > 0 && rapid.Bool().Draw(w.T, "to a time") {
		var at string
		i := rapid.IntRange(-1, len(m.sent)-1).Draw(w.T, "message")
		err := w.db.QueryRow(context.Background(), `SELECT to_char(created_at AT TIME ZONE 'UTC' - $1 * interval '1 hour' + interval '2 hours', 'YYYY-MM-DD"T"HH24:MI:SS.US"+02:00"') FROM queen.messages WHERE partition_id = $2 AND transaction_id = $3`,
			float64(min(i, 0)*-1), m.id, m.sent[max(i, 0)].transaction).Scan(&at)
		if err != nil {
			w.Fatal(err)
		}
		body = object{"timestamp": at}
		for _, m := range w.parts {
			var n int
			if err := w.db.QueryRow(context.Background(), `SELECT count(*) FROM queen.messages WHERE partition_id = $1 AND created_at <= $2::text::timestamptz`, m.id, at).Scan(&n); err != nil {
				w.Fatal(err)
			}
			places[m.name] = n
		}
	}
	var answer struct {
		Success           bool
		PartitionsUpdated int
	}
	// A seek moves what is there, or, for who has nothing in the queue, everything: so a group
	// that has come to one partition here has come to all of them.
	if _, err := w.db.Exec(context.Background(), `INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT p.id, $1::text FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id
		WHERE q.name = $2 AND EXISTS (SELECT FROM queen.partition_consumers c JOIN queen.partitions o ON o.id = c.partition_id WHERE o.queue_id = q.id AND c.consumer_group = $1::text) ON CONFLICT DO NOTHING`, group, w.queue); err != nil {
		w.Fatal(err)
	}
	said := w.post("/api/v1/consumer-groups/"+group+"/queues/"+url.PathEscape(w.queue)+"/seek", body, &answer)
	if !answer.Success || answer.PartitionsUpdated < len(w.parts) {
		w.Fatalf("%s", said)
	}
	was := w.before()
	for _, m := range w.parts {
		c := m.cursors[group]
		c.free()
		c.there, c.at, c.retries, c.hidden = true, places[m.name], 0, true
	}
	w.settle(was)
}

func (w *machine) Configure() {
	w.limit = rapid.IntRange(0, 2).Draw(w.T, "retryLimit")
	w.configure()
}

func (w *machine) configure() {
	var answer object
	if said := w.post("/api/v1/configure", object{"queue": w.queue, "namespace": w.queue, "options": object{"retryLimit": w.limit, "leaseTime": 600}}, &answer); answer["configured"] != true {
		w.Fatalf("%s", said)
	}
	w.partition("Default", answer["partitionId"].(string))
}

// agree compares what is stored with what should be.
func (w *machine) agree() {
	rows, err := w.db.Query(context.Background(), `
		SELECT p.name, c.consumer_group, (SELECT count(*) FROM queen.messages m WHERE m.partition_id = p.id AND (m.created_at, m.id) <= (coalesce(c.last_consumed_created_at, '-infinity'), c.last_consumed_id)),
		       coalesce(c.worker_id, ''), coalesce(c.lease_expires_at > now(), false), c.batch_retry_count, c.last_seq
		  FROM queen.queues q JOIN queen.partitions p ON p.queue_id = q.id JOIN queen.partition_consumers c ON c.partition_id = p.id
		 WHERE q.name = $1`, w.queue)
	if err != nil {
		w.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, group, lease string
		var at, retries, seq int
		var live bool
		if err := rows.Scan(&name, &group, &at, &lease, &live, &retries, &seq); err != nil {
			w.Fatal(err)
		}
		if w.parts[name] == nil {
			continue // a transaction that failed has made it
		}
		if c := w.parts[name].cursors[group]; c.at != at || c.lease != lease || c.live != live || c.retries != retries || seq != at {
			w.Fatalf("partition %q, group %s: stored are cursor %d (number %d), lease %q (%v), %d retries; want %+v", name, group, at, seq, lease, live, retries, *c)
		}
	}
	if rows.Err() != nil {
		w.Fatal(rows.Err())
	}
	var list struct {
		Total    int
		Messages []struct{ TransactionID, ConsumerGroup, ErrorMessage string }
	}
	_, _, text := w.p.ask("GET", "/api/v1/dlq?limit=1000&queue="+url.QueryEscape(w.queue), "")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		w.Fatalf("%v in %s", err, text)
	}
	got := []string{}
	for _, m := range list.Messages {
		got = append(got, m.TransactionID+" "+m.ConsumerGroup+" "+m.ErrorMessage)
	}
	slices.Sort(got)
	slices.Sort(w.dead)
	if !slices.Equal(got, w.dead) || list.Total != len(got) {
		w.Fatalf("dead letters:\ngot  %q\nwant %q", got, w.dead)
	}
}

func TestEveryAnswerIsThatOfTheModel(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	conn, err := pgx.Connect(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("30") // each is some hundred requests to a real server
		defer func() { _ = f.Value.Set(f.DefValue) }()
	}
	if f := flag.Lookup("rapid.seed"); f.Value.String() == f.DefValue {
		// The same walk each time: to look elsewhere, ask for -rapid.seed and -rapid.checks.
		_ = f.Value.Set("20")
		defer func() { _ = f.Value.Set(f.DefValue) }()
	}
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w := &machine{T: t, p: p, db: conn, queue: fmt.Sprintf("model %d", runs), limit: 1, parts: map[string]*modelPart{}}
		w.configure()
		for _, group := range modelGroups[:2] { // from here on what becomes claimable is known
			w.popAny("/queue/"+url.PathEscape(w.queue)+"?", group, 1, 1, false)
		}
		act := func(f func(*machine)) func(*rapid.T) {
			return func(t *rapid.T) {
				w.T = t
				f(w)
			}
		}
		push, queue, ack := act((*machine).Push), act((*machine).PopQueue), act((*machine).Ack)
		t.Repeat(map[string]func(*rapid.T){
			"push": push, "push again": push, "pop": queue, "pop again": queue, "ack": ack, "ack again": ack, "ack more": ack,
			"pop partition": act((*machine).PopPartition), "extend": act((*machine).Extend), "transaction": act((*machine).Transaction),
			"lease ends": act((*machine).LeaseEnds), "seek": act((*machine).Seek), "configure": act((*machine).Configure),
		})
		w.T = t
		w.agree()
	})
	sound(t, db)
}
