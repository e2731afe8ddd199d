package load

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// broker is a queue server in memory, which can be told to misbehave.
type broker struct {
	t      *testing.T
	mu     sync.Mutex
	more   chan struct{} // closed, and made anew, when something was pushed
	log    map[string][]string
	cursor map[string]int // of a queue and group
	acked  int
	pushes int

	lose, double int  // the message of that number never comes, or comes twice; -1: none
	refusing     bool // every second ack
}

func startBroker(t *testing.T) (*broker, Settings) {
	t.Helper()
	b := &broker{t: t, more: make(chan struct{}), log: map[string][]string{}, cursor: map[string]int{}, lose: -1, double: -1}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/push", b.push)
	mux.HandleFunc("GET /api/v1/pop/queue/{queue}", b.pop)
	mux.HandleFunc("POST /api/v1/ack/batch", b.ack)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(func() { s.CloseClientConnections() })
	return b, Settings{Target: Target{Addr: s.Listener.Addr().String()}, Nonce: "n", Connections: 2, Consumers: 4, Window: 100 * time.Millisecond,
		Shape: Shape{Queue: "q", Partitions: 3, Items: 1, PayloadBytes: 40}, Pop: Pop{Batch: 5, TimeoutMs: 2000}}
}

// counts are of messages pushed and acknowledged.
func (b *broker) counts() (pushes, acked int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pushes, b.acked
}

func (b *broker) push(w http.ResponseWriter, r *http.Request) {
	var body pushBody
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		b.t.Error(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var answers []string
	for _, item := range body.Items {
		n := b.pushes
		b.pushes++
		answers = append(answers, fmt.Sprintf(`{"message_id":"00000000-0000-7000-8000-%012x","status":"queued"}`, n))
		message := fmt.Sprintf(`{"data":%s,"id":"00000000-0000-7000-8000-%012x","leaseId":"l","partitionId":"00000000-0000-7000-8000-000000000001","transactionId":"t%d"}`, item.Payload, n, n)
		message = `{"createdAt":"now",` + message[1:]
		if n != b.lose {
			b.log[item.Queue] = append(b.log[item.Queue], message)
		}
		if n == b.double {
			b.log[item.Queue] = append(b.log[item.Queue], message)
		}
	}
	close(b.more)
	b.more = make(chan struct{})
	w.WriteHeader(201)
	fmt.Fprintf(w, "[%s]", strings.Join(answers, ","))
}

// set changes the broker. Its handlers have heard of no lock but this one: sockets that are
// read and written by system calls alone order nothing.
func (b *broker) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *broker) pop(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	batch, _ := strconv.Atoi(q.Get("batch"))
	timeout, _ := strconv.Atoi(q.Get("timeout"))
	queue := r.PathValue("queue")
	key := queue + "/" + q.Get("consumerGroup")
	over := time.After(time.Duration(timeout) * time.Millisecond)
	for {
		b.mu.Lock()
		from := b.cursor[key]
		to := min(from+batch, len(b.log[queue]))
		some, more := b.log[queue][from:to], b.more
		b.cursor[key] = to
		b.mu.Unlock()
		if len(some) > 0 {
			fmt.Fprintf(w, `{"messages":[%s],"success":true}`, strings.Join(some, ","))
			return
		}
		select {
		case <-more:
		case <-over:
			fmt.Fprint(w, `{"messages":[],"success":true}`)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (b *broker) ack(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Acknowledgments []struct{ TransactionID string }
	}
	text, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(text, &body); err != nil {
		b.t.Errorf("%s: %v", text, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked += len(body.Acknowledgments)
	if b.refusing {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, "[%s]", strings.TrimSuffix(strings.Repeat(`{"success":true},`, len(body.Acknowledgments)), ","))
}

// brief is a result without its ids.
func brief(r *Result) Result {
	some := *r
	some.IDs = nil
	return some
}

func mode(t *testing.T, m Mode, s Settings) *Result {
	t.Helper()
	r, err := m(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAPipelineFollowsEachMessageToItsConsumer(t *testing.T) {
	b, s := startBroker(t)
	s.Rate, s.Warm = 500, 20*time.Millisecond
	r := mode(t, Pipeline, s)
	if r.Offered != 50 || r.Queued != 50 || r.Count != 50 || r.Delivered != 50 || r.EndToEnd.TotalCount() != 50 || r.Latency != r.EndToEnd ||
		r.PushTime.TotalCount() != 50 || r.Missing != 0 || r.Twice != 0 || r.Refused != 0 {
		t.Fatalf("%+v", brief(r))
	}
	if _, acked := b.counts(); acked != 60 || len(r.IDs) != 60 || r.AckTime.TotalCount() < 1 {
		t.Fatalf("%d of 60 acknowledged, %d ids", acked, len(r.IDs))
	}
}

func TestEachGroupGetsAllMessages(t *testing.T) {
	_, s := startBroker(t)
	s.Rate, s.Groups, s.Shape.Items, s.Pop.AutoAck = 1000, 3, 2, true
	s.Consumers = 6
	r := mode(t, FanOut, s)
	if r.Queued != 100 || r.Delivered != 300 || r.Count != 300 || r.Missing != 0 || r.Twice != 0 || r.Refused != 0 || r.AckTime.TotalCount() != 0 {
		t.Fatalf("%+v", brief(r))
	}
}

func TestMixedIsToldByItsProducers(t *testing.T) {
	_, s := startBroker(t)
	r := mode(t, Mixed, s) // a closed loop
	if r.Latency != r.PushTime || r.Count != r.Queued || r.Delivered != r.Queued || r.Missing != 0 || r.InTime > r.Queued || r.InTime < 1 {
		t.Fatalf("%+v", brief(r))
	}
}

func TestABacklogIsDrainedToTheLastMessage(t *testing.T) {
	for _, auto := range []bool{false, true} {
		b, s := startBroker(t)
		s.Backlog, s.Groups, s.Shape.Items, s.Pop.AutoAck, s.Shape.Queues = 500, 2, 10, auto, 2
		r := mode(t, PopAck, s)
		pushes, acked := b.counts()
		if total := int64(2 * pushes); r.Count != r.Delivered || r.Delivered < 500 || r.Delivered >= total || r.Missing != 0 || r.Twice != 0 || r.Refused != 0 ||
			len(r.IDs) != pushes || r.Elapsed <= 0 || r.InTime != r.Delivered || r.Latency.TotalCount() != r.Pops {
			t.Fatalf("autoAck %v, %d pushed: %+v", auto, pushes, brief(r))
		}
		if (acked > 0) == auto {
			t.Fatalf("autoAck %v, and %d were acknowledged", auto, acked)
		}
	}
}

func TestALostMessageIsMissed(t *testing.T) {
	stuckMax = 300 * time.Millisecond
	defer func() { stuckMax = 10 * time.Second }()
	b, s := startBroker(t)
	s.Rate = 500
	b.set(func() { b.lose = 7 })
	if r := mode(t, Pipeline, s); r.Missing != 1 || r.Twice != 0 || r.Delivered != 49 {
		t.Fatalf("%d missing of %d", r.Missing, r.Delivered)
	}
	b, s = startBroker(t)
	s.Backlog = 100
	b.set(func() { b.lose = 50 })
	if r := mode(t, PopAck, s); r.Missing != 1 {
		t.Fatalf("%d missing of %d", r.Missing, r.Delivered)
	}
}

func TestAMessageThatComesAgainIsCounted(t *testing.T) {
	b, s := startBroker(t)
	s.Rate = 500
	b.set(func() { b.double = 7 })
	if r := mode(t, Pipeline, s); r.Twice != 1 || r.Missing != 0 {
		t.Fatalf("%+v", brief(r))
	}
}

func TestARefusedAckIsARefusal(t *testing.T) {
	b, s := startBroker(t)
	s.Rate = 100
	b.set(func() { b.refusing = true })
	if r := mode(t, Pipeline, s); r.Refused < 1 || !strings.Contains(r.Refusal, "ack: 0 of") {
		t.Fatalf("%+v", brief(r))
	}
}

func TestAMessageOfSomebodyElseIsARefusal(t *testing.T) {
	b, s := startBroker(t)
	b.set(func() {
		b.log["q"] = []string{`{"createdAt":"x","data":{"old":1},"id":"i","leaseId":"l","partitionId":"p","transactionId":"t"}`}
	})
	s.Rate = 100
	if r := mode(t, Pipeline, s); r.Refused != 1 || !strings.Contains(r.Refusal, "nobody here") || r.Missing != 0 {
		t.Fatalf("%+v", brief(r))
	}
}

func TestTooFewConsumersAreRefused(t *testing.T) {
	_, s := startBroker(t)
	s.Shape.Queues = 5
	if _, err := Pipeline(context.Background(), s); err == nil {
		t.Fatal("four consumers pop from five queues")
	}
}
