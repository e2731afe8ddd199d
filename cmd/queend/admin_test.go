package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// ask sends any request. A failure to get an answer is status 0.
func (p *process) ask(method, path, body string) (status int, header http.Header, answer string) {
	request, err := http.NewRequest(method, p.url(path), strings.NewReader(body))
	if err != nil {
		return 0, nil, err.Error()
	}
	client := http.Client{Timeout: neverHangs}
	r, err := client.Do(request)
	if err != nil {
		return 0, nil, err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, err.Error()
	}
	return r.StatusCode, r.Header, string(text)
}

var (
	anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	anyTime = regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`)
)

// says checks an answer, with U for every id and T for every time of three digits.
func (p *process) says(method, path, body string, status int, answer string) {
	p.t.Helper()
	got, _, text := p.ask(method, path, body)
	if plain := anyTime.ReplaceAllString(anyUUID.ReplaceAllString(text, "U"), "T"); got != status || plain != answer {
		p.t.Errorf("%s %s %s\n got %d %s\nwant %d %s", method, path, body, got, plain, status, answer)
	}
}

// A queue is cleared under those who use it: an ack of what went does no harm, and who waits
// has what comes next.
func TestAQueueIsClearedUnderItsConsumers(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	for i := range 3 {
		p.put(t, fmt.Sprintf(`{"queue":"q","payload":%d}`, i))
	}
	leased := p.pop("/queue/q?batch=2")
	if len(leased.Messages) != 2 {
		t.Fatal(leased.text)
	}
	waiting := make(chan popped, 1)
	go func() { waiting <- p.pop("/queue/q?wait=true&timeout=20000") }()
	waitFor(t, "the pop to wait", func() bool {
		return strings.Contains(get(t, p.url("/metrics/prometheus")), "\nqueend_pops_parked 1\n")
	})
	p.says("DELETE", "/api/v1/queues/q/clear", "", 200, `{"cleared":true,"count":3,"queue":"q","success":true}`)
	if ok, text := p.ack(leased, "", "completed"); ok || !strings.Contains(text, "Message not found") {
		t.Error(text)
	}
	p.put(t, `{"queue":"q","payload":"next"}`)
	if got := <-waiting; len(got.Messages) != 1 || string(got.Messages[0].Data) != `"next"` {
		t.Error(got.text)
	} else if ok, text := p.ack(got, "", "completed"); !ok {
		t.Error(text)
	}
	sound(t, db)
}

// A group that has never popped is given nothing of what it sought past, and all that comes
// after: also in a partition that was not there when it sought.
func TestAGroupThatHasNeverPoppedSkipsWhatItSeeksPast(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	for _, name := range []string{"p1", "p1", "p2"} {
		p.put(t, `{"queue":"q","partition":"`+name+`","payload":"old"}`)
	}
	seek := func(group, body, answer string) {
		t.Helper()
		p.says("POST", "/api/v1/consumer-groups/"+group+"/queues/q/seek", body, 200, `{"consumerGroup":"`+group+`","partitionsUpdated":2,"queueName":"q",`+answer+`}`)
	}
	reads := func(group, want string) {
		t.Helper()
		var got []string
		for {
			a := p.pop("/queue/q?batch=10&consumerGroup=" + group)
			if len(a.Messages) == 0 {
				break
			}
			for _, m := range a.Messages {
				got = append(got, string(m.Data))
			}
			if ok, text := p.ack(a, group, "completed"); !ok {
				t.Fatal(text)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s reads %q, want %q", group, got, want)
		}
	}
	seek("end", `{"toEnd":true}`, `"seekToEnd":true,"success":true,"targetTimestamp":null`)
	seek("time", `{"timestamp":"`+query[string](t, db, `SELECT max(created_at)::text FROM queen.messages`)+`"}`, `"seekToEnd":false,"success":true,"targetTimestamp":T`)
	seek("start", `{"timestamp":"2020-01-01"}`, `"seekToEnd":false,"success":true,"targetTimestamp":T`)
	reads("end", "")
	p.put(t, `{"queue":"q","partition":"p1","payload":"new"}`)
	p.put(t, `{"queue":"q","partition":"p3","payload":"new"}`)
	reads("end", `"new" "new"`)
	reads("time", `"new" "new"`)
	reads("start", `"new" "new" "old" "old" "old"`)
	sound(t, db)
}

func TestAnAdministrativeSessionFromEndToEnd(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	p.says("POST", "/api/v1/configure", `{"queue":"g.orders","namespace":"g","task":"orders","options":{"leaseTime":60,"retryLimit":2,"deadLetterQueue":true,"dlqAfterMaxRetries":true,"priority":5}}`, 200,
		`{"configured":true,"namespace":"g","options":{"completedRetentionSeconds":0,"deadLetterQueue":true,"delayedProcessing":0,"dlqAfterMaxRetries":true,"encryptionEnabled":false,"leaseTime":60,"maxSize":0,"maxWaitTimeSeconds":0,"priority":5,"retentionEnabled":false,"retentionSeconds":0,"retryDelay":1000,"retryLimit":2,"ttl":3600,"windowBuffer":0},"partitionId":"U","queue":"g.orders","queueId":"U","task":"orders"}`)
	if status, _, text := p.push(routes[0], `{"items":[{"queue":"g.orders","partition":"a/b","transactionId":"tx 1","payload":{"a":2}},{"queue":"g.orders","partition":"a/b","transactionId":"tx-2"}]}`); status != 201 {
		t.Fatal(text)
	}
	partition := query[string](t, db, `SELECT id::text FROM queen.partitions WHERE name = 'a/b'`)
	const message = "/api/v1/messages/"
	if status, header, text := p.ask("GET", message+partition+"/tx%201", ""); status != 200 || !strings.Contains(text, `"payload":{"a":2}`) || header.Get("Content-Type") != "application/json" || header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %v %s", status, header, text)
	}
	p.says("GET", message+partition+"/nope", "", 404, `{"error":"Message not found"}`)
	p.says("GET", message+"xx/nope", "", 400, `{"error":"invalid input syntax for type uuid: \"xx\""}`)
	p.says("POST", message+partition+"/tx%201/dlq", `{"error":"bad"}`, 200, `{"consumerGroup":"__QUEUE_MODE__","message":"Message moved to the dead letter queue","partitionId":"U","success":true,"transactionId":"tx 1"}`)
	p.says("GET", "/api/v1/dlq?queue=g.orders", "", 200, `{"messages":[{"consumerGroup":"__QUEUE_MODE__","createdAt":T,"data":{"a":2},"errorMessage":"bad","failedAt":T,"id":"U","partition":"a/b","partitionId":"U","producerSub":null,"queue":"g.orders","retryCount":0,"transactionId":"tx 1"}],"pagination":{"limit":100,"offset":0},"total":1}`)
	p.says("POST", "/api/v1/dlq/redrive", `{"queue":"g.orders","dryRun":true}`, 200, `{"count":1,"dryRun":true}`)
	p.says("POST", "/api/v1/dlq/redrive", `{"queue":"g.orders"}`, 200, `{"count":1,"dryRun":false,"more":false,"skipped":0}`)
	p.says("POST", "/api/v1/dlq/redrive", `{"queue":"g.orders"}`, 200, `{"count":0,"dryRun":false,"more":false,"skipped":0}`)
	p.says("POST", message+partition+"/tx-2/retry", "", 200, `{"message":"Message is delivered again","messageId":"U","partitionId":"U","success":true,"transactionId":"tx-2"}`)
	if got := query[string](t, db, `SELECT string_agg(transaction_id, ', ' ORDER BY created_at, id) FROM queen.messages`); got != "tx 1, tx-2" {
		t.Errorf("in order: %s", got)
	}
	p.says("POST", "/api/v1/traces", `{"transactionId":"tx-2","partitionId":"`+partition+`","data":{"text":"hi"},"traceNames":["n"]}`, 201, `{"success":true,"traceId":"U"}`)
	p.says("GET", "/api/v1/traces/"+partition+"/tx-2", "", 200, `{"traces":[{"consumer_group":"__QUEUE_MODE__","created_at":T,"data":{"text":"hi"},"event_type":"info","id":"U","trace_names":["n"],"worker_id":"0"}]}`)
	if status, _, text := p.ask("GET", "/api/v1/pop/queue/g.orders?consumerGroup=cg&subscriptionMode=new&autoAck=true", ""); status != 200 && status != 204 {
		t.Fatal(status, text)
	}
	p.says("POST", "/api/v1/consumer-groups/cg/queues/g.orders/seek", `{"toEnd":true}`, 200, `{"consumerGroup":"cg","partitionsUpdated":2,"queueName":"g.orders","seekToEnd":true,"success":true,"targetTimestamp":null}`)
	p.says("POST", "/api/v1/consumer-groups/cg/queues/g.orders/partitions/a%2Fb/seek", ``, 200, `{"consumerGroup":"cg","cursorMovedTo":T,"partitionName":"a/b","queueName":"g.orders","success":true,"updated":true}`)
	p.says("POST", "/api/v1/consumer-groups/cg/subscription", `{"subscriptionTimestamp":"2024-01-01T00:00:00.000Z"}`, 200, `{"consumerGroup":"cg","newTimestamp":T,"rowsUpdated":1,"success":true}`)
	p.says("DELETE", "/api/v1/consumer-groups/cg", "", 200, `{"consumerGroup":"cg","deletedPartitions":2,"metadataDeleted":true,"success":true}`)
	p.says("DELETE", message+partition+"/tx-2", "", 200, `{"message":"Message deleted successfully","partitionId":"U","success":true,"transactionId":"tx-2"}`)
	p.says("DELETE", message+partition+"/tx-2", "", 200, `{"message":"Message not found","partitionId":"U","success":false,"transactionId":"tx-2"}`)
	sound(t, db)
	p.says("DELETE", "/api/v1/resources/queues/g.orders", "", 200, `{"deleted":true,"existed":true,"queue":"g.orders"}`)
	p.says("DELETE", "/api/v1/resources/queues/g.orders", "", 200, `{"deleted":true,"existed":false,"queue":"g.orders"}`)
	if n := query[int](t, db, `SELECT count(*) FROM queen.messages`); n != 0 {
		t.Errorf("%d messages are left", n)
	}
	// All of it on connections of their own, and few of them.
	if n := query[int](t, db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%-admin'`); n < 1 || n > 4 {
		t.Errorf("%d administrative connections", n)
	}
	metrics := get(t, p.url("/metrics/prometheus"))
	for _, want := range []string{`queend_admin_requests_total{outcome="refused"} 2`, "queend_admin_calls_waiting 0", "queend_admin_calls_refused_total 0"} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
}

// What is put back is claimable at once: a pop that waits hears of it.
func TestAParkedPopHearsOfWhatIsPutBack(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	pop := func(wait bool) []string {
		status, _, text := p.ask("GET", fmt.Sprintf("/api/v1/pop/queue/q/partition/p?batch=10&autoAck=true&consumerGroup=g&wait=%v&timeout=60000", wait), "")
		var answer struct {
			Messages []struct{ TransactionID string }
		}
		if err := json.Unmarshal([]byte(text), &answer); status != 200 || err != nil {
			t.Errorf("%d %s", status, text)
		}
		var got []string
		for _, m := range answer.Messages {
			got = append(got, m.TransactionID)
		}
		return got
	}
	if status, _, text := p.push(routes[0], `{"items":[{"queue":"q","partition":"p","transactionId":"a"},{"queue":"q","partition":"p","transactionId":"b"}]}`); status != 201 {
		t.Fatal(text)
	}
	if got := fmt.Sprint(pop(false)); got != "[a b]" {
		t.Fatal(got)
	}
	partition := query[string](t, db, `SELECT id::text FROM queen.partitions WHERE name = 'p'`)
	f := func(method, path, body, want string) {
		t.Helper()
		if got := fmt.Sprint(pop(false)); got != "[]" {
			t.Errorf("before %s: %s", path, got)
		}
		parked := make(chan []string, 1)
		go func() { parked <- pop(true) }()
		// Whether the pop is parked already or comes later makes no difference to what it gets.
		if status, _, text := p.ask(method, path, body); status != 200 {
			t.Errorf("%s: %d %s", path, status, text)
		}
		select {
		case got := <-parked:
			if fmt.Sprint(got) != want {
				t.Errorf("%s: %v, want %s", path, got, want)
			}
		case <-time.After(neverHangs):
			t.Errorf("%s: nothing came", path)
		}
	}
	f("POST", "/api/v1/messages/"+partition+"/a/retry", "", "[a]")
	f("POST", "/api/v1/consumer-groups/g/queues/q/seek", `{"timestamp":"2020-01-01T00:00:00Z"}`, "[b a]")
	f("DELETE", "/api/v1/consumer-groups/g/queues/q", "", "[b a]")
	p.says("POST", "/api/v1/messages/"+partition+"/b/dlq", `{"consumerGroup":"g"}`, 200, `{"consumerGroup":"g","message":"Message moved to the dead letter queue","partitionId":"U","success":true,"transactionId":"b"}`)
	f("POST", "/api/v1/dlq/redrive", `{"consumerGroup":"g"}`, "[b]")
	sound(t, db)
}

// Queues are deleted and made again under the hands of those who push. Nobody is left
// waiting, and what is stored is in order.
func TestAQueueIsDeletedWhileTwoProcessesPush(t *testing.T) {
	db := postgrestest.Database(t)
	one, two := start(t, "DATABASE_URL="+db), start(t, "DATABASE_URL="+db)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			p := one
			if i%2 == 1 {
				p = two
			}
			for n := range 60 {
				body := fmt.Sprintf(`{"items":[{"queue":"q","partition":"%d"},{"queue":"q","partition":"%d"}]}`, n%4, (n+i)%4)
				if status, _, text := p.push(routes[0], body); status != 201 && status != 503 {
					t.Errorf("%d %s", status, text)
				}
			}
		})
	}
	all.Go(func() {
		for n := range 20 {
			p := one
			if n%2 == 1 {
				p = two
			}
			if status, _, text := p.ask("DELETE", "/api/v1/resources/queues/q", ""); status != 200 {
				t.Errorf("delete: %d %s", status, text)
			}
			if status, _, text := p.ask("POST", "/api/v1/configure", `{"queue":"q"}`); status != 200 {
				t.Errorf("configure: %d %s", status, text)
			}
		}
	})
	all.Wait()
	if status, _, text := one.push(routes[0], `{"items":[{"queue":"q","partition":"0"}]}`); status != 201 {
		t.Errorf("after all: %d %s", status, text)
	}
	if n := query[int](t, db, `SELECT count(*) FROM queen.partition_lookup h WHERE h.seq <> (SELECT count(*) FROM queen.messages m WHERE m.partition_id = h.partition_id)`); n != 0 {
		t.Errorf("%d heads do not count right", n)
	}
	sound(t, db)
}

func TestAdministrativeRoutesHear503WhilePostgreSQLIsAway(t *testing.T) {
	server := postgrestest.Own(t, nil)
	p := start(t, "DATABASE_URL="+server.URL("postgres"), "DB_FAILOVER_MS=2000")
	p.says("GET", "/api/v1/dlq", "", 200, `{"messages":[],"pagination":{"limit":100,"offset":0},"total":0}`)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if status, header, text := p.ask("GET", "/api/v1/dlq", ""); status != 503 || header.Get("Retry-After") == "" || !strings.HasPrefix(text, `{"error":"`) {
		t.Errorf("%d %v %s", status, header, text)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "an answer after the crash", func() bool {
		status, _, text := p.ask("GET", "/api/v1/dlq", "")
		if status != 200 && status != 503 {
			t.Errorf("%d %s", status, text)
		}
		return status == 200
	})
}
