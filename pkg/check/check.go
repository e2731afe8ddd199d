// Package check looks for contradictions in a database: cursors beyond what there is to
// read, heads that are behind, numbers out of order, and so on (kinds.go is the list). It
// is `queend check`, and tests call it when a scenario is over.
//
// It reads one snapshot (REPEATABLE READ, READ ONLY), so it sees no half of a push however
// busy the database is, and changes nothing. All of it is read in slices by key: memory is
// bounded, no statement takes long, and nobody waits for it; but the snapshot keeps
// VACUUM from removing rows that die meanwhile.
//
// It repairs nothing. Each finding says what to do about it.
package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/queend/queend/pkg/schema"
)

const (
	// FindingsMaxDefault is Options.FindingsMax.
	FindingsMaxDefault = 1000

	// sliceRowsMax is how many rows a statement reads, sliceMessagesMax how many messages.
	sliceRowsMax     = 1000
	sliceMessagesMax = 10_000

	// duplicatesSliceMax is how many partitions are looked through for duplicates at once.
	duplicatesSliceMax = 50

	// progressEvery is how often a long check says how far it is.
	progressEvery = 2 * time.Second
)

// Options of a run.
type Options struct {
	// FindingsMax is how many findings of each kind the report holds; all are counted. 0
	// takes the default.
	FindingsMax int

	// Progress hears, every few seconds, how far a long run is; it may be nil.
	Progress func(sentence string)
}

// Report is what a run found.
type Report struct {
	Findings []Finding    `json:"findings"` // contradictions
	Notes    []Finding    `json:"notes"`    // what mends itself, or does no harm
	Counts   map[Kind]int `json:"counts"`   // of both, by kind, also of those that are not listed

	Partitions int64 `json:"partitions"` // looked at
	Messages   int64 `json:"messages"`
	Cursors    int64 `json:"cursors"`
	Letters    int64 `json:"deadLetters"`

	Took time.Duration `json:"tookNs"`
}

// OK says that nothing was found.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// String is a line for each finding and note, "" if there are none.
func (r Report) String() string {
	var b strings.Builder
	for _, list := range [][]Finding{r.Findings, r.Notes} {
		for i := range list {
			fmt.Fprintln(&b, list[i].String())
		}
	}
	for _, kind := range kinds() {
		listed := 0
		for _, list := range [][]Finding{r.Findings, r.Notes} {
			for i := range list {
				if list[i].Kind == kind {
					listed++
				}
			}
		}
		if n := r.Counts[kind]; n > listed {
			fmt.Fprintf(&b, "%s: and %d more\n", kind, n-listed)
		}
	}
	return b.String()
}

// Database connects and runs. connString is as pgx.ParseConfig takes it.
func Database(ctx context.Context, connString string, o Options) (Report, error) {
	config, err := pgconn.ParseConfig(connString)
	if err != nil {
		return Report{}, fmt.Errorf("cannot read where PostgreSQL is: %w", err)
	}
	return Config(ctx, config, o)
}

// poolerSettings are the start-up parameters that PgBouncer takes; it refuses others.
var poolerSettings = []string{"client_encoding", "timezone", "datestyle", "standard_conforming_strings", "application_name", "options"}

// Config is Database with settings that are read already. They are copied, and
// time-outs in their run-time parameters left out.
func Config(ctx context.Context, theirs *pgconn.Config, o Options) (Report, error) {
	// pgx wants a configuration that it has parsed itself; where to connect is then theirs.
	config, err := pgx.ParseConfig("host=replaced")
	if err != nil {
		return Report{}, fmt.Errorf("cannot configure the connection: %w", err)
	}
	config.Config = *theirs.Copy()
next:
	for name := range config.RuntimeParams {
		for _, known := range poolerSettings {
			if strings.EqualFold(name, known) {
				continue next
			}
		}
		delete(config.RuntimeParams, name)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "queend"
	}
	config.RuntimeParams["application_name"] += "-check"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return Report{}, fmt.Errorf("cannot connect to PostgreSQL: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return Run(ctx, conn, o)
}

// Run checks the database that conn is connected to. An error means that it could not;
// what was found until then is in the report.
func Run(ctx context.Context, conn *pgx.Conn, o Options) (Report, error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return Report{}, fmt.Errorf("cannot begin: %w", err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	return inside(ctx, tx, o)
}

// inside checks what a transaction sees.
func inside(ctx context.Context, tx pgx.Tx, o Options) (Report, error) {
	if o.FindingsMax <= 0 {
		o.FindingsMax = FindingsMaxDefault
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	c := &checker{options: o, tx: tx, spoke: time.Now()}
	c.report.Findings, c.report.Notes, c.report.Counts = []Finding{}, []Finding{}, map[Kind]int{}
	began := time.Now()
	err := c.run(ctx)
	c.report.Took = time.Since(began)
	return c.report, err
}

// checker is one run.
type checker struct {
	options Options
	tx      pgx.Tx
	report  Report
	spoke   time.Time
}

func (c *checker) run(ctx context.Context) error {
	if rows, err := c.query(ctx, "check_begin"); err != nil {
		return err
	} else if rows.Close(); rows.Err() != nil {
		return fmt.Errorf("check_begin: %w", rows.Err())
	}
	for _, part := range []func(context.Context) error{
		c.keys, c.partitions, c.heads, c.messages, c.cursors, c.letters, c.holes, c.orphans,
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// query sends a statement: described and unnamed, so that it works behind a pooler.
func (c *checker) query(ctx context.Context, name string, args ...any) (pgx.Rows, error) {
	rows, err := c.tx.Query(ctx, schema.Statement(name), append([]any{pgx.QueryExecModeDescribeExec}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rows, nil
}

// slice runs a statement and calls row for each of its rows; it answers how many there
// were.
func (c *checker) slice(ctx context.Context, name string, row func(pgx.Rows) error, args ...any) (n int, err error) {
	rows, err := c.query(ctx, name, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return n, fmt.Errorf("%s: %w", name, err)
		}
		n++
	}
	if err := rows.Err(); err != nil {
		return n, fmt.Errorf("%s: %w", name, err)
	}
	c.progress()
	return n, nil
}

func (c *checker) progress() {
	if time.Since(c.spoke) < progressEvery {
		return
	}
	c.spoke = time.Now()
	r := &c.report
	c.options.Progress(fmt.Sprintf("looked at %d partitions, %d messages, %d cursors, %d dead letters; %d findings so far",
		r.Partitions, r.Messages, r.Cursors, r.Letters, len(r.Findings)))
}

// found adds a finding, or a note.
func (c *checker) found(f Finding) {
	c.report.Counts[f.Kind]++
	if c.report.Counts[f.Kind] > c.options.FindingsMax {
		return
	}
	f.Remedy = about[f.Kind].remedy
	if about[f.Kind].note {
		c.report.Notes = append(c.report.Notes, f)
	} else {
		c.report.Findings = append(c.report.Findings, f)
	}
}

// zero is before all other ids.
var zero = pgtype.UUID{Valid: true}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
