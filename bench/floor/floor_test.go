package floor

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

func TestEveryRowThatWasAnsweredIsThere(t *testing.T) {
	ctx := context.Background()
	address := postgrestest.Database(t)
	left := goleak.IgnoreCurrent()
	defer func() { postgrestest.NoGoroutines(t, left) }() // when db is closed
	db, err := pgx.Connect(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(ctx)
	if _, err := schema.Migrate(ctx, &db.Config().Config, nil); err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{Unnest, Copy} {
		if _, err := db.Exec(ctx, "TRUNCATE queen.messages"); err != nil {
			t.Fatal(err)
		}
		partitions := []load.ID{{3}, {1}, {2}}
		f, err := Open(ctx, &db.Config().Config, Options{Way: way, Batch: 10, Conns: 3, Partitions: partitions, PayloadBytes: 200, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		var ids []load.ID
		for range 2 {
			r, err := f.Run(ctx, 50*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if r.Queued != int64(len(r.IDs)) || r.Count != r.Queued || r.Queued != 10*r.Latency.TotalCount() || r.InTime > r.Queued {
				t.Fatalf("%s: %d queued, %d ids, %d batches", way, r.Queued, len(r.IDs), r.Latency.TotalCount())
			}
			ids = append(ids, r.IDs...)
		}
		f.Close()
		if partitions[0] != (load.ID{3}) {
			t.Fatal("the caller's partitions were moved")
		}
		var there, sound int
		err = db.QueryRow(ctx, `SELECT count(*) FILTER (WHERE id = ANY ($1)),
			       count(*) FILTER (WHERE length(payload::text) = 200 AND payload->>'n' IS NOT NULL AND length(transaction_id) = 36 AND transaction_id::uuid <> id
			                          AND seq > 0 AND NOT is_encrypted AND trace_id IS NULL AND created_at > now() - interval '1 hour'
			                          AND substr(id::text, 15, 1) = '7')
			  FROM queen.messages`, ids).Scan(&there, &sound)
		if err != nil || there != len(ids) || sound != len(ids) || len(ids) == 0 {
			t.Fatalf("%s: %d rows of %d are there, %d are as they should be, %v", way, there, len(ids), sound, err)
		}
	}
}

func TestIDsAreWrittenWithHyphens(t *testing.T) {
	id := load.ID{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	if got := text(id); string(got[:]) != "01234567-89ab-cdef-0123-456789abcdef" {
		t.Fatalf("%s", got)
	}
}

func TestWhatPutsNothingIsRefused(t *testing.T) {
	good := Options{Way: Copy, Batch: 1, Conns: 1, Partitions: []load.ID{{}}}
	for _, change := range []func(*Options){
		func(o *Options) { o.Way = "insert" },
		func(o *Options) { o.Batch = 0 },
		func(o *Options) { o.Conns = 0 },
		func(o *Options) { o.Partitions = nil },
	} {
		o := good
		change(&o)
		if _, err := Open(context.Background(), nil, o); err == nil {
			t.Errorf("%+v", o)
		}
	}
}
