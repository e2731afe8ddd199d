// Package postgres is a PostgreSQL of our own beside queend: it finds the
// binaries, makes a private data directory that survives restarts, starts the
// server under a uid it accepts, and stops it. `queend --local-postgres` and the
// tests of every room that speaks to PostgreSQL use it.
//
// It is not a client and no pool (asyncdb, pooldb), it holds no schema (schema),
// and it never downloads or installs anything.
//
// What it promises:
//
//   - Durable: fsync and synchronous_commit are forced on unless Settings say
//     otherwise, and data checksums are on (initdb, PostgreSQL manual
//     "Reliability and the Write-Ahead Log").
//   - Private: a unix socket in a directory of mode 0700 and no TCP, unless asked
//     for. Who can reach the socket is trusted, which gives away nothing: only
//     the directory's owner and root pass it, and both could read the data files.
//     TCP, which every local user can reach, asks for a password (SCRAM).
//   - No orphan: a shell (supervise.sh) holds one end of a pipe and stops
//     PostgreSQL when the other end closes, also by kill -9 of us.
//   - One user: two queends never share a directory, and a start waits until the
//     last process of a killed predecessor has ended.
package postgres

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// User is the superuser that initdb makes and that connection strings name.
const User = "postgres"

// LogBytesMax bounds the server's log: a longer one is moved to postgres.log.1
// at the next start. In between it grows slowly, since failed statements are not
// written to it (their clients hear of them).
const LogBytesMax = 8 << 20

// socketPathBytesMax is what sockaddr_un.sun_path holds beside its closing NUL.
const socketPathBytesMax = 107

//go:embed supervise.sh
var supervise string

// Options say where a server lives and how it is set. Only Dir must be given.
type Options struct {
	// Dir holds everything that survives: data/, postgres.log, password, locks.
	// It is made with mode 0700 and given to the user the server runs as.
	Dir string

	// SocketDir holds the unix socket; it is made with mode 0700 if need be. By
	// default it is Dir, or a fresh directory in /tmp when Dir is too long for a
	// socket's path; that one is removed at the end.
	SocketDir string

	// TCP opens 127.0.0.1 as well. Port is the port, also of the socket's name;
	// by default 5432 without TCP (no clash: the socket is private) and a free
	// one with it. It stays the same through Restart.
	TCP  bool
	Port int

	// Settings are server settings (PostgreSQL manual, "Server Configuration").
	// They win over ours, and over the files in data/.
	Settings map[string]string

	// Files are written to Dir with mode 0600, owned by the server's user, before
	// it starts: certificates, a pg_hba.conf of one's own.
	Files map[string][]byte

	// Throwaway: when we are gone without Stop, remove Dir and all in it.
	Throwaway bool

	// Bin is the directory of the binaries; by default Find chooses.
	Bin string

	// Log hears of what changes, a sentence at a time. May be nil.
	Log func(sentence string)
}

// Server is one PostgreSQL, running or stopped. Methods may be called from any
// goroutine; Start, Restart, Stop and Kill wait for each other.
type Server struct {
	options Options
	owner   owner // who the server runs as
	sockets string
	private bool // sockets was made by us, and is removed by us
	port    int
	version int // major

	reserved *os.File // keeps the port ours while the server is stopped; may be nil

	mu  sync.Mutex
	run *run // nil: stopped
}

// run is one life of the server: from fork to the end of its last process.
type run struct {
	cmd      *exec.Cmd // the supervisor
	lifeline *os.File  // its end tells the supervisor that we are gone
	lock     *os.File  // held as long as we use Dir
	pid      int       // the postmaster

	reap sync.Once
	err  error
}

// Start starts the server of o.Dir, initialised at its first start, and waits
// until it answers. ctx bounds the start only. An error is one sentence for the
// person who typed the command.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{options: o}
	if s.options.Log == nil {
		s.options.Log = func(string) {}
	}
	var err error
	if s.options.Dir, err = filepath.Abs(o.Dir); err != nil || o.Dir == "" {
		return nil, fmt.Errorf("PostgreSQL needs a directory to keep its data in: %q", o.Dir)
	}
	if s.owner, err = chooseOwner(); err != nil {
		return nil, err
	}
	if err := s.owner.makeDir(s.options.Dir); err != nil {
		return nil, err
	}
	s.port = o.Port
	if s.port == 0 && !o.TCP {
		s.port = 5432
	}
	if s.port == 0 {
		if s.reserved, s.port, err = reservePort(); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Restart starts a stopped, killed or crashed server again: same directory, same
// socket, same port, so that connection strings stay valid. It stops a running
// one first.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stop(); err != nil {
		return err
	}
	return s.start(ctx)
}

func (s *Server) start(ctx context.Context) (err error) {
	lock, err := s.lockDir()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	// Inherited by every process of the server, so it is free when the last one
	// has ended: we wait here for what a killed predecessor left running.
	last, err := s.waitLast(ctx)
	if err != nil {
		return err
	}
	defer last.Close()

	bin, err := s.binaries()
	if err != nil {
		return err
	}
	if err := s.initialise(ctx, bin, last); err != nil {
		return err
	}
	if err := removeStalePid(s.dataDir()); err != nil {
		return err
	}
	if err := s.openSockets(); err != nil {
		return err
	}
	for name, content := range s.options.Files {
		if err := s.owner.writeFile(filepath.Join(s.options.Dir, name), content); err != nil {
			return err
		}
	}
	r, err := s.supervise(last, s.command(bin)...)
	if err != nil {
		s.closeSockets()
		return err
	}
	if err := s.waitReady(ctx, r); err != nil {
		r.stop()
		s.closeSockets()
		return err
	}
	r.lock = lock
	s.run = r
	s.options.Log(fmt.Sprintf("PostgreSQL %d is up: data in %s, socket in %s, log in %s, pid %d, user %s",
		s.version, s.dataDir(), s.sockets, s.LogPath(), r.pid, s.owner.name))
	return nil
}

// openSockets makes the directory of the unix socket, and clears away the socket
// of an earlier life: it is ours alone, and we hold its lock.
func (s *Server) openSockets() error {
	name := ".s.PGSQL." + strconv.Itoa(s.port)
	if s.sockets == "" {
		s.sockets = s.options.SocketDir
	}
	if s.sockets == "" && len(filepath.Join(s.options.Dir, name)) <= socketPathBytesMax {
		s.sockets = s.options.Dir
	}
	if s.sockets == "" {
		s.private = true
		// A random name: in /tmp a name that can be guessed can be taken.
		dir, err := os.MkdirTemp("/tmp", "queend-postgres-")
		if err != nil {
			return fmt.Errorf("cannot make a directory for PostgreSQL's socket: %w", err)
		}
		s.sockets = dir
	}
	if path := filepath.Join(s.sockets, name); len(path) > socketPathBytesMax {
		return fmt.Errorf("the socket's path %q is longer than the %d bytes a socket may have", path, socketPathBytesMax)
	}
	if err := s.owner.makeDir(s.sockets); err != nil {
		return err
	}
	for _, stale := range []string{name, name + ".lock"} {
		if err := os.Remove(filepath.Join(s.sockets, stale)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove a stale socket: %w", err)
		}
	}
	return nil
}

func (s *Server) closeSockets() {
	if s.private {
		os.RemoveAll(s.sockets)
	}
}

// supervise runs a program as a child of the supervisor, which stops it when we
// are gone.
func (s *Server) supervise(last *os.File, command ...string) (*run, error) {
	log, err := s.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make PostgreSQL's lifeline: %w", err)
	}
	defer theirs.Close()
	script, err := scriptPipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer script.Close()

	sockets, throwaway := "", ""
	if s.private {
		sockets = s.sockets
	}
	if s.options.Throwaway {
		throwaway = s.options.Dir
	}
	cmd := s.owner.command("/bin/sh", append([]string{"-s", "supervise", sockets, throwaway}, command...)...)
	cmd.Stdin = script
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs, last}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("cannot start %s: %w", command[0], err)
	}
	return &run{cmd: cmd, lifeline: ours}, nil
}

// scriptPipe is a pipe that holds the supervisor's script: on its command line the
// script would fill the screen of whoever lists processes.
func scriptPipe() (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe for PostgreSQL's supervisor: %w", err)
	}
	defer write.Close()
	// A pipe takes 64 KiB before it blocks (pipe(7)), or 4 KiB for a user who has
	// very many: the script is shorter than both.
	if _, err := write.WriteString(supervise); err != nil {
		read.Close()
		return nil, fmt.Errorf("cannot hand PostgreSQL's supervisor its script: %w", err)
	}
	return read, nil
}

// command is the postmaster's command line. Settings stand there since it wins
// over every file in data/.
func (s *Server) command(bin string) []string {
	settings := s.settings()
	command := []string{filepath.Join(bin, "postgres"), "-D", s.dataDir()}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		command = append(command, "-c", name+"="+settings[name])
	}
	return command
}

// settings are ours, and the caller's over them.
func (s *Server) settings() map[string]string {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": s.sockets,
		"unix_socket_permissions": "0700",
		"fsync":                   "on",
		"synchronous_commit":      "on",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		// Not ERROR: our duplicates are unique violations, told to the client that
		// asked. And no statement texts: they carry payloads.
		"log_min_messages":        "log",
		"log_min_error_statement": "panic",
	}
	if s.options.TCP {
		settings["listen_addresses"] = "127.0.0.1"
	}
	maps.Copy(settings, s.options.Settings)
	return settings
}

func (s *Server) openLog() (*os.File, error) {
	path := s.LogPath()
	if info, err := os.Stat(path); err == nil && info.Size() > LogBytesMax {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("cannot set PostgreSQL's log aside: %w", err)
		}
	}
	return s.owner.openFile(path, os.O_WRONLY|os.O_APPEND)
}

// waitReady waits until postmaster.pid says "ready" (its eighth line, written
// since PostgreSQL 10 when recovery has ended and connections are taken).
func (s *Server) waitReady(ctx context.Context, r *run) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pid, status := readPidFile(s.dataDir())
		if status == "ready" && pid > 0 && parentOf(pid) == r.cmd.Process.Pid {
			r.pid = pid
			return nil
		}
		if r.exited() {
			return fmt.Errorf("PostgreSQL did not start; the end of %s says: %s", s.LogPath(), s.logTail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL was not up in time, see %s: %w", s.LogPath(), ctx.Err())
		case <-tick.C:
		}
	}
}

// logTail is the end of the log, in one line.
func (s *Server) logTail() string {
	const bytesMax = 600
	log, err := os.ReadFile(s.LogPath())
	if err != nil {
		return err.Error()
	}
	if len(log) > bytesMax {
		log = log[len(log)-bytesMax:]
	}
	return strings.Join(strings.Fields(string(log)), " ")
}

// Stop disconnects everybody, writes a checkpoint, and waits until the last
// process has ended. A stopped server stays stopped: calling it again does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop()
}

func (s *Server) stop() error {
	r := s.run
	if r == nil {
		return nil
	}
	s.run = nil
	asked := !r.exited()
	err := r.stop()
	s.closeSockets()
	r.lock.Close()
	if asked && err != nil {
		return fmt.Errorf("PostgreSQL did not stop cleanly, see %s: %w", s.LogPath(), err)
	}
	s.options.Log("PostgreSQL is stopped: " + s.dataDir())
	return nil
}

// stop asks the supervisor to stop the server, and waits for both.
func (r *run) stop() error {
	r.lifeline.Write([]byte("stop\n")) // fails only when the supervisor has ended
	r.lifeline.Close()
	return r.wait()
}

// waitUntil waits for the end of a program that ends by itself, or stops it when
// ctx ends first.
func (r *run) waitUntil(ctx context.Context) error {
	defer r.lifeline.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !r.exited() {
		select {
		case <-ctx.Done():
			r.stop()
			return ctx.Err()
		case <-tick.C:
		}
	}
	return r.wait()
}

func (r *run) wait() error {
	r.reap.Do(func() { r.err = r.cmd.Wait() })
	return r.err
}

// exited looks without waiting and without reaping, so that wait still can.
func (r *run) exited() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, r.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return errors.Is(err, unix.ECHILD) || err == nil && info.Signo != 0
}

// Done returns a channel that is closed when this life of the server has ended,
// by Stop or by itself. After a crash, Restart brings it back.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	r := s.run
	s.mu.Unlock()
	done := make(chan struct{})
	if r == nil {
		close(done)
		return done
	}
	go func() {
		r.wait()
		close(done)
	}()
	return done
}

// Kill ends all processes of the server with SIGKILL, as a power cut would, and
// waits until they are gone. For tests.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.run
	if r == nil {
		return nil
	}
	if !r.exited() {
		// Stopped first, so that it cannot fork while we look. A backend that we
		// miss ends by itself: it notices that its postmaster is gone.
		syscall.Kill(r.pid, syscall.SIGSTOP)
		children := childrenOf(r.pid)
		syscall.Kill(r.pid, syscall.SIGKILL)
		for _, pid := range children {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	s.run = nil
	r.wait()
	r.lifeline.Close()
	last, err := s.waitLast(context.Background())
	s.closeSockets()
	r.lock.Close()
	if err != nil {
		return err
	}
	return last.Close()
}

// Pause stops all processes of the server (SIGSTOP): connections stay open and
// nothing answers. For tests.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on (SIGCONT).
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil || s.run.exited() {
		return errors.New("PostgreSQL is not running")
	}
	// The postmaster first: while it is stopped no backend is born. (When it goes
	// on, its children must be there to be found too, and they are.)
	if err := syscall.Kill(s.run.pid, sig); err != nil {
		return fmt.Errorf("cannot signal PostgreSQL: %w", err)
	}
	for _, pid := range childrenOf(s.run.pid) {
		syscall.Kill(pid, sig) // may have ended meanwhile
	}
	return nil
}

// ConnString is how to reach a database through the unix socket, as libpq and pgx
// read it.
func (s *Server) ConnString(database string) string {
	return "host=" + quote(s.sockets) + " port=" + strconv.Itoa(s.port) +
		" user=" + User + " dbname=" + quote(database) + " sslmode=disable"
}

// TCPConnString is how to reach a database through 127.0.0.1, with the password.
// It names no sslmode, so that the caller can add one.
func (s *Server) TCPConnString(database string) string {
	return "host=127.0.0.1 port=" + strconv.Itoa(s.port) + " user=" + User +
		" password=" + quote(s.Password()) + " dbname=" + quote(database)
}

// URL is ConnString as a URI, for DATABASE_URL.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(User), Path: "/" + database, RawQuery: url.Values{
		"host": {s.sockets}, "port": {strconv.Itoa(s.port)}, "sslmode": {"disable"},
	}.Encode()}
	return u.String()
}

// quote quotes a value of a libpq connection string (manual, "Connection Strings").
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// CreateDatabase makes an empty UTF-8 database, unless it is there.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgconn.Connect(ctx, s.ConnString("postgres"))
	if err != nil {
		return fmt.Errorf("cannot reach PostgreSQL to make database %q: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// template0: what somebody put in template1 is not ours.
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0 ENCODING 'UTF8'").ReadAll()
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42P04" { // duplicate_database
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot make database %q: %w", name, err)
	}
	return nil
}

// Password is the superuser's password for TCP.
func (s *Server) Password() string {
	password, err := os.ReadFile(filepath.Join(s.options.Dir, "password"))
	if err != nil {
		panic("BUG: a started server has a password: " + err.Error())
	}
	return strings.TrimSpace(string(password))
}

// Dir is the directory the server lives in, as an absolute path.
func (s *Server) Dir() string { return s.options.Dir }

// SocketDir is the host of connection strings: `psql -h` takes it.
func (s *Server) SocketDir() string { return s.sockets }

// Port is the port of the socket's name, and of 127.0.0.1 with TCP.
func (s *Server) Port() int { return s.port }

// LogPath is where the server writes its log.
func (s *Server) LogPath() string { return filepath.Join(s.options.Dir, "postgres.log") }

// Version is the major version of the server.
func (s *Server) Version() int { return s.version }

// Pid is the postmaster's, 0 when it is stopped.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return 0
	}
	return s.run.pid
}

func (s *Server) dataDir() string { return filepath.Join(s.options.Dir, "data") }

// binaries chooses the binaries: those of the data directory's version if there
// is one, since PostgreSQL reads no other major version's files.
func (s *Server) binaries() (string, error) {
	written := 0
	if text, err := os.ReadFile(filepath.Join(s.dataDir(), "PG_VERSION")); err == nil {
		written, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if s.options.Bin != "" {
		version, err := versionOf(s.options.Bin)
		if err != nil {
			return "", err
		}
		s.version = version
	} else {
		found, err := findVersion(written)
		if err != nil {
			return "", err
		}
		s.options.Bin, s.version = found.Dir, found.Version
	}
	if written != 0 && written != s.version {
		return "", fmt.Errorf("%s was written by PostgreSQL %d and the binaries in %s are version %d: install version %d, or move the directory away",
			s.dataDir(), written, s.options.Bin, s.version, written)
	}
	return s.options.Bin, nil
}

// initialise makes the data directory at the first start. It is made under
// another name and renamed when it is whole: what an interrupted initdb leaves
// is never taken for data.
func (s *Server) initialise(ctx context.Context, bin string, last *os.File) error {
	if _, err := os.Stat(filepath.Join(s.dataDir(), "PG_VERSION")); err == nil {
		return nil
	}
	s.options.Log("making PostgreSQL's data directory " + s.dataDir())
	password := filepath.Join(s.options.Dir, "password")
	if err := s.owner.writeFile(password, []byte(rand.Text()+"\n")); err != nil {
		return err
	}
	half := s.dataDir() + ".new"
	// Names sort by their bytes, on every machine and after every upgrade of its C
	// library. A machine without the character classes of C.UTF-8 does with C's.
	var err error
	for _, ctype := range []string{"C.UTF-8", "C"} {
		if err := os.RemoveAll(half); err != nil {
			return fmt.Errorf("cannot remove a half-made data directory: %w", err)
		}
		command := []string{filepath.Join(bin, "initdb"), "-D", half, "--username=" + User,
			"--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile=" + password, "--data-checksums",
			"--encoding=UTF8", "--lc-collate=C", "--lc-ctype=" + ctype, "--lc-messages=C"}
		if s.options.Settings["fsync"] == "off" {
			command = append(command, "--no-sync")
		}
		var r *run
		if r, err = s.supervise(last, command...); err != nil {
			return err
		}
		if err = r.waitUntil(ctx); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make PostgreSQL's data directory: %w; the end of %s says: %s", err, s.LogPath(), s.logTail())
	}
	if err := os.Rename(half, s.dataDir()); err != nil {
		return fmt.Errorf("cannot put PostgreSQL's data directory in place: %w", err)
	}
	return syncDir(s.options.Dir)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
