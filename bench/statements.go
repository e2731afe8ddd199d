package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"
)

// statementSettings have PostgreSQL count its statements (manual, pg_stat_statements).
// Counting costs a little, so it is asked for by a flag.
var statementSettings = settings{
	"shared_preload_libraries":          "pg_stat_statements",
	"pg_stat_statements.track_planning": "on",
	"pg_stat_statements.track":          "top",
	"compute_query_id":                  "on",
	"pg_stat_statements.track_utility":  "on",
	"track_io_timing":                   "on",
	"pg_stat_statements.max":            "1000",
}

// countStatements begins to count anew.
func (w *world) countStatements(ctx context.Context) error {
	_, err := w.db.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
	if err == nil {
		_, err = w.db.Exec(ctx, "SELECT pg_stat_statements_reset()")
	}
	if err != nil {
		return fmt.Errorf("cannot count statements: %w", err)
	}
	return nil
}

// printStatements lists what took longest.
func (w *world) printStatements(ctx context.Context, out io.Writer) error {
	rows, err := w.db.Query(ctx, `SELECT calls, plans, mean_plan_time, mean_exec_time, rows::float8 / calls AS rows,
			(shared_blks_hit + shared_blks_read)::float8 / calls AS blocks, wal_bytes::float8 / calls AS wal, query
		FROM pg_stat_statements WHERE query !~ 'pg_stat_statements' ORDER BY total_plan_time + total_exec_time DESC LIMIT 16`)
	if err != nil {
		return err
	}
	type statement struct {
		Calls, Plans                  int64
		Plan, Exec, Rows, Blocks, WAL float64
		Query                         string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[statement])
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "calls\tplans\tplan µs\texecute µs\trows\tblocks\tWAL B\tstatement")
	for _, s := range all {
		text := strings.Join(strings.Fields(s.Query), " ")
		fmt.Fprintf(t, "%d\t%d\t%.0f\t%.0f\t%.1f\t%.1f\t%.0f\t%.90s\n", s.Calls, s.Plans, s.Plan*1000, s.Exec*1000, s.Rows, s.Blocks, s.WAL, text)
	}
	return t.Flush()
}
