package asyncdb

import (
	"bytes"
	"crypto/tls"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

func open(t *testing.T, c Config) *Database {
	t.Helper()
	db, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestSessionsAreSetUp(t *testing.T) {
	db := open(t, Config{ConnString: "host=h user=u TimeZone=Europe/Rome STATEMENT_TIMEOUT=0 work_mem=8MB", FailoverTimeout: time.Second})
	f := func(name, want string) {
		t.Helper()
		if got := db.conn.RuntimeParams[name]; got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	f("timezone", "UTC")
	f("TimeZone", "") // the user's spelling would be a second value
	f("client_encoding", "UTF8")
	f("application_name", "queend")
	f("default_transaction_isolation", "read committed")
	f("statement_timeout", "750")
	f("STATEMENT_TIMEOUT", "")
	f("lock_timeout", "250")
	f("idle_in_transaction_session_timeout", "750")
	f("work_mem", "8MB")

	db = open(t, Config{ConnString: "host=h user=u application_name=mine", StatementTimeout: 700 * time.Millisecond})
	f("application_name", "mine")
	f("statement_timeout", "700")
	db = open(t, Config{ConnString: "host=h user=u fallback_application_name=mine"})
	f("application_name", "mine")
	f("fallback_application_name", "")
}

func TestTimeoutsStayBelowTheDeadline(t *testing.T) {
	var log bytes.Buffer
	db := open(t, Config{ConnString: "host=h user=u", StatementTimeout: 30 * time.Second, LockTimeout: 2 * time.Second, Log: zerolog.New(&log)})
	f := func(d, want time.Duration) {
		t.Helper()
		if d != want {
			t.Errorf("%v and not %v", d, want)
		}
	}
	f(db.config.StatementTimeout, 1500*time.Millisecond)
	f(db.config.LockTimeout, time.Second/2)
	f(db.config.HungAfter, 1750*time.Millisecond)
	f(db.config.IdleInTransactionTimeout, 1500*time.Millisecond)
	if n := strings.Count(log.String(), "must stay below"); n != 2 {
		t.Errorf("%s", log.String())
	}
}

func TestWhatLibpqKeepsForItselfIsNotSentToTheServer(t *testing.T) {
	const all = "keepalives=1 keepalives_idle=7 keepalives_interval=8 keepalives_count=9 tcp_user_timeout=1234 gssencmode=disable " +
		"sslcompression=0 load_balance_hosts=disable fallback_application_name=x sslmode=require ssl_min_protocol_version=TLSv1.3"
	db := open(t, Config{ConnString: "host=a,b port=1,2 user=u " + all})
	for name := range db.conn.RuntimeParams {
		if strings.Contains(" "+all, " "+name+"=") {
			t.Errorf("%s is sent", name)
		}
	}
	c := db.config
	if c.KeepaliveIdle != 7*time.Second || c.KeepaliveInterval != 8*time.Second || c.KeepaliveCount != 9 || c.UserTimeout != 1234*time.Millisecond || c.keepaliveOff {
		t.Errorf("%+v", c)
	}
	if db.conn.TLSConfig.MinVersion != tls.VersionTLS13 || db.conn.Fallbacks[0].TLSConfig.MinVersion != tls.VersionTLS13 {
		t.Error("the TLS version is not asked for")
	}
	if c := open(t, Config{ConnString: "user=u keepalives=0"}).config; !c.keepaliveOff {
		t.Error("keepalives are still on")
	}
	if c := open(t, Config{ConnString: "user=u connect_timeout=7"}); c.conn.ConnectTimeout != 7*time.Second {
		t.Error("connect_timeout is ignored")
	}
}

func TestSettingsThatCannotBeKeptAreRefused(t *testing.T) {
	f := func(settings string) {
		t.Helper()
		_, err := Open(Config{ConnString: "host=h user=u password=secret " + settings})
		if err == nil {
			t.Errorf("%s is taken", settings)
			return
		}
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", settings, err)
		}
	}
	f("sslcrl=/x")
	f("requirepeer=postgres")
	f("hostaddr=127.0.0.1")
	f("gssencmode=require")
	f("ssl_min_protocol_version=TLSv9")
	f("keepalives_idle=soon")
	f("target_session_attrs=any-old")
	f("port=zero")
	f("replication=database")
}

func TestOfSeveralHostsOneThatCanBeWrittenIsWanted(t *testing.T) {
	if db := open(t, Config{ConnString: "host=a,b user=u"}); db.conn.ValidateConnect == nil {
		t.Error("any is taken")
	}
	if db := open(t, Config{ConnString: "host=a user=u sslmode=disable"}); db.conn.ValidateConnect != nil {
		t.Error("a round trip more for nothing")
	}
}

func TestAGivenConfigurationIsCopied(t *testing.T) {
	given, err := pgconn.ParseConfig("host=a user=u")
	if err != nil {
		t.Fatal(err)
	}
	open(t, Config{Conn: given})
	if len(given.RuntimeParams) != 0 {
		t.Errorf("%v", given.RuntimeParams)
	}
}

func TestPureFilesImportNoDriver(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"conn.go": true, "dial.go": true, "config.go": true, "database.go": true}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || allowed[name] {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if strings.Contains(i.Path.Value, "jackc") {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
	}
}
