package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/pkg/check"
	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// message is one element of a pop's answer.
type message struct {
	ID, TransactionID, Queue, Partition, PartitionID, LeaseID, ConsumerGroup string
	Data                                                                     json.RawMessage
	RetryCount                                                               int
}

// popped is the answer to a pop.
type popped struct {
	Success  bool
	Error    string
	LeaseID  string
	Messages []message
	status   int
	text     string
}

// pop pops with a path behind /api/v1/pop, such as "/queue/q?batch=10". Any goroutine.
func (p *process) pop(path string) (a popped) {
	a.status, _, a.text = p.ask("GET", "/api/v1/pop"+path, "")
	if err := json.Unmarshal([]byte(a.text), &a); err != nil {
		a.Error = err.Error()
	}
	return a
}

// ack acknowledges the messages of a pop and says whether all was well.
func (p *process) ack(a popped, group, status string) (bool, string) {
	var b strings.Builder
	for i, m := range a.Messages {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"transactionId":%q,"partitionId":%q,"leaseId":%q,"status":%q}`, m.TransactionID, m.PartitionID, m.LeaseID, status)
	}
	code, _, text := p.ask("POST", "/api/v1/ack/batch", `{"acknowledgments":[`+b.String()+`],"consumerGroup":"`+group+`"}`)
	var items []struct{ Success bool }
	if err := json.Unmarshal([]byte(text), &items); code != 200 || err != nil || len(items) != len(a.Messages) {
		return false, text
	}
	for _, it := range items {
		if !it.Success {
			return false, text
		}
	}
	return true, text
}

func (p *process) put(t *testing.T, body string) {
	t.Helper()
	if status, _, text := p.push("/api/v1/push", `{"items":[`+body+`]}`); status != 201 {
		t.Fatalf("push: %d %s", status, text)
	}
}

// sound asserts that queend check finds nothing.
func sound(t *testing.T, db string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), neverHangs)
	defer cancel()
	conn, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	report, err := check.Run(ctx, conn, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Errorf("check: %v", f)
	}
}

func TestAPopRightAfterAPushSeesIt(t *testing.T) {
	db := postgrestest.Database(t)
	a := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	b := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	f := func(name string, times int, push func(i int), to *process) {
		t.Helper()
		for i := range times {
			push(i)
			if got := to.pop("/queue/" + name + "?wait=false&autoAck=true"); len(got.Messages) != 1 || string(got.Messages[0].Data) != fmt.Sprint(i) {
				t.Fatalf("%s: after push %d: %s", name, i, got.text)
			}
		}
	}
	f("own", 1000, func(i int) { a.put(t, fmt.Sprintf(`{"queue":"own","partition":"%d","payload":%d}`, i%7, i)) }, a)
	f("others", 100, func(i int) { a.put(t, fmt.Sprintf(`{"queue":"others","partition":"%d","payload":%d}`, i%7, i)) }, b)
	f("sql", 100, func(i int) {
		runSQL(t, db, fmt.Sprintf(`SELECT queen.push_messages_v2('[{"queue":"sql","partition":"%d","transactionId":"t%d","payload":%d}]')`, i%7, i, i))
	}, b)
	// A partition that was drained and acknowledged is as good as a new one.
	for i := range 100 {
		a.put(t, fmt.Sprintf(`{"queue":"acked","payload":%d}`, i))
		got := a.pop("/queue/acked?wait=false&batch=10")
		if len(got.Messages) != 1 || string(got.Messages[0].Data) != fmt.Sprint(i) {
			t.Fatalf("acked: after push %d: %s", i, got.text)
		}
		if ok, text := []*process{a, b}[i%2].ack(got, "", "completed"); !ok {
			t.Fatal(text)
		}
	}
	sound(t, db)
}

// A DEFAULT_TIMEOUT of 0 is no wait, and not the default of 30 s.
func TestADefaultOfNoWaitIsNoWait(t *testing.T) {
	p := start(t, "DATABASE_URL="+postgrestest.Database(t), "DEFAULT_TIMEOUT=0")
	impatient := http.Client{Timeout: 20 * time.Second}
	answer, err := impatient.Get(p.url("/api/v1/pop/queue/q?wait=true"))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 200 {
		t.Error(answer.Status)
	}
}

// A client may send many pops at once. Each takes its messages when there is room for the
// answer, so that whoever reads has all of them, also behind one that waits.
func TestPopsThatAreSentAtOnceAreAllAnswered(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db, "NUM_WORKERS=1")
	const pops, size = 12, 400 << 10
	for i := range pops {
		p.put(t, fmt.Sprintf(`{"queue":"k%d","payload":"%s"}`, i, strings.Repeat("x", size)))
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url(""), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := "GET /api/v1/pop/queue/none?wait=true&timeout=300 HTTP/1.1\r\nHost: x\r\n\r\n"
	for i := range pops {
		request += fmt.Sprintf("GET /api/v1/pop/queue/k%d?autoAck=true HTTP/1.1\r\nHost: x\r\n\r\n", i)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	for i := range pops + 1 {
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != 200 || i > 0 && len(body) < size {
			t.Fatalf("answer %d: %d, %d bytes, %v", i, answer.StatusCode, len(body), err)
		}
	}
	sound(t, db)
}

// A group that wants what is new of a namespace has all that comes into it, also into queues
// that nobody knew when it asked first.
func TestANewGroupHasWhatComesIntoQueuesThatAreNotThereYet(t *testing.T) {
	db := postgrestest.Database(t)
	a := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	a.put(t, `{"queue":"ns.before"}`)
	for _, path := range []string{"?namespace=ns", "?task=later", "?namespace=ns&task=later", "?"} {
		path += "&subscriptionMode=new&batch=9&consumerGroup=" + url.QueryEscape(path)
		if got := a.pop(path); len(got.Messages) != 0 {
			t.Fatalf("%s: %s", path, got.text)
		}
	}
	a.put(t, `{"queue":"ns.later"}`)
	for _, path := range []string{"?namespace=ns", "?task=later", "?namespace=ns&task=later", "?"} {
		path += "&subscriptionMode=new&batch=9&consumerGroup=" + url.QueryEscape(path)
		if got := a.pop(path); len(got.Messages) != 1 {
			t.Errorf("%s: %s", path, got.text)
		}
	}
	sound(t, db)
}

// Also when queend knows the group already, and knows that there is nothing for it: what
// comes while a pop that wants the new waits is new.
func TestWhatComesWhileANewGroupWaitsIsItsOwn(t *testing.T) {
	db := postgrestest.Database(t)
	a := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	b := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	configure := func(name string) {
		t.Helper()
		if status, _, text := a.ask("POST", "/api/v1/configure", `{"queue":"`+name+`","namespace":"ns-`+name+`"}`); status != 200 {
			t.Fatal(status, text)
		}
	}
	f := func(q, path string, before func(path string)) {
		t.Helper()
		configure(q)
		path += "consumerGroup=" + q
		if got := a.pop(path); len(got.Messages) != 0 { // wants nothing in particular
			t.Fatal(got.text)
		}
		before(path)
		if got := a.pop(path + "&subscriptionMode=new"); len(got.Messages) != 0 {
			t.Fatal(got.text)
		}
		b.put(t, `{"queue":"`+q+`","partition":"p"}`)
		if got := a.pop(path + "&subscriptionMode=new&wait=true&timeout=10000"); len(got.Messages) != 1 {
			t.Errorf("%s: %s", path, got.text)
		}
	}
	nothing := func(string) {}
	deleted := func(path string) {
		if got := a.pop(path + "&subscriptionMode=new"); len(got.Messages) != 0 {
			t.Fatal(got.text)
		}
		_, group, _ := strings.Cut(path, "consumerGroup=")
		if status, _, text := a.ask("DELETE", "/api/v1/consumer-groups/"+group, ""); status != 200 {
			t.Fatal(status, text)
		}
	}
	f("one", "/queue/one?", nothing)
	f("part", "/queue/part/partition/p?", nothing)
	f("many", "?namespace=ns-many&", nothing)
	f("one-deleted", "/queue/one-deleted?", deleted)
	sound(t, db)
}

func TestAParkedPopIsWoken(t *testing.T) {
	db := postgrestest.Database(t)
	a := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	b := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	parked := func(n int) {
		t.Helper()
		limit := time.Now().Add(neverHangs)
		for !strings.Contains(metricsOf(a), fmt.Sprintf("queend_pops_parked %d\n", n)) {
			if time.Now().After(limit) {
				t.Fatalf("no pop is parked\n%s", metricsOf(a))
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	// f parks a pop, does something, and wants the pop to have got want messages.
	f := func(what, path string, want int, do func()) {
		t.Helper()
		got := make(chan popped, 1)
		go func() { got <- a.pop(path + "&wait=true&timeout=100000") }()
		parked(1)
		do()
		if answer := <-got; len(answer.Messages) != want || !answer.Success {
			t.Errorf("%s: %s", what, answer.text)
		}
		parked(0)
	}
	f("a push here", "/queue/here?batch=5", 1, func() { a.put(t, `{"queue":"here"}`) })
	f("a push of one partition here", "/queue/part/partition/p?batch=5", 1, func() {
		a.put(t, `{"queue":"part","partition":"other"}`)
		a.put(t, `{"queue":"part","partition":"p"}`)
	})
	f("a push by another process", "/queue/there?batch=5", 1, func() { b.put(t, `{"queue":"there"}`) })
	f("a push of one partition by another process", "/queue/there2/partition/p?batch=5", 1, func() { b.put(t, `{"queue":"there2","partition":"p"}`) })
	f("a push by SQL", "/queue/sql?batch=5", 1, func() { runSQL(t, db, `SELECT queen.push_messages_v3('[{"queue":"sql","payload":1}]')`) })
	f("a push in many queues", "?namespace=ns&task=t&batch=5", 1, func() { a.put(t, `{"queue":"ns.t.x"}`) })

	a.put(t, `{"queue":"byhand"}`)
	if got := a.pop("/queue/byhand?autoAck=true"); len(got.Messages) != 1 {
		t.Fatal(got.text)
	}
	f("a row inserted by hand", "/queue/byhand?batch=5", 1, func() {
		runSQL(t, db, `INSERT INTO queen.messages (transaction_id, partition_id, payload) SELECT 'byhand', p.id, '1' FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'byhand'`)
	})

	a.put(t, `{"queue":"acked"},{"queue":"acked"}`)
	held := a.pop("/queue/acked?batch=1")
	f("an ack", "/queue/acked?batch=5", 1, func() {
		if ok, text := a.ack(held, "", "completed"); !ok {
			t.Error(text)
		}
	})
	a.put(t, `{"queue":"nacked"}`)
	held = a.pop("/queue/nacked/partition/Default?batch=1")
	f("a nack by another process", "/queue/nacked/partition/Default?batch=5", 1, func() {
		if ok, text := b.ack(held, "", "failed"); !ok {
			t.Error(text)
		}
	})

	configure := func(body string) {
		t.Helper()
		if status, _, text := a.ask("POST", "/api/v1/configure", body); status != 200 {
			t.Fatal(status, text)
		}
	}
	configure(`{"queue":"leased","options":{"leaseTime":1}}`)
	a.put(t, `{"queue":"leased"}`)
	_ = a.pop("/queue/leased?batch=1")
	f("the end of a lease", "/queue/leased?batch=5", 1, func() {})
	configure(`{"queue":"delayed","options":{"delayedProcessing":1}}`)
	f("the end of a delay", "/queue/delayed?batch=5", 1, func() { a.put(t, `{"queue":"delayed"}`) })
	configure(`{"queue":"window","options":{"windowBuffer":1}}`)
	f("the end of a window", "/queue/window?batch=5", 3, func() { a.put(t, `{"queue":"window"},{"queue":"window"},{"queue":"window"}`) })
	a.put(t, `{"queue":"sought"}`)
	if got := a.pop("/queue/sought?autoAck=true&consumerGroup=g"); len(got.Messages) != 1 {
		t.Fatal(got.text)
	}
	f("a seek", "/queue/sought?batch=5&consumerGroup=g", 1, func() {
		if status, _, text := a.ask("POST", "/api/v1/consumer-groups/g/queues/sought/seek", `{"timestamp":"2000-01-01T00:00:00Z"}`); status != 200 {
			t.Error(status, text)
		}
	})
	sound(t, db)
}

func metricsOf(p *process) string {
	_, _, text := p.ask("GET", "/metrics/prometheus", "")
	return text
}

func TestALongPollEndsWhenItsTimeIsOver(t *testing.T) {
	p := start(t, "DATABASE_URL="+postgrestest.Database(t))
	for _, path := range []string{"/queue/q?", "/queue/q/partition/p?", "?namespace=n&"} {
		got := p.pop(path + "wait=true&timeout=300")
		for limit := time.Now().Add(neverHangs); !got.Success && time.Now().Before(limit); {
			got = p.pop(path + "wait=true&timeout=300") // a busy machine may need longer to look once
		}
		if got.status != 200 || !got.Success || len(got.Messages) != 0 || got.Messages == nil {
			t.Errorf("%s: %d %s", path, got.status, got.text)
		}
	}
}

// A client that goes away while it waits takes no message with it.
func TestAPopOfAClientThatIsGoneTakesNothing(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	for i := range 20 {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /api/v1/pop/queue/gone?wait=true&timeout=100000 HTTP/1.1\r\nHost: x\r\n\r\n")
		limit := time.Now().Add(neverHangs)
		for !strings.Contains(metricsOf(p), "queend_pops_parked 1\n") && time.Now().Before(limit) {
			time.Sleep(time.Millisecond)
		}
		if i%2 == 0 {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		_ = conn.Close()
		p.put(t, fmt.Sprintf(`{"queue":"gone","payload":%d}`, i))
		if got := p.pop("/queue/gone?wait=true&timeout=100000&autoAck=true"); len(got.Messages) != 1 || string(got.Messages[0].Data) != fmt.Sprint(i) {
			t.Fatalf("push %d: %s", i, got.text)
		}
	}
	sound(t, db)
}

// Producers and consumers of two processes: each group gets each message once, and in the
// order of its partition.
func TestEveryGroupGetsEveryMessageOnceAndInOrder(t *testing.T) {
	db := postgrestest.Database(t)
	processes := []*process{start(t, "DATABASE_URL="+db, "NUM_WORKERS=2"), start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")}
	const partitions, each = 8, 60
	var pushers, consumers sync.WaitGroup
	for part := range partitions {
		pushers.Go(func() {
			for i := range each {
				body := fmt.Sprintf(`{"items":[{"queue":"q","partition":"%d","payload":%d}]}`, part, i)
				if status, _, text := processes[(part+i)%2].push("/api/v1/push", body); status != 201 {
					t.Errorf("push: %d %s", status, text)
				}
			}
		})
	}
	for _, group := range []string{"", "g"} {
		var mu sync.Mutex
		next, left := map[string]int{}, partitions*each
		for worker := range 3 {
			consumers.Go(func() {
				p := processes[worker%2]
				for limit := time.Now().Add(neverHangs); ; {
					mu.Lock()
					done := left == 0
					mu.Unlock()
					if done {
						return
					}
					if time.Now().After(limit) {
						t.Errorf("group %q: %d messages never came", group, left)
						return
					}
					got := p.pop("/queue/q?batch=7&partitions=2&wait=true&timeout=500&consumerGroup=" + url.QueryEscape(group))
					mu.Lock()
					for _, m := range got.Messages {
						if string(m.Data) != fmt.Sprint(next[m.Partition]) {
							t.Errorf("group %q, partition %s: got %s, want %d", group, m.Partition, m.Data, next[m.Partition])
						}
						next[m.Partition]++
						left--
					}
					mu.Unlock()
					if len(got.Messages) > 0 {
						if ok, text := p.ack(got, group, "completed"); !ok {
							t.Errorf("ack: %s", text)
						}
					}
				}
			})
		}
	}
	pushers.Wait()
	consumers.Wait()
	sound(t, db)
}
