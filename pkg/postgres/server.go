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
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// User is the superuser that initdb makes and that connection strings name.
const User = "postgres"

// LogBytesMax bounds the server's log: a longer one is moved to postgres.log.1
// at the next start. In between it grows slowly, since failed statements are not
// written to it (their clients hear of them).
const LogBytesMax = 8 << 20

// socketPathBytesMax is what sockaddr_un.sun_path holds beside its closing NUL.
const socketPathBytesMax = 107

// Options say where a server lives and how it is set. Only Dir must be given.
type Options struct {
	// Dir holds everything that survives: data/, postgres.log, password, locks.
	// It is made with mode 0700 and given to the user the server runs as.
	Dir string

	// SocketDir holds the unix socket; it is made with mode 0700 if need be. By
	// default it is Dir, or a fresh directory in /tmp when Dir is too long for a
	// socket's path or has a comma in it; that one is removed at the end.
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

	// Log hears of what changes, a sentence at a time. It must not call the
	// server's methods. May be nil.
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

	reserved *os.File // keeps the port ours while the server is stopped; may be nil

	mu      sync.Mutex
	version int  // major
	run     *run // nil: stopped
}

// Start starts the server of o.Dir, initialised at its first start, and waits
// until it answers. It runs until Stop or the end of this process. ctx bounds the
// start only. An error is one sentence for the person who typed the command.
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
		s.reserved.Close() // a nil file takes it
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
	running.Store(r, true)
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
	// A comma would make two hosts of it (manual, "Parameter Key Words": host).
	if s.sockets == "" && len(filepath.Join(s.options.Dir, name)) <= socketPathBytesMax && !strings.Contains(s.options.Dir, ",") {
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
	if path := filepath.Join(s.sockets, name); len(path) > socketPathBytesMax || strings.Contains(path, ",") {
		return fmt.Errorf("the socket's path %q has a comma in it or is longer than the %d bytes a socket may have", path, socketPathBytesMax)
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
		"unix_socket_directories": `"` + strings.ReplaceAll(s.sockets, `"`, `""`) + `"`,
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
			return fmt.Errorf("gave up the start of PostgreSQL before it was up, see %s: %w", s.LogPath(), ctx.Err())
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
	r.forget()
	if asked && err != nil {
		return fmt.Errorf("PostgreSQL did not stop cleanly, see %s: %w", s.LogPath(), err)
	}
	s.options.Log("PostgreSQL is stopped: " + s.dataDir())
	return nil
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

// Dir is the directory the server lives in, as an absolute path.
func (s *Server) Dir() string { return s.options.Dir }

// SocketDir is the host of connection strings: `psql -h` takes it.
func (s *Server) SocketDir() string { return s.sockets }

// Port is the port of the socket's name, and of 127.0.0.1 with TCP.
func (s *Server) Port() int { return s.port }

// LogPath is where the server writes its log.
func (s *Server) LogPath() string { return filepath.Join(s.options.Dir, "postgres.log") }

// Version is the major version of the server.
func (s *Server) Version() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

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
