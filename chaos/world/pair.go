package world

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/pkg/postgres"
)

// Pair is a primary and a standby that has everything that the primary has said to be
// committed (PostgreSQL manual, "Synchronous Replication").
type Pair struct {
	Primary, Standby *postgres.Server
}

var pairs atomic.Int64

// Pair starts one, apart from the world's own PostgreSQL.
func (w *World) Pair(ctx context.Context) (p *Pair, err error) {
	p = &Pair{}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	name := fmt.Sprintf("pair-%d", pairs.Add(1))
	if p.Primary, err = w.postgres(ctx, filepath.Join(w.Dir, name+"-a")); err != nil {
		return p, err
	}
	dir := filepath.Join(w.Dir, name+"-b")
	if err = w.baseBackup(ctx, p.Primary, dir); err != nil {
		return p, err
	}
	if p.Standby, err = w.postgres(ctx, dir); err != nil {
		return p, err
	}
	return p, p.synchronous(ctx)
}

// baseBackup copies a server's data to dir/data, as a standby's of it (pg_basebackup -R).
func (w *World) baseBackup(ctx context.Context, of *postgres.Server, dir string) error {
	info, err := os.Stat(filepath.Join(of.Dir(), "data"))
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	binaries, err := postgres.Find()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(binaries.Dir, "pg_basebackup"),
		"-d", of.ConnString("postgres")+" application_name=standby", "-D", filepath.Join(dir, "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if os.Geteuid() != int(owner.Uid) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, text)
	}
	// Both have the same users, and so the same password.
	password, err := os.ReadFile(filepath.Join(of.Dir(), "password"))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "password")
	if err := os.WriteFile(path, password, 0o600); err != nil {
		return err
	}
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}

// synchronous lets commits of the primary wait for the standby from now on.
func (p *Pair) synchronous(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.Primary.ConnString("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// The setting is of this server alone: the standby's copy of the settings was made before.
	for _, statement := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return waitFor(ctx, "the standby does not follow, see "+p.Standby.LogPath(), func() (is bool, err error) {
		err = conn.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'`).Scan(&is)
		return is, err
	})
}

// URL reaches whichever of both takes writes.
func (p *Pair) URL(database string) string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d,127.0.0.1:%d/%s?sslmode=disable&target_session_attrs=read-write",
		postgres.User, p.Primary.Password(), p.Primary.Port(), p.Standby.Port(), database)
}

// Promote makes the standby a primary and waits until it is.
func (p *Pair) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.Standby.ConnString("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var done bool
	if err := conn.QueryRow(ctx, `SELECT pg_promote(true, 60)`).Scan(&done); err != nil || !done {
		return fmt.Errorf("the standby is not promoted (%v): %w", done, err)
	}
	return nil
}

// Demote makes the primary refuse writes while it runs on, and waits until the standby has
// all that was written. What was under way may still be committed until then.
func (p *Pair) Demote(ctx context.Context, database string) error {
	conn, err := pgx.Connect(ctx, p.Primary.ConnString(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, statement := range []string{`ALTER SYSTEM SET default_transaction_read_only = on`, `SELECT pg_reload_conf()`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return waitFor(ctx, "the primary's last transactions", func() (is bool, err error) {
		err = conn.QueryRow(ctx, `SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()`).Scan(&is)
		if err != nil || !is {
			return false, err
		}
		err = conn.QueryRow(ctx, `SELECT coalesce(bool_and(replay_lsn >= pg_current_wal_lsn()), false) FROM pg_stat_replication`).Scan(&is)
		return is, err
	})
}

// ReadOnly starts the primary again, so that it refuses writes.
func (p *Pair) ReadOnly(ctx context.Context) error {
	// Before it starts: nobody must find it writable for a moment.
	path := filepath.Join(p.Primary.Dir(), "data", "postgresql.auto.conf")
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString("default_transaction_read_only = 'on'\n")
	if err := file.Close(); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	return p.Primary.Restart(ctx)
}

// Stop stops both.
func (p *Pair) Stop() {
	for _, s := range []*postgres.Server{p.Standby, p.Primary} {
		if s != nil {
			_ = s.Resume()
			_ = s.Stop()
			_ = os.RemoveAll(s.Dir())
		}
	}
}

// waitFor polls until something is so, within Hang.
func waitFor(ctx context.Context, what string, is func() (bool, error)) error {
	for limit := time.Now().Add(Hang); ; {
		ok, err := is()
		if ok || err != nil {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("it took too long: %s", what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
