package api

import (
	"fmt"
	"strings"
	"testing"
)

// letters is the answer to a list of dead letters, with what matters of each.
func (w *adminWorld) letters(query, pagination string, total int, want ...string) {
	w.t.Helper()
	x := w.ask("GET", "/api/v1/dlq?"+query, "")
	if x.status != 200 {
		w.t.Errorf("%s: %d %s", query, x.status, x.body)
		return
	}
	var got []string
	for _, m := range jsonList(w.t, x.body, "messages") {
		got = append(got, fmt.Sprint(m["queue"], "/", m["partition"], " ", m["transactionId"], " ", m["consumerGroup"], " ", m["data"]))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || !strings.HasSuffix(x.body, `,"pagination":{`+pagination+`},"total":`+fmt.Sprint(total)+`}`) {
		w.t.Errorf("%s\n got %s\nwant %s\n%s", query, strings.Join(got, "\n     "), strings.Join(want, "\n     "), x.body)
	}
}

func TestDeadLettersAreListedNewestFirst(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.sql(`DELETE FROM queen.dead_letter_queue`) // Queen's
		const all = `"limit":100,"offset":0`
		w.letters("", all, 0)
		w.push("q", "p", "a", "b")
		w.push("q", "r", "c")
		w.push("other", "p", "d")
		p, r, o := w.partition("q", "p"), w.partition("q", "r"), w.partition("other", "p")
		w.bury(p, queueMode, "a")
		w.bury(p, "g", "a")
		w.bury(r, "g", "c")
		w.bury(o, "g", "d")
		w.sql(`UPDATE queen.dead_letter_queue d SET failed_at = '2026-01-01 00:00:00+00'::timestamptz + x.n * interval '1 hour'
			FROM (SELECT id, row_number() OVER (ORDER BY failed_at, id) AS n FROM queen.dead_letter_queue) x WHERE x.id = d.id`)
		a, ag, c, d := "q/p a __QUEUE_MODE__ map[t:a]", "q/p a g map[t:a]", "q/r c g map[t:c]", "other/p d g map[t:d]"
		w.letters("", all, 4, d, c, ag, a)
		w.letters("queue=q", all, 3, c, ag, a)
		w.letters("queue=&consumerGroup=&partition=&from=&to=", all, 4, d, c, ag, a)
		w.letters("queue=q&consumerGroup=g", all, 2, c, ag)
		w.letters("consumerGroup=__QUEUE_MODE__", all, 1, a)
		w.letters("partition=p", all, 3, d, ag, a)
		w.letters("queue=q&partition=p&consumerGroup=g", all, 1, ag)
		w.letters("queue=nothere", all, 0)
		w.letters("limit=2", `"limit":2,"offset":0`, 4, d, c)
		w.letters("limit=2&offset=1", `"limit":2,"offset":1`, 4, c, ag)
		w.letters("limit=2&offset=9", `"limit":2,"offset":9`, 4)
		w.letters("limit=0", `"limit":0,"offset":0`, 4)
		w.letters("limit=-5&offset=-5", all, 4, d, c, ag, a)
		w.letters("limit=x&offset=x", all, 4, d, c, ag, a)
		w.letters("limit=100000", `"limit":1000,"offset":0`, 4, d, c, ag, a)
		w.letters("from=2026-01-01T03:00:00Z", all, 2, d, c)
		w.letters("to=2026-01-01T02:00:00.000Z", all, 2, ag, a)
		w.letters("from=2026-01-01T02:00:00Z&to=2026-01-01T05:00:00%2B02:00", all, 2, c, ag)
		w.letters("from=2026-01-01T02:00:00Z&to=2026-01-01T05:00:00+02:00", all, 2, c, ag) // a + that nobody escaped
		w.letters("from=Thu+Jan+1+03:00:00+2026", all, 2, d, c)
		w.letters("from=2026-01-01+02:00&to=2026-01-01+05:00+02", all, 2, c, ag)
		w.says("GET", "/api/v1/dlq?from=x", "", 400, `{"error":"invalid input syntax for type timestamp with time zone: \"x\""}`)

		// The copy outlives the message.
		w.sql(`DELETE FROM queen.messages WHERE partition_id = $1`, r)
		w.letters("queue=q&partition=r", all, 1, c)
		// A letter without a copy shows its message, as long as that is there.
		w.sql(`UPDATE queen.dead_letter_queue SET payload = NULL, transaction_id = NULL WHERE partition_id = $1`, o)
		w.letters("queue=other", all, 1, d)
		w.sql(`ALTER TABLE queen.dead_letter_queue ALTER COLUMN message_id SET DEFAULT NULL`)
		w.sql(`DELETE FROM queen.messages WHERE partition_id = $1`, o)
		w.letters("queue=other", all, 1, "other/p <nil> g <nil>")

		w.says("GET", "/api/v1/dlq?queue=q&consumerGroup=__QUEUE_MODE__&limit=1", "", 200, `{"messages":[{"consumerGroup":"__QUEUE_MODE__","createdAt":T,"data":{"t":"a"},"errorMessage":"dead",`+
			`"failedAt":T,"id":"U","partition":"p","partitionId":"U","producerSub":null,"queue":"q","retryCount":2,"transactionId":"a"}],"pagination":{"limit":1,"offset":0},"total":1}`)
		w.holds(`SELECT count(*) FROM queen.dead_letter_queue d JOIN queen.messages m ON m.id = d.message_id`, "2")
	})
}

// cursors are the groups of a partition and where they stand.
func (w *adminWorld) cursors(partition string, want ...string) {
	w.t.Helper()
	w.holds(`SELECT c.consumer_group, coalesce(m.transaction_id, '-'), c.last_seq FROM queen.partition_consumers c
		LEFT JOIN queen.messages m ON m.partition_id = c.partition_id AND (m.created_at, m.id) = (c.last_consumed_created_at, c.last_consumed_id)
		WHERE c.partition_id = '`+partition+`' ORDER BY 1`, want...)
}

func TestAMessageIsMovedToTheDeadLettersWithoutSkippingOthers(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.sql(`DELETE FROM queen.dead_letter_queue`)
		moved := func(p, tx, body, name string) {
			t.Helper()
			w.changed = nil
			w.says("POST", "/api/v1/messages/"+p+"/"+tx+"/dlq", body, 200,
				`{"consumerGroup":"`+name+`","message":"Message moved to the dead letter queue","partitionId":"U","success":true,"transactionId":"`+tx+`"}`)
		}
		there := func(p string, want string) {
			t.Helper()
			w.holds(`SELECT coalesce(string_agg(transaction_id, ' ' ORDER BY seq), '') FROM queen.messages WHERE partition_id = '`+p+`'`, want)
		}
		letters := func(p string, want ...string) {
			t.Helper()
			w.holds(`SELECT transaction_id, consumer_group, error_message, payload->>'t' FROM queen.dead_letter_queue WHERE partition_id = '`+p+`' ORDER BY failed_at`, want...)
		}

		// Nobody has read the partition: the message leaves it.
		w.push("q", "fresh", "a", "b", "c")
		p := w.partition("q", "fresh")
		moved(p, "b", "", queueMode)
		there(p, "a c")
		letters(p, "b|__QUEUE_MODE__|Moved to the dead letter queue on request|b")
		w.cursors(p)
		moved(p, "b", `{}`, queueMode) // again
		letters(p, "b|__QUEUE_MODE__|Moved to the dead letter queue on request|b")
		w.dense()

		// It is the next one: the cursor passes it, other groups still read it.
		w.push("q", "next", "a", "b", "c", "d")
		p = w.partition("q", "next")
		w.consume(p, queueMode, "a")
		w.consume(p, "g", "a")
		moved(p, "b", `{"error":"bad","consumerGroup":null}`, queueMode)
		there(p, "a b c d")
		w.cursors(p, "__QUEUE_MODE__|b|2", "g|a|1")
		if fmt.Sprint(w.changed) != "[q]" {
			t.Errorf("the hook heard %v", w.changed)
		}
		// It is past: nothing moves.
		moved(p, "a", `{"consumerGroup":""}`, queueMode)
		w.cursors(p, "__QUEUE_MODE__|b|2", "g|a|1")
		moved(p, "a", `{"consumerGroup":""}`, queueMode)
		// Others come before it, and the other group has not read it: refused, nothing is done.
		w.says("POST", "/api/v1/messages/"+p+"/d/dlq", ``, 409, `{"error":"it is not the next message of this group, and another group has not read it yet: nothing was changed"}`)
		letters(p, "b|__QUEUE_MODE__|bad|b", "a|__QUEUE_MODE__|Moved to the dead letter queue on request|a")
		w.cursors(p, "__QUEUE_MODE__|b|2", "g|a|1")
		// The other group is past it: it leaves the partition.
		w.consume(p, "g", "d")
		moved(p, "d", `{"error":"late"}`, queueMode)
		there(p, "a b c")
		w.cursors(p, "__QUEUE_MODE__|b|2", "g|-|4")
		w.dense()
		// The first of a group that has a row and read nothing.
		w.push("f", "first", "a", "b")
		p = w.partition("f", "first")
		w.lease(p, queueMode)
		moved(p, "a", "", queueMode)
		w.cursors(p, "__QUEUE_MODE__|a|1")
		there(p, "a b")
		// A named group that never consumed may begin anywhere: no cursor is made for it.
		w.lease(p, "new")
		w.says("POST", "/api/v1/messages/"+p+"/a/dlq", `{"consumerGroup":"new"}`, 200,
			`{"consumerGroup":"new","message":"Message moved to the dead letter queue","partitionId":"U","success":true,"transactionId":"a"}`)
		w.cursors(p, "__QUEUE_MODE__|-|1", "new|-|0")
		there(p, "b")
		w.says("POST", "/api/v1/messages/"+p+"/b/dlq", `{"consumerGroup":"new"}`, 409, `{"error":"it is not the next message of this group, and another group has not read it yet: nothing was changed"}`)
	})
}

// A group may be known in a queue and not have come to a partition yet: it still has to
// read what is there.
func TestBuryingTakesNothingFromAGroupThatHasNotComeYet(t *testing.T) {
	w := onFresh(t)
	refused := func(p string) {
		t.Helper()
		w.says("POST", "/api/v1/messages/"+p+"/b/dlq", `{"consumerGroup":"g"}`, 409, `{"error":"it is not the next message of this group, and another group has not read it yet: nothing was changed"}`)
	}
	w.push("q", "old", "a")
	w.consume(w.partition("q", "old"), "other", "a")
	w.push("q", "new", "a", "b")
	p := w.partition("q", "new")
	refused(p)
	w.consume(p, "other", "b")
	w.says("POST", "/api/v1/messages/"+p+"/b/dlq", `{"consumerGroup":"g"}`, 200, `{"consumerGroup":"g","message":"Message moved to the dead letter queue","partitionId":"U","success":true,"transactionId":"b"}`)

	for _, row := range []string{`'stored', 'r', '', ''`, `'stored', '', 'n', ''`, `'stored', '', '', ''`} {
		w.sql(`DELETE FROM queen.queues`)
		w.sql(`DELETE FROM queen.consumer_groups_metadata`)
		w.push("r", "p", "a", "b")
		w.sql(`UPDATE queen.queues SET namespace = 'n'`)
		w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, namespace, task, subscription_mode, subscription_timestamp) VALUES (` + row + `, 'new', now())`)
		refused(w.partition("r", "p"))
	}
	w.sql(`UPDATE queen.consumer_groups_metadata SET namespace = 'another'`)
	w.says("POST", "/api/v1/messages/"+w.partition("r", "p")+"/b/dlq", `{"consumerGroup":"g"}`, 200, `{"consumerGroup":"g","message":"Message moved to the dead letter queue","partitionId":"U","success":true,"transactionId":"b"}`)
}

func TestBuryingMakesSenseOrIsRefused(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a")
	p := w.partition("q", "p")
	w.says("POST", "/api/v1/messages/"+p+"/nope/dlq", "", 404, `{"error":"Message not found"}`)
	w.says("POST", "/api/v1/messages/00000000-0000-0000-0000-000000000001/a/dlq", "", 404, `{"error":"Message not found"}`)
	w.says("POST", "/api/v1/messages/xx/a/dlq", "", 400, `{"error":"invalid input syntax for type uuid: \"xx\""}`)
	w.says("POST", "/api/v1/messages/"+p+"/a/dlq", "{", 400, `{"error":"Invalid JSON: unexpected end of JSON input"}`)
	w.says("POST", "/api/v1/messages/"+p+"/a/dlq", `{"consumerGroup":"`+strings.Repeat("g", 256)+`"}`, 400, `{"error":"value too long for type character varying(255)"}`)
	w.holds(`SELECT (SELECT count(*) FROM queen.messages), (SELECT count(*) FROM queen.dead_letter_queue)`, "1|0")
}
