package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/schema"
)

func migrateApply(ctx context.Context, d *Database) error {
	conn, err := pgconn.ParseConfig(d.ConnString())
	if err != nil {
		return fmt.Errorf("cannot read where PostgreSQL is: %w", err)
	}
	report, err := schema.Migrate(ctx, conn, func(p schema.Progress) { fmt.Println(p) })
	if err != nil {
		return err
	}
	fmt.Printf("%s is up to date; %d steps were taken\n", d.Where(), report.Steps)
	return nil
}
