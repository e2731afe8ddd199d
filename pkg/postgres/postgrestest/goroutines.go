package postgrestest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// goroutinesEnd is how long the goroutines of a test may take to end. pgconn closes a
// connection that it has given up in a goroutine of its own, which may take 15 s.
const goroutinesEnd = 2 * time.Minute

// readsAhead is pgconn after a slow write: a goroutine that ends with the next answer, or
// with its connection, and the connection may be the test's own and open still.
var readsAhead = goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgconn/internal/bgreader.(*BGReader).bgRead")

// Main is TestMain of a room that talks to PostgreSQL: it runs the tests and fails when
// they pass and leave a goroutine.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		if err := leaked(options); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// NoGoroutines fails t when goroutines are left.
func NoGoroutines(t testing.TB, options ...goleak.Option) {
	t.Helper()
	if err := leaked(options); err != nil {
		t.Error(err)
	}
}

func leaked(options []goleak.Option) error {
	options = append(options, readsAhead)
	limit := time.Now().Add(goroutinesEnd)
	for {
		err := goleak.Find(options...)
		if err == nil || time.Now().After(limit) {
			return err
		}
	}
}
