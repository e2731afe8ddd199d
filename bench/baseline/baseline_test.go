package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

func TestWhatQueenRefusesIsRefused(t *testing.T) {
	f := func(body, why string) {
		t.Helper()
		if _, got := decode([]byte(body)); got != why && !strings.HasPrefix(got, why+": ") {
			t.Fatalf("%s: %q, want %q", body, got, why)
		}
	}
	f(`{`, "Invalid JSON")
	f(`{}`, "items array is required")
	f(`{"items":[{}]}`, "Queue must be a string")
	f(`{"items":[{"queue":null}]}`, "Queue must be a string")
	f(`{"items":[{"queue":"q","partition":null}]}`, "Partition must be a string")
	f(`{"items":[{"queue":"q","transactionId":5}]}`, "TransactionId must be a string")
	f(`{"items":[{"queue":"q","traceId":5}]}`, "TraceId must be a string")
	f(`{"items":[{"queue":"q","traceId":"x"}]}`, "TraceId must be a UUID")
	f(`{"items":[]}`, "")
	f(`{"items":[{"queue":"","payload":[1,2]}]}`, "")
}

// pushed sends bodies to a baseline over a fresh database.
func pushed(t *testing.T) func(body string) []map[string]any {
	t.Helper()
	ctx := context.Background()
	database := postgrestest.Database(t)
	config, err := pgconn.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(ctx, config, nil); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(ctx, database, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	server := httptest.NewServer(routes(s))
	t.Cleanup(server.Close)
	return func(body string) (items []map[string]any) {
		t.Helper()
		r, err := server.Client().Post(server.URL+"/api/v1/push", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		if r.StatusCode != 201 || json.Unmarshal(text, &items) != nil {
			t.Fatalf("%s: %d %s", body, r.StatusCode, text)
		}
		return items
	}
}

func TestAPushIsStoredAndItsDuplicateHearsTheWinner(t *testing.T) {
	push := pushed(t)
	first := push(`{"items":[{"queue":"q","partition":"p","transactionId":"a","payload":{"n":1}},{"queue":"q","payload":2}]}`)
	if len(first) != 2 || first[0]["status"] != "queued" || first[1]["status"] != "queued" || first[0]["transaction_id"] != "a" {
		t.Fatalf("%v", first)
	}
	again := push(`{"items":[{"queue":"q","partition":"p","transactionId":"a"},{"queue":"q","partition":"p","transactionId":"b"},{"queue":"q","partition":"p","transactionId":"b"}]}`)
	if again[0]["status"] != "duplicate" || again[0]["message_id"] != first[0]["message_id"] {
		t.Errorf("across requests: %v", again[0])
	}
	if again[1]["status"] != "queued" || again[2]["status"] != "duplicate" || again[2]["message_id"] != again[1]["message_id"] {
		t.Errorf("in a request: %v, %v", again[1], again[2])
	}
}
