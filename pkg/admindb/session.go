package admindb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/queend/queend/pkg/schema"
)

// ErrTooLarge says that a result is larger than ResultBytesMax.
var ErrTooLarge error = tooLarge{}

type tooLarge struct{}

func (tooLarge) Error() string  { return "the answer would be too large; ask for fewer rows with limit" }
func (tooLarge) TooLarge() bool { return true }

// Error is what PostgreSQL said.
type Error struct{ State, Message string }

// Error implements error: PostgreSQL's primary message.
func (e *Error) Error() string { return e.Message }

// SQLState is the error's code (manual, appendix "PostgreSQL Error Codes").
func (e *Error) SQLState() string { return e.State }

// InDoubt says that a COMMIT was sent and nobody knows what became of it: its answer was
// lost, or not waited for. It wraps no Error, also if PostgreSQL's last word was one: a
// backend that ends may have committed before.
type InDoubt struct{ cause error }

// Error implements error.
func (e *InDoubt) Error() string {
	return "the transaction may have been committed: " + e.cause.Error()
}

// MayBeDone says that what was asked for may have been done.
func (e *InDoubt) MayBeDone() bool { return true }

// Session is one call's use of the database, on one connection. It belongs to the
// goroutine of that call.
type Session struct {
	pool *Pool
	ctx  context.Context
	conn *pgxpool.Conn // nil: none yet, or the last one broke; never while open
	open bool          // a transaction is open
}

// Rows runs the statement of a name and returns its rows: each column is PostgreSQL's
// text, nil for NULL, and the caller's to keep. An argument is nil (NULL), a string,
// []byte, int, bool or []string (an array); the statement casts it. Outside of
// Transaction the statement is a transaction of its own.
//
// An error is *Error if PostgreSQL said so, and *InDoubt if the statement may have been
// carried out, which can only be outside of Transaction; any other means that PostgreSQL
// could not be reached, or went away in the middle.
func (s *Session) Rows(name string, args ...any) (rows [][][]byte, err error) {
	if !s.open {
		err = s.Transaction(func() (err error) {
			rows, err = s.Rows(name, args...)
			return err
		})
		return rows, err
	}
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = text(a)
	}
	rows, err = s.rows(schema.Statement(name), params)
	return rows, plain(err)
}

func (s *Session) rows(sql string, params [][]byte) (rows [][][]byte, err error) {
	reader := s.conn.Conn().PgConn().ExecParams(s.ctx, sql, params, nil, nil, nil)
	size := 0
	for reader.NextRow() {
		if size > ResultBytesMax {
			continue // what is left is read and forgotten
		}
		row := make([][]byte, len(reader.Values()))
		for i, v := range reader.Values() {
			if v != nil {
				row[i] = append(make([]byte, 0, len(v)), v...)
			}
			size += len(v)
		}
		rows = append(rows, row)
	}
	if _, err := reader.Close(); err != nil {
		return nil, err
	}
	if size > ResultBytesMax {
		return nil, ErrTooLarge
	}
	return rows, nil
}

// Transaction runs work, whose statements are one transaction: committed if work
// returns nil, else rolled back. If PostgreSQL ends it because of another transaction
// (deadlock, lock time-out), work is run again from its beginning, TriesMax times in all.
// With any error but *InDoubt nothing was committed.
func (s *Session) Transaction(work func() error) error {
	if s.open {
		panic("BUG: a transaction in a transaction")
	}
	for try := 1; ; try++ {
		err := s.transaction(work)
		var refusal *Error
		if !errors.As(err, &refusal) || !again[refusal.State] || try == TriesMax {
			return err
		}
		s.pool.stats.Retried.Add(1)
		// A pause of random length, so that the two do not meet again.
		select {
		case <-time.After(rand.N(time.Duration(try) * 20 * time.Millisecond)):
		case <-s.ctx.Done():
			return err
		}
	}
}

// again are the errors that another try may not meet: serialization failure, deadlock,
// lock time-out; and a partition that was deleted, or made by somebody else, between
// two statements.
var again = map[string]bool{"40001": true, "40P01": true, "55P03": true, "23503": true, "23505": true}

func (s *Session) transaction(work func() error) error {
	if err := s.begin(); err != nil {
		return plain(err)
	}
	s.open = true
	_, err := s.Rows("admin_begin", s.pool.timeouts[0], s.pool.timeouts[1])
	if err == nil {
		err = work()
	}
	if err == nil && s.ctx.Err() != nil {
		// COMMIT would not be sent. Afterwards that cannot be told: pgconn.SafeToRetry is true
		// of an answer that was lost, too.
		err = plain(s.ctx.Err())
	}
	s.open = false
	if err != nil {
		if _, failed := s.exec("ROLLBACK"); failed != nil {
			s.drop()
		}
		var refusal *Error
		if errors.As(err, &refusal) && refusal.State == readOnly {
			s.drop() // the next connection looks for the server that is the primary now
			return errReadOnly
		}
		return err
	}
	// A transaction that PostgreSQL has ended already answers ROLLBACK, without an error:
	// work has kept one to itself.
	tag, err := s.exec("COMMIT")
	if err != nil {
		s.drop()
		if mayBeCommitted(err) {
			return &InDoubt{err}
		}
		return plain(err)
	}
	if tag != "COMMIT" {
		panic("BUG: work returned nil in a transaction that had failed")
	}
	return nil
}

// mayBeCommitted says whether a COMMIT that has failed may have been done: unless
// PostgreSQL refused it and goes on.
func mayBeCommitted(err error) bool {
	var refusal *pgconn.PgError
	return !errors.As(err, &refusal) || cmp.Or(refusal.SeverityUnlocalized, refusal.Severity) != "ERROR" || refusal.Code == completionUnknown
}

// completionUnknown is the SQLSTATE statement_completion_unknown.
const completionUnknown = "40003"

// readOnly is the SQLSTATE read_only_sql_transaction. It is an outage, no refusal.
const readOnly = "25006"

var errReadOnly = errors.New("cannot reach PostgreSQL: the server is read-only")

// begin opens a transaction on a connection that lives: one that had died while it was
// idle is replaced.
func (s *Session) begin() (err error) {
	for range 2 {
		if s.conn == nil {
			if s.conn, err = s.pool.db.Acquire(s.ctx); err != nil {
				return err
			}
		}
		if _, err = s.exec("BEGIN ISOLATION LEVEL READ COMMITTED"); err == nil {
			return nil
		}
		s.drop()
	}
	return err
}

func (s *Session) exec(sql string) (tag string, err error) {
	results, err := s.conn.Conn().PgConn().Exec(s.ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	return results[0].CommandTag.String(), nil
}

// drop ends a connection that is of no use any more.
func (s *Session) drop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Conn().Close(ctx)
	s.release()
}

func (s *Session) release() {
	if s.conn != nil {
		s.conn.Release()
		s.conn = nil
	}
}

// plain makes an Error of what PostgreSQL said.
func plain(err error) error {
	var refusal *pgconn.PgError
	switch {
	case err == nil || errors.Is(err, ErrTooLarge):
		return err
	case errors.As(err, &refusal):
		return &Error{State: refusal.Code, Message: refusal.Message}
	}
	return fmt.Errorf("cannot reach PostgreSQL: %w", err)
}

// text is an argument in PostgreSQL's text format.
func text(argument any) []byte {
	switch a := argument.(type) {
	case nil:
		return nil
	case string:
		return []byte(a)
	case []byte:
		return a
	case int:
		return strconv.AppendInt(nil, int64(a), 10)
	case bool:
		return strconv.AppendBool(nil, a)
	case []string:
		return array(a)
	}
	panic(fmt.Sprintf("BUG: an argument of type %T", argument))
}

// array is an array's text (manual, "Array Input and Output Syntax"): every element in
// double quotes, so that none is taken for NULL.
func array(elements []string) []byte {
	escape := strings.NewReplacer(`"`, `\"`, `\`, `\\`)
	b := []byte{'{'}
	for i, e := range elements {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), escape.Replace(e)...), '"')
	}
	return append(b, '}')
}
