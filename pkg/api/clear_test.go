package api

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/check"
)

func TestAQueueIsCleared(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q","options":{"retryLimit":7}}`)
		w.push("q", "p1", "a", "b", "c")
		w.push("q", "p2", "d")
		w.push("keep", "p1", "k")
		p1, p2 := w.partition("q", "p1"), w.partition("q", "p2")
		w.consume(p1, "g", "a")
		w.lease(p1, "g") // ends with the messages
		w.lease(p2, queueMode)
		w.bury(p1, "h", "a")
		w.changed = nil
		w.says("DELETE", "/api/v1/queues/q/clear", "", 200, `{"cleared":true,"count":4,"queue":"q","success":true}`)
		w.heard("q")
		w.says("DELETE", "/api/v1/queues/q/clear", "", 200, `{"cleared":true,"count":0,"queue":"q","success":true}`)
		w.holds(`SELECT count(*) FROM queen.messages WHERE partition_id IN ('`+p1+`', '`+p2+`')`, "0")
		w.holds(`SELECT seq, tail_seq FROM queen.partition_lookup WHERE partition_id IN ('`+p1+`', '`+p2+`') ORDER BY 1`, "1|1", "3|3")
		w.holds(`SELECT count(*) FROM queen.partition_consumers WHERE partition_id IN ('`+p1+`', '`+p2+`') AND (lease_expires_at > now() OR worker_id IS NOT NULL)`, "0")
		w.holds(`SELECT retry_limit FROM queen.queues WHERE name = 'q'`, "7")
		w.holds(`SELECT count(*) FROM queen.messages WHERE transaction_id = 'k'`, "1")
		w.holds(`SELECT sum(messages_deleted) FROM queen.retention_history WHERE retention_type = 'clear' AND partition_id IN ('`+p1+`', '`+p2+`')`, "4")

		// What comes then has the next number, and what was there may come again.
		w.push("q", "p1", "a", "e")
		w.push("q", "p2", "f")
		w.holds(`SELECT transaction_id, seq FROM queen.messages WHERE partition_id = '`+p1+`' ORDER BY seq`, "a|4", "e|5")
		w.says("DELETE", "/api/v1/queues/q/clear?partition=p1", "", 200, `{"cleared":true,"count":2,"partition":"p1","queue":"q","success":true}`)
		w.holds(`SELECT transaction_id FROM queen.messages WHERE partition_id IN ('`+p1+`', '`+p2+`')`, "f")
		w.says("DELETE", "/api/v1/queues/q/clear?partition=none", "", 404, `{"error":"Partition not found"}`)
		w.says("DELETE", "/api/v1/queues/none/clear", "", 404, `{"error":"Queue not found"}`)
		w.says("DELETE", "/api/v1/queues/none/clear?partition=p1", "", 404, `{"error":"Queue not found"}`)
		w.dense()
	})
}

// What Queen left is cleared like our own, also a lease that does not say where it ends.
func TestWhatWasTakenOverIsCleared(t *testing.T) {
	w := newAdminWorld(t, true)
	w.holds(`SELECT count(*) > 0 FROM queen.partition_consumers WHERE lease_expires_at > now() AND worker_id IS NOT NULL AND lease_end_id IS NULL`, "t")
	for _, name := range w.sql(`SELECT name FROM queen.queues`) {
		if x := w.ask("DELETE", "/api/v1/queues/"+url.PathEscape(name)+"/clear", ""); x.status != 200 {
			t.Errorf("%q: %s", name, x.body)
		}
	}
	w.holds(`SELECT count(*) FROM queen.messages`, "0")
	report, err := check.Run(t.Context(), w.db, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Errorf("check: %v", f)
	}
}

// What is deleted at once is bounded.
func TestALargeQueueIsClearedPieceByPiece(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p1", "first")
	w.push("q", "p2", "first")
	w.sql(`INSERT INTO queen.messages (id, partition_id, transaction_id, payload, created_at, seq)
		SELECT gen_random_uuid(), h.partition_id, 'n' || i, '{}', h.last_message_created_at + i * interval '1 microsecond', h.seq + i
		  FROM queen.partition_lookup h, generate_series(1, $1::int) i WHERE h.queue_name = 'q'`, clearRowsMax)
	w.sql(`UPDATE queen.partition_lookup h SET seq = m.seq, last_message_id = m.id, last_message_created_at = m.created_at
		FROM queen.messages m WHERE m.partition_id = h.partition_id AND m.transaction_id = $1`, fmt.Sprint("n", clearRowsMax))
	undo := w.end(1, inDoubt{}) // the second piece
	w.says("DELETE", "/api/v1/queues/q/clear", "", 503, `{"error":"PostgreSQL does not answer, try again in a second; part of it may be gone, ask again for the rest"}`)
	w.heard("*", "q")
	undo()
	w.holds(`SELECT count(*) FROM queen.messages`, "2")
	w.says("DELETE", "/api/v1/queues/q/clear", "", 200, `{"cleared":true,"count":2,"queue":"q","success":true}`)
	w.holds(`SELECT count(*) FROM queen.messages`, "0")
	w.holds(`SELECT DISTINCT seq, tail_seq FROM queen.partition_lookup WHERE queue_name = 'q'`, fmt.Sprintf("%d|%[1]d", clearRowsMax+1))
	w.holds(`SELECT count(*) FROM queen.retention_history`, "4")
}

// Others rewrite or remove messages at the same time (a take-over that numbers them, retention).
// None is left for that, and numbers stay true.
func TestAClearIsWholeBesideOthers(t *testing.T) {
	for name, other := range map[string]string{
		"removed":   `DELETE FROM queen.messages WHERE transaction_id = 'first'`,
		"rewritten": `UPDATE queen.messages SET payload = payload WHERE transaction_id = 'first'`,
	} {
		t.Run(name, func(t *testing.T) {
			w := onFresh(t)
			w.push("q", "p1", "first")
			w.sql(`INSERT INTO queen.messages (id, partition_id, transaction_id, payload, created_at, seq)
				SELECT gen_random_uuid(), h.partition_id, 'n' || i, '{}', h.last_message_created_at + i * interval '1 microsecond', h.seq + i
				  FROM queen.partition_lookup h, generate_series(1, $1::int) i WHERE h.queue_name = 'q'`, 2*clearRowsMax)
			w.sql(`UPDATE queen.partition_lookup h SET seq = m.seq, last_message_id = m.id, last_message_created_at = m.created_at
				FROM queen.messages m WHERE m.partition_id = h.partition_id AND m.transaction_id = $1`, fmt.Sprint("n", 2*clearRowsMax))
			tx, err := w.db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { // when the clear waits for it
				const isWaitedFor = `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))`
				patient, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for waits := false; !waits; {
					if err := tx.QueryRow(patient, isWaitedFor).Scan(&waits); err != nil {
						ended <- err
						return
					}
				}
				ended <- tx.Commit(t.Context())
			}()
			x := w.ask("DELETE", "/api/v1/queues/q/clear", "")
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if x.status != 200 {
				t.Errorf("%d %s", x.status, x.body)
			}
			w.holds(`SELECT count(*) FROM queen.messages`, "0")
			w.holds(`SELECT seq, tail_seq FROM queen.partition_lookup WHERE queue_name = 'q'`, fmt.Sprintf("%d|%[1]d", 2*clearRowsMax+1))
			w.holds(`SELECT count(*) FROM queen.message_holes`, "0")
		})
	}
}

// What a piece has missed stays in the count, until another takes it.
func TestAPieceOfAClearThatMissedAMessageLeavesHoles(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p1", "a", "b", "c")
	p1 := w.partition("q", "p1")
	last := w.one(`SELECT last_message_created_at, last_message_id FROM queen.partition_lookup WHERE partition_id = $1`, p1)
	at, id, _ := strings.Cut(last, "|")
	first := w.one(`SELECT created_at, id FROM queen.messages WHERE transaction_id = 'a'`)
	firstAt, firstID, _ := strings.Cut(first, "|")
	done := make(chan struct{})
	w.router.stores.Admin(0, func(s Session) {
		defer close(done)
		c := clearing{s: s}
		if n, err := c.piece([]string{p1}, []string{"infinity"}, []string{firstAt}, []string{firstID}, []string{at}, []string{id}); n != 2 || err != nil {
			t.Error(n, err)
		}
	}, func() {})
	<-done
	w.holds(`SELECT transaction_id, seq FROM queen.messages`, "a|1")
	w.holds(`SELECT seq, tail_seq FROM queen.partition_lookup WHERE partition_id = '`+p1+`'`, "3|0")
	w.holds(`SELECT seq FROM queen.message_holes WHERE partition_id = '`+p1+`' ORDER BY seq`, "2", "3")
}
