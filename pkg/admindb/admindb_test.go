package admindb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres"
	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// database is one that is laid out by queend, or by Queen and taken over.
func database(t testing.TB, queens bool) *pgconn.Config {
	t.Helper()
	ctx := context.Background()
	config, err := pgconn.ParseConfig(postgrestest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	if queens {
		fixture, err := os.ReadFile("../schema/testdata/queen-0.15.sql")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgconn.ConnectConfig(ctx, config.Copy())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, string(fixture)).ReadAll(); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close(ctx)
	}
	if _, err := schema.Migrate(ctx, config, func(schema.Progress) {}); err != nil {
		t.Fatal(err)
	}
	return config
}

func open(t testing.TB, o Options) *Pool {
	t.Helper()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(context.Background()) })
	return p
}

// call has work done and waits for it.
func call(t testing.TB, p *Pool, work func(*Session)) {
	t.Helper()
	done := make(chan struct{})
	if !p.Do(func(s *Session) { defer close(done); work(s) }) {
		t.Fatal("refused")
	}
	<-done
}

func TestEveryAdministrativeStatementIsUnderstoodByPostgreSQL(t *testing.T) {
	for _, queens := range []bool{false, true} {
		conn, err := pgconn.ConnectConfig(context.Background(), database(t, queens))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range schema.Names() {
			if !strings.HasPrefix(name, "admin_") {
				continue
			}
			// Queen's payload is jsonb; the statement for the other kind is not sent there.
			if queens && name == "admin_redrive_restore" || !queens && name == "admin_redrive_restore_jsonb" {
				continue
			}
			if _, err := conn.Prepare(context.Background(), name, schema.Statement(name), nil); err != nil {
				t.Errorf("%s (Queen's %v): %v", name, queens, err)
			}
		}
		_ = conn.Close(context.Background())
	}
}

func TestArgumentsArriveAsTheyAre(t *testing.T) {
	p := open(t, Options{Conn: database(t, false)})
	call(t, p, func(s *Session) {
		queues := []string{"", "plain", `a"b\c{},`, "NULL", "ä\n"}
		if err := s.Transaction(func() error {
			_, err := s.Rows("push_queues", queues)
			return err
		}); err != nil {
			t.Error(err)
		}
		for _, q := range queues {
			if rows, err := s.Rows("admin_queue_lock", q); err != nil || len(rows) != 1 || len(rows[0][0]) != 36 {
				t.Errorf("%q: %q %v", q, rows, err)
			}
		}
		rows, err := s.Rows("admin_messages_groups", nil, nil, nil, []byte("x"))
		if err != nil || string(rows[0][0]) != "f" || string(rows[0][1]) != "0" {
			t.Errorf("%q %v", rows, err)
		}
	})
}

func TestATransactionIsAllOrNothing(t *testing.T) {
	p := open(t, Options{Conn: database(t, false)})
	there := func(s *Session, name string) bool {
		rows, err := s.Rows("admin_queue_lock", name)
		if err != nil {
			t.Error(err)
		}
		return len(rows) == 1
	}
	call(t, p, func(s *Session) {
		mine := errors.New("mine")
		if err := s.Transaction(func() error {
			if _, err := s.Rows("push_queues", []string{"no"}); err != nil {
				return err
			}
			return mine
		}); err != mine || there(s, "no") {
			t.Errorf("%v, kept: %v", err, there(s, "no"))
		}
		// An error of PostgreSQL's: what it said, and the connection is of use again.
		err := s.Transaction(func() error {
			_, err := s.Rows("admin_message", "no uuid", "t")
			return err
		})
		var refusal *Error
		if !errors.As(err, &refusal) || refusal.SQLState() != "22P02" || refusal.Error() != `invalid input syntax for type uuid: "no uuid"` {
			t.Errorf("%#v", err)
		}
		if err := s.Transaction(func() error {
			_, err := s.Rows("push_queues", []string{"yes"})
			return err
		}); err != nil || !there(s, "yes") {
			t.Errorf("%v", err)
		}
	})
}

func TestADeadlockIsTriedAgain(t *testing.T) {
	config := database(t, false)
	config.RuntimeParams["deadlock_timeout"] = "20ms"
	p := open(t, Options{Conn: config})
	call(t, p, func(s *Session) {
		if _, err := s.Rows("push_queues", []string{"a", "b"}); err != nil {
			t.Error(err)
		}
	})
	var met, all sync.WaitGroup
	met.Add(2)
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		all.Add(1)
		if !p.Do(func(s *Session) {
			defer all.Done()
			first := true
			err := s.Transaction(func() error {
				if _, err := s.Rows("admin_queue_lock", order[0]); err != nil {
					return err
				}
				if first {
					first = false
					met.Done()
					met.Wait() // each holds what the other wants
				}
				_, err := s.Rows("admin_queue_lock", order[1])
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}) {
			t.Fatal("refused")
		}
	}
	all.Wait()
	if n := p.Stats().Retried.Load(); n == 0 {
		t.Error("nothing was tried again")
	}
}

// deaf is a connection that has ended when the answer to a COMMIT is to be read.
type deaf struct {
	net.Conn
	sent atomic.Bool
}

func (c *deaf) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("COMMIT\x00")) {
		c.sent.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *deaf) Read(b []byte) (int, error) {
	if c.sent.Load() {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

func TestACommitWhoseAnswerIsLostIsInDoubt(t *testing.T) {
	config := database(t, false)
	dial := config.DialFunc
	lost := config.Copy()
	lost.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return &deaf{Conn: conn}, err
	}
	made := func(s *Session) error {
		_, err := s.Rows("push_queues", []string{"q"})
		return err
	}
	call(t, open(t, Options{Conn: lost}), func(s *Session) {
		var refusal *Error
		if err := made(s); !isInDoubt(err) || errors.As(err, &refusal) {
			t.Errorf("%v", err)
		}
	})
	// What is not sent is not done.
	call(t, open(t, Options{Conn: config}), func(s *Session) {
		ctx, cancel := context.WithCancel(s.ctx)
		s.ctx = ctx
		if err := s.Transaction(func() error { defer cancel(); return made(s) }); err == nil || isInDoubt(err) {
			t.Errorf("%v", err)
		}
	})
}

// PostgreSQL's last word on a COMMIT is final when it goes on.
func TestACommitThatIsRefusedIsNotInDoubt(t *testing.T) {
	config := database(t, false)
	conn, err := pgconn.ConnectConfig(context.Background(), config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	f := func(plpgsql, state string, inDoubt bool) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), `CREATE OR REPLACE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN `+plpgsql+`; RETURN NULL; END $$;
			DROP TRIGGER IF EXISTS late ON queen.queues;
			CREATE CONSTRAINT TRIGGER late AFTER INSERT ON queen.queues DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()`).ReadAll(); err != nil {
			t.Fatal(err)
		}
		call(t, open(t, Options{Conn: config}), func(s *Session) {
			_, err := s.Rows("push_queues", []string{"q"})
			var refusal *Error
			if said := errors.As(err, &refusal); err == nil || isInDoubt(err) != inDoubt || said == inDoubt || said && refusal.State != state {
				t.Errorf("%s: %v", plpgsql, err)
			}
		})
	}
	f(`RAISE EXCEPTION 'no'`, "P0001", false)
	f(`RAISE EXCEPTION 'who knows' USING ERRCODE = '40003'`, "", true)
	f(`PERFORM pg_terminate_backend(pg_backend_pid())`, "", true)
}

func isInDoubt(err error) bool {
	var doubt *InDoubt
	return errors.As(err, &doubt) && doubt.MayBeDone()
}

func TestCallsAreBounded(t *testing.T) {
	p := open(t, Options{Conn: &pgconn.Config{RuntimeParams: map[string]string{}}, Connections: 2, WaitingMax: 3})
	var held, all sync.WaitGroup
	release := make(chan struct{})
	held.Add(2)
	all.Add(5)
	for range 2 {
		if !p.Do(func(*Session) { held.Done(); <-release; all.Done() }) {
			t.Fatal("refused")
		}
	}
	held.Wait()
	for range 3 {
		if !p.Do(func(*Session) { all.Done() }) {
			t.Fatal("refused below the bound")
		}
	}
	if p.Do(func(*Session) { t.Error("this was refused") }) {
		t.Error("taken beyond the bound")
	}
	stats := p.Stats()
	if got := fmt.Sprint(stats.Calls.Load(), stats.Refused.Load(), stats.Waiting.Load(), stats.Working.Load()); got != "5 1 3 2" {
		t.Errorf("counted %s", got)
	}
	close(release)
	all.Wait()
}

func TestCloseFinishesWhatWasTakenAndRefusesTheRest(t *testing.T) {
	p, err := Open(Options{Conn: &pgconn.Config{RuntimeParams: map[string]string{}}})
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Int64
	for range 20 {
		p.Do(func(*Session) { done.Add(1) })
	}
	p.Close(context.Background())
	if done.Load() != 20 || p.Do(func(*Session) {}) {
		t.Errorf("%d calls were finished", done.Load())
	}
	p.Close(context.Background()) // again does no harm
}

func TestCloseBreaksOffWhatTakesTooLong(t *testing.T) {
	p, err := Open(Options{Conn: database(t, false)})
	if err != nil {
		t.Fatal(err)
	}
	locked, broken := make(chan struct{}), make(chan error, 1)
	hold := make(chan struct{})
	call(t, p, func(s *Session) {
		if _, err := s.Rows("push_queues", []string{"q"}); err != nil {
			t.Error(err)
		}
	})
	p.Do(func(s *Session) {
		broken <- s.Transaction(func() error {
			_, err := s.Rows("admin_queue_lock", "q")
			close(locked)
			<-hold
			if err == nil {
				_, err = s.Rows("admin_queue_lock", "q")
			}
			return err
		})
	})
	<-locked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	closed := make(chan struct{})
	go func() { p.Close(ctx); close(closed) }()
	<-p.ctx.Done()
	close(hold)
	<-closed
	var refusal *Error
	if err := <-broken; err == nil || errors.As(err, &refusal) {
		t.Errorf("%v", err)
	}
}

// ownServer is a PostgreSQL that a test may stop, with our tables.
func ownServer(t *testing.T) (*postgres.Server, *pgconn.Config) {
	t.Helper()
	server := postgrestest.Own(t, map[string]string{"fsync": "off"})
	text, _ := postgrestest.DatabaseOn(t, server)
	config, err := pgconn.ParseConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(context.Background(), config, func(schema.Progress) {}); err != nil {
		t.Fatal(err)
	}
	return server, config
}

func TestPostgreSQLMayGoAndComeBack(t *testing.T) {
	server, config := ownServer(t)
	p := open(t, Options{Conn: config, Connections: 1})
	ask := func() (err error) {
		call(t, p, func(s *Session) { _, err = s.Rows("admin_queue_lock", "q") })
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err == nil {
		t.Error("answered without PostgreSQL")
	}
	if err := server.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(time.Minute); ; {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}

// pausing is a connection whose server hangs from when it is to be sent a text.
type pausing struct {
	net.Conn
	at    string
	pause func()
}

func (c *pausing) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(c.at)) {
		c.pause()
	}
	return c.Conn.Write(b)
}

// PostgreSQL hangs, and whoever waits for an answer has one all the same: also whose call
// has to wait for its turn. It is in doubt if the COMMIT was sent, and not done otherwise.
func TestACallThatIsWaitedForEndsWhilePostgreSQLHangs(t *testing.T) {
	server, config := ownServer(t)
	resume := func() {
		if err := server.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	others := open(t, Options{Conn: config})
	sql := func(sql string) (rows [][][]byte) {
		t.Helper()
		call(t, others, func(s *Session) {
			if err := s.Transaction(func() (err error) { rows, err = s.rows(sql, nil); return err }); err != nil {
				t.Error(err)
			}
		})
		return rows
	}
	write := func(p *Pool, within time.Duration) error {
		t.Helper()
		ended := make(chan error, 1)
		if !p.DoWithin(within, func(s *Session) {
			_, err := s.Rows("system_state_write", "maintenance_mode", true)
			ended <- err
		}) {
			t.Fatal("refused")
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(CallTimeout / 2):
			resume()
			t.Fatal("it is not answered while PostgreSQL hangs")
			return nil
		}
	}

	f := func(at string, inDoubt bool) {
		t.Helper()
		sql(`DELETE FROM queen.system_state`)
		hangs := config.Copy()
		hangs.RuntimeParams["application_name"] = "hangs"
		var paused atomic.Bool // once is enough
		hangs.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := config.DialFunc(ctx, network, address)
			return &pausing{Conn: conn, at: at, pause: func() {
				if paused.Swap(true) {
					return
				}
				if err := server.Pause(); err != nil {
					t.Error(err)
				}
			}}, err
		}
		p := open(t, Options{Conn: hangs, Connections: 1})
		// A machine that is busy may need longer to come as far as that.
		for within := 250 * time.Millisecond; !paused.Load(); within *= 2 {
			if err := write(p, within); err == nil || paused.Load() && isInDoubt(err) != inDoubt {
				t.Errorf("%s: %v", at, err)
			}
		}
		// All calls that are worked on wait for PostgreSQL: the next one's turn does not come.
		begun, ended := make(chan struct{}), make(chan struct{})
		p.Do(func(s *Session) { close(begun); _, _ = s.Rows("system_state_read"); close(ended) })
		<-begun
		if err := write(p, time.Millisecond); err == nil || isInDoubt(err) {
			t.Errorf("waiting: %v", err)
		}
		resume()
		<-ended
		p.Close(context.Background())
		for len(sql(`SELECT FROM pg_stat_activity WHERE application_name = 'hangs-admin'`)) > 0 {
		}
		if rows := sql(`SELECT FROM queen.system_state`); len(rows) > 0 && !inDoubt {
			t.Errorf("%s: it was done", at)
		}
	}
	f("BEGIN", false)
	f("queen.system_state", false)
	f("COMMIT\x00", true)
}

func TestACallThatIsWaitedForIsMadeOnce(t *testing.T) {
	p, err := Open(Options{Conn: &pgconn.Config{RuntimeParams: map[string]string{}}, Connections: 2, WaitingMax: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var made atomic.Int64
	for range 1000 {
		if !p.DoWithin(time.Microsecond, func(*Session) { made.Add(1) }) {
			t.Fatal("refused")
		}
	}
	p.Close(context.Background())
	if n := made.Load(); n != 1000 {
		t.Errorf("%d calls were made of 1000", n)
	}
	if p.DoWithin(time.Microsecond, func(*Session) { t.Error("the pool is closed") }) {
		t.Error("taken after Close")
	}
}

func TestAResultIsBounded(t *testing.T) {
	p := open(t, Options{Conn: database(t, false)})
	call(t, p, func(s *Session) {
		sql := `SELECT repeat('x', 1 << 20) FROM generate_series(1, $1::integer)`
		for n, want := range map[string]error{"3": nil, "70": ErrTooLarge} {
			err := s.Transaction(func() error {
				rows, err := s.rows(sql, [][]byte{[]byte(n)})
				if err == nil && (len(rows) != 3 || len(rows[0][0]) != 1<<20) {
					t.Errorf("%d rows", len(rows))
				}
				return err
			})
			if err != want {
				t.Errorf("%s MiB: %v", n, err)
			}
		}
		// The connection is of use again.
		if _, err := s.Rows("admin_queue_lock", "q"); err != nil {
			t.Error(err)
		}
	})
}

// What a pooler refuses at the start of a connection is not sent there.
func TestSettingsAreMadeInEachTransaction(t *testing.T) {
	config := database(t, false)
	for _, name := range []string{"default_transaction_isolation", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		config.RuntimeParams[name] = "refused"
	}
	config.RuntimeParams["timezone"], config.RuntimeParams["synchronous_commit"] = "Asia/Tokyo", "off"
	p := open(t, Options{Conn: config, StatementTimeout: 3 * time.Second})
	call(t, p, func(s *Session) {
		if err := s.Transaction(func() error {
			rows, err := s.rows(`SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout'),
				current_setting('timezone'), current_setting('synchronous_commit'), current_setting('transaction_isolation'))`, nil)
			if err == nil && string(rows[0][0]) != "3s 3s 5s UTC on read committed" {
				t.Errorf("%s", rows[0][0])
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}
