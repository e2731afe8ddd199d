package postgres

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// hang is a guard against waiting for ever; nothing here depends on speed.
const hang = 5 * time.Minute

// testDir is where servers live, see package postgrestest.
var testDir = cmp.Or(os.Getenv("QUEEND_TEST_DIR"), "/tmp")

func TestMain(m *testing.M) {
	if dir := os.Getenv("QUEEND_TEST_OWN"); dir != "" {
		own(dir, os.Getenv("QUEEND_TEST_OWN_THROWAWAY") != "")
		return
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(template.dir)
		os.Exit(code)
	}))
}

// own is a process that starts a server, says so, and then does nothing until it
// is killed.
func own(dir string, throwaway bool) {
	s, err := Start(context.Background(), Options{Dir: dir, Throwaway: throwaway, Settings: quick, Log: func(sentence string) {
		fmt.Println("log", sentence)
	}})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("up", s.Pid(), s.run.cmd.Process.Pid, s.SocketDir())
	select {}
}

// ownerProcess starts such a process and waits for a line that begins with word.
func ownerProcess(t *testing.T, dir, word string, env ...string) (cmd *exec.Cmd, line string) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "QUEEND_TEST_OWN="+dir)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), word) {
			return cmd, lines.Text()
		}
	}
	t.Fatalf("the owner ended without saying %q", word)
	return nil, ""
}

func kill9(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

// home is a directory for a server: short, and open to the user it runs as.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(testDir, "queend-test-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

var template struct {
	once sync.Once
	dir  string
	err  error
}

// initialised is a home in which a server has been before: a copy, which takes a
// tenth of initdb's time.
func initialised(t *testing.T) string {
	t.Helper()
	template.once.Do(func() {
		var s *Server
		template.dir, template.err = os.MkdirTemp(testDir, "queend-test-postgres-")
		if template.err == nil {
			s, template.err = Start(deadline(t), Options{Dir: template.dir, Settings: quick})
		}
		if template.err == nil {
			template.err = s.Stop()
		}
	})
	if template.err != nil {
		t.Fatal(template.err)
	}
	dir := home(t)
	if out, err := exec.Command("cp", "-a", template.dir+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("cannot copy a server: %v: %s", err, out)
	}
	return dir
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	t.Cleanup(cancel)
	return ctx
}

// quick is for servers that lose no power here: only their processes die.
var quick = map[string]string{"fsync": "off"}

// start starts a server that ends with the test. Without settings it is quick.
func start(t *testing.T, o Options) *Server {
	t.Helper()
	o.Throwaway = true
	if o.Settings == nil {
		o.Settings = quick
	}
	s, err := Start(deadline(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// refused starts a server that must not start, and returns why.
func refused(t *testing.T, o Options) string {
	t.Helper()
	s, err := Start(deadline(t), o)
	if err == nil {
		s.Stop()
		t.Fatal("it was started")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("not one sentence: %q", err)
	}
	return err.Error()
}

func connect(t *testing.T, connString string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), connString)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// ask runs statements on a connection of their own; the last one's only value is
// the answer.
func ask(t *testing.T, s *Server, statements ...string) (answer string) {
	t.Helper()
	ctx := deadline(t)
	conn, err := pgx.Connect(ctx, s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	last := len(statements) - 1
	for _, statement := range statements[:last] {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.QueryRow(ctx, statements[last]).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// until polls; a condition that never comes true fails the test after hang.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := deadline(t)
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// processes lists those that work in a directory.
func processes(dir string) (pids []int) {
	cwds, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range cwds {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(cwd)))
		if worksIn(pid, filepath.Join(dir, "data")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestAServerIsDurableAndPrivate(t *testing.T) {
	s := start(t, Options{Dir: home(t), Settings: map[string]string{}})
	f := func(setting, value string) {
		t.Helper()
		if got := ask(t, s, "SELECT current_setting('"+setting+"')"); got != value {
			t.Errorf("%s is %q", setting, got)
		}
	}
	f("fsync", "on")
	f("synchronous_commit", "on")
	f("full_page_writes", "on")
	f("data_checksums", "on")
	f("server_encoding", "UTF8")
	f("listen_addresses", "")
	if got := ask(t, s, "SELECT datcollate FROM pg_database WHERE datname = 'template0'"); got != "C" {
		t.Errorf("names sort by %s", got)
	}
	info, err := os.Stat(s.SocketDir())
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory: %v %v", info.Mode(), err)
	}
}

func TestSettingsWin(t *testing.T) {
	s := start(t, Options{Dir: initialised(t), Settings: map[string]string{"fsync": "off", "synchronous_commit": "off", "application_name": "it's \\ here"}})
	if got := ask(t, s, "SELECT current_setting('fsync') || current_setting('synchronous_commit') || current_setting('application_name')"); got != `offoffit's \ here` {
		t.Errorf("got %s", got)
	}
}

func TestDataSurvivesARestart(t *testing.T) {
	dir := initialised(t)
	s := start(t, Options{Dir: dir})
	ask(t, s, "CREATE TABLE kept AS SELECT 'here'::text AS what", "SELECT 1::text")
	password := s.Password()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, Options{Dir: dir})
	if got := ask(t, s, "SELECT what FROM kept"); got != "here" {
		t.Errorf("got %q", got)
	}
	if s.Password() != password {
		t.Error("the password changed")
	}
}

func TestTheStartNamesTheDirectory(t *testing.T) {
	dir := home(t)
	var said []string
	start(t, Options{Dir: dir, Log: func(sentence string) { said = append(said, sentence) }})
	if all := strings.Join(said, "\n"); !strings.Contains(all, "data in "+dir+"/data") {
		t.Errorf("it said %q", all)
	}
}

func TestStopIsIdempotentAndLeavesNothing(t *testing.T) {
	dir := initialised(t)
	s := start(t, Options{Dir: dir})
	open := connect(t, s.ConnString("postgres")) // does not hold up a fast shutdown
	done := s.Done()
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	<-s.Done()
	if pids := processes(dir); len(pids) != 0 {
		t.Errorf("still running: %v", pids)
	}
	if s.Pid() != 0 || exists(filepath.Join(dir, "data", "postmaster.pid")) || exists(filepath.Join(dir, ".s.PGSQL.5432")) {
		t.Error("the pid or the socket is still there")
	}
	if open.Ping(deadline(t)) == nil {
		t.Error("a connection outlived the server")
	}
}

func TestADirectoryHasOneOwner(t *testing.T) {
	dir := initialised(t)
	s := start(t, Options{Dir: dir})
	if why := refused(t, Options{Dir: dir}); !strings.Contains(why, "another queend uses") {
		t.Errorf("in this process: %s", why)
	}
	if _, line := ownerProcess(t, dir, "error"); !strings.Contains(line, "another queend uses") {
		t.Errorf("in another process: %s", line)
	}
	if got := ask(t, s, "SELECT 'unharmed'"); got != "unharmed" {
		t.Errorf("got %q", got)
	}
}

// killedOwner starts an owner, does something to its server, kills the owner with
// SIGKILL and waits until no process of the server is left.
func killedOwner(t *testing.T, dir string, before func(pid, supervisor int), env ...string) (sockets string) {
	t.Helper()
	cmd, line := ownerProcess(t, dir, "up", env...)
	var pid, supervisor int
	if _, err := fmt.Sscanf(line, "up %d %d %s", &pid, &supervisor, &sockets); err != nil {
		t.Fatal(err)
	}
	if before != nil {
		before(pid, supervisor)
	}
	pids := append(processes(dir), supervisor)
	if len(pids) < 3 {
		t.Fatalf("the server has only the processes %v", pids)
	}
	kill9(t, cmd)
	for _, pid := range pids {
		until(t, "process "+strconv.Itoa(pid)+" ends", func() bool { return !alive(pid) })
	}
	if pids := processes(dir); len(pids) != 0 {
		t.Errorf("still running: %v", pids)
	}
	return sockets
}

func TestKill9OfTheOwnerLeavesNoProcess(t *testing.T) {
	dir := initialised(t)
	killedOwner(t, dir, func(int, int) {
		ask(t, &Server{sockets: dir, port: 5432}, "CREATE TABLE kept AS SELECT 'here'::text AS what", "SELECT 1::text")
	})
	s := start(t, Options{Dir: dir})
	if got := ask(t, s, "SELECT what FROM kept"); got != "here" {
		t.Errorf("got %q", got)
	}
}

func TestKill9OfTheOwnerLeavesNoPausedProcess(t *testing.T) {
	dir := initialised(t)
	killedOwner(t, dir, func(pid, _ int) {
		for _, pid := range append([]int{pid}, childrenOf(pid)...) {
			syscall.Kill(pid, syscall.SIGSTOP)
		}
	})
}

func TestKill9OfAThrowawaysOwnerLeavesNothingAtAll(t *testing.T) {
	dir := initialised(t)
	killedOwner(t, dir, nil, "QUEEND_TEST_OWN_THROWAWAY=1")
	until(t, "the directory is removed", func() bool { return !exists(dir) })
}

func TestKill9OfTheOwnerDuringTheFirstStartIsMadeGood(t *testing.T) {
	dir := home(t)
	cmd, _ := ownerProcess(t, dir, "log making")
	until(t, "initdb is at work", func() bool { return exists(filepath.Join(dir, "data.new")) || exists(filepath.Join(dir, "data")) })
	kill9(t, cmd)
	s := start(t, Options{Dir: dir})
	if got := ask(t, s, "SELECT 'whole'"); got != "whole" {
		t.Errorf("got %q", got)
	}
}

func TestAStartWaitsForAServerWhoseOwnerAndSupervisorWereKilled(t *testing.T) {
	dir := initialised(t)
	cmd, line := ownerProcess(t, dir, "up")
	var pid, supervisor int
	if _, err := fmt.Sscanf(line, "up %d %d", &pid, &supervisor); err != nil {
		t.Fatal(err)
	}
	// The shell and its watcher, which is its child and no PostgreSQL.
	for _, child := range append(childrenOf(supervisor), supervisor) {
		if child != pid {
			syscall.Kill(child, syscall.SIGKILL)
		}
	}
	kill9(t, cmd)
	if !alive(pid) {
		t.Fatal("the server should have been orphaned")
	}
	s := start(t, Options{Dir: dir})
	if alive(pid) || s.Pid() == pid {
		t.Error("the orphan still runs")
	}
}

func TestASignalToTheSupervisorStopsNothing(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		syscall.Kill(s.run.cmd.Process.Pid, sig)
	}
	if got := ask(t, s, "SELECT 'up'"); got != "up" || s.run.exited() {
		t.Errorf("got %q", got)
	}
}

func TestACrashLosesNothingThatWasCommitted(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	open := connect(t, s.ConnString("postgres"))
	ask(t, s, "CREATE TABLE kept (what text)", "INSERT INTO kept VALUES ('committed') RETURNING what")
	ctx := deadline(t)
	if _, err := open.Exec(ctx, "BEGIN; INSERT INTO kept VALUES ('not committed')"); err != nil {
		t.Fatal(err)
	}
	f := func(crash func()) {
		t.Helper()
		crash()
		if open.Ping(ctx) == nil {
			t.Error("a connection outlived the server")
		}
		connString := s.ConnString("postgres")
		if err := s.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		if s.ConnString("postgres") != connString {
			t.Error("the connection string changed")
		}
		if got := ask(t, s, "SELECT string_agg(what, ',') FROM kept"); got != "committed" {
			t.Errorf("got %q", got)
		}
	}
	f(func() {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if pids := processes(s.Dir()); len(pids) != 0 {
			t.Errorf("still running: %v", pids)
		}
	})
	f(func() { // the postmaster alone, by somebody else
		done := s.Done()
		syscall.Kill(s.Pid(), syscall.SIGKILL)
		<-done
	})
}

func TestAPortIsKeptWhileItsServerIsStopped(t *testing.T) {
	s := start(t, Options{Dir: initialised(t), TCP: true})
	f := func() {
		t.Helper()
		conn := connect(t, s.TCPConnString("postgres")+" sslmode=disable")
		if err := conn.Ping(deadline(t)); err != nil {
			t.Error(err)
		}
		conn.Close(deadline(t))
	}
	f()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: s.Port()}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("somebody else could take the port: %v", err)
	}
	if err := s.Restart(deadline(t)); err != nil {
		t.Fatal(err)
	}
	f()
}

func TestReservedPortsDiffer(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		file, port, err := reservePort()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if seen[port] || port < 20000 || port >= 32000 {
			t.Errorf("port %d", port)
		}
		seen[port] = true
	}
}

func TestAPausedServerAnswersWhenItIsResumed(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	conn := connect(t, s.ConnString("postgres"))
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	pids := processes(s.Dir())
	for _, pid := range pids {
		until(t, "process "+strconv.Itoa(pid)+" is stopped", func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return strings.Contains(string(stat), ") T ")
		})
	}
	answered := make(chan error, 1)
	go func() { answered <- conn.Ping(deadline(t)) }()
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil { // also when it is paused
		t.Fatal(err)
	}
	if s.Pause() == nil {
		t.Error("a stopped server was paused")
	}
}

func TestAStalePidFileIsNoObstacle(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	path := filepath.Join(s.dataDir(), "postmaster.pid")
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	f := func(pid int) {
		t.Helper()
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "\n")
		if err := os.WriteFile(path, []byte(strconv.Itoa(pid)+"\n"+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(deadline(t)); err != nil {
			t.Error(err)
		}
	}
	f(s.Pid())          // as it was left
	f(dead.Process.Pid) // nobody's
	f(os.Getpid())      // taken by somebody else since
	f(1)
}

func TestAServerStartedByHandIsLeftAlone(t *testing.T) {
	dir := initialised(t)
	s := start(t, Options{Dir: dir})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	byHand := s.owner.command(filepath.Join(s.options.Bin, "postgres"), "-D", s.dataDir(), "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir)
	if err := byHand.Start(); err != nil {
		t.Fatal(err)
	}
	defer byHand.Wait()
	defer byHand.Process.Signal(syscall.SIGINT)
	until(t, "it is up", func() bool { _, status := readPidFile(s.dataDir()); return status == "ready" })
	if why := refused(t, Options{Dir: dir}); !strings.Contains(why, "did not start, pid "+strconv.Itoa(byHand.Process.Pid)) {
		t.Error(why)
	}
	if got := ask(t, s, "SELECT 'unharmed'"); got != "unharmed" {
		t.Errorf("got %q", got)
	}
}

func TestALongDirectoryHasItsSocketElsewhere(t *testing.T) {
	parent := home(t)
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, strings.Repeat("long/", 20), "it's")
	s := start(t, Options{Dir: dir})
	f := func(connString string) {
		t.Helper()
		if err := connect(t, connString).Ping(deadline(t)); err != nil {
			t.Error(err)
		}
	}
	f(s.ConnString("postgres"))
	f(s.URL("postgres"))
	sockets := s.SocketDir()
	if err := s.Restart(deadline(t)); err != nil {
		t.Fatal(err)
	}
	f(s.ConnString("postgres"))
	if s.SocketDir() != sockets || sockets == dir {
		t.Errorf("the socket is in %s, it was in %s", s.SocketDir(), sockets)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if exists(sockets) {
		t.Errorf("%s is left", sockets)
	}
	sockets = killedOwner(t, dir, nil)
	until(t, sockets+" is removed", func() bool { return !exists(sockets) })
	if !exists(filepath.Join(dir, "data", "PG_VERSION")) {
		t.Error("the data was removed")
	}
}

func TestOddDirectories(t *testing.T) {
	parent := home(t)
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{`a "b" it's \ $HOME;*`, "one,two"} {
		dir := filepath.Join(parent, name)
		if out, err := exec.Command("cp", "-a", initialised(t), dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		s := start(t, Options{Dir: dir})
		for _, connString := range []string{s.ConnString("postgres"), s.URL("postgres")} {
			if err := connect(t, connString).Ping(deadline(t)); err != nil {
				t.Error(err)
			}
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestAServerRunsAlsoWhenNobodyRefersToIt(t *testing.T) {
	pid := func() int {
		s, err := Start(deadline(t), Options{Dir: initialised(t), Throwaway: true, Settings: quick})
		if err != nil {
			t.Fatal(err)
		}
		return s.Pid()
	}()
	for range 3 {
		runtime.GC()
	}
	running.Range(func(key, _ any) bool {
		if r := key.(*run); r.pid == pid {
			if r.exited() {
				t.Error("it was stopped")
			}
			r.stop()
			r.forget()
			pid = 0
		}
		return true
	})
	if pid != 0 {
		t.Error("it was forgotten")
	}
}

func TestNotAsRoot(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 1 {
			continue
		}
		switch fields[0] {
		case "Uid:", "Gid:":
			for _, id := range fields[1:] {
				if id == "0" {
					t.Error(line)
				}
			}
		case "Groups:":
			for _, id := range fields[1:] {
				if os.Geteuid() == 0 && id == "0" {
					t.Error(line)
				}
			}
		}
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	f := func(why string, prepare func(dir string) string) {
		t.Helper()
		dir := home(t)
		before := prepare(dir)
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := refused(t, Options{Dir: before}); !strings.Contains(got, why) {
			t.Errorf("refused with %q, not %q", got, why)
		}
		after, err := os.Stat(dir)
		if err != nil || after.Mode() != info.Mode() || after.Sys().(*syscall.Stat_t).Uid != info.Sys().(*syscall.Stat_t).Uid {
			t.Errorf("it was changed from %v to %v: %v", info.Mode(), after.Mode(), err)
		}
	}
	write := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f("needs a directory", func(string) string { return "" })
	f("not a directory", func(dir string) string { write(dir + "/file"); return dir + "/file" })
	f("not a directory", func(dir string) string { os.Symlink("/tmp", dir+"/link"); return dir + "/link" })
	f("it is not empty", func(dir string) string { write(dir + "/file"); os.Chmod(dir, 0o755); return dir })
	if os.Geteuid() == 0 {
		f("who cannot pass", func(dir string) string { return dir + "/closed" })
		f("it belongs to uid 1", func(dir string) string { os.Chown(dir, 1, 1); return dir })
	}
}

func TestLinksInTheDirectoryAreNotFollowed(t *testing.T) {
	dir := initialised(t)
	s := start(t, Options{Dir: dir})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("unharmed"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(name string, o Options, starts bool) {
		t.Helper()
		path := filepath.Join(dir, name)
		os.Remove(path)
		if err := os.Symlink(victim, path); err != nil {
			t.Fatal(err)
		}
		o.Dir = dir
		if starts {
			if err := start(t, o).Stop(); err != nil {
				t.Error(err)
			}
		} else {
			refused(t, o)
		}
		os.Remove(path)
		if got, err := os.ReadFile(victim); err != nil || string(got) != "unharmed" {
			t.Errorf("%s: the file is now %q: %v", name, got, err)
		}
		if info, err := os.Stat(victim); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			t.Errorf("%s: the file was given away: %v", name, err)
		}
	}
	f("queend.lock", Options{}, false)
	f("server.lock", Options{}, false)
	f("postgres.log", Options{}, false)
	f("file", Options{Files: map[string][]byte{"file": []byte("new")}}, true)
}

func TestAStartThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	dir := home(t)
	f := func(o Options, why string) {
		t.Helper()
		o.Dir = dir
		if got := refused(t, o); !strings.Contains(got, why) {
			t.Errorf("refused with %q, not %q", got, why)
		}
		if pids := processes(dir); len(pids) != 0 {
			t.Errorf("still running: %v", pids)
		}
	}
	f(Options{Bin: "/nowhere"}, "there is no initdb")
	f(Options{Settings: map[string]string{"no_such_setting": "1"}}, "no_such_setting")
	f(Options{SocketDir: "/tmp/" + strings.Repeat("x", 100)}, "longer than the 107 bytes")
	f(Options{SocketDir: "/tmp/one,/tmp/two"}, "has a comma")
	s := start(t, Options{Dir: dir})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	version := filepath.Join(dir, "data", "PG_VERSION")
	if err := os.WriteFile(version, []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(BinVariable, "") // which would be taken whatever the data are
	f(Options{}, "PostgreSQL 9 is not installed")
	f(Options{Bin: s.options.Bin}, "was written by PostgreSQL 9")
}

func TestAStartThatIsCancelledLeavesNothing(t *testing.T) {
	dir := home(t)
	f := func(word string) {
		t.Helper()
		ctx, cancel := context.WithCancel(deadline(t))
		defer cancel()
		s, err := Start(ctx, Options{Dir: dir, Log: func(sentence string) {
			if strings.HasPrefix(sentence, word) {
				cancel()
			}
		}})
		if err == nil {
			s.Stop()
			t.Fatal("it was started")
		}
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if pids := processes(dir); len(pids) != 0 {
			t.Errorf("still running: %v", pids)
		}
	}
	f("making")
	if exists(filepath.Join(dir, "data")) {
		t.Error("half a data directory was taken for one")
	}
	start(t, Options{Dir: dir}).Stop()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s, err := Start(ctx, Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		s.Stop()
		t.Errorf("with a context that has ended: %v", err)
	}
	if pids := processes(dir); len(pids) != 0 {
		t.Errorf("still running: %v", pids)
	}
	start(t, Options{Dir: dir})
}

func TestALongLogIsSetAside(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	f := func(size int64, aside bool) {
		t.Helper()
		if err := os.Truncate(s.LogPath(), size); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if exists(s.LogPath()+".1") != aside {
			t.Errorf("at %d bytes: set aside is %v", size, !aside)
		}
	}
	f(LogBytesMax, false)
	f(LogBytesMax+1, true)
}

func TestFailedStatementsAreNotLogged(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	if _, err := connect(t, s.ConnString("postgres")).Exec(deadline(t), "SELECT 1/0, 'secret payload'"); err == nil {
		t.Fatal("divided by zero")
	}
	if log, err := os.ReadFile(s.LogPath()); err != nil || strings.Contains(string(log), "secret") || strings.Contains(string(log), "by zero") {
		t.Errorf("the log says %s: %v", log, err)
	}
}

func TestADatabaseIsMadeOnce(t *testing.T) {
	s := start(t, Options{Dir: initialised(t)})
	name := `Queen's "first" one`
	for range 2 {
		if err := s.CreateDatabase(deadline(t), name); err != nil {
			t.Fatal(err)
		}
	}
	var got string
	for _, connString := range []string{s.ConnString(name), s.URL(name)} {
		if err := connect(t, connString).QueryRow(deadline(t), "SELECT current_database()").Scan(&got); err != nil || got != name {
			t.Errorf("in %q: %v", got, err)
		}
	}
}
