package schema

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// ServerVersionMin is the oldest PostgreSQL that has what we use
	// (gen_random_uuid without an extension), as in server_version_num.
	ServerVersionMin = 13_00_00

	// LockWaitMsMax is how long a step waits for a lock. Whoever waits for an
	// exclusive lock makes all who come later wait behind it, so a step asks
	// briefly, steps back, and asks again until its context ends.
	LockWaitMsMax = 300

	// PauseMsMax bounds the pause before a lock is asked for again; the first one
	// is PauseMsMin, each is half to all of that at random, and the next is twice
	// as long.
	PauseMsMax = 800
	PauseMsMin = 25

	// BatchRowsMax is about how many rows a batch of a take-over writes: small
	// enough that a push waits well below a second for the head of its partition.
	BatchRowsMax = 2000

	// waitNoticeEvery is how often a step that waits for others says so.
	waitNoticeEvery = 10 * time.Second

	// progressEvery is how often a long step says how far it is.
	progressEvery = 5 * time.Second

	// advisoryKey is the transaction-level advisory lock that is held while a
	// step is run ("queend", 1): steps of several instances come one by one.
	advisoryKey = 0x717565656e640001
)

// Progress is one thing that happened during Migrate, for the log.
type Progress struct {
	Step string        // "002_columns/3: messages have numbers", or "" when it is about no step
	Text string        // what happened
	Rows int64         // rows worked on so far, where the step counts them
	Took time.Duration // since the step began
	Warn bool          // somebody should look at it
}

func (p Progress) String() string {
	var b strings.Builder
	if p.Step != "" {
		b.WriteString(p.Step + ": ")
	}
	b.WriteString(p.Text)
	if p.Rows > 0 {
		fmt.Fprintf(&b, " (%d rows)", p.Rows)
	}
	if p.Took >= time.Second {
		fmt.Fprintf(&b, " (%s)", p.Took.Round(100*time.Millisecond))
	}
	return b.String()
}

// Report says what Migrate found and did.
type Report struct {
	Fresh    bool     // there was nothing: the tables were made
	Steps    int      // steps that this call ran to their end
	Rows     int64    // rows that batched steps of this call worked on
	Replaced []string // functions that were installed or replaced
	Edited   []string // migrations that are recorded with another text than ours
	Left     int      // steps that Prepare left to Migrate
	Layout   Layout   // as it is now
}

// Migrate brings the database to this queend's layout: makes it, takes over what
// Queen made, or goes on where an earlier call was interrupted. It returns when
// the database is ready (at once when it already was: then it only reads, needs
// no right beyond reading, and a standby is fine).
//
// Several instances may call it at once, and any of them may die at any moment:
// each step is one transaction under an advisory lock, with its own record in
// queen.queend_migrations; CREATE INDEX CONCURRENTLY, which cannot be in one, is
// checked by its result and an index left invalid is built again. It never
// reconnects: an error that is not about a step's content (pgconn.SafeToRetry,
// connection lost) means that calling it again goes on where it stopped.
//
// config is copied; time-outs in its RuntimeParams are left out, since
// building an index may take hours. log may be nil; it is called on the
// goroutine that called Migrate.
func Migrate(ctx context.Context, config *pgconn.Config, log func(Progress)) (Report, error) {
	return migrate(ctx, config, log, true)
}

// Prepare is Migrate up to where queend can serve. What is left (Report.Left), on
// a database just taken over, is to write its number into every old message, which
// may take hours and disturbs nobody: call Migrate for it, off the loops.
func Prepare(ctx context.Context, config *pgconn.Config, log func(Progress)) (Report, error) {
	return migrate(ctx, config, log, false)
}

func migrate(ctx context.Context, config *pgconn.Config, log func(Progress), later bool) (Report, error) {
	m, err := open(ctx, config, log)
	if err != nil {
		return Report{}, err
	}
	defer m.close()
	m.later = later
	err = m.migrate(ctx)
	return m.report, err
}

// migrator is one connection on its way through the migrations.
type migrator struct {
	conn   *pgconn.PgConn
	config *pgconn.Config
	log    func(Progress)
	report Report
	script []migration

	batchRows int  // BatchRowsMax, less in tests
	later     bool // run the steps that serving need not wait for

	state   state
	notices []string // texts of NOTICE and above since the last statement

	// sending, if set, is called before each statement goes out; its error is the
	// statement's. Tests break the run here.
	sending func(sql string) error
}

// state is what the database says about itself.
type state struct {
	serverVersion int
	standby       bool
	tables        bool // queen.messages is there
	records       bool // queen.queend_migrations is there
	applied       map[[2]int]record
	bodies        map[string]string // function name → prosrc of its signature
	newest        int
}

// record is one row of queen.queend_migrations.
type record struct {
	name, checksum, position string
	rows                     int64
	done                     bool
}

func open(ctx context.Context, config *pgconn.Config, log func(Progress)) (*migrator, error) {
	m := &migrator{config: config.Copy(), log: log, script: migrations, batchRows: BatchRowsMax, later: true}
	if m.log == nil {
		m.log = func(Progress) {}
	}
	for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"} {
		delete(m.config.RuntimeParams, name)
	}
	if m.config.RuntimeParams["application_name"] == "" {
		m.config.RuntimeParams["application_name"] = "queend migrate"
	}
	m.config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.Severity != "DEBUG" && strings.HasPrefix(n.Message, "queend: ") {
			m.notices = append(m.notices, strings.TrimPrefix(n.Message, "queend: "))
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, m.config)
	if err != nil {
		return nil, fmt.Errorf("cannot look at the schema: %w", err)
	}
	m.conn = conn
	return m, nil
}

func (m *migrator) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	m.conn.Close(ctx)
}

// exec sends sql, which may be several statements, by the simple protocol (it
// has no prepared statement that a pooler could lose) and returns the rows of
// each, as text.
func (m *migrator) exec(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	if m.sending != nil {
		if err := m.sending(sql); err != nil {
			return nil, err
		}
	}
	return m.conn.Exec(ctx, sql).ReadAll()
}

// rollback ends the open transaction, if there is one. A connection that is
// gone has rolled back by itself.
func (m *migrator) rollback(ctx context.Context) {
	if !m.conn.IsClosed() && m.conn.TxStatus() != 'I' {
		_, _ = m.exec(ctx, "ROLLBACK")
	}
}

func (m *migrator) migrate(ctx context.Context) error {
	if err := m.look(ctx); err != nil {
		return err
	}
	if err := m.refuse(); err != nil {
		return err
	}
	for _, e := range m.edited() {
		m.report.Edited = append(m.report.Edited, e)
		m.log(Progress{Step: e, Text: "this migration was applied with another text than this queend has; a released migration is never edited", Warn: true})
	}
	if m.pending() {
		if m.state.standby {
			return errors.New("cannot migrate the schema: the server is a standby or read-only; connect to the primary (target_session_attrs=read-write)")
		}
		if err := m.apply(ctx); err != nil {
			return err
		}
	}
	for range m.undone(true) {
		m.report.Left++
	}
	layout, err := describe(ctx, m)
	m.report.Layout = layout
	return err
}

// look reads the whole state; nothing of it locks.
func (m *migrator) look(ctx context.Context) error {
	results, err := m.exec(ctx, `SELECT current_setting('server_version_num')::int,
		pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
		to_regclass('queen.messages') IS NOT NULL, to_regclass('queen.queend_migrations') IS NOT NULL; `+installedFunctions)
	if err != nil {
		return fmt.Errorf("cannot read the schema's state: %w", err)
	}
	row := results[0].Rows[0]
	m.state = state{standby: isTrue(row[1]), tables: isTrue(row[2]), records: isTrue(row[3]), applied: map[[2]int]record{}}
	m.state.serverVersion, _ = strconv.Atoi(string(row[0]))
	m.state.setBodies(results[1])
	if !m.state.records {
		return nil
	}
	results, err = m.exec(ctx, `SELECT number, step, name, checksum, coalesce(position, ''), rows, applied_at IS NOT NULL FROM queen.queend_migrations`)
	if err != nil {
		return explain(fmt.Errorf("cannot read queen.queend_migrations: %w", err), "SELECT on table queen.queend_migrations and USAGE on schema queen")
	}
	for _, row := range results[0].Rows {
		number, _ := strconv.Atoi(string(row[0]))
		step, _ := strconv.Atoi(string(row[1]))
		rows, _ := strconv.ParseInt(string(row[5]), 10, 64)
		m.state.applied[[2]int{number, step}] = record{name: string(row[2]), checksum: string(row[3]), position: string(row[4]), rows: rows, done: isTrue(row[6])}
		m.state.newest = max(m.state.newest, number)
	}
	return nil
}

// refuse says why this database is not for this queend.
func (m *migrator) refuse() error {
	if v := m.state.serverVersion; v < ServerVersionMin {
		return fmt.Errorf("queend needs PostgreSQL %d or newer; this server is %s", ServerVersionMin/10000, versionText(v))
	}
	if mine := len(m.script); m.state.newest > mine {
		return fmt.Errorf("this database was migrated by a newer queend: its schema is at migration %d (%s), this queend knows %d; start that release or a newer one",
			m.state.newest, m.state.name(m.state.newest), mine)
	}
	return nil
}

func (s *state) name(number int) string {
	for key, r := range s.applied {
		if key[0] == number {
			return r.name
		}
	}
	return "?"
}

func versionText(v int) string {
	if v >= 10_00_00 {
		return fmt.Sprintf("%d.%d", v/10000, v%10000)
	}
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}

// edited are the migrations that were applied with another text.
func (m *migrator) edited() []string {
	var names []string
	for _, file := range m.script {
		for _, s := range file.steps {
			if r, ok := m.state.applied[[2]int{s.file, s.number}]; ok && r.checksum != file.checksum {
				names = append(names, file.name)
				break
			}
		}
	}
	return names
}

// pending says whether there is anything to do.
func (m *migrator) pending() bool {
	if !m.state.records || len(m.functionsToInstall()) > 0 {
		return true
	}
	for range m.undone(m.later) {
		return true
	}
	return false
}

// undone are the steps that are not recorded as done, in their files' order.
func (m *migrator) undone(later bool) iter.Seq2[migration, step] {
	return func(yield func(migration, step) bool) {
		for _, file := range m.script {
			for _, s := range file.steps {
				if (later || !s.later) && !m.state.applied[[2]int{s.file, s.number}].done && !yield(file, s) {
					return
				}
			}
		}
	}
}

func (m *migrator) apply(ctx context.Context) error {
	if err := m.bootstrap(ctx); err != nil {
		return err
	}
	for _, rows := range []bool{false, true} {
		for file, s := range m.undone(m.later) {
			if file.rows != rows {
				continue
			}
			if err := m.step(ctx, file, s); err != nil {
				return err
			}
		}
		if !rows {
			if err := m.installFunctions(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// foldedMax is the last of the files whose work a fresh database has by the first one:
// they bring older layouts to it. Later files are run on a fresh database too.
const foldedMax = 4

// bootstrap makes what the records need.
func (m *migrator) bootstrap(ctx context.Context) error {
	if m.state.records {
		return nil
	}
	const step = "the record of migrations"
	return m.retry(ctx, step, "the right CREATE on the database (for the schema queen), or on schema queen if it is there", func() error {
		results, err := m.locked(ctx, step, "SELECT to_regnamespace('queen') IS NOT NULL, to_regclass('queen.messages') IS NOT NULL, to_regclass('queen.queend_migrations') IS NOT NULL")
		if err != nil {
			return err
		}
		row := results[0].Rows[0]
		if isTrue(row[2]) {
			if err := m.commit(ctx, ""); err != nil {
				return err
			}
			return m.look(ctx)
		}
		var b strings.Builder
		if !isTrue(row[0]) {
			b.WriteString("CREATE SCHEMA queen;\n")
		}
		b.WriteString(recordsTable)
		fresh, steps := !isTrue(row[1]), 0
		if fresh { // one transaction for everything
			for _, file := range m.script {
				if file.number > 1 && file.number <= foldedMax {
					continue
				}
				for _, s := range file.steps {
					b.WriteString(";\n" + strings.TrimSuffix(strings.TrimSpace(s.sql), ";"))
					steps++
				}
			}
			for _, f := range functions {
				b.WriteString(";\n" + strings.TrimSuffix(f.sql, ";"))
			}
			for _, file := range m.script {
				for _, s := range file.steps {
					b.WriteString(";\n" + recordDone(file, s))
				}
			}
		}
		if err := m.commit(ctx, b.String()); err != nil {
			return err
		}
		if fresh {
			m.report.Fresh = true
			m.report.Steps = steps
			for _, f := range functions {
				m.report.Replaced = append(m.report.Replaced, f.name)
			}
		}
		return m.look(ctx)
	})
}

// recordsTable is the memory of what was done. rows and position belong to
// batched steps: how many they did, and where the next batch begins.
const recordsTable = `CREATE TABLE IF NOT EXISTS queen.queend_migrations (
    number     integer NOT NULL,
    step       integer NOT NULL,
    name       text NOT NULL,
    title      text NOT NULL,
    checksum   text NOT NULL,
    position   text,
    rows       bigint NOT NULL DEFAULT 0,
    began_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_at timestamptz,
    PRIMARY KEY (number, step)
)`

func isTrue(value []byte) bool { return string(value) == "t" }

// quote makes a string literal (standard_conforming_strings).
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
