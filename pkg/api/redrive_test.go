package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/queend/queend/pkg/admindb"
)

// order is the messages of a partition, oldest first.
func (w *adminWorld) order(partition, want string) {
	w.t.Helper()
	w.holds(`SELECT coalesce(string_agg(transaction_id, ' ' ORDER BY created_at, id), '') FROM queen.messages WHERE partition_id = '`+partition+`'`, want)
	w.dense()
}

func TestARetriedMessageIsTheNewestOfItsPartition(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "a", "b", "c")
		p := w.partition("q", "p")
		before := w.one(`SELECT id, payload FROM queen.messages WHERE partition_id = $1 AND transaction_id = 'a'`, p)
		retried := func(tx, body string) {
			t.Helper()
			w.changed = nil
			w.says("POST", "/api/v1/messages/"+p+"/"+tx+"/retry", body, 200, `{"message":"Message is delivered again","messageId":"U","partitionId":"U","success":true,"transactionId":"`+tx+`"}`)
			if fmt.Sprint(w.changed) != "[q]" {
				t.Errorf("the hook heard %v", w.changed)
			}
		}
		w.says("POST", "/api/v1/traces", `{"transactionId":"a","partitionId":"`+p+`","data":{}}`, 201, `{"success":true,"traceId":"U"}`)
		w.consume(p, queueMode, "b")
		w.consume(p, "behind", "a")
		w.bury(p, queueMode, "a")
		w.bury(p, "g", "a")
		retried("a", ``)
		w.order(p, "b c a")
		after := w.one(`SELECT id, payload FROM queen.messages WHERE partition_id = $1 AND transaction_id = 'a'`, p)
		if after[:36] == before[:36] || after[36:] != before[36:] {
			t.Errorf("before %s, after %s", before, after)
		}
		w.holds(`SELECT count(*) FROM queen.dead_letter_queue WHERE partition_id = '`+p+`'`, "0")
		w.holds(`SELECT message_id FROM queen.message_traces WHERE partition_id = '`+p+`'`, after[:36])
		w.holds(`SELECT m.seq, h.seq, h.last_message_id = m.id, h.last_message_created_at = m.created_at FROM queen.messages m JOIN queen.partition_lookup h USING (partition_id)
			WHERE m.partition_id = '`+p+`' AND transaction_id = 'a'`, "4|4|t|t")
		// The groups that had consumed it have it before them again, and nothing else.
		w.holds(`SELECT c.consumer_group, string_agg(m.transaction_id, ' ' ORDER BY m.created_at, m.id) FROM queen.partition_consumers c JOIN queen.messages m ON m.partition_id = c.partition_id
			AND (m.created_at, m.id) > (c.last_consumed_created_at, c.last_consumed_id) WHERE c.partition_id = '`+p+`' GROUP BY 1 ORDER BY 1`, "__QUEUE_MODE__|c a", "behind|b c a")

		// Its transaction is still taken.
		x := w.ask("POST", "/api/v1/push-legacy", `{"items":[{"queue":"q","partition":"p","transactionId":"a"}]}`)
		if x.status != 201 || !strings.Contains(x.body, `"status":"duplicate"`) || !strings.Contains(x.body, after[:36]) {
			t.Errorf("%d %s", x.status, x.body)
		}
		// Again, and a body means nothing.
		retried("a", `{"x":1}`)
		w.order(p, "b c a")
		retried("b", `{}`)
		w.order(p, "c a b")
		w.push("q", "p", "d")
		w.order(p, "c a b d")
	})
}

func TestARetryEndsTheLeaseOfWhoMayHoldTheMessage(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a", "b", "c")
	p := w.partition("q", "p")
	w.consume(p, "past", "a")
	w.lease(p, "past")
	w.lease(p, "holds")
	w.says("POST", "/api/v1/messages/"+p+"/a/retry", "", 200, `{"message":"Message is delivered again","messageId":"U","partitionId":"U","success":true,"transactionId":"a"}`)
	w.holds(`SELECT consumer_group, worker_id IS NULL, lease_expires_at IS NULL, num_nulls(lease_end_created_at, lease_end_id, lease_end_seq), batch_size FROM queen.partition_consumers ORDER BY 1`,
		"holds|t|t|3|0", "past|f|f|0|3")
}

func TestAMessageThatIsGoneIsPutBackFromItsDeadLetter(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		x := w.ask("POST", "/api/v1/push-legacy", `{"items":[{"queue":"q","partition":"p","transactionId":"a","traceId":"019dc9b7-cb4f-7c1a-9b21-7e8a5c3a40e1","payload":{"x": [1]}},{"queue":"q","partition":"p","transactionId":"b"}]}`)
		if x.status != 201 {
			t.Fatal(x.body)
		}
		p := w.partition("q", "p")
		before := w.one(`SELECT transaction_id, trace_id, payload, is_encrypted, producer_sub FROM queen.messages WHERE partition_id = $1 AND transaction_id = 'a'`, p)
		w.bury(p, "g", "a")
		// Retention takes the message, as the oldest one, and moves the tail.
		w.sql(`DELETE FROM queen.messages WHERE partition_id = $1 AND transaction_id = 'a'`, p)
		w.sql(`UPDATE queen.partition_lookup SET tail_seq = 1 WHERE partition_id = $1`, p)
		w.says("POST", "/api/v1/messages/"+p+"/a/retry", "", 200, `{"message":"Message is delivered again","messageId":"U","partitionId":"U","success":true,"transactionId":"a"}`)
		w.order(p, "b a")
		w.holds(`SELECT transaction_id, trace_id, payload, is_encrypted, producer_sub FROM queen.messages WHERE partition_id = '`+p+`' AND transaction_id = 'a'`, before)
		w.holds(`SELECT count(*) FROM queen.dead_letter_queue WHERE partition_id = '`+p+`'`, "0")
		w.says("DELETE", "/api/v1/messages/"+p+"/a", "", 200, `{"message":"Message deleted successfully","partitionId":"U","success":true,"transactionId":"a"}`)
		w.says("POST", "/api/v1/messages/"+p+"/a/retry", "", 404, `{"error":"Message not found"}`)
		w.dense()
	})
}

func TestARetryMakesSenseOrIsRefused(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a")
	p := w.partition("q", "p")
	w.says("POST", "/api/v1/messages/"+p+"/nope/retry", "", 404, `{"error":"Message not found"}`)
	w.says("POST", "/api/v1/messages/00000000-0000-0000-0000-000000000001/a/retry", "", 404, `{"error":"Message not found"}`)
	w.says("POST", "/api/v1/messages/xx/a/retry", "", 400, `{"error":"invalid input syntax for type uuid: \"xx\""}`)
	w.says("POST", "/api/v1/messages/"+p+"/a/retry", "{", 400, `{"error":"Invalid JSON: unexpected end of JSON input"}`)
	w.order(p, "a")
}

func TestARedrivePutsBackWhatMatchesAndOnlyOnce(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.sql(`DELETE FROM queen.dead_letter_queue`)
		w.push("q", "p", "a", "b", "c", "d")
		w.push("q", "r", "e")
		w.push("other", "p", "f")
		p, r, o := w.partition("q", "p"), w.partition("q", "r"), w.partition("other", "p")
		for _, tx := range []string{"c", "a", "b"} {
			w.bury(p, queueMode, tx)
		}
		w.bury(p, "g", "a")
		w.bury(r, "g", "e")
		w.bury(o, "g", "f")
		w.sql(`UPDATE queen.dead_letter_queue SET failed_at = '2026-01-01 00:00:00+00' WHERE partition_id = $1`, o)
		dry := func(body string, count int) {
			t.Helper()
			w.says("POST", "/api/v1/dlq/redrive", body, 200, fmt.Sprintf(`{"count":%d,"dryRun":true}`, count))
		}
		done := func(body string, count, skipped int, more bool, changed string) {
			t.Helper()
			w.changed = nil
			w.says("POST", "/api/v1/dlq/redrive", body, 200, fmt.Sprintf(`{"count":%d,"dryRun":false,"more":%v,"skipped":%d}`, count, more, skipped))
			if got := fmt.Sprint(w.changed); got != changed {
				t.Errorf("the hook heard %s", got)
			}
			w.dense()
		}
		dry(`{"dryRun":true}`, 5) // messages, not letters
		dry(`{"dryRun":true,"limit":2}`, 2)
		dry(`{"dryRun":true,"limit":0}`, 0)
		dry(`{"dryRun":true,"queue":"q"}`, 4)
		dry(`{"dryRun":true,"queue":"q","partition":"p"}`, 3)
		dry(`{"dryRun":true,"consumerGroup":"g"}`, 3)
		dry(`{"dryRun":true,"consumerGroup":null,"queue":""}`, 5)
		dry(`{"dryRun":true,"to":"2026-01-01T01:00:00Z"}`, 1)
		dry(`{"dryRun":true,"from":"2026-01-01T01:00:00Z"}`, 4)
		dry(`{"dryRun":true,"queue":"nothere"}`, 0)
		w.order(p, "a b c d")

		done(`{"queue":"nothere"}`, 0, 0, false, "[]")
		done(`{"to":"2026-01-01T01:00:00Z"}`, 1, 0, false, "[other]")
		w.order(o, "f")
		done(`{"limit":0}`, 0, 0, true, "[]")
		// What went first comes first; a message that is dead in two groups goes back once.
		done(`{"queue":"q","partition":"p"}`, 3, 0, false, "[q]")
		w.order(p, "d a b c")
		done(`{"queue":"q","partition":"p"}`, 0, 0, false, "[]")
		w.order(p, "d a b c")
		w.holds(`SELECT transaction_id FROM queen.dead_letter_queue`, "e")
		done(``, 1, 0, false, "[q]")
		done(`{}`, 0, 0, false, "[]")
		w.holds(`SELECT count(*) FROM queen.dead_letter_queue`, "0")
	})
}

func TestARedriveGoesOnInSmallSteps(t *testing.T) {
	w := onFresh(t)
	const many = 2*redriveMessagesMax + 30
	w.push("q", "p", "first")
	w.push("q", "r", "first")
	p := w.partition("q", "p")
	var items []string
	for i := range many {
		items = append(items, fmt.Sprintf(`{"queue":"q","partition":"p","transactionId":"t%03d","payload":%d}`, i, i))
	}
	if x := w.ask("POST", "/api/v1/push-legacy", `{"items":[`+strings.Join(items, ",")+`]}`); x.status != 201 {
		t.Fatal(x.body)
	}
	w.sql(`INSERT INTO queen.dead_letter_queue (message_id, partition_id, consumer_group, original_created_at, transaction_id, payload)
		SELECT id, partition_id, 'g', created_at, transaction_id, payload FROM queen.messages`)
	// Every other message is gone.
	w.sql(`DELETE FROM queen.messages WHERE partition_id = $1 AND seq > 1 AND seq % 2 = 0`, p)
	w.sql(`INSERT INTO queen.message_holes SELECT $1, s FROM generate_series(2, 1 + $2::int) s WHERE s % 2 = 0`, p, many)
	w.dense()
	w.says("POST", "/api/v1/dlq/redrive", `{"limit":150}`, 200, `{"count":150,"dryRun":false,"more":true,"skipped":0}`)
	w.dense()
	w.says("POST", "/api/v1/dlq/redrive", `{}`, 200, fmt.Sprintf(`{"count":%d,"dryRun":false,"more":false,"skipped":0}`, many+2-150))
	w.dense()
	w.holds(`SELECT count(*), count(DISTINCT transaction_id), count(DISTINCT id) FROM queen.messages`, fmt.Sprintf("%d|%d|%d", many+2, many+1, many+2))
	// In the order in which they were pushed.
	w.holds(`SELECT count(*) FROM (SELECT transaction_id AS t, lag(transaction_id) OVER (ORDER BY created_at, id) AS before FROM queen.messages WHERE partition_id = '`+p+`' AND transaction_id <> 'first') x WHERE before > t`, "0")
}

func TestARedriveThatFailsSaysWhatItHasPutBack(t *testing.T) {
	f := func(after int, err error, status int, answer, order, wakes string) {
		t.Helper()
		w := onFresh(t)
		for _, name := range []string{"q", "r", "s"} {
			w.push(name, "p", "a", "b", "c")
			for _, tx := range []string{"a", "b"} {
				w.bury(w.partition(name, "p"), "g", tx)
			}
		}
		// The steps come by the partitions' ids.
		queues := w.sql(`SELECT q.name FROM queen.queues q JOIN queen.partitions p ON p.queue_id = q.id ORDER BY p.id`)
		undo := w.end(after, err)
		w.changed = nil
		w.says("POST", "/api/v1/dlq/redrive", `{}`, status, answer)
		undo()
		var got, woken []string
		for i, name := range queues {
			got = append(got, w.one(`SELECT string_agg(transaction_id, '' ORDER BY created_at, id) FROM queen.messages WHERE partition_id = $1`, w.partition(name, "p")))
			woken = append(woken, map[bool]string{true: fmt.Sprint(i)}[slices.Contains(w.changed, name)])
		}
		if strings.Join(got, " ") != order || strings.Join(woken, "") != wakes && fmt.Sprint(w.changed) != wakes {
			t.Errorf("%d, %v: put back %v, woke %v", after, err, got, w.changed)
		}
		w.dense()
		w.says("POST", "/api/v1/dlq/redrive", `{}`, 200, fmt.Sprintf(`{"count":%d,"dryRun":false,"more":false,"skipped":0}`, 2*strings.Count(order, "abc")))
	}
	data, gone := &admindb.Error{State: "22000", Message: "no"}, errors.New("cannot reach PostgreSQL")
	f(0, data, 400, `{"error":"no"}`, "abc abc abc", "")
	f(0, gone, 503, `{"error":"PostgreSQL does not answer, try again in a second"}`, "abc abc abc", "")
	f(0, inDoubt{}, 503, `{"error":"PostgreSQL does not answer, try again in a second; whether the next 2 messages were put back is not known"}`, "cab abc abc", "[*]")
	f(2, data, 200, `{"count":4,"dryRun":false,"error":"no","more":true,"skipped":0}`, "cab cab abc", "01")
	f(2, gone, 200, `{"count":4,"dryRun":false,"error":"PostgreSQL does not answer, try again in a second","more":true,"skipped":0}`, "cab cab abc", "01")
	f(1, inDoubt{}, 200, `{"count":2,"dryRun":false,"error":"PostgreSQL does not answer, try again in a second; whether the next 2 messages were put back is not known","more":true,"skipped":0}`, "cab cab abc", "01")
}

func TestWhatCannotBePutBackStaysADeadLetter(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.sql(`DELETE FROM queen.dead_letter_queue`)
		w.push("q", "p", "a", "b", "c")
		p := w.partition("q", "p")
		for _, tx := range []string{"a", "b", "c"} {
			w.bury(p, "g", tx)
		}
		w.sql(`DELETE FROM queen.messages WHERE partition_id = $1`, p)
		w.sql(`INSERT INTO queen.message_holes SELECT $1, generate_series(1, 3)`, p)
		w.push("q", "p", "a") // the transaction comes again
		w.sql(`UPDATE queen.dead_letter_queue SET payload = NULL, transaction_id = NULL WHERE transaction_id = 'b'`)
		w.says("POST", "/api/v1/dlq/redrive", `{}`, 200, `{"count":1,"dryRun":false,"more":false,"skipped":2}`)
		w.order(p, "a c")
		w.holds(`SELECT coalesce(transaction_id, '-') FROM queen.dead_letter_queue ORDER BY 1`, "-", "a")
		w.says("POST", "/api/v1/dlq/redrive", `{}`, 200, `{"count":0,"dryRun":false,"more":false,"skipped":2}`)
		// Asked for by name, the message that is there goes back; the letter of the other one, which has the only copy, stays.
		w.says("POST", "/api/v1/messages/"+p+"/a/retry", "", 200, `{"message":"Message is delivered again","messageId":"U","partitionId":"U","success":true,"transactionId":"a"}`)
		w.order(p, "c a")
		w.holds(`SELECT coalesce(transaction_id, '-') FROM queen.dead_letter_queue ORDER BY 1`, "-", "a")
	})
}

// A transaction id that was used again after its message had gone has two letters, and each
// has the only copy of something.
func TestALetterOfAnEarlierMessageOfItsTransactionStays(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a")
	p := w.partition("q", "p")
	w.bury(p, "g", "a")
	w.sql(`DELETE FROM queen.messages WHERE partition_id = $1`, p)
	w.sql(`INSERT INTO queen.message_holes VALUES ($1, 1)`, p)
	first := w.one(`SELECT message_id FROM queen.dead_letter_queue`)
	w.push("q", "p", "a")
	w.bury(p, "g", "a")
	w.says("POST", "/api/v1/dlq/redrive", `{}`, 200, `{"count":1,"dryRun":false,"more":false,"skipped":1}`)
	w.order(p, "a")
	w.holds(`SELECT message_id FROM queen.dead_letter_queue`, first)
}

func TestQueensDeadLettersAreRedriven(t *testing.T) {
	w := newAdminWorld(t, true)
	// As Queen wrote them, the copy not made yet, and her foreign key still there.
	n := w.one(`SELECT count(DISTINCT message_id) FROM queen.dead_letter_queue`)
	if n == "0" {
		t.Fatal("the fixture has no dead letters")
	}
	w.sql(`UPDATE queen.dead_letter_queue SET transaction_id = NULL, payload = NULL`)
	w.sql(`ALTER TABLE queen.dead_letter_queue ADD FOREIGN KEY (message_id) REFERENCES queen.messages ON DELETE CASCADE`)
	w.says("POST", "/api/v1/dlq/redrive", `{"dryRun":true}`, 200, `{"count":`+n+`,"dryRun":true}`)
	w.says("POST", "/api/v1/dlq/redrive", `{}`, 200, `{"count":`+n+`,"dryRun":false,"more":false,"skipped":0}`)
	w.holds(`SELECT count(*) FROM queen.dead_letter_queue`, "0")
	w.dense()

	// A message that leaves its partition would take the dead letter with it.
	w.push("new", "p", "a", "b")
	p := w.partition("new", "p")
	x := w.ask("POST", "/api/v1/messages/"+p+"/b/dlq", "")
	if x.status != 503 {
		t.Errorf("%d %s", x.status, x.body)
	}
	w.order(p, "a b")
}

func TestARedriveMakesSenseOrIsRefused(t *testing.T) {
	w := onFresh(t)
	f := func(body, sentence string) {
		t.Helper()
		w.says("POST", "/api/v1/dlq/redrive", body, 400, `{"error":"`+sentence+`"}`)
	}
	f(`{`, "Invalid JSON: unexpected end of JSON input")
	f(`{"queue":5}`, "queue must be a string")
	f(`{"from":{}}`, "from must be a string")
	f(`{"limit":"x"}`, "limit must be a whole number")
	f(`{"limit":-1}`, "limit must be a whole number")
	f(`{"limit":1.5}`, "limit must be a whole number")
	f(`{"dryRun":"yes"}`, "dryRun must be true or false")
	f(`[]`, "the body must be a JSON object")
	f(`null`, "the body must be a JSON object")
	f(`"{\"dryRun\":true}"`, "the body must be a JSON object")
	f(`{"dryrun":true}`, `\"dryrun\" is not known here: the body may have limit, dryRun, queue, partition, consumerGroup, from, to`)
	f(`{"from":"x"}`, `invalid input syntax for type timestamp with time zone: \"x\"`)
	f(`{"dryRun":true,"from":"x"}`, `invalid input syntax for type timestamp with time zone: \"x\"`)
}

// A redrive and pushes into the same partition: no message is committed behind another.
func TestRedrivesAndPushesKeepTheOrder(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a", "b", "c")
	p := w.partition("q", "p")
	for round := range 20 {
		for _, tx := range []string{"a", "b", "c"} {
			w.bury(p, "g", tx)
		}
		var open []*exchange
		for i := range 4 {
			open = append(open, w.send(t, "POST", "/api/v1/push-legacy", fmt.Sprintf(`{"items":[{"queue":"q","partition":"p","transactionId":"n%d-%d"}]}`, round, i)))
			open = append(open, w.send(t, "POST", "/api/v1/dlq/redrive", `{"queue":"q"}`))
			open = append(open, w.send(t, "POST", "/api/v1/messages/"+p+"/a/retry", ``))
		}
		for _, x := range open {
			for x.replies == 0 {
				w.turn()
			}
			if x.status != 200 && x.status != 201 {
				t.Errorf("%d %s", x.status, x.body)
			}
		}
		w.dense()
	}
	w.holds(`SELECT count(*), count(DISTINCT transaction_id) FROM queen.messages`, "83|83")
	w.holds(`SELECT count(*) FROM queen.dead_letter_queue`, "0")
}
