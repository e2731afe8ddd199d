package main

import (
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// often are Queen's names with intervals as short as client suites set them.
var often = []string{"RETENTION_INTERVAL=50", "EVICTION_INTERVAL=50", "PARTITION_LOOKUP_RECONCILE_INTERVAL_MS=200"}

func TestWhatIsTooOldGoesWhileTheServerRuns(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, append(often, "DATABASE_URL="+db, "RETENTION_BATCH_SIZE=3", "EVICTION_BATCH_SIZE=2")...)
	for _, queue := range []string{"kept", "retained", "completed", "waited"} {
		p.put(t, strings.TrimSuffix(strings.Repeat(`{"queue":"`+queue+`","payload":1},`, 7), ","))
	}
	a := p.pop("/queue/completed?batch=4")
	if ok, text := p.ack(a, "__QUEUE_MODE__", "completed"); !ok {
		t.Fatal(text)
	}
	for queue, options := range map[string]string{
		"retained": `"retentionEnabled":true,"retentionSeconds":1`, "completed": `"retentionEnabled":true,"completedRetentionSeconds":1`, "waited": `"maxWaitTimeSeconds":1`,
	} {
		if status, _, text := p.ask("POST", "/api/v1/configure", `{"queue":"`+queue+`","options":{`+options+`}}`); status != 201 && status != 200 {
			t.Fatalf("configure: %d %s", status, text)
		}
	}
	left := `SELECT string_agg(name || ' ' || n, ', ' ORDER BY name) FROM (SELECT q.name, (SELECT count(*) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE p.queue_id = q.id) n FROM queen.queues q) x`
	const want = "completed 3, kept 7, retained 0, waited 0"
	for limit := time.Now().Add(neverHangs); query[string](t, db, left) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("left: %s", query[string](t, db, left))
		}
	}
	if a := p.pop("/queue/completed?batch=10"); len(a.Messages) != 3 {
		t.Errorf("the rest: %s", a.text)
	}
	// They are counted right after they are gone.
	for _, line := range []string{`queend_maintenance_rows_total{job="retention"} 7`, `queend_maintenance_rows_total{job="completed_retention"} 4`, `queend_maintenance_rows_total{job="eviction"} 7`} {
		said := func() bool {
			_, _, text := p.ask("GET", "/metrics/prometheus", "")
			return strings.Contains(text, line+"\n")
		}
		for limit := time.Now().Add(neverHangs); !said(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("metrics do not say %s", line)
			}
		}
	}
	sound(t, db)
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	sound(t, db)
}

func TestARowInsertedByHandIsDelivered(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, append(often, "DATABASE_URL="+db)...)
	p.put(t, `{"queue":"q","payload":1}`)
	if a := p.pop("/queue/q?autoAck=true"); len(a.Messages) != 1 {
		t.Fatal(a.text)
	}
	answer := make(chan popped)
	go func() { answer <- p.pop("/queue/q?wait=true&timeout=60000") }()
	sql(t, db, `INSERT INTO queen.messages (transaction_id, partition_id, payload) SELECT 'by hand', id, '2' FROM queen.partitions`)
	if a := <-answer; len(a.Messages) != 1 || a.Messages[0].TransactionID != "by hand" {
		t.Errorf("popped: %s", a.text)
	} else if ok, text := p.ack(a, "__QUEUE_MODE__", "completed"); !ok {
		t.Error(text)
	}
	p.put(t, `{"queue":"q","payload":3}`)
	if a := p.pop("/queue/q?autoAck=true"); len(a.Messages) != 1 || string(a.Messages[0].Data) != "3" {
		t.Errorf("popped: %s", a.text)
	}
	sound(t, db)
}

func TestTwoServersMaintainOneDatabase(t *testing.T) {
	db := postgrestest.Database(t)
	p, q := start(t, append(often, "DATABASE_URL="+db)...), start(t, append(often, "DATABASE_URL="+db)...)
	p.put(t, `{"queue":"q","payload":1}`)
	if a := q.pop("/queue/q?autoAck=true"); len(a.Messages) != 1 {
		t.Fatal(a.text)
	}
	// Whichever finds it, the consumer that waits at the other hears of it.
	for i, server := range []*process{p, q} {
		answer := make(chan popped)
		go func() { answer <- server.pop("/queue/q?autoAck=true&wait=true&timeout=60000") }()
		sql(t, db, `INSERT INTO queen.messages (transaction_id, partition_id, payload) SELECT 'by hand ' || `+string(rune('0'+i))+`, id, '2' FROM queen.partitions`)
		if a := <-answer; len(a.Messages) != 1 {
			t.Errorf("popped: %s", a.text)
		}
		// A pop that was just made may have been before the reconciler.
		for limit := time.Now().Add(neverHangs); query[int](t, db, `SELECT count(*)::int FROM queen.messages WHERE seq IS NULL`) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatal("the row was never numbered")
			}
		}
	}
	sound(t, db)
}
