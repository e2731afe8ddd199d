package schema_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

func config(t testing.TB, connString string) *pgconn.Config {
	t.Helper()
	c, err := pgconn.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAFreshDatabaseIsReadyAfterOneCall(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := config(t, postgrestest.Database(t))
	began := time.Now()
	report, err := schema.Migrate(ctx, c, func(p schema.Progress) { t.Log(p) })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v %+v", time.Since(began), report)
	if !report.Fresh || report.Layout.Payload != "json" || report.Layout.MessagesReferPartitions {
		t.Errorf("%+v", report)
	}
	began = time.Now()
	report, err = schema.Migrate(ctx, c, nil)
	if err != nil || report.Steps != 0 {
		t.Error(report, err)
	}
	t.Logf("%v", time.Since(began))
}
