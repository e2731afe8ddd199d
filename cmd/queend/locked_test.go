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
