package postgrestest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func ask(t *testing.T, connString, query string) (answer string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	conn, err := pgx.Connect(ctx, connString)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, query).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestEachTestHasAnEmptyUTF8Database(t *testing.T) {
	one, two := Database(t), Database(t)
	if a, b := ask(t, one, "SELECT current_database()"), ask(t, two, "SELECT current_database()"); a == b {
		t.Errorf("both are %s", a)
	}
	if got := ask(t, one, "SELECT getdatabaseencoding()"); got != "UTF8" {
		t.Errorf("the encoding is %s", got)
	}
	if got := ask(t, one, "SELECT count(*)::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"); got != "0" {
		t.Errorf("there are %s tables", got)
	}
}

func TestDatabasesAreDroppedAtTheEndOfTheirTest(t *testing.T) {
	var name string
	t.Run("using", func(t *testing.T) {
		name = ask(t, Database(t), "SELECT current_database()")
	})
	if got := ask(t, Shared(t).ConnString("postgres"), "SELECT count(*)::text FROM pg_database WHERE datname = '"+name+"'"); got != "0" {
		t.Errorf("%s is still there", name)
	}
}

func TestNoGoroutineRunsForAServer(t *testing.T) {
	defer goleak.VerifyNone(t)
	Database(t)
	Own(t, map[string]string{"fsync": "off"})
}

func TestOwnServerSpeaksTLSOnLoopback(t *testing.T) {
	server, root := OwnTLS(t, map[string]string{"fsync": "off"})
	f := func(mode, ssl string) {
		t.Helper()
		got := ask(t, server.TCPConnString("postgres")+" "+mode, "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
		if got != ssl {
			t.Errorf("%s: ssl is %s", mode, got)
		}
	}
	f("sslmode=verify-full sslrootcert='"+root+"'", "true")
	f("sslmode=require", "true")
	f("sslmode=disable", "false")
}

func TestTCPAsksForThePassword(t *testing.T) {
	server := OwnTCP(t, map[string]string{"fsync": "off"})
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	_, err := pgx.Connect(ctx, server.TCPConnString("postgres")+" sslmode=disable password=wrong")
	if err == nil {
		t.Error("a wrong password was taken")
	}
	if got := ask(t, server.TCPConnString("postgres")+" sslmode=disable", "SELECT 'in'"); got != "in" {
		t.Errorf("got %q", got)
	}
}
