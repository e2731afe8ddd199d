package schema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed functions/*.sql
var functionFiles embed.FS

// functions are the SQL functions that users call, in order of their names.
var functions = readFunctions()

// functionMark is in the body of every function of ours, so that one that Queen
// put back in its place is recognised.
const functionMark = "-- queend"

// A function is one file of functions/: a line `-- signature: name(types)` and
// one CREATE OR REPLACE FUNCTION whose body stands between $queend$ marks.
//
// A release that changes a function comes with a migration of its own, even if it
// has nothing else to do: only so does an older queend know that it must not put
// its own function back.
type function struct {
	name      string // without schema
	signature string // queen.name(types)
	body      string // what pg_proc.prosrc says when it is installed
	sql       string
}

func readFunctions() []function {
	entries, err := functionFiles.ReadDir("functions")
	if err != nil {
		panic("BUG: no functions are embedded: " + err.Error())
	}
	var all []function
	for _, e := range entries {
		text := readFile(functionFiles, path.Join("functions", e.Name()))
		first, _, _ := strings.Cut(text, "\n")
		signature, ok := strings.CutPrefix(first, "-- signature: ")
		parts := strings.Split(text, "$queend$")
		if !ok || len(parts) != 3 || !strings.Contains(parts[1], functionMark) {
			panic("BUG: functions/" + e.Name() + " has no signature, body or mark")
		}
		all = append(all, function{
			name: strings.TrimSuffix(e.Name(), ".sql"), signature: strings.TrimSpace(signature),
			body: parts[1], sql: strings.TrimSpace(text),
		})
	}
	return all
}

// installedFunctions reads what stands under the signatures of ours.
var installedFunctions = func() string {
	var b strings.Builder
	b.WriteString("SELECT f.name, p.prosrc FROM (VALUES ")
	for i, f := range functions {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%s, to_regprocedure(%s))", quote(f.name), quote(f.signature))
	}
	b.WriteString(") f (name, id) JOIN pg_proc p ON p.oid = f.id")
	return b.String()
}()

func (s *state) setBodies(installed *pgconn.Result) {
	s.bodies = map[string]string{}
	for _, row := range installed.Rows {
		s.bodies[string(row[0])] = string(row[1])
	}
}

// functionsToInstall are those that are missing or are not as ours.
func (m *migrator) functionsToInstall() []function {
	var stale []function
	for _, f := range functions {
		if body, ok := m.state.bodies[f.name]; !ok || body != f.body {
			stale = append(stale, f)
		}
	}
	return stale
}

// installFunctions puts ours in place, in one transaction. Where a function that
// is not ours stands although the rows were settled before, Queen has been back
// and has written rows that have no numbers: they are settled again.
func (m *migrator) installFunctions(ctx context.Context) error {
	if len(m.functionsToInstall()) == 0 {
		return nil
	}
	const step = "functions"
	var installed []string
	err := m.retry(ctx, step, "ownership of the functions in schema queen, or the right CREATE on the schema where they are missing", func() error {
		installed = nil
		results, err := m.locked(ctx, step, installedFunctions)
		if err != nil {
			return err
		}
		m.state.setBodies(results[0])
		foreign := false
		for _, f := range m.functionsToInstall() {
			body, there := m.state.bodies[f.name]
			foreign = foreign || there && !strings.Contains(body, functionMark)
			if err := m.install(ctx, f); err != nil {
				return err
			}
			installed = append(installed, f.name)
		}
		if foreign {
			if err := m.unsettle(ctx); err != nil {
				return err
			}
		}
		return m.commit(ctx, "")
	})
	if err != nil {
		return err
	}
	m.report.Replaced = append(m.report.Replaced, installed...)
	return m.look(ctx)
}

// install creates or replaces one function. Another result type or other names of
// the arguments cannot be replaced, so then the function is dropped first; and a
// namesake that answers to the same call with one argument goes too.
func (m *migrator) install(ctx context.Context, f function) error {
	_, err := m.exec(ctx, "SAVEPOINT install; "+f.sql)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42P13" || pg.Code == "42809") {
		_, err = m.exec(ctx, "ROLLBACK TO SAVEPOINT install; DROP ROUTINE "+f.signature+"; "+f.sql)
	}
	if err != nil {
		return fmt.Errorf("cannot install %s: %w", f.signature, err)
	}
	results, err := m.exec(ctx, fmt.Sprintf("SELECT n.oid::regprocedure::text FROM pg_proc n JOIN pg_proc o ON o.oid = to_regprocedure(%s)"+
		" WHERE n.pronamespace = o.pronamespace AND n.proname = o.proname AND n.oid <> o.oid AND n.prokind = 'f' AND n.pronargs > 0"+
		" AND n.proargtypes[0] = o.proargtypes[0] AND n.pronargs - n.pronargdefaults <= 1", quote(f.signature)))
	if err != nil {
		return err
	}
	for _, row := range results[0].Rows {
		m.log(Progress{Step: "functions", Text: string(row[0]) + " is dropped: a call could mean it or " + f.signature})
		if _, err := m.exec(ctx, "DROP FUNCTION "+string(row[0])); err != nil {
			return fmt.Errorf("cannot install %s: %w", f.signature, err)
		}
	}
	return nil
}

// unsettle makes the steps that settle rows run again, if they have run before.
func (m *migrator) unsettle(ctx context.Context) error {
	var numbers []string
	for _, file := range m.script {
		if file.rows {
			numbers = append(numbers, strconv.Itoa(file.number))
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	results, err := m.exec(ctx, "DELETE FROM queen.queend_migrations WHERE number IN ("+strings.Join(numbers, ",")+") RETURNING number")
	if err != nil || len(results[0].Rows) == 0 {
		return err
	}
	m.log(Progress{Step: "functions", Text: "Queen has run on this database since queend did; heads and numbers are settled again", Warn: true})
	_, err = m.exec(ctx, "SELECT count(*) FROM (SELECT FROM queen.partition_lookup ORDER BY partition_id FOR NO KEY UPDATE) l;"+
		" UPDATE queen.partition_lookup SET seq = NULL WHERE seq IS NOT NULL")
	return err
}
