package maintain

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/schema"
)

// session is the one connection.
type session struct {
	config *pgx.ConnConfig
	conn   *pgx.Conn
	shift  time.Duration
}

// poolerSettings are the start-up parameters that PgBouncer takes; it refuses others.
var poolerSettings = []string{"client_encoding", "timezone", "datestyle", "standard_conforming_strings", "application_name", "options"}

// connConfig is the connection's configuration: theirs without time-outs, which belong
// to pushes.
func connConfig(theirs *pgconn.Config) (*pgx.ConnConfig, error) {
	// pgx wants a configuration that it has parsed itself; where to connect is then ours.
	config, err := pgx.ParseConfig("host=replaced")
	if err != nil {
		return nil, fmt.Errorf("cannot configure the connection of maintenance: %w", err)
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
	config.RuntimeParams["application_name"] += "-maintain"
	// Described and run unnamed: the types are right, each plan is made for the tables as
	// they are, and nothing is left in a session that a pooler gives to somebody else.
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	config.StatementCacheCapacity, config.DescriptionCacheCapacity = 0, 0
	return config, nil
}

func (s *session) connected() bool { return s.conn != nil && !s.conn.IsClosed() }

func (s *session) connect(ctx context.Context) error {
	s.close()
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err != nil {
		return fmt.Errorf("cannot connect to PostgreSQL: %w", err)
	}
	s.conn = conn
	return nil
}

// close closes the connection and waits until it is, but not for a server that does not
// answer.
func (s *session) close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_ = s.conn.Close(ctx)
	select {
	case <-s.conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
	s.conn = nil
}

// transact runs step in a transaction under the lock. Whatever goes wrong, nothing of it
// stays.
func (s *session) transact(ctx context.Context, key int64, t *turn, step func(context.Context, *turn) (outcome, error)) (outcome, error) {
	// Not READ WRITE, which would write to an old primary that was set read-only.
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return idle, fmt.Errorf("cannot begin: %w", err)
	}
	o, err := s.inside(ctx, tx, key, t, step)
	if err != nil || o == busy {
		_ = tx.Rollback(ctx) // if it fails the connection is closed, which does the same
		if readOnly(err) {
			s.close() // another server may be the primary now: the next connection looks for it
		}
		return o, err
	}
	if err := tx.Commit(ctx); err != nil {
		return idle, fmt.Errorf("cannot commit: %w", err)
	}
	return o, nil
}

func (s *session) inside(ctx context.Context, tx pgx.Tx, key int64, t *turn, step func(context.Context, *turn) (outcome, error)) (outcome, error) {
	var free bool
	var ignored any
	err := tx.QueryRow(ctx, schema.Statement("maintain_begin"), key).Scan(&free, &t.now,
		&ignored, &ignored, &ignored, &ignored, &ignored, &ignored, &ignored, &ignored, &ignored)
	if err != nil {
		return idle, fmt.Errorf("maintain_begin: %w", err)
	}
	if !free {
		return busy, nil
	}
	t.now = t.now.Add(s.shift)
	t.query = query{tx}
	return step(ctx, t)
}

// query sends the statements of a turn by their names.
type query struct{ tx pgx.Tx }

func (q query) exec(ctx context.Context, name string, args ...any) (int64, error) {
	tag, err := q.tx.Exec(ctx, schema.Statement(name), args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return tag.RowsAffected(), nil
}

func (q query) row(ctx context.Context, name string, args []any, into ...any) error {
	if err := q.tx.QueryRow(ctx, schema.Statement(name), args...).Scan(into...); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// collect reads all rows of a statement that answers a bounded number of them.
func collect[T any](ctx context.Context, q query, name string, scan func(pgx.Rows, *T) error, args ...any) ([]T, error) {
	rows, err := q.tx.Query(ctx, schema.Statement(name), args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var one T
		if err := scan(rows, &one); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// readOnly says whether a turn ended because the server cannot be written to.
func readOnly(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == "25006" // read_only_sql_transaction
}

// gaveWay says whether a turn ended because somebody else was in the way: a lock that was
// not to be had in time, a deadlock, or a partition deleted meanwhile. Nothing is wrong
// then; it is tried again.
func gaveWay(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Code {
	case "55P03", "40P01", "40001", "23503": // lock_not_available, deadlock_detected, serialization_failure, foreign_key_violation
		return true
	}
	return false
}
