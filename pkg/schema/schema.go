// Package schema is every line of SQL that queend sends: the tables and how a
// database gets them (migrations/), the functions that users call themselves
// (functions/), and the statements of the data path (procedures/).
//
// It is not a client of the data path: asyncdb and pooldb send the statements,
// this room only keeps their text. The one thing it does itself is Migrate, once
// at start, on a connection of its own.
//
// The database may be empty, or one that Queen MQ 0.12-0.16 laid out: that is
// taken over in place (migrations/002 and later), by steps that may be
// interrupted anywhere and are resumed by the next start. No step needs session
// state, so all of it runs behind PgBouncer in transaction mode.
package schema

import (
	"embed"
	"path"
	"slices"
	"strings"
)

//go:embed procedures/*.sql
var procedureFiles embed.FS

// procedures is procedures/<name>.sql by name.
var procedures = readProcedures()

func readProcedures() map[string]string {
	entries, err := procedureFiles.ReadDir("procedures")
	if err != nil {
		panic("BUG: no procedures are embedded: " + err.Error())
	}
	all := make(map[string]string, len(entries))
	for _, e := range entries {
		all[strings.TrimSuffix(e.Name(), ".sql")] = trimStatement(readFile(procedureFiles, path.Join("procedures", e.Name())))
	}
	return all
}

// trimStatement takes away what is for the reader of the file, the comment at its
// top and the semicolon at its end, and keeps what is between as it is.
func trimStatement(text string) string {
	for {
		text = strings.TrimSpace(text)
		if !strings.HasPrefix(text, "--") {
			return strings.TrimSpace(strings.TrimSuffix(text, ";"))
		}
		_, text, _ = strings.Cut(text, "\n")
	}
}

// Statement is the text of procedures/<name>.sql, one statement, without the
// comment at its top. A name that is not there is a bug.
func Statement(name string) string {
	text, ok := procedures[name]
	if !ok {
		panic("BUG: no statement is named " + name)
	}
	return text
}

// Names are the names that Statement knows, sorted.
func Names() []string {
	names := make([]string, 0, len(procedures))
	for name := range procedures {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func readFile(files embed.FS, name string) string {
	text, err := files.ReadFile(name)
	if err != nil {
		panic("BUG: cannot read an embedded file: " + err.Error())
	}
	return string(text)
}
