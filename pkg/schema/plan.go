package schema

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Step is one thing that Migrate would do.
type Step struct {
	Name  string // "002_columns/3", or "functions"
	Title string
	How   string // "one transaction", "no transaction", "many transactions"
	SQL   string
	State string // "to do", "begun", "not needed"
}

// Plan says what Migrate would do to a database, and does nothing. Steps that are
// done are left out; an empty plan means that the database is ready.
func Plan(ctx context.Context, config *pgconn.Config) ([]Step, error) {
	m, err := open(ctx, config, nil)
	if err != nil {
		return nil, err
	}
	defer m.close()
	if err := m.look(ctx); err != nil {
		return nil, err
	}
	if err := m.refuse(); err != nil {
		return nil, err
	}
	return m.plan(ctx)
}

func (m *migrator) plan(ctx context.Context) ([]Step, error) {
	if !m.pending() {
		return nil, nil
	}
	var before, after []Step
	for _, file := range m.script {
		for _, s := range file.steps {
			r := m.state.applied[[2]int{s.file, s.number}]
			if r.done {
				continue
			}
			p := Step{Name: fmt.Sprintf("%s/%d", s.migration, s.number), Title: s.title, How: s.mode.String(), SQL: s.sql, State: "to do"}
			switch {
			case !m.state.tables: // fresh: the first file is all there is to do
				if s.file != 1 {
					p.State = "not needed"
				}
			case r.rows > 0 || r.position != "":
				p.State = "begun"
			default:
				results, err := m.exec(ctx, needed(s))
				if err != nil {
					return nil, fmt.Errorf("cannot plan %s: %w", p.Name, err)
				}
				if !isTrue(results[0].Rows[0][0]) {
					p.State = "not needed"
				}
			}
			if file.rows {
				after = append(after, p)
			} else {
				before = append(before, p)
			}
		}
	}
	for _, f := range m.functionsToInstall() {
		title := "make " + f.signature
		if _, there := m.state.bodies[f.name]; there {
			title = "replace " + f.signature
		}
		before = append(before, Step{Name: "functions", Title: title, How: together.String(), SQL: f.sql, State: "to do"})
	}
	return append(before, after...), nil
}

func (how mode) String() string {
	switch how {
	case together:
		return "one transaction"
	case concurrently:
		return "no transaction"
	case batched:
		return "many transactions"
	}
	panic("BUG: no such mode")
}

// WritePlan is Plan for people: `queend migrate plan`.
func WritePlan(ctx context.Context, w io.Writer, config *pgconn.Config) error {
	steps, err := Plan(ctx, config)
	if err != nil {
		return err
	}
	if len(steps) == 0 {
		_, err := fmt.Fprintln(w, "The database is ready; there is nothing to do.")
		return err
	}
	for _, s := range steps {
		if _, err := fmt.Fprintf(w, "%-16s %-11s %-18s %s\n", s.Name, s.State, s.How, s.Title); err != nil {
			return err
		}
	}
	return nil
}

// Apply is Migrate for people: `queend migrate apply`. What happens is written to
// w, a line each.
func Apply(ctx context.Context, w io.Writer, config *pgconn.Config) error {
	began := time.Now()
	report, err := Migrate(ctx, config, func(p Progress) { fmt.Fprintln(w, p) })
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d steps, %d rows", report.Steps, report.Rows)
	switch {
	case report.Fresh:
		what = "the tables were made"
	case report.Steps == 0 && len(report.Replaced) == 0:
		what = "there was nothing to do"
	}
	_, err = fmt.Fprintf(w, "The database is ready: %s (%s).\n", what, time.Since(began).Round(time.Millisecond))
	return err
}

// Print is all SQL that Migrate may run, in its order, with what is said about
// it: `queend migrate print`. It is for reading; Migrate runs it with locks,
// records and the settings that batched steps speak by.
func Print() string {
	var b strings.Builder
	b.WriteString("CREATE SCHEMA IF NOT EXISTS queen;\n\n" + recordsTable + ";\n")
	files := func(rows bool) {
		for _, file := range migrations {
			if file.rows == rows {
				fmt.Fprintf(&b, "\n-- ==== %s ====\n\n%s\n", file.name, file.about)
				for _, s := range file.steps {
					b.WriteString("\n" + s.header + s.sql + "\n")
				}
			}
		}
	}
	files(false)
	b.WriteString("\n-- ==== functions ====\n")
	for _, f := range functions {
		b.WriteString("\n" + f.sql + "\n")
	}
	files(true)
	return b.String()
}
