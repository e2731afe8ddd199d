package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/pkg/postgres"
	"github.com/queend/queend/pkg/schema"
)

// world is what a run needs and removes again: a directory, a PostgreSQL, the
// binaries and the servers. It is used by one goroutine.
type world struct {
	dir     string
	root    string // of the source tree
	pg      *postgres.Server
	db      *pgx.Conn // for truncating and counting; idle while something is measured
	fleet   *fleet
	foreign []*server // that somebody else has started
	given   string    // a queend binary to use instead of building one
	set     settings
	env     []string // of every server
}

// pgSettings differ from PostgreSQL's defaults in nothing that makes a commit
// cheaper. A checkpoint comes before each measurement and, by these, not during it.
var pgSettings = map[string]string{
	"max_connections":    "400",
	"shared_buffers":     "512MB",
	"max_wal_size":       "8GB",
	"checkpoint_timeout": "1h",
}

// newWorld starts PostgreSQL. close undoes everything, also after an error.
func newWorld(ctx context.Context, c common) (*world, error) {
	dir, err := os.MkdirTemp(c.dir, "queend-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, given: c.queend, set: settings{}, fleet: &fleet{}}
	maps.Copy(w.set, pgSettings)
	maps.Copy(w.set, c.set)
	for name, value := range c.env {
		w.env = append(w.env, name+"="+value)
	}
	if err := w.open(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) open(ctx context.Context) error {
	// PostgreSQL may run under another uid, which must pass this directory.
	if err := os.Chmod(w.dir, 0o711); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/queend/queend").Output()
	if err != nil {
		return fmt.Errorf("cannot find queend's source, run this in bench/: %w", err)
	}
	w.root = strings.TrimSpace(string(out))
	w.pg, err = postgres.Start(ctx, postgres.Options{
		Dir:       filepath.Join(w.dir, "postgres"),
		Settings:  w.set,
		Throwaway: true,
		Log:       func(sentence string) { say("%s", sentence) },
	})
	if err != nil {
		return err
	}
	if w.db, err = pgx.Connect(ctx, w.pg.ConnString("postgres")); err != nil {
		return err
	}
	// queend would do it at its start; done here, any arm can be the first.
	_, err = schema.Migrate(ctx, &w.db.Config().Config, nil)
	return err
}

// close stops what was started, newest first, and removes the directory.
func (w *world) close() {
	for _, s := range slices.Backward(w.fleet.servers) {
		if err := s.stop(); err != nil {
			say("%v", err)
		}
	}
	for _, s := range w.foreign {
		if s.db != nil {
			_ = s.db.Close(context.Background())
		}
	}
	if w.db != nil {
		_ = w.db.Close(context.Background())
	}
	if w.pg != nil {
		if err := w.pg.Stop(); err != nil {
			say("%v", err)
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		say("%v", err)
	}
}

// build compiles a command of the tree and returns the binary's path.
func (w *world) build(ctx context.Context, name, dir, pkg string) (string, error) {
	binary := filepath.Join(w.dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build %s: %w\n%s", name, err, out)
	}
	return binary, nil
}

func (w *world) buildQueend(ctx context.Context) (string, error) {
	if w.given != "" {
		return filepath.Abs(w.given)
	}
	return w.build(ctx, "queend", w.root, "./cmd/queend")
}

func (w *world) buildBaseline(ctx context.Context) (string, error) {
	return w.build(ctx, "baseline", filepath.Join(w.root, "bench"), "./baseline")
}

// empty removes every message and writes a checkpoint, so that each measurement
// begins with the same table and owes nothing to the one before.
func (w *world) empty(ctx context.Context) error {
	if _, err := w.db.Exec(ctx, "TRUNCATE queen.messages CASCADE"); err != nil {
		return fmt.Errorf("cannot empty the table: %w", err)
	}
	if _, err := w.db.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("cannot write a checkpoint: %w", err)
	}
	return nil
}

// stored compares what clients were told with what is in the table, of the queues that
// they pushed to and since a moment: ids answered that are no row, and rows that nobody
// was told of. Without a database nothing can be said, and 0 is.
func (s *server) stored(ctx context.Context, queues []string, began time.Time, answered []load.ID) (missing, untold int64, err error) {
	if s.db == nil {
		return 0, 0, nil
	}
	// Nothing of a queue can be older than its push: a push is stamped by PostgreSQL's
	// clock, or later.
	rows, err := s.db.Query(ctx, `SELECT m.id FROM queen.messages m
		WHERE m.created_at >= $2 AND m.partition_id IN
			(SELECT p.id FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = ANY ($1))`, queues, began)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read the messages back: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read the messages back: %w", err)
	}
	missing, untold = compare(answered, there)
	return missing, untold, nil
}

// clock is PostgreSQL's.
func (s *server) clock(ctx context.Context) (now time.Time, err error) {
	if s.db != nil {
		err = s.db.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now)
	}
	return now, err
}

// compare counts the ids that only one side has. An id that was answered twice is
// missing once: one row cannot be two messages.
func compare(answered []load.ID, there [][16]byte) (missing, untold int64) {
	left := make(map[[16]byte]int, len(there))
	for _, id := range there {
		left[id]++
	}
	for _, id := range answered {
		if left[id] == 0 {
			missing++
			continue
		}
		left[id]--
	}
	for _, n := range left {
		untold += int64(n)
	}
	return missing, untold
}

// count is the number of messages stored.
func (w *world) count(ctx context.Context) (n int64, err error) {
	err = w.db.QueryRow(ctx, "SELECT count(*) FROM queen.messages").Scan(&n)
	return n, err
}

// wal is how many bytes of WAL were ever written.
func (s *server) wal(ctx context.Context) (n int64, err error) {
	if s.db != nil {
		err = s.db.QueryRow(ctx, "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8").Scan(&n)
	}
	return n, err
}

// flush is the median time of an 8 KiB write and fdatasync on the disk that holds
// the WAL: the floor under every commit.
func (w *world) flush() (time.Duration, error) {
	f, err := os.CreateTemp(w.dir, "flush-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 8192)
	took := make([]time.Duration, 101)
	for i := range took {
		start := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// postgresFacts are the version, and what differs from PostgreSQL's defaults or
// decides what a commit costs.
func (w *world) postgresFacts(ctx context.Context) (PostgreSQL, error) {
	p := PostgreSQL{Settings: map[string]string{}}
	if err := w.db.QueryRow(ctx, "SELECT version()").Scan(&p.Version); err != nil {
		return p, err
	}
	rows, err := w.db.Query(ctx, `SELECT name, current_setting(name) FROM pg_settings
		WHERE source NOT IN ('default', 'override', 'client') AND name !~ '^(lc_|log_|unix_|TimeZone|DateStyle|port$|default_text)'
		   OR name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'wal_level', 'commit_delay', 'data_checksums')`)
	if err != nil {
		return p, err
	}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		p.Settings[name] = value
		return nil
	})
	return p, err
}

// commit names the source that was measured; dirty means that files differ from it. Of a
// binary that was given it is what that says of itself.
func (w *world) commit(ctx context.Context) (hash string, dirty bool) {
	if w.given != "" {
		out, err := exec.CommandContext(ctx, w.given, "version").Output()
		if err != nil {
			return "unknown", false
		}
		return strings.TrimPrefix(strings.TrimSpace(string(out)), "queend "), false
	}
	out, err := exec.CommandContext(ctx, "git", "-C", w.root, "rev-parse", "HEAD").Output()
	if err != nil {
		return "unknown", false
	}
	changed, err := exec.CommandContext(ctx, "git", "-C", w.root, "status", "--porcelain", "--untracked-files=no").Output()
	return strings.TrimSpace(string(out)), err != nil || len(changed) > 0
}

var errNotReady = errors.New("the server was not ready in time")
