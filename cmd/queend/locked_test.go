package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// lockPartition has a session of its own hold a partition's head locked until it is to let go.
func lockPartition(t *testing.T, db, partition string) (letGo func()) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, `SELECT FROM queen.partition_lookup WHERE partition_id = (SELECT id FROM queen.partitions WHERE name = $1) FOR UPDATE`, partition)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(ctx); err != nil {
			t.Error(err)
		}
	}
}

// Somebody's psql, or a transaction that was forgotten, must not be an outage for all.
func TestALockedPartitionHoldsUpNoOther(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db, "DB_FAILOVER_MS=2000")
	to := func(partition string) string {
		return fmt.Sprintf(`{"items":[{"queue":"q","partition":"%s"}]}`, partition)
	}
	for _, route := range routes {
		for _, partition := range []string{"a", "b"} {
			if status, _, text := p.push(route, to(partition)); status != http.StatusCreated {
				t.Fatalf("%d %s", status, text)
			}
		}
		letGo := lockPartition(t, db, "a")
		done := make(chan struct{})
		go func() { // it is pushed to meanwhile
			defer close(done)
			for range 4 {
				status, _, text := p.push(route, to("a"))
				if status != http.StatusServiceUnavailable || !strings.Contains(text, `holds the partition \"a\" of the queue \"q\" locked`) {
					t.Errorf("%s: a push to a locked partition hears %d %s", route, status, text)
				}
			}
		}()
		for range 100 {
			if status, items, text := p.push(route, to("b")); status != http.StatusCreated || items[0].Status != "queued" {
				t.Errorf("%s: a push beside it hears %d %s", route, status, text)
			}
		}
		<-done
		letGo()
		waitFor(t, "the partition to be pushed to again", func() bool {
			status, _, _ := p.push(route, to("a"))
			return status == http.StatusCreated
		})
	}
}

func TestALockedPartitionHoldsUpTheDeliveryOfNoOther(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	env := []string{"DATABASE_URL=" + db, "FILE_BUFFER_DIR=" + dir, "DB_FAILOVER_MS=2000"}
	p := start(t, env...)
	locked, other := newStream(t, "a"), newStream(t, "b")
	locked.push(p, routes[0], 2, "queued")
	other.push(p, routes[0], 2, "queued")
	maintenance := func(on bool) {
		t.Helper()
		if status, _, text := p.ask("POST", "/api/v1/system/maintenance", fmt.Sprintf(`{"enabled":%v}`, on)); status != 200 {
			t.Fatal(text)
		}
	}
	maintenance(true)
	for range 5 {
		locked.push(p, routes[0], 2, "buffered")
		other.push(p, routes[0], 2, "buffered")
	}
	letGo := lockPartition(t, db, "a")
	maintenance(false)
	const ofOther = `SELECT count(*) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE p.name = 'b'`
	waitFor(t, "the other partition's messages", func() bool { return query[int](t, db, ofOther) == 12 })
	p.answers("/api/v1/status/buffers", 200, `"pending":10,`)
	p.answers("/metrics/prometheus", 200, "\nqueend_buffer_behind_partitions 1\n")
	p.answers("/metrics/prometheus", 200, "\nqueend_buffer_behind_messages 10\n")
	other.push(p, routes[0], 2, "queued")
	locked.push(p, routes[0], 2, "buffered") // in its order
	if err := p.stop(); err != nil {
		t.Error(err)
	}

	// What is delivered and gone must not be delivered again.
	query[int](t, db, `WITH gone AS (DELETE FROM queen.messages m USING queen.partitions p WHERE p.id = m.partition_id AND p.name = 'b' RETURNING 1) SELECT count(*) FROM gone`)
	if c := contents(t, dir); c.Messages != 12 || c.Behind != 1 {
		t.Errorf("on disk: %+v", c)
	}
	if _, out, _ := bufferDoes(t, dir, []string{"ls"}); !strings.Contains(out, "behind:    1 partition with messages stayed behind") {
		t.Error(out)
	}
	if n := len(exported(t, dir, nil)); n != 12 {
		t.Errorf("%d messages are exported", n)
	}
	p = start(t, env...)
	p.answers("/api/v1/status/buffers", 200, `"pending":12,`)
	letGo()
	locked.arrives(p)
	p.delivers()
	if n := query[int](t, db, ofOther); n != 0 {
		t.Errorf("%d messages are delivered again", n)
	}
}
