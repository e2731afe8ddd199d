package main

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// want sends a request and wants a status; it returns the answer.
func (p *process) want(t *testing.T, status int, method, path, body string) string {
	t.Helper()
	code, _, text := p.ask(method, path, body)
	if code != status {
		t.Fatalf("%s %s %s: %d %s, want %d", method, path, body, code, text, status)
	}
	return text
}

// one pops one message of partition p of a queue.
func (p *process) one(t *testing.T, queue, group string) (popped, message) {
	t.Helper()
	a := p.pop("/queue/" + url.PathEscape(queue) + "?batch=1&consumerGroup=" + group)
	if len(a.Messages) != 1 {
		t.Fatalf("pop of %s: %s", queue, a.text)
	}
	return a, a.Messages[0]
}

// settle acknowledges one message and wants this in the answer.
func (p *process) settle(t *testing.T, m message, group, status, lease, want string) {
	t.Helper()
	body := fmt.Sprintf(`{"transactionId":%q,"partitionId":%q,"status":%q,"consumerGroup":%q,"leaseId":%q,"error":"because"}`, m.TransactionID, m.PartitionID, status, group, lease)
	if text := p.want(t, 200, "POST", "/api/v1/ack", body); !strings.Contains(text, want) {
		t.Errorf("ack %s: %s, want %s", body, text, want)
	}
}

const testKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// TestWhatQueenGetsWrongIsRight has a case for each known defect of Queen's that is of the
// data plane, and for the defects that are kept because clients live with them.
func TestWhatQueenGetsWrongIsRight(t *testing.T) {
	db := postgrestest.Database(t)
	runSQL(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''America/New_York''', current_database()); END $$`)
	p := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2", "QUEEN_ENCRYPTION_KEY="+testKey)

	t.Run("statuses say what happened", func(t *testing.T) {
		p.want(t, 201, "POST", "/api/v1/push", `{"items":[{"queue":"s"}]}`)
		p.want(t, 400, "POST", "/api/v1/push", `{"items":[{"queue":1}]}`)
		p.want(t, 200, "GET", "/api/v1/pop/queue/nothing", "")
		p.want(t, 404, "GET", "/api/v1/messages/00000000-0000-0000-0000-000000000000/t", "")
		p.want(t, 404, "GET", "/api/v1/nothing", "")
	})
	t.Run("an empty batch of acks is answered", func(t *testing.T) {
		if text := p.want(t, 200, "POST", "/api/v1/ack/batch", `{"acknowledgments":[]}`); text != "[]" {
			t.Error(text)
		}
	})
	t.Run("a cursor never goes back", func(t *testing.T) {
		p.put(t, `{"queue":"back","transactionId":"1"},{"queue":"back","transactionId":"2"},{"queue":"back","transactionId":"3"}`)
		got := p.pop("/queue/back?batch=3")
		p.settle(t, got.Messages[2], "", "completed", got.LeaseID, `"success":true`)
		p.settle(t, got.Messages[0], "", "completed", "", `"success":true`)
		if again := p.pop("/queue/back?batch=3"); len(again.Messages) != 0 {
			t.Error("what was acknowledged came again: " + again.text)
		}
	})
	t.Run("a failure is not passed by a completion behind it", func(t *testing.T) {
		p.put(t, `{"queue":"mixed","transactionId":"1"},{"queue":"mixed","transactionId":"2"},{"queue":"mixed","transactionId":"3"}`)
		got := p.pop("/queue/mixed?batch=3")
		m := got.Messages
		text := p.want(t, 200, "POST", "/api/v1/ack/batch", fmt.Sprintf(`{"acknowledgments":[{"transactionId":"1","partitionId":%q,"leaseId":%q,"status":"completed"},
			{"transactionId":"2","partitionId":%q,"leaseId":%q,"status":"failed"},{"transactionId":"3","partitionId":%q,"leaseId":%q,"status":"completed"}]}`,
			m[0].PartitionID, got.LeaseID, m[0].PartitionID, got.LeaseID, m[0].PartitionID, got.LeaseID))
		var items []struct {
			Success bool
			Error   *string
		}
		if json.Unmarshal([]byte(text), &items) != nil || len(items) != 3 || !items[0].Success || !items[1].Success || items[2].Success || items[2].Error == nil {
			t.Error(text)
		}
		if again := p.pop("/queue/mixed?batch=3"); len(again.Messages) != 2 || again.Messages[0].TransactionID != "2" {
			t.Error(again.text)
		}
	})
	t.Run("the count of retries begins anew behind a dead letter", func(t *testing.T) {
		p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"count","options":{"retryLimit":1}}`)
		p.put(t, `{"queue":"count","transactionId":"1"},{"queue":"count","transactionId":"2"}`)
		for _, want := range []string{"1", "1", "2", "2"} {
			got, m := p.one(t, "count", "")
			if m.TransactionID != want {
				t.Fatalf("got %s, want %s", m.TransactionID, want)
			}
			p.settle(t, m, "", "failed", got.LeaseID, `"success":true`)
		}
		if text := p.want(t, 200, "GET", "/api/v1/dlq?queue=count", ""); !strings.Contains(text, `"total":2`) || !strings.Contains(text, `"errorMessage":"because"`) {
			t.Error(text)
		}
	})
	t.Run("a transaction needs no leases", func(t *testing.T) {
		p.put(t, `{"queue":"tx","transactionId":"1"}`)
		_, m := p.one(t, "tx", "")
		text := p.want(t, 200, "POST", "/api/v1/transaction", fmt.Sprintf(`{"operations":[{"type":"ack","transactionId":"1","partitionId":%q},{"type":"push","items":[{"queue":"tx2","payload":7}]}],"requiredLeases":["nobody's"]}`, m.PartitionID))
		if !strings.Contains(text, `"success":true,"transactionId"`) {
			t.Fatal(text)
		}
		if got, next := p.one(t, "tx2", ""); string(next.Data) != "7" {
			t.Error(got.text)
		}
		if got := p.pop("/queue/tx"); len(got.Messages) != 0 {
			t.Error(got.text)
		}
	})
	t.Run("names in paths are decoded", func(t *testing.T) {
		p.put(t, `{"queue":"a b/ü","partition":"c%d"}`)
		if got := p.pop("/queue/a%20b%2F%C3%BC/partition/c%25d"); len(got.Messages) != 1 {
			t.Error(got.text)
		}
	})
	t.Run("a lease is extended without a body", func(t *testing.T) {
		p.put(t, `{"queue":"extend"}`)
		got, _ := p.one(t, "extend", "")
		if text := p.want(t, 200, "POST", "/api/v1/lease/"+got.LeaseID+"/extend", ""); !strings.Contains(text, `"success":true`) {
			t.Error(text)
		}
	})
	t.Run("a queue that was deleted takes its options with it", func(t *testing.T) {
		p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"gone","options":{"encryptionEnabled":true}}`)
		p.put(t, `{"queue":"gone","payload":"secret"}`)
		if query[bool](t, db, `SELECT payload::text LIKE '%secret%' FROM queen.messages WHERE is_encrypted`) {
			t.Error("it is not encrypted")
		}
		if text := p.want(t, 200, "DELETE", "/api/v1/resources/queues/gone", ""); !strings.Contains(text, `"existed":true`) {
			t.Error(text)
		}
		p.put(t, `{"queue":"gone","payload":"plain"}`)
		if !query[bool](t, db, `SELECT bool_and(NOT m.is_encrypted) AND count(*) = 1 FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'gone'`) {
			t.Error("a new queue is still encrypted, or holds what was there before")
		}
		if _, m := p.one(t, "gone", ""); string(m.Data) != `"plain"` {
			t.Errorf("%s", m.Data)
		}
		if text := p.want(t, 200, "DELETE", "/api/v1/resources/queues/never", ""); !strings.Contains(text, `"deleted":true`) || !strings.Contains(text, `"existed":false`) {
			t.Error(text)
		}
	})
	t.Run("times are UTC whatever the server's zone", func(t *testing.T) {
		before := time.Now().Add(-time.Minute)
		p.put(t, `{"queue":"utc"}`)
		_, m := p.one(t, "utc", "")
		text := p.want(t, 200, "GET", "/api/v1/messages/"+m.PartitionID+"/"+m.TransactionID, "")
		var detail struct{ CreatedAt time.Time }
		if err := json.Unmarshal([]byte(text), &detail); err != nil || detail.CreatedAt.Before(before) || detail.CreatedAt.After(time.Now().Add(time.Minute)) {
			t.Errorf("%v %s", err, text)
		}
	})
	t.Run("dead letters are listed by pages, with a total, decrypted", func(t *testing.T) {
		p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"dead","options":{"encryptionEnabled":true}}`)
		p.put(t, `{"queue":"dead","partition":"a","transactionId":"1","payload":{"n":1}},{"queue":"dead","partition":"a","transactionId":"2","payload":{"n":2}},{"queue":"dead","partition":"b","transactionId":"3","payload":{"n":3}}`)
		for range 3 {
			got, m := p.one(t, "dead", "")
			p.settle(t, m, "", "dlq", got.LeaseID, `"dlq":true`)
		}
		f := func(query string, count, total int) {
			t.Helper()
			var list struct {
				Messages []struct{ Data struct{ N int } }
				Total    int
			}
			text := p.want(t, 200, "GET", "/api/v1/dlq?queue=dead"+query, "")
			if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Messages) != count || list.Total != total {
				t.Errorf("%s: %s", query, text)
			}
			for _, m := range list.Messages {
				if m.Data.N == 0 {
					t.Errorf("%s: not decrypted: %s", query, text)
				}
			}
		}
		f("", 3, 3)
		f("&limit=2", 2, 3)
		f("&limit=2&offset=2", 1, 3)
		f("&partition=a", 2, 2)
		f("&to=2000-01-01T00:00:00Z", 0, 0)
		// A dead letter outlives its message.
		runSQL(t, db, `DELETE FROM queen.messages m USING queen.partitions p, queen.queues q WHERE p.id = m.partition_id AND q.id = p.queue_id AND q.name = 'dead'`)
		f("", 3, 3)
	})
	t.Run("a partition whose messages are not due hides no other", func(t *testing.T) {
		p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"late","options":{"delayedProcessing":3600}}`)
		p.put(t, `{"queue":"late","partition":"due","transactionId":"old"}`)
		runSQL(t, db, `UPDATE queen.messages SET created_at = created_at - interval '2 hours' WHERE transaction_id = 'old'`)
		for i := range 5 {
			p.put(t, fmt.Sprintf(`{"queue":"late","partition":"%d"}`, i))
		}
		if got := p.pop("/queue/late?batch=10&partitions=10"); len(got.Messages) != 1 || got.Messages[0].TransactionID != "old" {
			t.Error(got.text)
		}
	})
	t.Run("an envelope is Queen's, to the byte", func(t *testing.T) {
		key, _ := hex.DecodeString(testKey)
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		// One that Queen could have written: sixteen bytes are stored, twelve are used.
		iv := []byte("0123456789abcdef")
		sealed := gcm.Seal(nil, iv[:12], []byte(`{"from":"queen"}`), nil)
		b64 := base64.StdEncoding.EncodeToString
		n := len(sealed) - 16
		envelope := fmt.Sprintf(`{"encrypted":%q,"iv":%q,"authTag":%q}`, b64(sealed[:n]), b64(iv), b64(sealed[n:]))
		p.put(t, `{"queue":"sealed","payload":`+envelope+`}`)
		if _, m := p.one(t, "sealed", ""); string(m.Data) != `{"from":"queen"}` {
			t.Errorf("popped %s", m.Data)
		}
		// And one of ours, opened as Queen opens it.
		p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"ours","options":{"encryptionEnabled":true}}`)
		p.put(t, `{"queue":"ours","transactionId":"ours","payload":{"from": "us"}}`)
		var e struct{ Encrypted, IV, AuthTag []byte }
		if err := json.Unmarshal([]byte(query[string](t, db, `SELECT payload::text FROM queen.messages WHERE transaction_id = 'ours'`)), &e); err != nil || len(e.IV) != 16 || len(e.AuthTag) != 16 {
			t.Fatal(err, e)
		}
		plain, err := gcm.Open(nil, e.IV[:12], append(e.Encrypted, e.AuthTag...), nil)
		if err != nil || string(plain) != `{"from": "us"}` && string(plain) != `{"from":"us"}` {
			t.Errorf("%v %s", err, plain)
		}
	})
	t.Run("the end of a lease is no retry", func(t *testing.T) {
		p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"expire","options":{"leaseTime":1,"retryLimit":0}}`)
		p.put(t, `{"queue":"expire"}`)
		first, m := p.one(t, "expire", "")
		again := p.pop("/queue/expire?wait=true&timeout=100000")
		if len(again.Messages) != 1 || again.Messages[0].ID != m.ID {
			t.Fatal(again.text)
		}
		p.settle(t, m, "", "completed", first.LeaseID, `"error":"Invalid or expired lease"`)
		if text := p.want(t, 200, "GET", "/api/v1/dlq?queue=expire", ""); !strings.Contains(text, `"total":0`) {
			t.Error(text)
		}
	})
	t.Run("configure replaces everything", func(t *testing.T) {
		p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"full","namespace":"n","options":{"leaseTime":7,"retryLimit":9}}`)
		if text := p.want(t, 200, "POST", "/api/v1/configure", `{"queue":"full","options":{"retryLimit":"4"}}`); !strings.Contains(text, `"leaseTime":300`) || !strings.Contains(text, `"retryLimit":4`) || !strings.Contains(text, `"namespace":""`) {
			t.Error(text)
		}
	})
	t.Run("an ack without a lease id is taken, whoever has the lease", func(t *testing.T) {
		p.put(t, `{"queue":"free","transactionId":"1"},{"queue":"free","transactionId":"2"}`)
		_, m := p.one(t, "free", "")
		p.settle(t, m, "", "completed", "", `"success":true`)
		p.settle(t, m, "", "completed", "019dc9b7-0000-7000-8000-000000000000", `"error":"Invalid or expired lease"`)
	})
	t.Run("a group that never popped", func(t *testing.T) {
		p.put(t, `{"queue":"never2","transactionId":"1"}`)
		_, m := p.one(t, "never2", "")
		p.settle(t, m, "stranger", "completed", "", `"leaseReleased":null`)
		p.settle(t, m, "stranger", "failed", "", `"dlq":true`)
	})
	t.Run("an empty consumerGroup is the queue's own", func(t *testing.T) {
		p.put(t, `{"queue":"group"}`)
		if got, m := p.one(t, "group", ""); m.ConsumerGroup != "__QUEUE_MODE__" {
			t.Error(got.text)
		}
		if got := p.pop("/queue/group"); len(got.Messages) != 0 {
			t.Error(got.text)
		}
	})
	sound(t, db)
}
