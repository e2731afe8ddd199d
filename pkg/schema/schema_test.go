package schema

import (
	"slices"
	"strings"
	"testing"
)

func TestStatementsAreOneStatementWithoutTheirComment(t *testing.T) {
	names := Names()
	if !slices.IsSorted(names) || !slices.Contains(names, "push_insert") || !slices.Contains(names, "schema_layout") {
		t.Errorf("%v", names)
	}
	for _, name := range names {
		text := Statement(name)
		if text == "" || strings.HasPrefix(text, "--") || strings.HasSuffix(text, ";") {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func TestAnUnknownStatementIsABug(t *testing.T) {
	defer func() {
		if r := recover(); r != "BUG: no statement is named nothing" {
			t.Error(r)
		}
	}()
	Statement("nothing")
}

func TestTheCommentAtTheTopAndTheSemicolonAreTakenAway(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := trimStatement(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	f("SELECT 1", "SELECT 1")
	f("-- why\n\n-- more\nSELECT 1; \n", "SELECT 1")
	f("SELECT 1 -- here\n;", "SELECT 1 -- here")
	f("-- only", "")
}

func TestPrintShowsEveryStepAndFunction(t *testing.T) {
	text := Print()
	for _, file := range migrations {
		for _, s := range file.steps {
			if !strings.Contains(text, "-- step: "+s.title) || !strings.Contains(text, s.sql) {
				t.Errorf("%v is missing", s)
			}
		}
	}
	for _, f := range functions {
		if !strings.Contains(text, f.sql) {
			t.Errorf("%s is missing", f.signature)
		}
	}
}

func TestAMigrationIsReadFromItsFile(t *testing.T) {
	m, err := parseMigration("007_example", `-- About it.
-- rows:

-- step: first
-- needs: ownership
-- unless columns: messages seq trace_id
-- Prose that stays.
ALTER TABLE queen.messages ADD COLUMN x int;

-- step: second
-- unless unique index: messages a, b
-- when: SELECT true
-- concurrently: messages an_index
CREATE UNIQUE INDEX CONCURRENTLY an_index ON queen.messages (a, b);

-- step: third
-- batched:
SELECT 1;
`)
	if err != nil {
		t.Fatal(err)
	}
	if m.number != 7 || !m.rows || m.about != "-- About it." || len(m.steps) != 3 {
		t.Fatalf("%+v", m)
	}
	first, second, third := m.steps[0], m.steps[1], m.steps[2]
	if first.title != "first" || first.needs != "ownership" || first.mode != together || len(first.guards) != 1 || !strings.HasPrefix(first.sql, "-- Prose that stays.\nALTER") {
		t.Errorf("%+v", first)
	}
	if second.mode != concurrently || second.table != "messages" || second.index != "an_index" || len(second.guards) != 2 || second.guards[1] != "SELECT true" {
		t.Errorf("%+v", second)
	}
	if third.mode != batched || third.String() != "007_example/3: third" {
		t.Errorf("%+v", third)
	}
}

func TestAFileThatIsNoMigrationIsRefused(t *testing.T) {
	f := func(name, text, want string) {
		t.Helper()
		_, err := parseMigration(name, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %q: %v", name, text, err)
		}
	}
	f("tables", "-- step: a\nSELECT 1", "has no number")
	f("001_a", "SELECT 1", "no step")
	f("001_a", "-- step: a\n-- step: b\nSELECT 1", `step "a" has no statement`)
	f("001_a", "-- step: a\n-- concurrently: only_a_table\nSELECT 1", "is not a table and an index")
	f("001_a", "-- step: a\n-- unless index: only_a_table\nSELECT 1", "is not a table and its columns")
	f("001_a", "-- step: a\n-- Prose.\n-- when: SELECT true\nSELECT 1", `"when" stands below`)
}

func TestAMendedCommentIsNoEditOfAMigration(t *testing.T) {
	sum := func(text string) string {
		t.Helper()
		m, err := parseMigration("001_a", text)
		if err != nil {
			t.Fatal(err)
		}
		return m.checksum
	}
	a := sum("-- step: a\n-- needs: x\nSELECT 1,\n    2;\n")
	if b := sum("-- Now with words.\n\n-- step: a better title\n-- needs: y\n-- Why.\nSELECT 1,\n  2;\n\n"); b != a {
		t.Error("comments count")
	}
	for _, text := range []string{"-- step: a\nSELECT 1,\n    3;\n", "-- step: a\n-- when: SELECT true\nSELECT 1,\n    2;\n", "-- step: a\n-- batched:\nSELECT 1,\n    2;\n"} {
		if sum(text) == a {
			t.Errorf("%q does not count", text)
		}
	}
}
