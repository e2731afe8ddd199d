package schema

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// recordDone is the statement that says that a step is done.
func recordDone(file migration, s step) string {
	return fmt.Sprintf("INSERT INTO queen.queend_migrations (number, step, name, title, checksum, applied_at) VALUES (%d, %d, %s, %s, %s, clock_timestamp())"+
		" ON CONFLICT (number, step) DO UPDATE SET applied_at = excluded.applied_at, checksum = excluded.checksum",
		s.file, s.number, quote(file.name), quote(s.title), quote(file.checksum))
}

// commit runs sql and commits.
func (m *migrator) commit(ctx context.Context, sql string) error {
	if sql != "" {
		sql += ";\n"
	}
	_, err := m.exec(ctx, sql+"COMMIT")
	return err
}

func (s step) String() string { return fmt.Sprintf("%s/%d: %s", s.migration, s.number, s.title) }

// step runs one step to its end, in as many transactions as it needs.
func (m *migrator) step(ctx context.Context, file migration, s step) error {
	began := time.Now()
	ran := false
	err := m.retry(ctx, s.String(), s.needs, func() error {
		var err error
		switch s.mode {
		case together:
			ran, err = m.together(ctx, file, s)
		case concurrently:
			ran, err = m.concurrently(ctx, file, s)
		case batched:
			ran, err = m.batches(ctx, file, s, began)
		}
		return err
	})
	if err != nil {
		return err
	}
	if ran {
		m.report.Steps++
	}
	m.state.applied[[2]int{s.file, s.number}] = record{name: file.name, checksum: file.checksum, done: true}
	for _, text := range m.notices {
		m.log(Progress{Step: s.String(), Text: text})
	}
	m.notices = nil
	return nil
}

// locked begins a transaction and takes the advisory lock, waiting for other
// instances. Waiting is asking again: a session that waited inside a statement
// would hold a snapshot, and CREATE INDEX CONCURRENTLY waits for all of those.
// more is run in the same message, after the lock; its results are returned.
func (m *migrator) locked(ctx context.Context, step string, more string) ([]*pgconn.Result, error) {
	begin := fmt.Sprintf("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = 0;"+
		" SET LOCAL idle_in_transaction_session_timeout = '1min'; SET LOCAL client_min_messages = notice", LockWaitMsMax)
	before := 5 // results before the one of the lock
	if m.state.serverVersion >= 17_00_00 {
		begin += "; SET LOCAL transaction_timeout = 0"
		before++
	}
	begin += fmt.Sprintf("; SELECT pg_try_advisory_xact_lock(%d)", advisoryKey)
	w := waiting{m: m, step: step, began: time.Now()}
	for {
		results, err := m.exec(ctx, begin+"; "+more)
		if err != nil {
			m.rollback(ctx)
			return nil, err
		}
		if isTrue(results[before].Rows[0][0]) {
			return results[before+1:], nil
		}
		m.rollback(ctx)
		if err := w.pause(ctx, "waits for another instance that is migrating"); err != nil {
			return nil, err
		}
	}
}

// together runs a step in one transaction with its record.
func (m *migrator) together(ctx context.Context, file migration, s step) (ran bool, err error) {
	results, err := m.locked(ctx, s.String(), isDone(s)+"; "+needed(s))
	if err != nil {
		return false, err
	}
	if len(results[0].Rows) > 0 {
		return false, m.commit(ctx, "")
	}
	if !isTrue(results[1].Rows[0][0]) {
		return false, m.commit(ctx, recordDone(file, s))
	}
	return true, m.commit(ctx, strings.TrimSuffix(s.sql, ";")+";\n"+recordDone(file, s))
}

// concurrently runs a step that is one CREATE INDEX CONCURRENTLY. It cannot be
// in a transaction with its record, so its result is looked at instead: an
// index that is there and valid ends the step, one that is invalid was left by
// somebody who died, and is dropped once nobody can be building it.
func (m *migrator) concurrently(ctx context.Context, file migration, s step) (ran bool, err error) {
	w := waiting{m: m, step: s.String(), began: time.Now()}
	for {
		results, err := m.locked(ctx, s.String(), isDone(s)+"; "+needed(s)+"; "+indexInvalid(s))
		if err != nil {
			return ran, err
		}
		if len(results[0].Rows) > 0 {
			return ran, m.commit(ctx, "")
		}
		if !isTrue(results[1].Rows[0][0]) {
			return ran, m.commit(ctx, recordDone(file, s))
		}
		if len(results[2].Rows) > 0 {
			if !isTrue(results[2].Rows[0][0]) {
				return ran, fmt.Errorf("index queen.%s is there, but it is not the index that is needed", s.index)
			}
			gone, err := m.dropInvalid(ctx, s)
			if err == nil && !gone {
				err = w.pause(ctx, "waits for transactions to end")
			}
			if err != nil {
				return ran, err
			}
			continue
		}
		if err := m.commit(ctx, ""); err != nil {
			return ran, err
		}
		busy, err := m.buildable(ctx, s)
		if err != nil {
			return ran, err
		}
		if busy {
			if err := w.pause(ctx, "waits for an index build or a vacuum of the table"); err != nil {
				return ran, err
			}
			continue
		}
		m.log(Progress{Step: s.String(), Text: "builds index " + s.index + "; on a big table this takes long, writers go on meanwhile"})
		ran = true
		_, err = m.exec(ctx, s.sql)
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg) && pg.Code == "42P07": // somebody else was quicker
		case errors.As(err, &pg) && pg.Code == "57014" && ctx.Err() == nil:
			return ran, fmt.Errorf("%w; a statement_timeout is set for this role or database: ALTER ROLE … SET statement_timeout = 0 while migrating", err)
		case err != nil:
			return ran, err
		}
	}
}

// indexInvalid finds the step's index by its name and says whether it is invalid.
func indexInvalid(s step) string {
	return fmt.Sprintf("SELECT NOT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass('queen.%s')", s.index)
}

// dropInvalid drops the step's index in the open transaction, if nobody is
// building it. (A build whose client died goes on in the server: it is waited for,
// and ends in a valid index.) A builder holds SHARE UPDATE EXCLUSIVE from its
// beginning until just before the commit that makes the index valid. So: take
// that lock, wait until every transaction that was writing at that moment has
// ended, and look again. gone is false when one of them takes too long; nothing
// was done then and the transaction has ended.
func (m *migrator) dropInvalid(ctx context.Context, s step) (gone bool, err error) {
	results, err := m.exec(ctx, fmt.Sprintf("LOCK TABLE queen.%s IN SHARE UPDATE EXCLUSIVE MODE; SELECT coalesce(string_agg(transactionid::text, ','), '') FROM ("+
		writing+") w JOIN pg_stat_activity a USING (pid) WHERE pid <> pg_backend_pid() AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())", s.table))
	if err != nil {
		return false, err
	}
	writers := fmt.Sprintf("SELECT count(*) > 0 FROM ("+writing+") w WHERE transactionid = ANY ('{%s}'::xid[]); %s", results[1].Rows[0][0], indexInvalid(s))
	for w := (waiting{m: m, step: s.String(), began: time.Now()}); ; {
		results, err := m.exec(ctx, writers)
		if err != nil {
			return false, err
		}
		if invalid := results[1].Rows; len(invalid) == 0 || !isTrue(invalid[0][0]) {
			return true, m.commit(ctx, "")
		}
		if !isTrue(results[0].Rows[0][0]) {
			break
		}
		if time.Since(w.began) > writersMax {
			return false, m.commit(ctx, "")
		}
		if err := w.pause(ctx, "waits for transactions to end"); err != nil {
			return false, err
		}
	}
	m.log(Progress{Step: s.String(), Text: "index " + s.index + " was left half built; it is dropped and built again"})
	return true, m.commit(ctx, "DROP INDEX queen."+s.index)
}

// writing are the sessions that have written something in their transaction.
const writing = "SELECT pid, transactionid FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted"

// writersMax is how long dropInvalid keeps vacuum and others from the table.
const writersMax = 5 * time.Second

// buildable looks whether another session holds or waits for the lock that a
// build takes: two builds on one table at the same time deadlock. (Autovacuum
// holds it too, but steps back when it is waited for.) It also lifts the
// time-outs of the session, unless the session is a pooler's and not ours to change:
// there the pid that PostgreSQL gives differs from the one the connection began with.
func (m *migrator) buildable(ctx context.Context, s step) (busy bool, err error) {
	results, err := m.exec(ctx, fmt.Sprintf("SELECT pg_backend_pid(), EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"+
		" WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.relation = 'queen.%s'::regclass"+
		" AND l.mode = 'ShareUpdateExclusiveLock' AND a.backend_type = 'client backend' AND pid <> pg_backend_pid())", s.table))
	if err != nil {
		return false, err
	}
	row := results[0].Rows[0]
	if isTrue(row[1]) {
		return true, nil
	}
	if string(row[0]) == strconv.FormatUint(uint64(m.conn.PID()), 10) {
		_, err = m.exec(ctx, "SET statement_timeout = 0; SET lock_timeout = 0")
	}
	return false, err
}

// batches runs a batched step to its end.
func (m *migrator) batches(ctx context.Context, file migration, s step, began time.Time) (ran bool, err error) {
	recorded := fmt.Sprintf("(SELECT position FROM queen.queend_migrations WHERE number = %d AND step = %d)", s.file, s.number)
	before := isDone(s) + "; " + needed(s) + "; SELECT set_config('queend.position', coalesce(" + recorded + ", ''), true)," +
		" set_config('queend.rows', '0', true), set_config('queend.done', '', true), set_config('queend.work', '" + strconv.Itoa(m.batchRows) + "', true)"
	after := fmt.Sprintf(";\nINSERT INTO queen.queend_migrations AS r (number, step, name, title, checksum, position, rows, applied_at)"+
		" VALUES (%d, %d, %s, %s, %s, current_setting('queend.position'), current_setting('queend.rows')::bigint,"+
		" CASE WHEN current_setting('queend.done') = 'true' THEN clock_timestamp() END)"+
		" ON CONFLICT (number, step) DO UPDATE SET position = excluded.position, rows = r.rows + excluded.rows, applied_at = excluded.applied_at, checksum = excluded.checksum"+
		" RETURNING rows, applied_at IS NOT NULL, current_setting('queend.rows');\nCOMMIT",
		s.file, s.number, quote(file.name), quote(s.title), quote(file.checksum))
	told := began
	for {
		results, err := m.locked(ctx, s.String(), before)
		if err != nil {
			return ran, err
		}
		if len(results[0].Rows) > 0 {
			return ran, m.commit(ctx, "")
		}
		if !isTrue(results[1].Rows[0][0]) {
			return ran, m.commit(ctx, recordDone(file, s))
		}
		results, err = m.exec(ctx, strings.TrimSuffix(s.sql, ";")+after)
		if err != nil {
			return ran, err
		}
		ran = true
		row := results[len(results)-2].Rows[0]
		all, _ := strconv.ParseInt(string(row[0]), 10, 64)
		now, _ := strconv.ParseInt(string(row[2]), 10, 64)
		m.report.Rows += now
		done := isTrue(row[1])
		if (done && all > 0) || time.Since(told) > progressEvery {
			told = time.Now()
			text := "goes on"
			if done {
				text = "done"
			}
			m.log(Progress{Step: s.String(), Text: text, Rows: all, Took: time.Since(began)})
		}
		if done {
			return ran, nil
		}
	}
}

// isDone finds a row when the step is recorded as done.
func isDone(s step) string {
	return fmt.Sprintf("SELECT 1 FROM queen.queend_migrations WHERE number = %d AND step = %d AND applied_at IS NOT NULL", s.file, s.number)
}

// needed is the step's guards in one boolean.
func needed(s step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "SELECT %t", !s.fresh)
	for _, g := range s.guards {
		b.WriteString(" AND (" + g + ")")
	}
	return b.String()
}

// retry runs f again while it fails for a reason that passes.
func (m *migrator) retry(ctx context.Context, step, needs string, f func() error) error {
	w := waiting{m: m, step: step, began: time.Now()}
	for {
		err := f()
		if err == nil {
			return nil
		}
		m.rollback(ctx)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01" || pg.Code == "40001") {
			if err := w.pause(ctx, "waits for a lock that others hold"); err != nil {
				return err
			}
			continue
		}
		return explain(fmt.Errorf("cannot migrate the schema: %s: %w", step, err), needs)
	}
}

// explain adds to a refusal which right is missing.
func explain(err error, needs string) error {
	var pg *pgconn.PgError
	if needs != "" && errors.As(err, &pg) && pg.Code == "42501" {
		return fmt.Errorf("%w; it needs %s: grant it, or let a role that has it run `queend migrate apply`", err, needs)
	}
	return err
}

// waiting is one wait for others, told about now and then.
type waiting struct {
	m           *migrator
	step        string
	began, told time.Time
	pauses      int
}

func (w *waiting) pause(ctx context.Context, text string) error {
	if now := time.Now(); now.Sub(w.began) > waitNoticeEvery && now.Sub(w.told) > waitNoticeEvery {
		w.told = now
		w.m.log(Progress{Step: w.step, Text: text, Took: now.Sub(w.began), Warn: true})
	}
	longest := min(PauseMsMax, PauseMsMin<<min(w.pauses, 10))
	w.pauses++
	timer := time.NewTimer(time.Duration(longest/2+rand.IntN(longest/2+1)) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot migrate the schema: %s: %s: %w", w.step, text, ctx.Err())
	}
}
