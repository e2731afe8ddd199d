package api

import (
	"fmt"
	"strings"
	"testing"
)

// listed is the answer to a list of messages, with what matters of each.
func (w *adminWorld) listed(query string, mode string, want ...string) {
	w.t.Helper()
	x := w.ask("GET", "/api/v1/messages?"+query, "")
	if x.status != 200 {
		w.t.Errorf("%s: %d %s", query, x.status, x.body)
		return
	}
	var got []string
	for _, m := range jsonList(w.t, x.body, "messages") {
		got = append(got, fmt.Sprint(m["queuePath"], " ", m["transactionId"], " ", m["status"], " ", m["queueStatus"], " ", m["busStatus"].(map[string]any)["consumedBy"], "/", m["busStatus"].(map[string]any)["totalGroups"]))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || !strings.HasSuffix(x.body, `,"mode":`+mode+`}`) {
		w.t.Errorf("%s\n got %s\nwant %s\nmode %s", query, strings.Join(got, "\n     "), strings.Join(want, "\n     "), x.body[strings.Index(x.body, `,"mode":`)+1:])
	}
}

func TestMessagesAreListedWithWhatBecameOfThem(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q","namespace":"ns","task":"tk","options":{"priority":5}}`)
		w.push("q", "p1", "a", "b", "c")
		w.push("q", "p2", "d")
		w.push("other", "p1", "e")
		p1, p2 := w.partition("q", "p1"), w.partition("q", "p2")
		const none, hybrid = `{"busGroupsCount":0,"hasQueueMode":false,"type":"none"}`, `{"busGroupsCount":2,"hasQueueMode":true,"type":"hybrid"}`
		w.listed("queue=q", none, "q/p2 d pending pending 0/0", "q/p1 c pending pending 0/0", "q/p1 b pending pending 0/0", "q/p1 a pending pending 0/0")
		w.listed("queue=q&limit=2&offset=1", none, "q/p1 c pending pending 0/0", "q/p1 b pending pending 0/0")
		w.listed("queue=q&limit=0", none)
		w.listed("queue=q&limit=-1&offset=-7&partition=p2", none, "q/p2 d pending pending 0/0")
		w.listed("ns=ns&task=tk&limit=1", none, "q/p2 d pending pending 0/0")
		w.listed("ns=nobody", none)
		w.listed("namespace=ns&task=tk&limit=1", none, "q/p2 d pending pending 0/0")
		w.listed("namespace=nobody", none)
		w.listed("queue=nothere", none)
		w.listed("queue=q&from=2100-01-01T00:00:00Z", none)
		w.listed("queue=q&to=2000-01-01T00:00:00Z", none)
		w.listed("queue=q&partition=p2&from=2000-01-01T00:00:00Z&to=2100-01-01T00:00:00%2B02:00", none, "q/p2 d pending pending 0/0")

		w.consume(p1, queueMode, "a")
		w.lease(p1, queueMode)
		w.consume(p1, "g1", "b")
		w.consume(p2, "g2", "d")
		w.bury(p1, queueMode, "b")
		w.listed("queue=q", hybrid, "q/p2 d completed <nil> 1/1", "q/p1 c processing processing 0/1", "q/p1 b dead_letter dead_letter 1/1", "q/p1 a completed completed 1/1")
		w.listed("queue=q&status=completed", hybrid, "q/p2 d completed <nil> 1/1", "q/p1 a completed completed 1/1")
		w.listed("queue=q&status=completed&limit=1&offset=1", hybrid, "q/p1 a completed completed 1/1")
		w.listed("queue=q&status=processing", hybrid, "q/p1 c processing processing 0/1")
		w.listed("queue=q&status=dead_letter", hybrid, "q/p1 b dead_letter dead_letter 1/1")
		w.listed("queue=q&status=pending", hybrid)
		w.listed("queue=q&status=other", hybrid)
		w.listed("queue=q&partition=p2", `{"busGroupsCount":1,"hasQueueMode":false,"type":"bus"}`, "q/p2 d completed <nil> 1/1")
		w.sql(`DELETE FROM queen.partition_consumers WHERE consumer_group = 'g1'`)
		w.listed("queue=q&partition=p1&limit=1", `{"busGroupsCount":0,"hasQueueMode":true,"type":"queue"}`, "q/p1 c processing processing 0/0")
		w.sql(`UPDATE queen.partition_consumers SET lease_expires_at = now() - interval '1 second'`)
		w.listed("queue=q&partition=p1&limit=1", `{"busGroupsCount":0,"hasQueueMode":true,"type":"queue"}`, "q/p1 c pending pending 0/0")
		w.lease(p1, queueMode)

		// One in full.
		w.says("GET", "/api/v1/messages?queue=q&status=processing", "", 200, `{"messages":[{"busStatus":{"consumedBy":0,"totalGroups":0},"createdAt":T,"id":"U","leaseExpiresAt":T,"namespace":"ns","partition":"p1",`+
			`"partitionId":"U","producerSub":null,"queue":"q","queuePath":"q/p1","queuePriority":5,"queueStatus":"processing","status":"processing","task":"tk","traceId":null,"transactionId":"c"}],`+
			`"mode":{"busGroupsCount":1,"hasQueueMode":true,"type":"hybrid"}}`)
		w.says("GET", "/api/v1/messages?from=yesteryear", "", 400, `{"error":"invalid input syntax for type timestamp with time zone: \"yesteryear\""}`)
		w.says("GET", "/api/v1/messages?queue=%", "", 400, `{"error":"A percent sign is not followed by two hexadecimal digits."}`)
	})
}

// What is shown is in UTC whatever the session's zone, and a time without a zone is UTC.
func TestTimesAreUTC(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a")
	p := w.partition("q", "p")
	w.sql(`UPDATE queen.messages SET created_at = '2026-01-02 03:04:05.6789+00'`)
	x := w.ask("GET", "/api/v1/messages/"+p+"/a", "")
	if !strings.Contains(x.body, `"createdAt":"2026-01-02T03:04:05.678Z"`) {
		t.Error(x.body)
	}
	w.listed("from=2026-01-02+03:04:05&to=2026-01-02T03:04:06", `{"busGroupsCount":0,"hasQueueMode":false,"type":"none"}`, "q/p a pending pending 0/0")
	w.listed("from=2026-01-02+03:04:06&to=2026-01-02T03:04:07", `{"busGroupsCount":0,"hasQueueMode":false,"type":"none"}`)
}

func TestAMessageIsShownInFull(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q","namespace":"g","task":"orders","options":{"leaseTime":60,"retryLimit":2,"priority":5}}`)
		x := w.ask("POST", "/api/v1/push-legacy", `{"items":[{"queue":"q","partition":"p/1","transactionId":"tx/1","payload":{"a":2},"traceId":"019dc9b7-cb4f-7c1a-9b21-7e8a5c3a40e1"},{"queue":"q","partition":"p/1","transactionId":"two"}]}`)
		if x.status != 201 {
			t.Fatal(x.body)
		}
		p := w.partition("q", "p/1")
		tail := `"namespace":"g","partition":"p/1","partitionId":"U","payload":{"a":2},"producerSub":null,"queue":"q","queueConfig":{"leaseTime":60,"priority":5,"retryDelay":1000,"retryLimit":2,"ttl":3600},"queuePath":"q/p/1",`
		f := func(groups, failed, lease, mode, retries, status string) {
			t.Helper()
			x := w.ask("GET", "/api/v1/messages/"+p+"/tx%2F1", "")
			want := `{"consumerGroups":[` + groups + `],"createdAt":T,"errorMessage":` + failed + `,"id":"U","isEncrypted":false,"leaseExpiresAt":` + lease + `,"mode":` + mode + `,` + tail +
				`"retryCount":` + retries + `,"status":"` + status + `","task":"orders","traceId":"U","transactionId":"tx/1"}`
			if got := plain(x.body); x.status != 200 || got != want {
				t.Errorf("\n got %d %s\nwant %s", x.status, got, want)
			}
		}
		f(``, "null", "null", `{"busGroupsCount":0,"consumedByGroups":0,"hasQueueMode":false,"type":"none"}`, "null", "pending")
		w.lease(p, "B")
		f(`{"consumed":false,"leaseExpiresAt":T,"name":"B"}`, "null", "null", `{"busGroupsCount":1,"consumedByGroups":0,"hasQueueMode":false,"type":"bus"}`, "null", "processing")
		w.consume(p, "B", "tx/1")
		f(`{"consumed":true,"leaseExpiresAt":T,"name":"B"}`, "null", "null", `{"busGroupsCount":1,"consumedByGroups":1,"hasQueueMode":false,"type":"bus"}`, "null", "completed")
		w.lease(p, queueMode)
		w.consume(p, "a", "two")
		groups := `{"consumed":true,"leaseExpiresAt":T,"name":"B"},{"consumed":true,"leaseExpiresAt":null,"name":"a"}`
		mode := `{"busGroupsCount":2,"consumedByGroups":2,"hasQueueMode":true,"type":"hybrid"}`
		f(`{"consumed":false,"leaseExpiresAt":T,"name":"__QUEUE_MODE__"},`+groups, "null", "T", mode, "null", "processing")
		w.sql(`UPDATE queen.partition_consumers SET lease_expires_at = NULL WHERE consumer_group = '__QUEUE_MODE__'`)
		f(`{"consumed":false,"leaseExpiresAt":null,"name":"__QUEUE_MODE__"},`+groups, "null", "null", mode, "null", "pending")
		w.consume(p, queueMode, "tx/1")
		f(`{"consumed":true,"leaseExpiresAt":null,"name":"__QUEUE_MODE__"},`+groups, "null", "null", mode, "null", "completed")
		w.bury(p, queueMode, "tx/1")
		f(`{"consumed":true,"leaseExpiresAt":null,"name":"__QUEUE_MODE__"},`+groups, `"dead"`, "null", mode, "2", "dead_letter")

		w.says("GET", "/api/v1/messages/"+p+"/nope", "", 404, `{"error":"Message not found"}`)
		w.says("GET", "/api/v1/messages/"+aUUID.ReplaceAllString(p, "00000000-0000-0000-0000-000000000001")+"/tx%2F1", "", 404, `{"error":"Message not found"}`)
		w.says("GET", "/api/v1/messages/xx/nope", "", 400, `{"error":"invalid input syntax for type uuid: \"xx\""}`)
		w.says("GET", "/api/v1/messages/xx/%zz", "", 400, `{"error":"A percent sign is not followed by two hexadecimal digits."}`)
	})
}

func TestAPayloadIsShownDecrypted(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q","options":{"encryptionEnabled":true}}`)
		w.push("q", "p", "a")
		p := w.partition("q", "p")
		w.holds(`SELECT payload::text LIKE '%encrypted%', is_encrypted FROM queen.messages WHERE partition_id = '`+p+`'`, "t|t")
		if x := w.ask("GET", "/api/v1/messages/"+p+"/a", ""); !strings.Contains(x.body, `"payload":{"t":"a"}`) || !strings.Contains(x.body, `"isEncrypted":true`) {
			t.Error(x.body)
		}
		w.bury(p, "g", "a")
		if x := w.ask("GET", "/api/v1/dlq?queue=q", ""); !strings.Contains(x.body, `"data":{"t":"a"}`) {
			t.Error(x.body)
		}
		w.config.Sealer = nil // a server without the key
		if x := w.ask("GET", "/api/v1/messages/"+p+"/a", ""); !strings.Contains(x.body, `"encrypted":`) {
			t.Error(x.body)
		}
		if x := w.ask("GET", "/api/v1/dlq?queue=q", ""); !strings.Contains(x.body, `"encrypted":`) {
			t.Error(x.body)
		}
	})
}

func TestAMessageIsDeletedAndItsNumberIsAHole(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "a", "b", "c", "d")
		w.push("q", "r", "b")
		p := w.partition("q", "p")
		w.bury(p, "g1", "b")
		w.bury(p, "g2", "b")
		w.says("POST", "/api/v1/traces", `{"transactionId":"b","partitionId":"`+p+`","data":{}}`, 201, `{"success":true,"traceId":"U"}`)
		deleted := func(tx string) {
			t.Helper()
			w.says("DELETE", "/api/v1/messages/"+p+"/"+tx, "", 200, `{"message":"Message deleted successfully","partitionId":"U","success":true,"transactionId":"`+tx+`"}`)
		}
		missing := func(partition, tx string) {
			t.Helper()
			w.says("DELETE", "/api/v1/messages/"+partition+"/"+tx, "", 200, `{"message":"Message not found","partitionId":"U","success":false,"transactionId":"`+tx+`"}`)
		}
		deleted("b")
		w.dense()
		missing(p, "b")
		missing(p, "nope")
		missing("00000000-0000-0000-0000-000000000001", "b")
		w.says("DELETE", "/api/v1/messages/xx/b", "", 400, `{"error":"invalid input syntax for type uuid: \"xx\""}`)
		w.holds(`SELECT seq FROM queen.message_holes WHERE partition_id = '`+p+`'`, "2")
		w.holds(`SELECT (SELECT count(*) FROM queen.dead_letter_queue WHERE partition_id = '`+p+`'), (SELECT count(*) FROM queen.message_traces WHERE partition_id = '`+p+`')`, "0|0")
		w.holds(`SELECT p.name, m.transaction_id FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'q' ORDER BY 1, m.seq`,
			"p|a", "p|c", "p|d", "r|b")

		// The newest goes: the head stays where it is, and its transaction may come again.
		deleted("d")
		w.dense()
		w.push("q", "p", "d", "b")
		w.dense()
		// What the tail has passed leaves no hole.
		w.sql(`UPDATE queen.partition_lookup SET tail_seq = 1 WHERE partition_id = $1`, p)
		deleted("a")
		w.holds(`SELECT seq FROM queen.message_holes WHERE partition_id = '`+p+`' ORDER BY 1`, "2", "4")
		w.dense()
		// A dead letter that has outlived its message goes by the same route.
		w.bury(p, "g1", "c")
		w.sql(`DELETE FROM queen.messages WHERE partition_id = $1 AND transaction_id = 'c'`, p)
		deleted("c")
		missing(p, "c")
	})
}

// leases are the leases of a partition: the group, and the message that it ends with.
func (w *adminWorld) leases(partition string, want ...string) {
	w.t.Helper()
	w.holds(`SELECT c.consumer_group, CASE WHEN c.worker_id IS NULL AND c.lease_expires_at IS NULL AND c.lease_acquired_at IS NULL AND c.batch_size = 0
				AND num_nonnulls(c.lease_end_created_at, c.lease_end_id, c.lease_end_seq) = 0 THEN 'free' ELSE coalesce(m.transaction_id, '?') END, coalesce(m.seq = c.lease_end_seq, true)
		FROM queen.partition_consumers c LEFT JOIN queen.messages m ON m.partition_id = c.partition_id AND (m.created_at, m.id) = (c.lease_end_created_at, c.lease_end_id)
		WHERE c.partition_id = '`+partition+`' ORDER BY 1`, want...)
}

// What is counted as retries was perhaps the doing of a message that goes; the next one must
// not become a dead letter for it.
func TestRetriesOfAMessageThatIsGoneAreForgotten(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "a", "b", "c", "d")
		p := w.partition("q", "p")
		w.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) VALUES ($1, 'new')`, p)
		w.consume(p, "past", "a")
		w.consume(p, "further", "b")
		w.lease(p, "further")
		retries := func(want ...string) {
			t.Helper()
			w.holds(`SELECT consumer_group, batch_retry_count FROM queen.partition_consumers WHERE partition_id = '`+p+`' ORDER BY 1`, want...)
			w.sql(`UPDATE queen.partition_consumers SET batch_retry_count = 2`)
		}
		retries("further|0", "new|0", "past|0")
		w.ask("DELETE", "/api/v1/messages/"+p+"/a", "")
		retries("further|2", "new|0", "past|2")
		w.ask("POST", "/api/v1/messages/"+p+"/b/retry", "")
		retries("further|2", "new|0", "past|0")
		w.ask("POST", "/api/v1/messages/"+p+"/d/dlq", `{"consumerGroup":"new"}`) // the others have it to come: refused
		retries("further|2", "new|2", "past|2")
		w.ask("DELETE", "/api/v1/messages/"+p+"/b", "") // it was moved to the end, far from all but the lease's
		retries("further|2", "new|2", "past|2")
		w.ask("DELETE", "/api/v1/messages/"+p+"/d", "") // the last one of the lease, and not the next of the others
		retries("further|0", "new|2", "past|2")
	})
}

// An ack that has read a lease as it was must look again when the lease has become shorter.
func TestALeaseThatIsMadeShorterIsAnotherOne(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a", "b")
	p := w.partition("q", "p")
	w.lease(p, "g")
	before := w.one(`SELECT lease_expires_at FROM queen.partition_consumers`)
	w.ask("DELETE", "/api/v1/messages/"+p+"/b", "")
	w.holds(`SELECT lease_expires_at = '`+before+`'::timestamptz + interval '1 microsecond' FROM queen.partition_consumers`, "t")
}

func TestALeaseDoesNotWaitForAMessageThatIsGone(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "a", "b", "c")
		p := w.partition("q", "p")
		w.lease(p, "all")
		w.consume(p, "two", "a")
		w.lease(p, "two")
		w.consume(p, "one", "b")
		w.lease(p, "one")
		w.leases(p, "all|c|t", "one|c|t", "two|c|t")
		w.changed = nil
		w.ask("DELETE", "/api/v1/messages/"+p+"/c", "")
		w.heard("q")
		w.leases(p, "all|b|t", "one|free|t", "two|b|t")
		w.ask("DELETE", "/api/v1/messages/"+p+"/a", "") // nobody's last one
		w.heard()
		w.leases(p, "all|b|t", "one|free|t", "two|b|t")
		w.ask("DELETE", "/api/v1/messages/"+p+"/b", "")
		w.leases(p, "all|free|t", "one|free|t", "two|free|t")
		w.dense()

		// The same for one that is moved to the dead letters.
		w.push("r", "r", "a", "b", "c")
		p = w.partition("r", "r")
		w.lease(p, queueMode)
		bury := func(tx string, want string) {
			t.Helper()
			if x := w.ask("POST", "/api/v1/messages/"+p+"/"+tx+"/dlq", ""); x.status != 200 {
				t.Errorf("%d %s", x.status, x.body)
			}
			w.leases(p, want)
		}
		bury("c", "__QUEUE_MODE__|b|t") // taken out
		bury("a", "__QUEUE_MODE__|b|t") // passed
		bury("b", "__QUEUE_MODE__|free|t")
		w.cursors(p, "__QUEUE_MODE__|b|2")
		w.dense()
	})
}
