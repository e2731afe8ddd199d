package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// run runs queend with arguments and environment until it ends.
func runToEnd(t *testing.T, args []string, env ...string) (code int, output string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	text, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(text)
}

func TestTheManualNamesEverySetting(t *testing.T) {
	code, help := runToEnd(t, []string{"--help"})
	if code != 0 {
		t.Fatalf("exit %d: %s", code, help)
	}
	names := map[string]bool{}
	collectNames(reflect.TypeFor[ServeCommand](), names)
	if len(names) < 25 {
		t.Errorf("only %d settings were found", len(names))
	}
	for name := range names {
		if name != "" && !strings.Contains(help, "$"+name) {
			t.Errorf("the manual does not name %s", name)
		}
	}
}

func TestASettingThatMakesNoSenseIsRefusedWithASentence(t *testing.T) {
	f := func(sentence string, args []string, env ...string) {
		t.Helper()
		code, output := runToEnd(t, args, env...)
		if code == 0 || !strings.Contains(output, sentence) {
			t.Errorf("%v %v: exit %d: %s", args, env, code, output)
		}
	}
	f("is not a whole number", nil, "PORT=10abc")
	f("is not a whole number", nil, "PORT=-1")
	f("is not a port", nil, "PORT=70000")
	f("neither true nor false", nil, "PG_USE_SSL=yes")
	f("neither true nor false", nil, "PG_USE_SSL=TRUE")
	f("at least one event loop", nil, "NUM_WORKERS=0")
	f("is none of trace", nil, "LOG_LEVEL=loud")
	f("64 hexadecimal digits", nil, "QUEEN_ENCRYPTION_KEY=abc")
	f("leaves no time", nil, "DB_FAILOVER_MS=5")
	f("not a loopback address", nil, "QUEEND_PPROF=0.0.0.0:6060")
	f("is not between", nil, "QUEEND_HEADER_BYTES_MAX=0")
	f("is not between", nil, "QUEEND_HEADER_BYTES_MAX=999999999")
	f("is not between", nil, "QUEEND_BODY_BYTES_MAX=0")
	f("unknown flag --prot", []string{"--prot", "1"})
	f("unexpected argument", []string{"dance"})
	f("will not run unprotected", nil, "JWT_ENABLED=true")
	f("will not run unprotected", nil, "JWT_ENABLED=TRUE") // Queen takes it for false
	f("will not run unprotected", nil, "JWT_ENABLED=1")
	f("at least 1", nil, "DEFAULT_BATCH_SIZE=0")
	f("at least 1", nil, "QUEEND_PARKED_POPS_MAX=0")
	f("at least 1", nil, "RETENTION_BATCH_SIZE=0")
	f("at least 1", nil, "EVICTION_BATCH_SIZE=0")
	f("at least 1", nil, "QUEEND_BACKLOG_BYTES_MAX=0")
	f("cannot read where PostgreSQL is", []string{"--port", "0", "--host", "127.0.0.1"}, "DATABASE_URL=postgres://u:secret@h/x?sslmode=nonsense")
}

func TestThereAreAsManyLoopsAsServeBest(t *testing.T) {
	for _, c := range []struct {
		asked, cores int
		here         bool
		want         int
	}{
		{1, 8, true, 1}, {8, 8, true, 8}, {8, 8, false, 8}, // as asked
		{10, 8, false, 8},
		{10, 8, true, 4}, {10, 3, true, 1}, {10, 1, true, 1}, {10, 1, false, 1},
	} {
		if got := loopCount(c.asked, c.cores, c.here); got != c.want {
			t.Errorf("%+v: %d loops", c, got)
		}
	}
	for connString, want := range map[string]bool{
		"host=localhost": true, "host=127.0.0.1": true, "host=/run/postgresql": true, "postgres://u@[::1]:5433/d": true, "postgres://u@127.0.0.2,/tmp/d": true,
		"host=db.example": false, "host=10.1.2.3": false, "host=localhost,db.example": false, "host=db.example,localhost": false, "postgres://u@h/x?sslmode=nonsense": false,
	} {
		if got := isHere(connString); got != want {
			t.Errorf("%s is here: %v", connString, got)
		}
	}
	var c ServeCommand
	c.Listener.Workers, c.Local.Postgres, c.URL = 1000, true, "host=db.example"
	if got := c.Loops(); got != max(runtime.GOMAXPROCS(0)/2, 1) {
		t.Errorf("%d loops beside a PostgreSQL of our own", got)
	}
}

func TestASecretIsNotEchoed(t *testing.T) {
	for _, env := range []string{"DATABASE_URL=postgres://u:hunter2@h/x?sslmode=nonsense", "QUEEN_ENCRYPTION_KEY=hunter2"} {
		if _, output := runToEnd(t, []string{"--port", "0", "--host", "127.0.0.1"}, env); strings.Contains(output, "hunter2") {
			t.Errorf("%s came out: %s", env, output)
		}
	}
}

func TestAnEmptySettingIsTheDefault(t *testing.T) {
	for _, name := range []string{"PORT", "HOST", "LOG_LEVEL", "QUEEND_LOG_FORMAT", "PG_USE_SSL", "PG_PASSWORD", "PG_DB", "DATABASE_URL"} {
		t.Setenv(name, "")
	}
	dropEmpty()
	c, _, err := parse([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	s := &c.Serve
	if s.Listener.Port != 6632 || s.Listener.Host != "0.0.0.0" || s.Logs.Level != "info" || s.Logs.Form != "auto" || s.UseSSL || s.Name != "postgres" || s.Password != "" {
		t.Errorf("%+v", s)
	}
}

func TestASystemdCredentialIsThePassword(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	d := Database{Host: "h", Port: 1, Name: "n", User: "u", Password: "other"}
	if got := d.ConnString(); !strings.Contains(got, "password='other'") {
		t.Error(got)
	}
	if err := os.WriteFile(filepath.Join(dir, "pg-password"), []byte("se cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := d.ConnString(); !strings.Contains(got, "password='se cret'") {
		t.Error(got)
	}
}

func TestALogLevelMayBeSpelledAsElsewhere(t *testing.T) {
	f := func(given, want string) {
		t.Helper()
		t.Setenv("LOG_LEVEL", given)
		if c, _, err := parse(nil); err != nil || c.Serve.Logs.Level != want {
			t.Errorf("%s: %v", given, err)
		}
	}
	f("INFO", "info")
	f("warning", "warn")
	f("Debug", "debug")
}

func TestAFlagWinsOverTheEnvironment(t *testing.T) {
	t.Setenv("PORT", "1")
	t.Setenv("PG_DB", "a")
	c, _, err := parse([]string{"--port", "2", "--dev"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Serve.Listener.Port != 2 || c.Serve.Name != "a" || !c.Serve.Logs.Dev {
		t.Errorf("%+v", c.Serve)
	}
}

func TestQueensNamesSayWherePostgreSQLIs(t *testing.T) {
	f := func(want string, d Database) {
		t.Helper()
		if got := d.ConnString(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	d := Database{Host: "h", Port: 1, Name: "n", User: "u", Password: `it's \`, Reject: true}
	f(`host='h' port='1' dbname='n' user='u' password='it\'s \\' sslmode='disable'`, d)
	d.UseSSL, d.Password = true, ""
	f(`host='h' port='1' dbname='n' user='u' password='' sslmode='require'`, d)
	d.Reject = false
	f(`host='h' port='1' dbname='n' user='u' password='' sslmode='prefer'`, d)
	d.URL = "postgres://x"
	f("postgres://x", d)
}

func TestNamesThatMeanNothingHereAreListedOnce(t *testing.T) {
	queens, unknown := ignored([]string{"DB_POOL_SIZE=1", "QUEEN_VEGAS_ALPHA=1", "PORT=1", "QUEEND_TYPO=1", "HOME=/", "QUEEND_PPROF=x", "DB_FAILOVER_MS=1", "DEFAULT_TTL=1", "QUEEN_PUSH_MAX_BATCH_SIZE=5"})
	if !slices.Equal(queens, []string{"DB_POOL_SIZE", "DEFAULT_TTL", "QUEEN_VEGAS_ALPHA"}) || !slices.Equal(unknown, []string{"QUEEND_TYPO"}) {
		t.Errorf("%v %v", queens, unknown)
	}
}

func TestMigrateSaysWhatItWouldDoAndDoesIt(t *testing.T) {
	db := "DATABASE_URL=" + postgrestest.Database(t)
	f := func(command, want string) {
		t.Helper()
		if code, output := runToEnd(t, []string{"migrate", command}, db); code != 0 || !strings.Contains(output, want) {
			t.Errorf("migrate %s: exit %d: %s", command, code, output)
		}
	}
	f("print", "CREATE TABLE")
	f("plan", "to do")
	f("plan", "to do")
	f("apply", "The database is ready: the tables were made")
	f("plan", "there is nothing to do")
	f("apply", "there was nothing to do")
}
