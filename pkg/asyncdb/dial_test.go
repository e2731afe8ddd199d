package asyncdb

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// script is a server of our own for one connection after another. Each is given to
// serve and then closed.
func script(t *testing.T, serve func(c net.Conn)) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().(*net.TCPAddr).Port
}

// TestAStrangerOnThePort: whatever answers there, connecting fails and says so, and
// nothing else happens.
func TestAStrangerOnThePort(t *testing.T) {
	f := func(name, want string, settings string, serve func(c net.Conn)) {
		t.Helper()
		port := script(t, serve)
		s := newStage(t, fmt.Sprintf("host=127.0.0.1 port=%d user=u dbname=d sslmode=disable %s", port, settings), 1)
		s.sick("")
		if h := s.db.Health(); !strings.Contains(h.LastError, want) {
			t.Errorf("%s: %s", name, h.LastError)
		}
		s.pusher(0).push("q/p/1").is("unavailable")
	}
	say := func(what string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = pgproto3.NewBackend(c, c).ReceiveStartupMessage()
			_, _ = c.Write([]byte(what))
		}
	}
	f("HTTP", "body length", "", say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
	f("nothing", "cannot connect", "", say(""))
	f("a length without an end", "cannot connect", "", say("R\xff\xff\xff\xff"))
	f("another encoding", "does not speak UTF-8", "", func(c net.Conn) {
		b := pgproto3.NewBackend(c, c)
		_, _ = b.ReceiveStartupMessage()
		_, _ = c.Write(encode(&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "client_encoding", Value: "LATIN1"}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
		_, _ = b.Receive()
	})
	// pgconn takes the first row of an answer that has none.
	f("no rows", "cannot make sense", "target_session_attrs=primary", func(c net.Conn) {
		b := pgproto3.NewBackend(c, c)
		_, _ = b.ReceiveStartupMessage()
		_, _ = c.Write(encode(&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
		_, _ = b.Receive()
		_, _ = c.Write(encode(&pgproto3.RowDescription{}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 0")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
		_, _ = b.Receive()
	})
	// An answer to our own question that has another shape.
	f("other columns", "cannot set up", "", func(c net.Conn) {
		_ = pretend(c, func(string) []pgproto3.BackendMessage { return nil }, "")
	})
	f("settings refused", "42704", "", func(c net.Conn) {
		_ = pretend(c, nil, "current_setting('transaction_read_only')")
	})
	f("statements refused", "42704", "", func(c net.Conn) {
		_ = pretend(c, checkRow, "INSERT INTO queen.messages")
	})
	for _, setting := range []string{"default_transaction_read_only", "in_hot_standby"} {
		f(setting+" since it was asked", "read-only", "", func(c net.Conn) {
			_ = pretend(c, func(sql string) []pgproto3.BackendMessage {
				answer := checkRow(sql)
				if answer != nil {
					answer = append(answer, &pgproto3.ParameterStatus{Name: setting, Value: "on"})
				}
				return answer
			}, "")
		})
	}
	f("the end in the middle", "cannot", "", func(c net.Conn) {
		_ = pretend(c, func(sql string) []pgproto3.BackendMessage {
			if strings.Contains(sql, "transaction_read_only") {
				c.Close()
			}
			return nil
		}, "")
	})
}

// A server that was reached and is silent for a while is waited for; connect_timeout in the
// settings bounds that too.
func TestASilentServerIsWaitedFor(t *testing.T) {
	const timeout = 100 * time.Millisecond
	port := script(t, func(c net.Conn) {
		time.Sleep(3 * timeout) // the stall
		_ = pretend(c, checkRow, "")
	})
	connect := func(c Config) (time.Duration, error) {
		db := open(t, c)
		begun := time.Now()
		pc, _, err := db.start(context.Background())
		if err == nil {
			closeNow(pc.PgConn)
		}
		if !db.dials.reached && !db.config.impatient {
			t.Error("nobody hears that there is a server")
		}
		return time.Since(begun), err
	}
	c := Config{ConnString: fmt.Sprintf("host=127.0.0.1 port=%d user=u dbname=d sslmode=disable", port), ConnectTimeout: timeout}
	if took, err := connect(c); err != nil || took < 3*timeout {
		t.Errorf("after %v: %v", took, err)
	}
	given, err := pgconn.ParseConfig(c.ConnString)
	if err != nil {
		t.Fatal(err)
	}
	given.ConnectTimeout = timeout
	if _, err := connect(Config{Conn: given}); err == nil || !isSilence(err) {
		t.Errorf("with a connect_timeout: %v", err)
	}
}

// Whose server may be another next time, or who has another connection, is not patient; and
// the way to a server is waited for no longer than without patience.
func TestWhoIsPatient(t *testing.T) {
	const timeout = 2 * time.Second
	f := func(connString string, addresses []string, connected bool, want time.Duration) {
		t.Helper()
		db := open(t, Config{ConnString: connString, ConnectTimeout: timeout})
		if connected {
			db.lanes = append(db.lanes, laneConnected)
		}
		c := db.conn.Copy()
		var allowed time.Duration
		c.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			until, _ := ctx.Deadline()
			allowed = time.Until(until)
			return nil, nil
		}
		c.LookupFunc = func(context.Context, string) ([]string, error) { return addresses, nil }
		db.bePatient(c)
		if _, err := c.LookupFunc(context.Background(), "h"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), c.ConnectTimeout)
		defer cancel()
		if _, err := c.DialFunc(ctx, "tcp", "h"); err != nil {
			t.Fatal(err)
		}
		if c.ConnectTimeout != want || allowed > timeout || db.dials.reached != (want > timeout) {
			t.Errorf("%s at %v: an attempt may take %v, of that to get there %v; reached %v", connString, addresses, c.ConnectTimeout, allowed, db.dials.reached)
		}
	}
	f("host=h user=u", []string{"10.0.0.1"}, false, silentMax)
	f("host=h user=u", []string{"10.0.0.1:5432"}, false, silentMax)
	f("host=localhost user=u", []string{"::1", "127.0.0.1"}, false, silentMax)
	f("host=/tmp user=u", nil, false, silentUnixMax)
	f("host=/tmp user=u", nil, true, timeout)
	f("host=h user=u", []string{"10.0.0.1", "10.0.0.2"}, false, timeout)
	f("host=h user=u", []string{"127.0.0.1", "10.0.0.2"}, false, timeout)
	f("host=h user=u", []string{"10.0.0.1"}, true, timeout)
	f("host=h,i user=u", []string{"10.0.0.1"}, false, timeout)
	f("host=h user=u connect_timeout=2", []string{"10.0.0.1"}, false, timeout)
}

// TestAPoolerThatHandsSessionsAround has the statements prepared by somebody else
// already; they are sent whole then.
func TestAPoolerThatHandsSessionsAround(t *testing.T) {
	port := script(t, func(c net.Conn) { _ = pretendCode(c, checkRow, "FOR NO KEY UPDATE", duplicatePrepared) })
	db := open(t, Config{ConnString: fmt.Sprintf("host=127.0.0.1 port=%d user=u dbname=d sslmode=disable", port)})
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	s := db.newStore(Services{Now: func() time.Duration { return 0 }}, Work{NewBatch: func() Batch { return nil }, Prepare: []string{"push_lock"}})
	l, err := s.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l.nc.Close()
	if !l.inline {
		t.Error("they are taken for prepared")
	}
	if db.dials.reached {
		t.Error("a server that lets us in counts as silent")
	}
}

func TestStatementsAreSentWholeWhereTheyCannotBePrepared(t *testing.T) {
	r := newRig(t)
	r.inline = true
	r.open()
	a := r.push("q/p/1")
	r.pass()
	r.serve()
	a.is("queued")
	b := r.push("q/p/2")
	r.pass()
	if got := r.sent.Bytes()[0]; got != 'P' {
		t.Errorf("the step begins with %q", got)
	}
	r.serve()
	b.is("queued")
}

// checkRow answers our question about settings as PostgreSQL does.
func checkRow(sql string) []pgproto3.BackendMessage {
	if strings.Contains(sql, "transaction_read_only") {
		return []pgproto3.BackendMessage{&pgproto3.DataRow{Values: [][]byte{[]byte("off"), []byte("UTF8"), []byte("on"), []byte("on"), []byte("1")}}}
	}
	return nil
}

// pretend answers what a lane asks when it connects. rows gives the rows of a
// statement; the one that contains refuse fails, as all do that follow up to the Sync.
func pretend(c net.Conn, rows func(sql string) []pgproto3.BackendMessage, refuse string) error {
	return pretendCode(c, rows, refuse, "42704")
}

func pretendCode(c net.Conn, rows func(sql string) []pgproto3.BackendMessage, refuse, code string) error {
	b := pgproto3.NewBackend(c, c)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	syncs, sql, failed := 0, "", false
	for syncs < 2 { // the settings, the statements
		if err := b.Flush(); err != nil {
			return err
		}
		m, err := b.Receive()
		if err != nil {
			return err
		}
		if failed {
			if _, ok := m.(*pgproto3.Sync); !ok {
				continue
			}
		}
		switch m := m.(type) {
		case *pgproto3.Parse:
			sql = m.Query
			if refuse != "" && strings.Contains(sql, refuse) {
				failed = true
				b.Send(refusalOf("ERROR", code))
				continue
			}
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Describe:
			if m.ObjectType == 'S' {
				b.Send(&pgproto3.ParameterDescription{})
			}
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("a")}, {Name: []byte("b")}, {Name: []byte("c")}, {Name: []byte("d")}}})
		case *pgproto3.Execute:
			if rows != nil {
				for _, r := range rows(sql) {
					b.Send(r)
				}
			}
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		case *pgproto3.Sync:
			syncs++
			failed = false
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		default:
			return fmt.Errorf("an unexpected message: %T", m)
		}
	}
	return b.Flush()
}
