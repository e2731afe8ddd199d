package load

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

const popped = `{"consumerGroup":"g","leaseId":"01a215bf-e12a-7000-a925-0606bdc36e7e","messages":[` +
	`{"consumerGroup":"g","createdAt":"2026-11-26T02:47:06.239365Z","data":{"n":"ab"},"id":"01a215bf-e0f0-7000-a0fb-94580e02431a","leaseId":"01a215bf-e12a-7000-a925-0606bdc36e7e","partition":"a","partitionId":"bdc36e7e-fbfe-49b7-a4dd-917af6d0253d","producerSub":null,"queue":"q","retryCount":0,"traceId":null,"transactionId":"tx-1"},` +
	`{"consumerGroup":"g","createdAt":"2026-11-26T02:47:06.239365Z","data":{"n":"cd"},"id":"01a215bf-e0f0-7001-a0fb-94580e02431a","leaseId":"01a215bf-e12a-7000-a925-0606bdc36e7e","partition":"a","partitionId":"bdc36e7e-fbfe-49b7-a4dd-917af6d0253d","producerSub":null,"queue":"q","retryCount":0,"traceId":null,"transactionId":"tx-2"}` +
	`],"partition":"a","partitionId":"bdc36e7e-fbfe-49b7-a4dd-917af6d0253d","partitionsClaimed":1,"queue":"q","success":true}`

func TestDeliveriesAreTheMessagesOfAnAnswer(t *testing.T) {
	all := AppendDeliveries(nil, []byte(popped))
	if len(all) != 2 || all[0].ID[7] != 0 || all[1].ID[7] != 1 || all[0].Partition != all[1].Partition || all[0].Partition[0] != 0xbd {
		t.Fatalf("%x", all)
	}
	if none := AppendDeliveries(nil, []byte(`{"error":"no_available_partition","messages":[],"success":false}`)); len(none) != 0 {
		t.Fatalf("%x", none)
	}
}

func TestAnAckNamesEveryMessageWithItsLease(t *testing.T) {
	request, n := AppendAck(nil, "h:1", "g", []byte(popped))
	head, body, _ := bytes.Cut(request, []byte("\r\n\r\n"))
	if n != 2 || !bytes.HasPrefix(head, []byte("POST /api/v1/ack/batch HTTP/1.1\r\nHost: h:1\r\n")) {
		t.Fatalf("%d acks: %s", n, head)
	}
	var ack struct {
		ConsumerGroup   string
		Acknowledgments []struct{ TransactionID, PartitionID, LeaseID, Status string }
	}
	if err := json.Unmarshal(body, &ack); err != nil {
		t.Fatal(err)
	}
	a := ack.Acknowledgments
	if ack.ConsumerGroup != "g" || len(a) != 2 || a[0].TransactionID != "tx-1" || a[1].TransactionID != "tx-2" ||
		a[1].PartitionID != "bdc36e7e-fbfe-49b7-a4dd-917af6d0253d" || a[1].LeaseID != "01a215bf-e12a-7000-a925-0606bdc36e7e" || a[1].Status != "completed" {
		t.Fatalf("%+v", ack)
	}
}

func TestAClientHearsAnswersOfAnyLength(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		answer := strings.Repeat(string(body), 10000)
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		if string(body) == "no" {
			w.WriteHeader(503)
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	c, err := Dial(context.Background(), strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{"a", "bc", "a"} {
		body, err := c.Do(Post(c.Addr, "/", []byte(text)))
		if err != nil || string(body) != strings.Repeat(text, 10000) {
			t.Fatalf("%q: %d bytes, %v", text, len(body), err)
		}
	}
	if _, err := c.Do(Post(c.Addr, "/", []byte("no"))); err == nil {
		t.Fatal("a refusal is no error")
	}
}
