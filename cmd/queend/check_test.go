package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/pkg/check"
	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// checked runs queend check on a database.
func checked(t *testing.T, db string, args ...string) (code int, out, progress string) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"check"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "DATABASE_URL=" + db}
	var o, p strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &p
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), o.String(), p.String()
}

// sql runs statements.
func sql(t *testing.T, db, statements string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), neverHangs)
	defer cancel()
	conn, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, statements).ReadAll(); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

func TestCheckSaysByItsStatusWhatItFound(t *testing.T) {
	db := postgrestest.Database(t)
	if code, out, progress := checked(t, db); code != 2 || out != "" || !strings.Contains(progress, "queend migrate apply") {
		t.Errorf("no tables: exit %d: %s%s", code, out, progress)
	}
	if code, output := runToEnd(t, []string{"migrate", "apply"}, "DATABASE_URL="+db); code != 0 {
		t.Fatal(output)
	}
	sql(t, db, `SELECT queen.push_messages_v2('[{"queue":"q","partition":"p","payload":{},"transactionId":"t1"}]'::jsonb)`)
	if code, out, progress := checked(t, db); code != 0 || !strings.HasPrefix(out, "looked at 1 partitions, 1 messages, 0 cursors and 0 dead letters in ") || !strings.HasSuffix(out, ": nothing is wrong\n") || progress != "" {
		t.Errorf("healthy: exit %d: %s%s", code, out, progress)
	}
	sql(t, db, `INSERT INTO queen.partition_consumers (partition_id, worker_id) SELECT id, 'w' FROM queen.partitions`)
	code, out, progress := checked(t, db)
	if code != 1 || !strings.HasPrefix(out, `lease-without-expiry: queue "q" partition "p" (`) || !strings.HasSuffix(out, ": 1 findings\n") || !strings.Contains(progress, "contradictions") {
		t.Errorf("a finding: exit %d: %s%s", code, out, progress)
	}
	code, out, _ = checked(t, db, "--json")
	var report check.Report
	if err := json.Unmarshal([]byte(out), &report); code != 1 || err != nil || len(report.Findings) != 1 || report.Findings[0].Kind != check.LeaseWithoutExpiry || report.Cursors != 1 {
		t.Errorf("as JSON: exit %d, %v: %s", code, err, out)
	}
	for _, args := range [][]string{{"--nothing"}, {"--findings-max=x"}, {"--database-url=host=127.0.0.1 port=1 connect_timeout=5"}} {
		if code, out, progress := checked(t, db, args...); code != 2 || out != "" || progress == "" {
			t.Errorf("%v: exit %d: %s%s", args, code, out, progress)
		}
	}
	if code, out, _ := checked(t, db, "--help"); code != 0 || !strings.Contains(out, "Exit status: 0") || !strings.Contains(out, "--json") {
		t.Errorf("the manual: exit %d: %s", code, out)
	}
}
