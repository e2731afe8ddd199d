package asyncdb

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/postgres"
	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// The tests of this file speak to a real PostgreSQL over real loops. None of them
// expects anything within a time: guard and patience are far away.

func TestPushesAreStored(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	s := newStage(t, connString, 2)
	one, two := s.pusher(0), s.pusher(1)
	a := one.push("orders/p/1", "orders/p/2", "billing/p/1")
	a.is("queued queued queued")
	b := two.push("orders/p/2", "orders/p/3", "orders/p/3")
	b.is("duplicate queued duplicate")
	if b.op.Items[0].WinnerID != a.op.Items[1].ID || b.op.Items[2].WinnerID != b.op.Items[1].ID {
		t.Error("the winner is another")
	}
	c := s.crowd(16)
	c.more(300)
	c.end()
	if n := len(storedMessages(t, connString)); n != 3+len(c.heard) {
		t.Errorf("%d messages", n)
	}
	for said := range c.says {
		if said != "queued" {
			t.Errorf("%v", c.says)
		}
	}
	if h := s.db.Health(); !h.OK() || h.Lanes != 2 || h.LastError != "" {
		t.Errorf("%+v", h)
	}
}

func TestALargePushGoesAloneAndWhole(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	s := newStage(t, connString, 1)
	p := s.pusher(0)
	var items []string
	for i := range 5000 {
		items = append(items, fmt.Sprintf("q/p/%d", i))
	}
	c := p.push(items...)
	if c.outcome() != strings.TrimSpace(strings.Repeat("queued ", 5000)) {
		t.Error(c.op.Fault)
	}
	if got := string(ask(t, connString, "SELECT count(DISTINCT created_at)::text || ' ' || count(*) FROM queen.messages")[0][0]); got != "1 5000" {
		t.Errorf("moments and messages: %s", got)
	}
}

func TestSessionsAreAsTheyShouldBe(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t)) // of a server with synchronous_commit = off
	var log logBuffer
	f := func(late bool) {
		t.Helper()
		db, err := Open(Config{ConnString: connString, Log: newLog(&log)})
		if err != nil {
			t.Fatal(err)
		}
		db.lateSettings.Store(late)
		ctx, cancel := context.WithTimeout(context.Background(), guard)
		defer cancel()
		pc, settings, err := db.start(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer closeNow(pc.PgConn)
		if lax, _, err := db.setUp(ctx, pc.PgConn, settings); err != nil || !lax {
			t.Fatal(lax, err)
		}
		for name, want := range map[string]string{
			"timezone": "UTC", "client_encoding": "UTF8", "statement_timeout": "1500ms",
			"lock_timeout": "500ms", "idle_in_transaction_session_timeout": "1500ms", "application_name": "queend",
			"default_transaction_isolation": "read committed", "client_connection_check_interval": "500ms",
		} {
			r := pc.Exec(ctx, "SHOW "+name)
			results, err := r.ReadAll()
			if err != nil {
				if name == "client_connection_check_interval" {
					continue // before PostgreSQL 14
				}
				t.Fatal(err)
			}
			if got := string(results[0].Rows[0][0]); got != want {
				t.Errorf("%s is %q (late: %v)", name, got, late)
			}
		}
	}
	f(false)
	f(true)
	if n := strings.Count(log.String(), "synchronous_commit is off"); n != 2 { // once per Database
		t.Errorf("it was said %d times", n)
	}
}

// What the session has set itself no reload of the server's configuration changes (manual,
// section "Parameter Interaction via SQL"), which nobody would see.
func TestASessionStaysAsDurableAsItBegan(t *testing.T) {
	connString, _ := postgrestest.DatabaseOn(t, postgrestest.Own(t, map[string]string{"fsync": "off", "synchronous_commit": "on"}))
	var log logBuffer
	db, err := Open(Config{ConnString: connString, Log: newLog(&log)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	pc, late, err := db.start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(pc.PgConn)
	if lax, _, err := db.setUp(ctx, pc.PgConn, late); err != nil || lax {
		t.Fatal(lax, err)
	}
	results, err := pc.Exec(ctx, "SELECT setting || ' by the ' || source FROM pg_settings WHERE name = 'synchronous_commit'").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(results[0].Rows[0][0]); got != "on by the session" {
		t.Errorf("synchronous_commit is %s", got)
	}
}

// TestCommitsAreDurable looks from inside the transactions of a server that would not
// wait for the disk.
func TestCommitsAreDurable(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	ask(t, connString, `CREATE TABLE seen (mode text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
		CREATE TRIGGER see AFTER INSERT ON queen.messages FOR EACH STATEMENT EXECUTE FUNCTION see()`)
	s := newStage(t, connString, 1)
	s.pusher(0).push("q/p/1").is("queued")
	s.pusher(0).push("q/p/1", "q/p/2").is("duplicate queued")
	if got := string(ask(t, connString, "SELECT string_agg(mode, ' ') FROM seen")[0][0]); got != "on on" {
		t.Errorf("synchronous_commit was %s", got)
	}
}

// TestStartUpParametersThatAPoolerRefuses: a proxy that refuses what PgBouncer refuses.
func TestStartUpParametersThatAPoolerRefuses(t *testing.T) {
	server := postgrestest.Shared(t)
	connString := migrate(t, postgrestest.Database(t))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var refused, taken atomic.Int64
	p := newProxy(t, nil)
	p.listener.Close() // its accept loop is not wanted
	p.wait.Add(1)
	go func() {
		defer p.wait.Done()
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			backend := pgproto3.NewBackend(c, c)
			m, err := backend.ReceiveStartupMessage()
			if err != nil {
				c.Close()
				continue
			}
			start := m.(*pgproto3.StartupMessage)
			known := true
			for name := range start.Parameters {
				known = known && (name == "user" || name == "database" || name == "client_encoding" || name == "timezone" || name == "application_name")
			}
			if !known {
				refused.Add(1)
				backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "unsupported startup parameter: statement_timeout"})
				_ = backend.Flush()
				c.Close()
				continue
			}
			taken.Add(1)
			onward, err := throughSocket(server)()
			if err != nil {
				c.Close()
				continue
			}
			b, _ := start.Encode(nil)
			_, _ = onward.Write(b)
			p.mu.Lock()
			p.conns[c], p.conns[onward] = true, true
			p.mu.Unlock()
			p.wait.Add(2)
			go p.carry(c, onward, toServer)
			go p.carry(onward, c, toLane)
		}
	}()
	t.Cleanup(func() { listener.Close() })
	through := fmt.Sprintf("%s host=127.0.0.1 port=%d sslmode=disable", connString, listener.Addr().(*net.TCPAddr).Port)
	s := newStage(t, through, 1)
	s.pusher(0).push("q/p/1").is("queued")
	ask(t, connString, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'queend'")
	until(t, "the connection is lost", func() bool { return s.sum(func(s *Stats) *atomic.Uint64 { return &s.Losses }) > 0 })
	s.pusher(0).push("q/p/2").is("queued")
	if refused.Load() != 1 || taken.Load() < 2 {
		t.Errorf("%d refused, %d taken: what was learnt is forgotten", refused.Load(), taken.Load())
	}
}

// TestKilledBackendsAreInvisible ends the lanes' server processes again and again while
// clients push. No client may notice, and each message is stored once.
func TestKilledBackendsAreInvisible(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	s := newStage(t, connString, 2)
	s.well()
	c := s.crowd(16)
	for range 8 {
		before := s.sum(func(s *Stats) *atomic.Uint64 { return &s.Losses })
		ask(t, connString, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'queend'")
		until(t, "a connection is lost", func() bool { return s.sum(func(s *Stats) *atomic.Uint64 { return &s.Losses }) > before })
		c.more(20)
	}
	c.end()
	c.check(connString)
	for said := range c.says {
		if said != "queued" {
			t.Errorf("%v", c.says)
		}
	}
}

func TestCancelledStatementsAreTriedAgain(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	s := newStage(t, connString, 1)
	s.pusher(0).push("q/p/1").is("queued")
	// A row lock holds the push up until it is cancelled; then the lock is let go.
	held := hold(t, connString, "SELECT 1 FROM queen.partition_lookup FOR UPDATE")
	done := s.pusher(0).start("q/p/2")
	until(t, "the push was cancelled", func() bool {
		ask(t, connString, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'queend' AND wait_event_type = 'Lock'")
		return s.sum(func(s *Stats) *atomic.Uint64 { return &s.Retries }) > 0
	})
	held()
	(<-done).is("queued")
	if n := s.sum(func(s *Stats) *atomic.Uint64 { return &s.Losses }); n != 0 {
		t.Errorf("%d connections were lost", n)
	}
}

func TestALockThatIsNotLetGoEndsBeforeTheDeadline(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	s := newStage(t, connString, 1)
	s.pusher(0).push("q/p/1").is("queued")
	held := hold(t, connString, "SELECT 1 FROM queen.partition_lookup FOR UPDATE")
	defer held()
	// The store's own time-outs are patient; this push's deadline is not.
	s.within = 500 * time.Millisecond
	s.pusher(0).push("q/p/2").is("unavailable")
}

// hold runs SQL in a transaction that stays open until the returned function is called.
func hold(t *testing.T, connString, sql string) func() {
	t.Helper()
	conn := connect(t, connString)
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	if _, err := conn.Exec(ctx, "BEGIN; "+sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
	return func() {
		conn.Close(ctx)
		cancel()
	}
}

func TestTablesThatAreMissing(t *testing.T) {
	connString := postgrestest.Database(t)
	s := newStage(t, connString, 1)
	s.sick("42P01")
	s.pusher(0).push("q/p/1").is("unavailable")
	migrate(t, connString)
	s.well()
	s.pusher(0).push("q/p/1").is("queued")
	if n := strings.Count(s.log.String(), "queend migrate apply"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	// And while we run.
	ask(t, connString, "ALTER TABLE queen.messages RENAME TO hidden")
	done := s.pusher(0).start("q/p/2")
	s.sick("42P01")
	ask(t, connString, "ALTER TABLE queen.hidden RENAME TO messages")
	(<-done).is("queued")
	s.well()
}

func TestAChangedTableMakesPlansAnew(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	s := newStage(t, connString, 1)
	p := s.pusher(0)
	for i := range 10 {
		p.push(fmt.Sprintf("q/p/a%d", i)).is("queued")
	}
	ask(t, connString, "ALTER TABLE queen.messages ALTER COLUMN payload TYPE jsonb USING payload::jsonb")
	p.push("q/p/b").is("queued")
	ask(t, connString, "ALTER TABLE queen.partition_lookup ADD COLUMN more int")
	p.push("q/p/c").is("queued")
}

func TestStatementsThatAPoolerForgets(t *testing.T) {
	connString := migrate(t, postgrestest.Database(t))
	s := newStage(t, connString, 1)
	p := s.pusher(0)
	p.push("q/p/1").is("queued")
	// DEALLOCATE ALL can only be run in the lane's own session: a trigger does it.
	ask(t, connString, `CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN NULL; END $$;
		CREATE TRIGGER forget AFTER INSERT ON queen.messages FOR EACH STATEMENT EXECUTE FUNCTION forget()`)
	for i := range 5 {
		p.push(fmt.Sprintf("q/p/a%d", i)).is("queued")
	}
	if !strings.Contains(s.log.String(), "sent whole") {
		t.Errorf("the pooler was not noticed:\n%s", s.log.String())
	}
	if n := s.sum(func(s *Stats) *atomic.Uint64 { return &s.Losses }); n != 1 {
		t.Errorf("%d connections for it", n)
	}
}

// TestSetUpErrors: each is seen, said, and over when it is mended, without a restart.
func TestSetUpErrors(t *testing.T) {
	server := postgrestest.Shared(t)
	_, missing := connString(t, postgrestest.Database(t))

	t.Run("no such database", func(t *testing.T) {
		name := missing + "_later"
		s := newStage(t, server.ConnString(name), 1)
		s.sick("3D000")
		s.pusher(0).push("q/p/1").is("unavailable")
		ask(t, server.ConnString("postgres"), "CREATE DATABASE "+name)
		t.Cleanup(func() { ask(t, server.ConnString("postgres"), "DROP DATABASE "+name+" WITH (FORCE)") })
		migrate(t, server.ConnString(name))
		s.well()
		s.pusher(0).push("q/p/1").is("queued")
	})

	t.Run("a role without rights", func(t *testing.T) {
		own := migrate(t, postgrestest.Database(t))
		role := "r_" + missing
		ask(t, own, "CREATE ROLE "+role+" LOGIN")
		t.Cleanup(func() { ask(t, own, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
		s := newStage(t, own+" user="+role, 1)
		s.sick("42501")
		s.pusher(0).push("q/p/1").is("unavailable")
		ask(t, own, "GRANT ALL ON SCHEMA queen TO "+role+"; GRANT ALL ON ALL TABLES IN SCHEMA queen TO "+role)
		s.well()
		s.pusher(0).push("q/p/1").is("queued")
	})

	t.Run("too many connections", func(t *testing.T) {
		own := migrate(t, postgrestest.Database(t))
		role := "c_" + missing
		ask(t, own, "CREATE ROLE "+role+" LOGIN CONNECTION LIMIT 1; GRANT ALL ON SCHEMA queen TO "+role+"; GRANT ALL ON ALL TABLES IN SCHEMA queen TO "+role)
		t.Cleanup(func() { ask(t, own, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
		taken := connect(t, own+" user="+role) // the only connection; nothing else has this role yet
		s := newStage(t, own+" user="+role, 1)
		s.sick("53300")
		s.pusher(0).push("q/p/1").is("unavailable")
		taken.Close(context.Background())
		s.well() // whenever the server has noticed
		s.pusher(0).push("q/p/1").is("queued")
	})

	t.Run("read-only", func(t *testing.T) {
		own := migrate(t, postgrestest.Database(t))
		_, name := connString(t, own)
		ask(t, own, "ALTER DATABASE "+name+" SET default_transaction_read_only = on")
		s := newStage(t, own, 1)
		s.sick("25006")
		s.pusher(0).push("q/p/1").is("unavailable")
		ask(t, own+" options='-c default_transaction_read_only=off'", "ALTER DATABASE "+name+" RESET default_transaction_read_only")
		s.well()
		s.pusher(0).push("q/p/1").is("queued")
	})
}

// TestAServerOfItsOwn does to a server what the shared one must not suffer.
func TestAServerOfItsOwn(t *testing.T) {
	server, root := postgrestest.OwnTLS(t, map[string]string{"fsync": "off", "max_connections": "40", "shared_buffers": "16MB"})
	tcp := func(name, more string) string { return server.TCPConnString(name) + " " + more }
	ctx, cancel := context.WithTimeout(context.Background(), 5*guard)
	defer cancel()
	check := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	impatient := func(c *Config) {
		c.FailoverTimeout, c.ConnectTimeout, c.ProbeAfter = time.Second, time.Second, time.Second/4
	}

	t.Run("TLS", func(t *testing.T) {
		_, name := postgrestest.DatabaseOn(t, server)
		own := migrate(t, tcp(name, "sslmode=verify-full sslrootcert='"+root+"'"))
		s := newStage(t, own, 2)
		c := s.crowd(8)
		c.more(100)
		if got := string(ask(t, own, "SELECT string_agg(DISTINCT ssl::text, ',') FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name = 'queend'")[0][0]); got != "true" {
			t.Errorf("encrypted: %s", got)
		}
		for range 3 {
			before := s.sum(func(s *Stats) *atomic.Uint64 { return &s.Losses })
			ask(t, own, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'queend'")
			until(t, "a connection is lost", func() bool { return s.sum(func(s *Stats) *atomic.Uint64 { return &s.Losses }) > before })
			c.more(20)
		}
		var items []string
		for i := range 5000 { // far more than the buffers of the relay
			items = append(items, fmt.Sprintf("large/p/%d", i))
		}
		if big := s.pusher(0).push(items...); !strings.HasPrefix(big.outcome(), "queued queued") {
			t.Error(big.op.Fault)
		}
		c.end()
		for said := range c.says {
			if said != "queued" {
				t.Errorf("%v", c.says)
			}
		}
	})

	t.Run("a certificate that is not trusted", func(t *testing.T) {
		s := newStage(t, tcp("postgres", "sslmode=verify-full"), 1)
		s.sick("")
		if h := s.db.Health(); !strings.Contains(h.LastError, "certificate") {
			t.Error(h.LastError)
		}
		s.pusher(0).push("q/p/1").is("unavailable")
	})

	t.Run("a wrong password", func(t *testing.T) {
		own, name := postgrestest.DatabaseOn(t, server)
		migrate(t, own)
		// A role for this alone, so that nothing but its password can keep it out.
		ask(t, own, "CREATE ROLE p LOGIN SUPERUSER PASSWORD 'right'")
		s := newStage(t, tcp(name, "sslmode=disable user=p password=wrong"), 1)
		s.sick("28P01")
		s.pusher(0).push("q/p/1").is("unavailable")
		if log := s.log.String(); strings.Contains(log, "wrong'") || strings.Count(log, "check PG_USER and PG_PASSWORD") != 1 {
			t.Error(log)
		}
		ask(t, own, "ALTER ROLE p PASSWORD 'wrong'")
		s.well()
		s.pusher(0).push("q/p/1").is("queued")
	})

	t.Run("cut anywhere", func(t *testing.T) { cutAnywhere(t, server) })
	t.Run("slow and overloaded", func(t *testing.T) { slowAndOverloaded(t, server) })

	t.Run("restarted, killed and paused under load", func(t *testing.T) {
		own, _ := postgrestest.DatabaseOn(t, server)
		migrate(t, own)
		s := newStage(t, own, 2, impatient)
		s.well()
		c := s.crowd(8)
		c.more(50)

		check(t, server.Restart(ctx))
		c.more(50)

		check(t, server.Kill())
		s.sick("")
		s.pusher(0).push("crowd/0/while-it-is-dead").is("unavailable")
		check(t, server.Restart(ctx))
		c.more(50)

		check(t, server.Pause())
		// One lane knows before the other, which may yet find that it is slow.
		until(t, "no lane has a connection", func() bool { return s.db.Health().Connected == 0 })
		for _, p := range []*pusher{s.pusher(0), s.pusher(1)} {
			p.push("crowd/0/while-it-sleeps").is("unavailable")
		}
		check(t, server.Resume())
		c.more(50)
		c.end()
		c.check(own)
		s.well()
	})

	t.Run("several hosts", func(t *testing.T) { severalHosts(t, server) })
}

// throughSocket dials the server's Unix socket, on which it trusts whom it lets in: no
// password costs time.
func throughSocket(server *postgres.Server) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		return net.Dial("unix", fmt.Sprintf("%s/.s.PGSQL.%d", server.SocketDir(), server.Port()))
	}
}

// cutAnywhere cuts the lane's connection at every boundary of the protocol's messages
// and at many other bytes, in both directions, with an end and with a reset; each push is
// stored exactly once and its client hears `queued` and the stored id.
func cutAnywhere(t *testing.T, server *postgres.Server) {
	_, name := postgrestest.DatabaseOn(t, server)
	own := migrate(t, server.ConnString(name))
	p := newProxy(t, throughSocket(server))
	s := newStage(t, fmt.Sprintf("%s host=127.0.0.1 port=%d sslmode=disable", server.ConnString(name), p.port()), 1)
	one := s.pusher(0)
	one.push("warm/up/first").is("queued")

	// Each push is into a partition of its own, so that it has two steps.
	p.arm(toServer, 1<<30, false)
	one.push("cut/measured/second").is("queued")
	_, seen := p.disarm()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	sent, wanted := make(map[string]*call), 0
	n := 0
	cut := func(way direction, after int) {
		n++
		wanted++
		p.arm(way, after, n%2 == 0)
		transaction := fmt.Sprintf("t%d", n)
		c := one.push("cut/p" + transaction + "/" + transaction)
		if c.outcome() != "queued" {
			t.Fatalf("cut %d after %d bytes: %s %v", way, after, c.outcome(), c.op.Fault)
		}
		sent[transaction] = c
	}
	for way := range seen {
		at := boundaries(seen[way])
		for _, after := range at[:len(at)-1] {
			cut(direction(way), after)
		}
		for range 15 {
			cut(direction(way), random.IntN(len(seen[way])))
		}
	}
	if cuts, _ := p.disarm(); cuts < wanted*9/10 {
		t.Errorf("only %d of %d cuts were made", cuts, wanted)
	}
	stored := storedMessages(t, own)
	for transaction, c := range sent {
		if ids := stored[transaction]; len(ids) != 1 || ids[0] != uuidText(c.op.Items[0].WinnerID) {
			t.Errorf("%s is stored as %v, and its client heard %x", transaction, ids, c.op.Items[0].WinnerID)
		}
	}
	if len(stored) != n+2 {
		t.Errorf("%d messages are stored of %d", len(stored), n+2)
	}
}

// slowAndOverloaded puts half a second between the lane and the server and offers more
// than fits: the surplus is refused, what waits is bounded, nothing is lost, and when
// the way is short again everything is taken.
func slowAndOverloaded(t *testing.T, server *postgres.Server) {
	_, name := postgrestest.DatabaseOn(t, server)
	own := migrate(t, server.ConnString(name))
	p := newProxy(t, throughSocket(server))
	s := newStage(t, fmt.Sprintf("%s host=127.0.0.1 port=%d sslmode=disable", server.ConnString(name), p.port()), 1, func(c *Config) {
		c.FailoverTimeout, c.HungAfter = 2*time.Second, 1900*time.Millisecond
		c.BatchRowsMax, c.BacklogBytesMax = 20, 1<<20
	})
	s.well()
	one := s.pusher(0)
	one.push("crowd/0/while-it-is-fast").is("queued")
	p.delay.Store(int64(250 * time.Millisecond)) // each way
	stats := s.stores[0].Stats()
	c := s.crowd(200)
	until(t, "some are refused", func() bool {
		if held := stats.HeldBytes.Load(); held > 1<<20 {
			t.Errorf("%d bytes are held", held)
		}
		return stats.Overloaded.Load() > 200
	})
	c.more(60) // and others get through
	p.delay.Store(0)
	c.more(300)
	c.end()
	c.check(own)
}

// severalHosts changes which of two servers can be written to.
func severalHosts(t *testing.T, one *postgres.Server) {
	two := postgrestest.Own(t, map[string]string{"fsync": "off", "max_connections": "20", "shared_buffers": "16MB"})
	_, name := postgrestest.DatabaseOn(t, one)
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	if err := two.CreateDatabase(ctx, name); err != nil {
		t.Fatal(err)
	}
	migrate(t, one.ConnString(name))
	migrate(t, two.ConnString(name))
	readOnly := func(s *postgres.Server, mode string) {
		t.Helper()
		conn := connect(t, s.ConnString("postgres"))
		defer conn.Close(ctx)
		for _, sql := range []string{"ALTER SYSTEM SET default_transaction_read_only = " + mode, "SELECT pg_reload_conf()"} {
			if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "the setting is in force", func() bool {
			return string(ask(t, s.ConnString("postgres"), "SHOW default_transaction_read_only")[0][0]) == mode
		})
	}
	count := func(s *postgres.Server) string {
		return string(ask(t, s.ConnString(name), "SELECT count(*)::text FROM queen.messages")[0][0])
	}
	hosts := fmt.Sprintf("host=%s,%s port=%d,%d user=postgres dbname=%s", one.SocketDir(), two.SocketDir(), one.Port(), two.Port(), name)
	for _, attrs := range []string{"", " target_session_attrs=read-write"} {
		readOnly(one, "on")
		before := [2]string{count(one), count(two)}
		s := newStage(t, hosts+attrs, 1)
		s.pusher(0).push("q/p/1" + attrs).is("queued")
		if got := [2]string{count(one), count(two)}; got[0] != before[0] || got[1] == before[1] {
			t.Errorf("messages: %v, before: %v", got, before)
		}
		if attrs == "" {
			continue
		}
		// The roles change. A session that is open learns of its new role by the error of a
		// statement (25006); what was pushed then is stored by the other server. One of them
		// can be written to all the time: else a probe may find that nobody can.
		readOnly(one, "off")
		readOnly(two, "on")
		before = [2]string{count(one), count(two)}
		s.pusher(0).push("q/p/2" + attrs).is("queued")
		if got := [2]string{count(one), count(two)}; got[0] == before[0] || got[1] != before[1] {
			t.Errorf("messages: %v, before: %v", got, before)
		}
	}
	readOnly(one, "off")
}

// TestBothSidesMayWriteAtOnce: a server that sends more than all buffers hold before it
// reads a large push does not stand still, since the lane reads while it writes.
func TestBothSidesMayWriteAtOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const large = 8 << 20
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			c, err := listener.Accept()
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
			_ = c.(*net.TCPConn).SetWriteBuffer(64 << 10)
			if err := pretend(c, checkRow, ""); err != nil {
				return err
			}
			// The first bytes of the push are there: now send, and read nothing meanwhile.
			if _, err := readAll(c, 1); err != nil {
				return err
			}
			notice := encode(&pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: strings.Repeat("x", 100_000)})
			for sent := 0; sent < large; sent += len(notice) {
				if _, err := c.Write(notice); err != nil {
					return err
				}
			}
			_, err = io.CopyN(io.Discard, c, large) // and then the push
			return err
		}()
	}()
	s := newStage(t, fmt.Sprintf("host=127.0.0.1 port=%d user=u dbname=d sslmode=disable", listener.Addr().(*net.TCPAddr).Port), 1,
		func(c *Config) { c.ProbeAfter = patience }) // the first bytes are the push
	s.well()
	p := s.pusher(0)
	name := strings.Repeat("n", 200)
	var items []string
	for i := range 25_000 { // 2 × 400 bytes of names each, in the first step
		items = append(items, fmt.Sprintf("%s/%s%d/%d", name, name[:190], i, i))
	}
	done := p.start(items...)
	select {
	case err := <-served:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(guard):
		t.Fatal("both sides stand still")
	}
	until(t, "the lane has read it all", func() bool { return s.stores[0].Stats().Notices.Load() > large/100_100 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.stores[0].Close(ctx) // gives the push up
	(<-done).is("unavailable")
	s.stores = nil
}
