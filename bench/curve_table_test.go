package main

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/pkg/check"
	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

func freshDatabase(t *testing.T) *pgx.Conn {
	t.Helper()
	ctx := context.Background()
	db, err := pgx.Connect(ctx, postgrestest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(ctx) })
	if _, err := schema.Migrate(ctx, &db.Config().Config, nil); err != nil {
		t.Fatal(err)
	}
	return db
}

// A table that is filled by SQL is as pushes would have left it.
func TestAFilledTableHasNoContradictions(t *testing.T) {
	ctx := context.Background()
	db := freshDatabase(t)
	told := 0
	if err := fill(ctx, db, "bench", 7, fillChunk+10, func(n int) { told = n }); err != nil {
		t.Fatal(err)
	}
	if told != fillChunk+10 {
		t.Errorf("told of %d messages", told)
	}
	report, err := check.Config(ctx, &db.Config().Config, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK() || len(report.Notes) > 0 || report.Partitions != 7 || report.Messages != fillChunk+10 {
		t.Fatalf("%s: %+v", report.String(), report)
	}
	var sum, least int
	if err := db.QueryRow(ctx, "SELECT sum(seq), min(octet_length((SELECT payload::text FROM queen.messages LIMIT 1))) FROM queen.partition_lookup").Scan(&sum, &least); err != nil {
		t.Fatal(err)
	}
	if sum != fillChunk+10 || least != 200 {
		t.Fatalf("the heads count %d messages, of %d bytes", sum, least)
	}
}

func TestWhatIsNewInAFilledTableIsFound(t *testing.T) {
	ctx := context.Background()
	db := freshDatabase(t)
	if err := fill(ctx, db, "bench", 3, 100, func(int) {}); err != nil {
		t.Fatal(err)
	}
	f := func(moment time.Time, answered []load.ID, missing, untold int64) {
		t.Helper()
		m, u, err := compareSince(ctx, db, answered, moment)
		if err != nil || m != missing || u != untold {
			t.Fatalf("%d missing, %d untold, %v", m, u, err)
		}
	}
	now, err := clockOf(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	f(now, nil, 0, 0)
	f(now, []load.ID{{1}}, 1, 0)
	f(now.Add(-2*time.Hour), nil, 0, 100)
}
