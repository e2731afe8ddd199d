package schema

import (
	"context"
	"embed"
	"fmt"
	"path"
	"strings"
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

// lookAtFunctions reads what is installed under our names.
func (m *migrator) lookAtFunctions(ctx context.Context) error {
	for _, f := range functions {
		results, err := m.exec(ctx, fmt.Sprintf("SELECT prosrc FROM pg_proc WHERE oid = to_regprocedure(%s)", quote(f.signature)))
		if err != nil {
			return fmt.Errorf("cannot read the schema's functions: %w", err)
		}
		if len(results[0].Rows) > 0 {
			m.state.bodies[f.name] = string(results[0].Rows[0][0])
		}
	}
	return nil
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

func (m *migrator) installFunctions(ctx context.Context) error { return nil }
