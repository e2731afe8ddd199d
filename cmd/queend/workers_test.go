package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// What the workers do is bounded by these counts, not by time.
const (
	workerPushers    = 4
	workerMessages   = 40 // of each pusher, in each queue
	workerPartitions = 5
	workerConsumers  = 3 // of each group, at each process
)

// workers is what many workers at two processes do to one queue whose leases outlast the
// test, and what they must see: who holds a lease knows exactly what the next one is to be
// given.
type workers struct {
	*testing.T
	processes []*process

	mu     sync.Mutex
	lines  map[string]*line // by group and partition
	left   map[string]int   // messages to be consumed, by group
	dead   []string
	copies []string // what transactions pushed
}

// line is a group in a partition.
type line struct {
	holder  string
	rest    []string // delivered and not consumed
	last    map[string]int
	retries int
}

// fail stops a worker: it has seen what must not be.
func (w *workers) fail(format string, args ...any) { w.Errorf(format, args...) }

func (w *workers) post(p *process, path string, body, answer any) string {
	text, err := json.Marshal(body)
	if err != nil {
		w.fail("%v", err)
	}
	status, _, got := p.ask("POST", path, string(text))
	said := fmt.Sprintf("%s %s: %d %s", path, text, status, got)
	if err := json.Unmarshal([]byte(got), answer); err != nil || status != 200 && status != 201 {
		w.fail("%s", said)
	}
	return said
}

// push pushes what one pusher has to say, message n of it after message n-1, and now and
// then once more.
func (w *workers) push(queue string, pusher int) {
	random := rand.New(rand.NewPCG(uint64(pusher), 1))
	name := func(n int) string { return fmt.Sprintf("%d.%d", pusher, n) }
	for n := 0; n < workerMessages; {
		many := min(1+random.IntN(4), workerMessages-n)
		var items []object
		for i := range many {
			items = append(items, object{"queue": queue, "partition": fmt.Sprint((n + i) % workerPartitions), "transactionId": name(n + i), "payload": n + i})
		}
		times := 1
		if random.IntN(6) == 0 {
			times = 2
		}
		for again := range times {
			var answer []item
			said := w.post(w.processes[(n+again)%2], "/api/v1/push", object{"items": items}, &answer)
			for _, a := range answer {
				if want := []string{"queued", "duplicate"}[again]; a.Status != want {
					w.fail("push: want %s: %s", want, said)
				}
			}
		}
		n += many
	}
}

// delivered takes messages that one partition has delivered.
func (w *workers) delivered(group string, messages []message) *line {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := group + "/" + messages[0].Partition
	l := w.lines[key]
	if l == nil {
		l = &line{last: map[string]int{}}
		w.lines[key] = l
	}
	if l.holder != "" {
		w.fail("%s: delivered under lease %s while %s is held", key, messages[0].LeaseID, l.holder)
	}
	l.holder = messages[0].LeaseID
	for i, m := range messages {
		if i < len(l.rest) {
			if m.TransactionID != l.rest[i] {
				w.fail("%s: message %d is %s, want %s", key, i, m.TransactionID, l.rest[i])
			}
			continue
		}
		pusher, number, _ := strings.Cut(m.TransactionID, ".")
		n, _ := strconv.Atoi(number)
		if last, ok := l.last[pusher]; ok && n <= last {
			w.fail("%s: %s comes after %s.%d", key, m.TransactionID, pusher, last)
		}
		l.last[pusher] = n
		l.rest = append(l.rest, m.TransactionID)
	}
	return l
}

// passed takes what is about to be acknowledged: n messages, and the lease if it ends.
func (w *workers) passed(group string, l *line, n int, ends bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.rest = slices.Delete(l.rest, 0, n)
	w.left[group] -= n
	if n > 0 {
		l.retries = 0
	}
	if ends {
		l.holder = ""
	}
}

func ackOf(m message, status string) object {
	return object{"transactionId": m.TransactionID, "partitionId": m.PartitionID, "leaseId": m.LeaseID, "status": status}
}

// acks acknowledges in one call; all of it must succeed.
func (w *workers) acks(p *process, group string, dead int, list ...object) {
	var answer []struct{ Success, DLQ bool }
	said := w.post(p, "/api/v1/ack/batch", object{"acknowledgments": list, "consumerGroup": group}, &answer)
	for _, a := range answer {
		if a.DLQ {
			dead--
		}
		if !a.Success {
			w.fail("%s", said)
			return
		}
	}
	if dead != 0 || len(answer) != len(list) {
		w.fail("%d dead letters are missing: %s", dead, said)
	}
}

func statuses(messages []message, status string) (list []object) {
	for _, m := range messages {
		list = append(list, ackOf(m, status))
	}
	return list
}

// work does something to the messages that one partition has delivered.
func (w *workers) work(p *process, group string, messages []message, random *rand.Rand) {
	l := w.delivered(group, messages)
	n := len(messages)
	k := random.IntN(n)
	switch random.IntN(10) {
	case 0: // some, and then the others again
		if k > 0 {
			w.passed(group, l, k, false)
			w.acks(p, group, 0, statuses(messages[:k], "completed")...)
		}
		w.passed(group, l, 0, true)
		w.acks(p, group, 0, ackOf(messages[k], "retry"))
		return
	case 1, 2: // some, and one that fails
		w.mu.Lock()
		exhausted := l.retries >= 1
		w.mu.Unlock()
		list := append(statuses(messages[:k], "success"), ackOf(messages[k], "failed"))
		if exhausted {
			w.mu.Lock()
			w.dead = append(w.dead, messages[k].TransactionID+" "+group)
			w.mu.Unlock()
			w.passed(group, l, k+1, k+1 == n)
			w.acks(p, group, 1, list...)
			if messages = messages[k+1:]; len(messages) == 0 {
				return
			}
			break
		}
		w.passed(group, l, k, false)
		w.mu.Lock()
		l.retries++
		l.holder = ""
		w.mu.Unlock()
		w.acks(p, group, 0, list...)
		return
	case 3:
		var answer []struct{ Success bool }
		if said := w.post(p, "/api/v1/lease/"+messages[0].LeaseID+"/extend", object{}, &answer); len(answer) != 1 || !answer[0].Success {
			w.fail("%s", said)
		}
	case 4, 5: // all, with what is made of them; or nothing
		var operations, items []object
		var copies []string
		for _, m := range messages {
			name := m.TransactionID + " by " + group
			items = append(items, object{"queue": "copies", "partition": m.Partition, "transactionId": name, "payload": 1})
			copies = append(copies, name)
			o := ackOf(m, "completed")
			o["type"], o["consumerGroup"] = "ack", group
			operations = append(operations, o)
		}
		operations = append(operations, object{"type": "push", "items": items})
		if random.IntN(2) == 0 {
			operations = append(operations, object{"type": "ack", "transactionId": "none", "partitionId": messages[0].PartitionID, "consumerGroup": group})
			var answer struct{ Success bool }
			if said := w.post(p, "/api/v1/transaction", object{"operations": operations}, &answer); answer.Success {
				w.fail("%s", said)
			}
			break
		}
		w.passed(group, l, n, true)
		w.mu.Lock()
		w.copies = append(w.copies, copies...)
		w.mu.Unlock()
		var answer struct{ Success bool }
		if said := w.post(p, "/api/v1/transaction", object{"operations": operations}, &answer); !answer.Success {
			w.fail("%s", said)
		}
		return
	}
	w.passed(group, l, len(messages), true)
	w.acks(p, group, 0, statuses(messages, "completed")...)
}

// consume works until the group has consumed all.
func (w *workers) consume(group string, worker int) {
	random := rand.New(rand.NewPCG(uint64(worker), 2))
	for limit := time.Now().Add(neverHangs); ; {
		w.mu.Lock()
		left := w.left[group]
		w.mu.Unlock()
		if left == 0 || w.Failed() {
			return
		}
		if time.Now().After(limit) {
			w.fail("group %s: %d messages never came", group, left)
			return
		}
		p := w.processes[random.IntN(2)]
		path := "/queue/jobs?partitions=2"
		if random.IntN(4) == 0 {
			path = fmt.Sprintf("/queue/jobs/partition/%d?", random.IntN(workerPartitions))
		}
		got := p.pop(path + fmt.Sprintf("&batch=%d&wait=true&timeout=200&consumerGroup=%s", 1+random.IntN(8), group))
		for messages := got.Messages; len(messages) > 0; {
			n := 1
			for n < len(messages) && messages[n].Partition == messages[0].Partition {
				n++
			}
			w.work(w.processes[random.IntN(2)], group, messages[:n], random)
			messages = messages[n:]
		}
	}
}

// consumeMortal consumes from a queue with short leases, and now and then dies: what was
// delivered to it comes again.
func (w *workers) consumeMortal(worker int, acked map[string]bool) {
	random := rand.New(rand.NewPCG(uint64(worker), 3))
	for limit := time.Now().Add(neverHangs); !w.Failed(); {
		w.mu.Lock()
		left := workerPushers*workerMessages - len(acked)
		w.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(limit) {
			w.fail("mortal: %d messages never came", left)
			return
		}
		p := w.processes[random.IntN(2)]
		got := p.pop(fmt.Sprintf("/queue/mortal?batch=%d&partitions=3&wait=true&timeout=300", 1+random.IntN(20)))
		if len(got.Messages) == 0 || random.IntN(8) == 0 {
			continue
		}
		if random.IntN(4) == 0 {
			p.ask("POST", "/api/v1/lease/"+got.LeaseID+"/extend", `{"seconds":2}`)
		}
		var answer []struct{ Success bool }
		said := w.post(w.processes[random.IntN(2)], "/api/v1/ack/batch", object{"acknowledgments": statuses(got.Messages, "completed")}, &answer)
		if len(answer) != len(got.Messages) {
			w.fail("%s", said)
			continue
		}
		w.mu.Lock()
		for i, a := range answer {
			if a.Success {
				if name := got.Messages[i].TransactionID; acked[name] {
					w.fail("mortal: %s was acknowledged twice under leases that were good", name)
				} else {
					acked[name] = true
				}
			}
		}
		w.mu.Unlock()
	}
}

func TestManyWorkersAtTwoProcessesSeeEachMessageOnceAndInOrder(t *testing.T) {
	db := postgrestest.Database(t)
	w := &workers{T: t, lines: map[string]*line{}, left: map[string]int{}}
	for range 2 {
		w.processes = append(w.processes, start(t, "DATABASE_URL="+db, "NUM_WORKERS=2"))
	}
	var configured object
	w.post(w.processes[0], "/api/v1/configure", object{"queue": "jobs", "options": object{"leaseTime": 3600, "retryLimit": 1}}, &configured)
	w.post(w.processes[1], "/api/v1/configure", object{"queue": "mortal", "options": object{"leaseTime": 1}}, &configured)
	var all sync.WaitGroup
	for pusher := range workerPushers {
		all.Go(func() { w.push("jobs", pusher) })
		all.Go(func() { w.push("mortal", pusher) })
	}
	groups := []string{"__QUEUE_MODE__", "g"}
	for _, group := range groups { // before anybody looks
		w.left[group] = workerPushers * workerMessages
	}
	for i, group := range groups {
		for worker := range 2 * workerConsumers {
			all.Go(func() { w.consume(group, 100*i+worker) })
		}
	}
	acked := map[string]bool{}
	for worker := range workerConsumers {
		all.Go(func() { w.consumeMortal(worker, acked) })
	}
	all.Wait()

	for _, p := range w.processes {
		for _, group := range groups {
			if got := p.pop("/queue/jobs?batch=100&partitions=10&consumerGroup=" + group); len(got.Messages) != 0 {
				t.Errorf("group %s: more came: %s", group, got.text)
			}
		}
	}
	var copies []string
	for {
		got := w.processes[0].pop("/queue/copies?batch=100&partitions=10&autoAck=true")
		if len(got.Messages) == 0 {
			break
		}
		for _, m := range got.Messages {
			copies = append(copies, m.TransactionID)
		}
	}
	slices.Sort(copies)
	slices.Sort(w.copies)
	if !slices.Equal(copies, w.copies) {
		t.Errorf("transactions pushed %q, and there is %q", w.copies, copies)
	}
	var list struct {
		Messages []struct{ TransactionID, ConsumerGroup string }
	}
	_, _, text := w.processes[1].ask("GET", "/api/v1/dlq?limit=10000", "")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err, text)
	}
	var dead []string
	for _, m := range list.Messages {
		dead = append(dead, m.TransactionID+" "+m.ConsumerGroup)
	}
	slices.Sort(dead)
	slices.Sort(w.dead)
	if !slices.Equal(dead, w.dead) {
		t.Errorf("dead letters %q, want %q", dead, w.dead)
	}
	sound(t, db)
}

// A client that closes its connection in the middle of a long poll leaves nothing behind.
func TestAParkedPopEndsWhenItsClientCloses(t *testing.T) {
	p := start(t, "DATABASE_URL="+postgrestest.Database(t))
	var conns []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /api/v1/pop/queue/q?wait=true&timeout=3600000 HTTP/1.1\r\nHost: x\r\n\r\n")
		conns = append(conns, conn)
	}
	parked := func(n int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("%d parked pops", n), func() bool {
			return strings.Contains(metricsOf(p), fmt.Sprintf("queend_pops_parked %d\n", n))
		})
	}
	parked(20)
	for _, conn := range conns {
		_ = conn.Close()
	}
	parked(0)
}
