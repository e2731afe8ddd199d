package maintain

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// until waits for something to become true.
func until(t *testing.T, what string, true func() bool) {
	t.Helper()
	for limit := time.Now().Add(hang); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

func begin(t *testing.T, o Options) *Maintainer {
	t.Helper()
	m, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestEveryJobRunsAtTheStartAndAgainAfterItsInterval(t *testing.T) {
	d := fresh(t)
	moved := make(chan string, 10)
	m := begin(t, Options{Conn: d.config, RetentionInterval: 50 * time.Millisecond, EvictionInterval: 50 * time.Millisecond, ReconcileInterval: 50 * time.Millisecond,
		PartitionIdle: time.Hour, MetricsAge: time.Hour, Log: zerolog.New(zerolog.NewTestWriter(t)),
		Moved: func(queue string, _ [16]byte) { moved <- queue }})
	for id := range JobID(Jobs) {
		turns := map[bool]uint64{true: 1, false: 3}[id == Counts] // which has a longer interval
		until(t, id.String(), func() bool { return m.Stats(id).Turns.Load() >= turns })
	}
	d.push("q", "a", 1, 3)
	d.run(`UPDATE queen.queues SET retention_enabled = true, retention_seconds = 60`)
	d.age("a", 2, "2 minutes")
	until(t, "retention", func() bool { return m.Stats(Expired).Rows.Load() == 2 })
	d.insert("a", 1, 1)
	select {
	case queue := <-moved:
		if queue != "q" {
			t.Errorf("moved: %s", queue)
		}
	case <-time.After(hang):
		t.Error("the row inserted by hand was not found")
	}
	d.is("q|a", `SELECT queue_name, partition_name FROM queen.queend_changes ORDER BY at DESC LIMIT 1`)
	m.Close()
	m.Close()
	for id := range JobID(Jobs) {
		s := m.Stats(id)
		if s.Errors.Load() != 0 || s.Last.Load() == 0 || s.Nanos.Load() == 0 {
			t.Errorf("%s: %d errors, last %d, %d ns", id, s.Errors.Load(), s.Last.Load(), s.Nanos.Load())
		}
	}
}

func TestAJobWhoseIntervalIsZeroIsOff(t *testing.T) {
	d := fresh(t)
	m := begin(t, Options{Conn: d.config, EvictionInterval: time.Millisecond, Log: zerolog.New(zerolog.NewTestWriter(t))})
	until(t, "eviction", func() bool { return m.Stats(Eviction).Turns.Load() >= 3 })
	for id := range JobID(Jobs) {
		if n := m.Stats(id).Turns.Load(); id != Eviction && n != 0 {
			t.Errorf("%s: %d turns", id, n)
		}
	}
	none := begin(t, Options{Conn: d.config})
	none.Close()
}

func TestABatchHasBounds(t *testing.T) {
	for given, want := range map[int]int{-1: 7, 0: 7, 1: 1, BatchRowsMax: BatchRowsMax, BatchRowsMax + 1: BatchRowsMax} {
		if got := batch(given, 7); got != want {
			t.Errorf("%d: %d", given, got)
		}
	}
}

func TestAnOutageIsTwoLinesAndTheWorkGoesOn(t *testing.T) {
	server := postgrestest.Own(t, map[string]string{"fsync": "off"})
	connString, _ := postgrestest.DatabaseOn(t, server)
	config, err := pgconn.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	if _, err := schema.Migrate(ctx, config, nil); err != nil {
		t.Fatal(err)
	}
	var log lines
	m := begin(t, Options{Conn: config, ReconcileInterval: 20 * time.Millisecond, Log: zerolog.New(&log)})
	turns := func() uint64 { return m.Stats(Reconcile).Turns.Load() }
	until(t, "a turn", func() bool { return turns() > 0 })
	for outage := range 2 {
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		until(t, "away", func() bool { return log.count("PostgreSQL is away") == outage+1 })
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		until(t, "back", func() bool { return log.count("PostgreSQL is back") == outage+1 })
		n := turns()
		until(t, "more turns", func() bool { return turns() > n })
	}
	m.Close()
	if n := strings.Count(log.String(), "\n"); n != 4 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

func TestAClosedOneLeavesNothingOpen(t *testing.T) {
	d := fresh(t)
	d.push("q", "a", 1, 3)
	d.run(`UPDATE queen.queues SET retention_enabled = true, retention_seconds = 60`)
	d.age("a", 3, "2 minutes")
	// A statement of it waits for a lock when it is closed.
	d.run(`BEGIN; LOCK queen.messages IN ACCESS EXCLUSIVE MODE`)
	m := begin(t, Options{Conn: d.config, RetentionInterval: time.Hour, Log: zerolog.New(zerolog.NewTestWriter(t))})
	ctx := context.Background()
	other, err := pgx.ConnectConfig(ctx, d.conn.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	sessions := func(more string) (n int) {
		if err := other.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%-maintain'`+more).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	until(t, "it waits", func() bool {
		return sessions(` AND wait_event_type = 'Lock'`) == 1 || m.Stats(Expired).Yields.Load() > 0
	})
	m.Close()
	until(t, "its session ends", func() bool { return sessions("") == 0 })
	d.run(`ROLLBACK`)
	d.is("3", `SELECT count(*) FROM queen.messages`)
}

func TestAnErrorIsSaidOnce(t *testing.T) {
	d := fresh(t)
	d.run(`ALTER TABLE queen.messages_consumed RENAME TO gone`)
	var log lines
	m := begin(t, Options{Conn: d.config, RetentionInterval: 10 * time.Millisecond, MetricsAge: time.Hour, Log: zerolog.New(&log)})
	until(t, "errors", func() bool { return m.Stats(Metrics).Errors.Load() >= 3 })
	d.run(`ALTER TABLE queen.gone RENAME TO messages_consumed`)
	until(t, "it works", func() bool { return m.Stats(Metrics).Turns.Load() >= 1 })
	m.Close()
	if log.count("\n") != 1 || log.count("messages_consumed") != 1 || log.count(`"job":"metrics"`) != 1 {
		t.Errorf("said:\n%s", log.String())
	}
}

// Retention, eviction, rows by hand and two processes at once with pushes, duplicates of
// what is being deleted among them: numbers stay dense, order stays, nothing fails.
func TestNumbersStayTrueWhilePushesGoOn(t *testing.T) {
	d := fresh(t)
	d.run(`INSERT INTO queen.queues (name, retention_enabled, retention_seconds, max_wait_time_seconds) VALUES ('r', true, 1, 0), ('e', false, 0, 1)`)
	d.push("r", "pr0", 1, 1)
	d.push("e", "pe0", 1, 1)
	d.read("pe0", "g", 1)
	for range 2 {
		begin(t, Options{Conn: d.config, RetentionInterval: 5 * time.Millisecond, EvictionInterval: 5 * time.Millisecond, ReconcileInterval: 20 * time.Millisecond,
			RetentionBatchRows: 30, EvictionBatchRows: 30, shift: time.Second - 50*time.Millisecond, Log: zerolog.New(zerolog.NewTestWriter(t))})
	}
	var all sync.WaitGroup
	var failed sync.Map
	for worker := range 3 {
		conn, err := pgx.ConnectConfig(context.Background(), d.conn.Config())
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer conn.Close(context.Background())
			for i := range 100 {
				_, err := conn.Exec(context.Background(), `SELECT queen.push_messages_v2((SELECT jsonb_agg(jsonb_build_object('queue', q, 'partition', 'p' || q || i % 3, 'payload', i, 'transactionId', 't' || ($1::int / 2) || '-' || i)) FROM generate_series(1, 20) i, unnest('{r,e}'::text[]) q))`, i)
				if err != nil {
					failed.Store(worker, err)
				}
			}
		})
	}
	all.Wait()
	failed.Range(func(_, err any) bool { t.Errorf("a push failed: %v", err); return true })
	count := `SELECT count(*) FROM queen.messages m JOIN queen.partition_lookup l USING (partition_id) WHERE l.queue_name = 'r'`
	until(t, "all expired", func() bool { return d.run("%s", count) == "0" })
	d.is("", `SELECT * FROM (SELECT seq, max(seq) OVER (PARTITION BY partition_id ORDER BY created_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM queen.messages) x WHERE seq <= before`)
	d.dense()
}
