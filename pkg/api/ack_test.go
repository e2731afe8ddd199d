package api

import (
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// ackWorld is a world whose acks and transactions end the way a test says.
func ackWorld(end func(*queue.Op)) *world {
	w := newWorld()
	w.store.end = end
	w.router.stores.Ack, w.router.stores.Transaction = w.store, w.store
	return w
}

const somePartition = "bc500ec5-0d50-4c90-ad0c-800fa9e40b56"

func TestAcksAreAnsweredAsQueenAnswersThem(t *testing.T) {
	f := func(target, body string, end func(*queue.Op), status int, want string) {
		t.Helper()
		w := ackWorld(end)
		x := w.send(t, "POST", target, body)
		if x.replies != 1 || x.status != status || x.body != want || !strings.Contains(x.header, "Content-Type: application/json\r\n") {
			t.Errorf("%s %s: %d replies, %d %q\n got %s\nwant %s", target, body, x.replies, x.status, x.header, x.body, want)
		}
	}
	taken := func(op *queue.Op) {
		for i := range op.Acks {
			a := &op.Acks[i]
			a.Success, a.Released, a.Known, a.Queue, a.PartitionName = true, queue.Yes, true, "orders", "p1"
		}
	}
	one := `{"transactionId":"tx-1","partitionId":"` + somePartition + `","leaseId":"L","status":"completed"}`
	f("/api/v1/ack", one, taken, 200,
		`[{"dlq":false,"error":null,"index":0,"leaseReleased":true,"partitionName":"p1","queueName":"orders","success":true,"transactionId":"tx-1"}]`)
	f("/api/v1/ack", one, func(op *queue.Op) {
		a := &op.Acks[0]
		a.Released, a.Why, a.Known, a.Queue, a.PartitionName = queue.No, "Invalid or expired lease", true, "orders", "p1"
	}, 200, `[{"dlq":false,"error":"Invalid or expired lease","index":0,"leaseReleased":false,"partitionName":"p1","queueName":"orders","success":false,"transactionId":"tx-1"}]`)
	f("/api/v1/ack", one, func(op *queue.Op) { op.Acks[0].Released, op.Acks[0].Why = queue.No, "Message not found" }, 200,
		`[{"dlq":false,"error":"Message not found","index":0,"leaseReleased":false,"partitionName":null,"queueName":null,"success":false,"transactionId":"tx-1"}]`)
	f("/api/v1/ack", one, func(op *queue.Op) { op.Acks[0].Success, op.Acks[0].Dead = true, true }, 200,
		`[{"dlq":true,"error":null,"index":0,"leaseReleased":null,"partitionName":null,"queueName":null,"success":true,"transactionId":"tx-1"}]`)
	f("/api/v1/ack/batch", `{"acknowledgments":[`+one+`,`+strings.Replace(one, "tx-1", `t\"x`, 1)+`]}`, taken, 200,
		`[{"dlq":false,"error":null,"index":0,"leaseReleased":true,"partitionName":"p1","queueName":"orders","success":true,"transactionId":"tx-1"},`+
			`{"dlq":false,"error":null,"index":1,"leaseReleased":true,"partitionName":"p1","queueName":"orders","success":true,"transactionId":"t\"x"}]`)

	never := func(*queue.Op) { t.Error("what is refused reached the store") }
	f("/api/v1/ack/batch", `{"acknowledgments":[]}`, never, 200, `[]`)
	f("/api/v1/ack", `{"partitionId":"`+somePartition+`"}`, never, 400, `{"error":"transactionId is required"}`)
	f("/api/v1/ack", `{"transactionId":"a"}`, never, 400, `{"error":"partitionId is required to ensure message uniqueness"}`)
	f("/api/v1/ack", `{"transactionId":"nope","partitionId":"xyz","status":"completed"}`, never, 400, `{"error":"partitionId is not a UUID"}`)
	f("/api/v1/ack", ``, never, 400, `{"error":"Empty request body"}`)
	f("/api/v1/ack/batch", `{}`, never, 400, `{"error":"acknowledgments array is required"}`)
	f("/api/v1/ack/batch", `{"acknowledgments":[{"partitionId":"a"}]}`, never, 400, `{"error":"Each acknowledgment must have a valid transactionId string"}`)
	f("/api/v1/ack/batch", `{"acknowledgments":[{"transactionId":"a"}]}`, never, 400,
		`{"error":"Each acknowledgment must have a valid partitionId string to ensure message uniqueness"}`)
}

func TestExtensionsAreAnsweredAsQueenAnswersThem(t *testing.T) {
	f := func(id, body string, end func(*queue.Op), status int, want string) {
		t.Helper()
		x := ackWorld(end).send(t, "POST", "/api/v1/lease/"+id+"/extend", body)
		if x.replies != 1 || x.status != status || x.body != want {
			t.Errorf("%s %s: %d replies, %d\n got %s\nwant %s", id, body, x.replies, x.status, x.body, want)
		}
	}
	asked := 0
	extended := func(op *queue.Op) {
		asked, op.Lease.Expires = op.Lease.Seconds, time.Date(2026, 11, 23, 12, 5, 2, 393_999_000, time.UTC).UnixMicro()
	}
	answer := `[{"error":null,"expiresAt":"2026-11-23T12:05:02.393Z","index":0,"leaseId":"01a20849-c4c7-7000-941c-819f1a97d5c0","success":true}]`
	for body, seconds := range map[string]int{`{"seconds":120}`: 120, `{}`: 60, ``: 60} {
		if f("01a20849-c4c7-7000-941c-819f1a97d5c0", body, extended, 200, answer); asked != seconds {
			t.Errorf("%s: %d seconds", body, asked)
		}
	}
	f("abc", `{"seconds":30}`, func(op *queue.Op) { op.Lease.Why = "Lease not found" }, 200,
		`[{"error":"Lease not found","expiresAt":null,"index":0,"leaseId":"abc","success":false}]`)
	f("a%22%2Fc", ``, func(op *queue.Op) { op.Lease.Why = "Lease already expired" }, 200,
		`[{"error":"Lease already expired","expiresAt":null,"index":0,"leaseId":"a\"/c","success":false}]`)
	never := func(*queue.Op) { t.Error("what is refused reached the store") }
	f("abc", `{"seconds":"30"}`, never, 400, `{"error":"seconds must be a number"}`)
	f("abc", `[]`, never, 400, `{"error":"the body must be a JSON object"}`)
}

func TestTransactionsAreAnsweredAsQueenAnswersThem(t *testing.T) {
	f := func(body string, end func(*queue.Op), status int, want string) {
		t.Helper()
		x := ackWorld(end).send(t, "POST", "/api/v1/transaction", body)
		got, id, _ := strings.Cut(x.body, `,"transactionId":"`)
		if status == 200 && len(id) != 38 || status != 200 && id != "" {
			t.Errorf("%s: %s", body, x.body)
		}
		if x.replies != 1 || x.status != status || got != want {
			t.Errorf("%s: %d replies, %d\n got %s\nwant %s", body, x.replies, x.status, x.body, want)
		}
	}
	f(`{"operations":[{"type":"push","items":[]}]}`, func(*queue.Op) {}, 200, `{"results":[],"success":true`)
	f(`{"operations":[{"type":"frob"}]}`, func(op *queue.Op) { op.Steps[0].Error = "Unknown operation type: frob" }, 200,
		`{"error":"Unknown operation type: frob","results":[{"error":"Unknown operation type: frob","index":0,"success":false,"type":"frob"}],"success":false`)
	f(`{"operations":[{"type":"ack","transactionId":"zzz","partitionId":"bad","status":"completed"}]}`,
		func(op *queue.Op) {
			op.Steps[0].Error, op.Steps[0].Alone = `invalid input syntax for type uuid: "bad"`, true
		}, 200, `{"error":"invalid input syntax for type uuid: \"bad\"","results":[],"success":false`)
	never := func(*queue.Op) { t.Error("what is refused reached the store") }
	f(`{"operations":[]}`, never, 400, `{"error":"operations array cannot be empty"}`)
	f(`{}`, never, 400, `{"error":"operations array required"}`)
	f(`{"operations":[1]}`, never, 400, `{"error":"operations[0] must be an object"}`)
}

func TestAcksHearThatPostgreSQLIsAway(t *testing.T) {
	for target, body := range map[string]string{
		"/api/v1/ack":            `{"transactionId":"a","partitionId":"` + somePartition + `"}`,
		"/api/v1/ack/batch":      `{"acknowledgments":[{"transactionId":"a","partitionId":"` + somePartition + `"}]}`,
		"/api/v1/lease/x/extend": ``,
		"/api/v1/transaction":    `{"operations":[{"type":"push","items":[{"queue":"q"}]}]}`,
	} {
		w := ackWorld(func(op *queue.Op) {
			if op.Deadline != time.Second+2*time.Second || op.Accepted != time.Second {
				t.Errorf("%s: accepted %s, deadline %s", target, op.Accepted, op.Deadline)
			}
			op.Fault = queue.Fault{Code: queue.Unavailable, Message: "PostgreSQL is away"}
		})
		for range 2 { // the second time with a call that was used
			x := w.send(t, "POST", target, body)
			if x.status != 503 || !strings.Contains(x.header, "Retry-After: 1\r\n") || x.body != `{"error":"PostgreSQL is away"}` {
				t.Errorf("%s: %d %q %s", target, x.status, x.header, x.body)
			}
		}
		w.router.stores = nil
		if x := w.send(t, "POST", target, body); x.status != 503 || !strings.Contains(x.body, "not ready yet") {
			t.Errorf("%s: %d %s", target, x.status, x.body)
		}
	}
}

func TestAcksAreCounted(t *testing.T) {
	w := ackWorld(func(op *queue.Op) {
		switch op.Verb {
		case queue.Ack:
			op.Acks[0].Success = true
			op.Acks[1].Success, op.Acks[1].Dead = true, true
		case queue.Extend:
			op.Lease.Why = "Lease not found"
		}
	})
	one := `{"transactionId":"a","partitionId":"` + somePartition + `"}`
	w.send(t, "POST", "/api/v1/ack/batch", `{"acknowledgments":[`+one+`,`+one+`,`+one+`]}`)
	w.send(t, "POST", "/api/v1/ack", `{}`)
	w.send(t, "POST", "/api/v1/lease/x/extend", ``)
	w.send(t, "POST", "/api/v1/transaction", `{"operations":[{"type":"push","items":[]}]}`)
	set := metrics.NewSet()
	Export(set, []*Router{w.router})
	set.Seal()
	text, err := set.Exposition()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`queend_acknowledgments_total{outcome="taken"} 1`,
		`queend_acknowledgments_total{outcome="dead"} 1`,
		`queend_acknowledgments_total{outcome="refused"} 1`,
		`queend_ack_requests_total{outcome="answered"} 1`,
		`queend_ack_requests_total{outcome="refused"} 1`,
		`queend_lease_extensions_total{outcome="refused"} 1`,
		`queend_transactions_total{outcome="committed"} 1`,
		`queend_transaction_seconds_count 1`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
}
