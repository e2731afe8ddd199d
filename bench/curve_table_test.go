package main

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

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
	var name string
	if err := db.QueryRow(ctx, "SELECT max(name) FROM queen.partitions").Scan(&name); err != nil || name != "p6" {
		t.Fatalf("the last partition is %q, %v", name, err)
	}
	if sum != fillChunk+10 || least != 200 {
		t.Fatalf("the heads count %d messages, of %d bytes", sum, least)
	}
}
