package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAQueueIsDeletedWithAllThatBelongsToIt(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("DELETE", "/api/v1/resources/queues/", "") // Queen may have left one
		before := w.one(`SELECT (SELECT count(*) FROM queen.messages), (SELECT count(*) FROM queen.partitions), (SELECT count(*) FROM queen.queues)`)
		w.push("keep", "p", "k")
		w.push("gone", "p", "a", "b")
		w.push("gone", "other", "a")
		w.push("", "p", "n")
		p := w.partition("gone", "p")
		w.consume(p, "g", "a")
		w.lease(p, queueMode)
		w.bury(p, "g", "a")
		w.sql(`INSERT INTO queen.consumer_watermarks (queue_name, consumer_group) VALUES ('gone', 'g'), ('keep', 'g')`)
		w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, subscription_mode, subscription_timestamp) VALUES ('g', 'gone', 'new', now())`)
		w.sql(`INSERT INTO queen.message_holes VALUES ($1, 7)`, p)
		w.says("POST", "/api/v1/traces", `{"transactionId":"a","partitionId":"`+p+`","data":{}}`, 201, `{"success":true,"traceId":"U"}`)

		w.says("DELETE", "/api/v1/resources/queues/gone", "", 200, `{"deleted":true,"existed":true,"queue":"gone"}`)
		w.says("DELETE", "/api/v1/resources/queues/gone", "", 200, `{"deleted":true,"existed":false,"queue":"gone"}`)
		w.says("DELETE", "/api/v1/resources/queues/", "", 200, `{"deleted":true,"existed":true,"queue":""}`)
		w.says("DELETE", "/api/v1/resources/queues/never%2Fthere", "", 200, `{"deleted":true,"existed":false,"queue":"never/there"}`)

		for _, table := range []string{"messages", "partition_lookup", "partition_consumers", "dead_letter_queue", "message_holes", "message_traces"} {
			w.holds(fmt.Sprintf(`SELECT count(*) FROM queen.%s WHERE partition_id = '%s'`, table, p), "0")
		}
		w.holds(`SELECT queue_name FROM queen.consumer_watermarks WHERE consumer_group = 'g'`, "keep")
		w.holds(`SELECT queue_name FROM queen.consumer_groups_metadata WHERE consumer_group = 'g'`, "gone")
		w.holds(`SELECT transaction_id FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'keep'`, "k")
		w.says("DELETE", "/api/v1/resources/queues/keep", "", 200, `{"deleted":true,"existed":true,"queue":"keep"}`)
		w.holds(`SELECT (SELECT count(*) FROM queen.messages), (SELECT count(*) FROM queen.partitions), (SELECT count(*) FROM queen.queues)`, before)

		// The push that follows makes everything anew, and knows no transaction of before.
		w.push("gone", "p", "a")
		if w.partition("gone", "p") == p {
			t.Error("the partition is the old one")
		}
		w.dense()
	})
}

func TestMessagesOfADeletedQueueGoPieceByPiece(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "first")
		w.push("q", "r", "first")
		w.sql(`INSERT INTO queen.messages (id, partition_id, transaction_id, payload, created_at)
			SELECT gen_random_uuid(), p.id, 'n' || i, '{}', now() FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id AND q.name = 'q', generate_series(1, $1::int) i`, deleteRowsMax+10)
		ids := w.sql(`SELECT p.id FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id AND q.name = 'q'`)
		w.says("DELETE", "/api/v1/resources/queues/q", "", 200, `{"deleted":true,"existed":true,"queue":"q"}`)
		w.holds(`SELECT count(*) FROM queen.messages WHERE partition_id IN ('`+strings.Join(ids, "','")+`')`, "0")
	})
}

func TestAQueueOfManyPartitionsIsDeletedPieceByPiece(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "a")
		w.sql(`INSERT INTO queen.partitions (queue_id, name) SELECT id, i::text FROM queen.queues, generate_series(1, $1::int) i WHERE name = 'q'`, 2*deletePartitionsMax)
		for i := range 3 {
			w.push("q", fmt.Sprint(i+1), "a")
		}
		ids := `('` + strings.Join(w.sql(`SELECT p.id FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'q'`), "','") + `')`
		until, existed, err := time.Now(), false, error(nil)
		deleted := func() {
			t.Helper()
			done := false
			if !w.router.stores.Admin(0, func(s Session) { existed, err = (&deletion{s: s, queue: "q", until: until, atOnce: 2}).run() }, func() { done = true }) {
				t.Fatal("refused")
			}
			for !done {
				w.turn()
			}
		}
		// No time at all: nothing of the queue is lost but what was said to be.
		deleted()
		if existed || err != tooLong {
			t.Errorf("%v %v", existed, err)
		}
		w.holds(`SELECT count(*) FROM queen.queues WHERE name = 'q'`, "1")
		until = time.Now().Add(neverHangs)
		deleted()
		if !existed || err != nil {
			t.Errorf("%v %v", existed, err)
		}
		w.holds(`SELECT (SELECT count(*) FROM queen.queues WHERE name = 'q'), (SELECT count(*) FROM queen.partitions WHERE id IN `+ids+`), (SELECT count(*) FROM queen.messages WHERE partition_id IN `+ids+`)`, "0|0|0")
		w.dense()
	})
}

func TestADeletionThatFailsSaysThatAPartIsGone(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a")
	const more = 2 * deletePartitionsMax
	w.sql(`INSERT INTO queen.partitions (queue_id, name) SELECT id, i::text FROM queen.queues, generate_series(1, $1::int) i WHERE name = 'q'`, more)
	f := func(after int, err error, answer, left string) {
		t.Helper()
		undo := w.end(after, err)
		x := &exchange{}
		w.router.administer(x, func(s Session) (outcome, error) {
			_, err := (&deletion{s: s, queue: "q", until: time.Now().Add(neverHangs), atOnce: 2}).run()
			return outcome{}, err
		})
		for x.replies == 0 {
			w.turn()
		}
		undo()
		if want := `{"error":"PostgreSQL does not answer, try again in a second` + answer + `"}`; x.status != 503 || x.body != want {
			t.Errorf("%d, %v: %d %s", after, err, x.status, x.body)
		}
		w.holds(`SELECT count(*) FROM queen.partitions`, left)
	}
	gone := errors.New("cannot reach PostgreSQL")
	f(0, gone, "", fmt.Sprint(more+1))
	f(0, inDoubt{}, "; part of it may be gone, ask again for the rest", fmt.Sprint(more+1-deletePartitionsMax))
	f(1, gone, "; part of it is gone, ask again for the rest", "2")
	w.sql(`INSERT INTO queen.partitions (queue_id, name) SELECT id, 'new' FROM queen.queues WHERE name = 'q'`)
	f(1, inDoubt{}, "; part of it is gone, ask again for the rest", "0")
}

// Deletes and pushes take the same locks in the same order; what PostgreSQL ends all the
// same (Queen's foreign keys take others) is tried again.
func TestQueuesAreDeletedWhileOthersPush(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.sql(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 20', current_database()); END $$`)
		const rounds = 60
		var open []*exchange
		stored := 0
		for i := range rounds {
			for k := range 3 {
				open = append(open, w.send(t, "POST", "/api/v1/push-legacy", fmt.Sprintf(
					`{"items":[{"queue":"a","partition":"%d","transactionId":"%d-%d"},{"queue":"b","partition":"%d"},{"queue":"a","partition":"%d"}]}`, i%5, i, k, k, (i+k)%5)))
			}
			open = append(open, w.send(t, "DELETE", "/api/v1/resources/queues/"+string(rune('a'+i%2)), ""))
			for _, x := range open {
				for x.replies == 0 {
					w.turn()
				}
				// A push whose queue is deleted under it twice is told so.
				if x.status != 200 && x.status != 201 && !strings.Contains(x.body, "push them again") {
					t.Errorf("%d %s", x.status, x.body)
				}
				if x.status == 201 {
					stored++
				}
			}
			open = open[:0]
		}
		if stored == 0 {
			t.Error("no push got through")
		}
		w.dense()
		for _, q := range []string{"a", "b"} {
			w.ask("DELETE", "/api/v1/resources/queues/"+q, "")
		}
		w.holds(`SELECT count(*) FROM queen.partition_lookup WHERE queue_name IN ('a', 'b')`, "0")
	})
}

func TestPartitionsAreListed(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q"}`)
		w.push("q", "p2", "a")
		w.push("q", "p1", "b")
		w.push("r", "p", "c")
		one := func(name, last string) string {
			return `{"createdAt":T,"id":"U","lastActivity":` + last + `,"name":"` + name + `","queue":"q"}`
		}
		f := func(query, page string, total int, partitions string) {
			t.Helper()
			w.says("GET", "/api/v1/resources/partitions"+query, "", 200, fmt.Sprintf(`{"pagination":{%s},"partitions":[%s],"total":%d}`, page, partitions, total))
		}
		f("?queue=q", `"limit":100,"offset":0`, 3, one("Default", "null")+","+one("p1", "T")+","+one("p2", "T"))
		f("?queue=q&limit=1&offset=1", `"limit":1,"offset":1`, 3, one("p1", "T"))
		f("?queue=none", `"limit":100,"offset":0`, 0, "")
	})
}
