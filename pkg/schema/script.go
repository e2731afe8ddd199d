package schema

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations are the files migrations/NNN_name.sql in order.
var migrations = readMigrations(migrationFiles, "migrations")

// A migration is one file: steps that are run in order, each once. A file that
// was released is never edited; a later file mends it.
//
// In the file a step begins with a line `-- step: what it does`; lines
// `-- key: value` right after it say how it is run:
//
//	-- needs: the right it takes, for who is refused it
//	-- unless columns: table column…           not needed when they are there
//	-- unless index: table column, column…     … a valid index on exactly these is there
//	-- unless unique index: table column, …    … a unique one
//	-- when: SELECT …                          needed when this says true
//	-- fresh:                                   only where the tables were just made
//	-- concurrently: table index               its one statement is CREATE INDEX CONCURRENTLY
//	-- batched:                                run again and again, each time a transaction, until it says done
//	-- later:                                  queend may serve before it is done
//
// A line `-- rows:` before the first step marks a file whose steps settle the
// rows that Queen wrote. They are run after the functions are installed, and
// again when Queen is found to have been back.
type migration struct {
	number   int
	name     string
	rows     bool
	about    string // the comment at the top
	steps    []step
	checksum string
}

// mode is how a step is run.
type mode uint8

const (
	together     mode = iota // all statements of the step in one transaction
	concurrently             // no transaction: CREATE INDEX CONCURRENTLY
	batched                  // a transaction per batch, until the step says that it is done
)

type step struct {
	migration string // "001_tables"
	file      int    // number of the migration
	number    int    // 1, 2, … in its file
	title     string
	needs     string
	fresh     bool     // only in a database that had no tables
	later     bool     // Prepare leaves it to Migrate
	guards    []string // SQL, each a boolean: the step is needed when all are true
	mode      mode
	table     string // concurrently: the table, without schema
	index     string // concurrently: the index
	sql       string
	header    string // the lines that say how it is run, for who reads
}

func readMigrations(files embed.FS, dir string) []migration {
	entries, err := files.ReadDir(dir)
	if err != nil {
		panic("BUG: no migrations are embedded: " + err.Error())
	}
	var all []migration
	for _, e := range entries {
		m, err := parseMigration(strings.TrimSuffix(e.Name(), ".sql"), readFile(files, path.Join(dir, e.Name())))
		if err != nil {
			panic("BUG: " + e.Name() + ": " + err.Error())
		}
		if m.number != len(all)+1 {
			panic("BUG: " + e.Name() + " is not number " + strconv.Itoa(len(all)+1))
		}
		all = append(all, m)
	}
	return all
}

// parseMigration reads one file. The checksum is over what is executed, so a
// mended comment is no edit.
func parseMigration(name, text string) (migration, error) {
	m := migration{name: name}
	prefix, _, _ := strings.Cut(name, "_")
	number, err := strconv.Atoi(prefix)
	if err != nil {
		return m, fmt.Errorf("%q has no number", name)
	}
	m.number = number

	var at *step
	var body strings.Builder
	header := false // still in the lines right after `-- step:`
	end := func() error {
		if at == nil {
			m.about = strings.TrimSpace(body.String())
		} else {
			at.sql = strings.TrimSpace(body.String())
			if at.sql == "" {
				return fmt.Errorf("step %q has no statement", at.title)
			}
		}
		body.Reset()
		return nil
	}
	for line := range strings.Lines(text) {
		key, value, isKey := directive(line)
		switch {
		case isKey && key == "step":
			if err := end(); err != nil {
				return m, err
			}
			m.steps = append(m.steps, step{migration: name, file: number, number: len(m.steps) + 1, title: value})
			at, header = &m.steps[len(m.steps)-1], true
			at.header = line
		case isKey && key == "rows" && at == nil:
			m.rows = true
		case isKey && header:
			if err := at.set(key, value); err != nil {
				return m, err
			}
			at.header += line
		case isKey && at != nil:
			return m, fmt.Errorf("step %q: %q stands below its statement or a comment", at.title, key)
		default:
			header = false
			body.WriteString(line)
		}
	}
	if err := end(); err != nil {
		return m, err
	}
	if len(m.steps) == 0 {
		return m, fmt.Errorf("no step")
	}
	sum := sha256.New()
	for _, s := range m.steps {
		fmt.Fprintf(sum, "%s\x00%q\x00%d\x00", executed(s.sql), s.guards, s.mode)
	}
	m.checksum = hex.EncodeToString(sum.Sum(nil)[:16])
	return m, nil
}

// directive reads a line `-- key: value`.
func directive(line string) (key, value string, ok bool) {
	rest, ok := strings.CutPrefix(line, "-- ")
	if !ok {
		return "", "", false
	}
	key, value, ok = strings.Cut(rest, ":")
	switch key {
	case "step", "rows", "needs", "unless columns", "unless index", "unless unique index", "when", "fresh", "concurrently", "batched", "later":
		return key, strings.TrimSpace(value), ok
	}
	return "", "", false
}

func (s *step) set(key, value string) error {
	words := strings.Fields(strings.ReplaceAll(value, ",", " "))
	switch key {
	case "needs":
		s.needs = value
		return nil
	case "when":
		s.guards = append(s.guards, value)
		return nil
	case "batched":
		s.mode = batched
		return nil
	case "fresh":
		s.fresh = true
		return nil
	case "later":
		s.later = true
		return nil
	case "concurrently":
		if len(words) != 2 {
			return fmt.Errorf("%q is not a table and an index", value)
		}
		s.mode, s.table, s.index = concurrently, words[0], words[1]
		return nil
	}
	if len(words) < 2 {
		return fmt.Errorf("%s: %q is not a table and its columns", key, value)
	}
	table, columns := words[0], words[1:]
	switch key {
	case "unless columns":
		s.guards = append(s.guards, columnsMissing(table, columns))
	case "unless index":
		s.guards = append(s.guards, indexMissing(table, columns, false))
	case "unless unique index":
		s.guards = append(s.guards, indexMissing(table, columns, true))
	default:
		return fmt.Errorf("%q is not known here", key)
	}
	return nil
}

// columnsMissing asks whether a table that is there lacks one of the columns.
func columnsMissing(table string, columns []string) string {
	return fmt.Sprintf("SELECT to_regclass('queen.%s') IS NOT NULL AND %d > (SELECT count(*) FROM pg_attribute"+
		" WHERE attrelid = to_regclass('queen.%s') AND NOT attisdropped AND attname = ANY ('{%s}'::name[]))",
		table, len(columns), table, strings.Join(columns, ","))
}

// indexMissing asks whether a table lacks a valid, complete index whose key is
// exactly these columns in this order. Names prove nothing: a taken-over
// database has names of its own.
func indexMissing(table string, columns []string, unique bool) string {
	return fmt.Sprintf("SELECT NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = to_regclass('queen.%s')"+
		" AND i.indisvalid AND i.indisready AND i.indpred IS NULL AND i.indexprs IS NULL AND (i.indisunique OR NOT %t)"+
		" AND (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(i.indkey) WITH ORDINALITY k (attnum, place)"+
		" JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.place <= i.indnkeyatts) = '{%s}'::text[])",
		table, unique, strings.Join(columns, ","))
}

// executed is sql without its comment lines and its layout.
func executed(sql string) string {
	var b strings.Builder
	for line := range strings.Lines(sql) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "--") {
			continue
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}
