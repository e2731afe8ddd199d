package schema

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// hang is how long a test may wait for anything: a guard, not a measure.
const hang = 2 * time.Minute

// db is one database of a test.
type db struct {
	t      testing.TB
	config *pgconn.Config
	conn   *pgconn.PgConn // of run, once it was needed
}

// free are databases that no test uses at the moment. Making a database costs
// much more than emptying one.
var free struct {
	sync.Mutex
	configs []*pgconn.Config
}

// copyOf is a database that holds what the SQL in a file of testdata makes; "" is
// an empty one. "small " before the name of Queen's fixture leaves most of its
// messages out.
func copyOf(t testing.TB, file string) *db {
	t.Helper()
	d := &db{t: t}
	free.Lock()
	if n := len(free.configs); n > 0 {
		d.config, free.configs = free.configs[n-1], free.configs[:n-1]
	}
	free.Unlock()
	if d.config == nil {
		connString, _ := postgrestest.DatabaseOn(t, postgrestest.Shared(t))
		d.config = parse(t, connString)
	}
	t.Cleanup(func() {
		free.Lock()
		defer free.Unlock()
		free.configs = append(free.configs, d.config)
	})
	d.load(file)
	return d
}

// load empties the database and fills it as copyOf does.
func (d *db) load(file string) {
	d.t.Helper()
	sql := "DROP SCHEMA IF EXISTS queen CASCADE;"
	if file != "" {
		name, small := strings.CutPrefix(file, "small ")
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			d.t.Fatal(err)
		}
		if small {
			text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("4500"), []byte("250")), []byte("3200"), []byte("120"))
		}
		sql += string(text)
	}
	d.run(sql)
}

func parse(t testing.TB, connString string) *pgconn.Config {
	t.Helper()
	config, err := pgconn.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// connect is a connection of its own, closed with the test.
func (d *db) connect() *pgconn.PgConn {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, d.config)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// run sends sql and returns the last result, a row a line, columns separated by
// "|". Not for two goroutines at once.
func (d *db) run(sql string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	if d.conn == nil {
		d.conn = d.connect()
	}
	text, err := query(ctx, d.conn, sql)
	if err != nil {
		d.t.Fatalf("%.200s: %v", sql, err)
	}
	return text
}

func query(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return "", err
	}
	var lines []string
	for _, row := range results[len(results)-1].Rows {
		var columns []string
		for _, value := range row {
			if value == nil {
				columns = append(columns, "NULL")
			} else {
				columns = append(columns, string(value))
			}
		}
		lines = append(lines, strings.Join(columns, "|"))
	}
	return strings.Join(lines, "\n"), nil
}

// migrate runs Migrate and fails the test if it fails.
func (d *db) migrate() Report {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	report, err := Migrate(ctx, d.config, func(p Progress) { d.t.Log(p) })
	if err != nil {
		d.t.Fatal(err)
	}
	return report
}

// want fails the test when sql does not answer so.
func (d *db) want(sql, answer string) {
	d.t.Helper()
	if got := d.run(sql); got != answer {
		d.t.Errorf("%s\n got %s\nwant %s", sql, got, answer)
	}
}

// dump is everything that schema queen is and holds, but for times of day and
// ids that are made at random. Short: rows as one hash per table.
func (d *db) dump(short bool) string {
	d.t.Helper()
	var b strings.Builder
	section := func(name, sql string) {
		d.t.Helper()
		fmt.Fprintf(&b, "== %s\n%s\n", name, d.run(sql))
	}
	section("columns", `SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attnum
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relnamespace = 'queen'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2`)
	section("constraints", `SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'queen'::regnamespace ORDER BY 1, 2`)
	section("indexes", `SELECT pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE c.relnamespace = 'queen'::regnamespace ORDER BY 1`)
	section("triggers", `SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE c.relnamespace = 'queen'::regnamespace AND NOT t.tgisinternal ORDER BY 1`)
	section("functions", `SELECT oid::regprocedure, proargnames, pg_get_function_result(oid), md5(prosrc) FROM pg_proc WHERE pronamespace = 'queen'::regnamespace ORDER BY 1`)
	section("options", `SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'queen'::regnamespace AND reloptions IS NOT NULL ORDER BY 1`)
	random := map[string]string{
		"queend_migrations": "{began_at,applied_at}",
		"partition_lookup":  "{id,updated_at}",
	}
	tables := d.run(`SELECT relname FROM pg_class WHERE relnamespace = 'queen'::regnamespace AND relkind = 'r' ORDER BY 1`)
	for _, table := range strings.Fields(tables) {
		rows := "to_jsonb(t)::text"
		if random[table] != "" {
			rows = fmt.Sprintf("(to_jsonb(t) - '%s'::text[])::text", random[table])
		}
		if short {
			section(table, fmt.Sprintf("SELECT count(*), sum(('x' || substr(md5(%s), 1, 15))::bit(60)::bigint) FROM queen.%s t", rows, table))
		} else {
			section(table, fmt.Sprintf("SELECT j FROM (SELECT %s AS j FROM queen.%s t) r ORDER BY j", rows, table))
		}
	}
	return b.String()
}

// differ says where two dumps differ.
func differ(a, b string) string {
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	section := ""
	for i := range max(len(left), len(right)) {
		var l, r string
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		if strings.HasPrefix(l, "== ") {
			section = l
		}
		if l != r && len(out) < 10 {
			out = append(out, section+"\n- "+l+"\n+ "+r)
		}
	}
	return strings.Join(out, "\n")
}
