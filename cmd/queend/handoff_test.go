package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	rtrace "runtime/trace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/exp/trace"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// A push never leaves its loop: no goroutine is woken, made or waited for between the
// socket of the client and that of PostgreSQL, and back. Here Go's runtime is the witness.
// It records which goroutine ran when, what it waited for and who woke it (package
// runtime/trace) while a thousand pushes are stored, in a process that does nothing else.
// The same is recorded of the pool, so that what is looked for is known to be visible.

const (
	tracedPushes  = 1000
	tracedClients = 16
	tracedLoops   = 2
)

func TestAPushNeverLeavesItsLoop(t *testing.T) {
	s := startTraced(t)
	loop, pool := s.record(routes[0]), s.record(routes[1])

	for _, fault := range loop.faults() {
		t.Error(fault)
	}
	if n := loop.count(func(a *account) bool { return a.isLoop() && a.calls["unix.EpollWait"] > 0 }); n != tracedLoops {
		t.Errorf("%d loops were at work, want %d", n, tracedLoops)
	}
	// Each client waits for its answer, so that each answer is a write of its own. All are
	// in the trace: it looked at these pushes from the first to the last.
	if loop.answers != tracedPushes || pool.answers != tracedPushes {
		t.Errorf("%d answers were written by loops, and %d of the pool's, want %d each", loop.answers, pool.answers, tracedPushes)
	}

	faults := strings.Join(pool.faults(), "\n")
	for _, want := range []string{
		"a loop woke pooldb.(*Pool).work",
		"pooldb.(*Pool).work ran",
	} {
		if !strings.Contains(faults, want) {
			t.Errorf("the hand-offs of the pool are not seen: %q is not in\n%s", want, faults)
		}
	}
	t.Logf("%s\n%s\n%s\n%s\nand as hand-offs of the second these are seen:\n%s", routes[0], loop, routes[1], pool, faults)
}

// tickers run by the clock and not because of a push. Each is named by the function that
// its goroutine was started with. One that a loop, or anything but the clock and the
// network, had woken would be a fault all the same.
var tickers = map[string]string{
	"loop.(*timers).init.func1":             "the alarm clock of a loop: a deadline is due that was set before, or a look at idle clients",
	"ants.(*poolCommon).ticktock":           "a clock of a library that gnet brings along; it ticks twice a second for nobody",
	"ants.(*poolCommon).purgeStaleWorkers":  "the same library looks for goroutines that it could end",
	"pgxpool.(*Pool).backgroundHealthCheck": "the pools of the other routes look after their connections, once a minute",
	"queend.obey":                           "this test: begins and ends the trace",
}

// isHarmless says that a goroutine stopped for Go's runtime itself, or was told to let
// others run, which is no wait.
func (a *account) isHarmless(reason string) bool {
	return strings.HasPrefix(reason, "GC ") || reason == "wait until GC ends" || reason == "preempted" || reason == "runtime.Gosched" ||
		slices.ContainsFunc(a.stack, func(f string) bool {
			return strings.HasPrefix(f, "runtime.gc") || strings.HasPrefix(f, "runtime.mallocgc")
		})
}

// callsOfLoops are the system calls that loops may make: the poller's, and reading and
// writing of sockets that do not block.
var callsOfLoops = map[string]bool{"unix.EpollWait": true, "unix.read": true, "unix.write": true, "unix.writev": true}

// recording is what a trace says.
type recording struct {
	goroutines map[trace.GoID]*account
	woken      map[[2]*account]int // who, whom
	answers    int                 // writes to clients, by loops
}

// account is one goroutine.
type account struct {
	id     trace.GoID
	stack  []string // of functions, as it was last seen, outermost first
	parent *account // who made it, if that is in the trace
	runs   int      // times that it began to run
	calls  map[string]int
	waits  map[string]int // by reason and place, those for Go's runtime left out
}

// launchers are functions that goroutines begin with whose name says nothing.
var launchers = []string{"runtime.main", "runtime.doInit", "sync.(*WaitGroup).Go.", "errgroup.(*Group).Go."}

// name is the function that the goroutine was started with.
func (a *account) name() string {
	for _, f := range a.stack {
		if !slices.ContainsFunc(launchers, func(l string) bool { return strings.HasPrefix(f, l) }) {
			return f
		}
	}
	return cmp.Or(strings.Join(a.stack, "/"), "a goroutine that had started before")
}

func (a *account) isLoop() bool { return a.name() == "gnet.(*eventloop).run" }

// isRuntime says that it is part of Go's runtime: the collector, or who writes the trace.
func (a *account) isRuntime() bool {
	return len(a.stack) > 0 && a.stack[0] != "runtime.main" && (strings.HasPrefix(a.stack[0], "runtime.") || strings.HasPrefix(a.stack[0], "runtime/"))
}

// isTicker says that it is one of tickers, or was made by one.
func (a *account) isTicker() bool {
	for ; a != nil; a = a.parent {
		if tickers[a.name()] != "" {
			return true
		}
	}
	return false
}

// faults are the sentences that a push must give no reason for.
func (r *recording) faults() []string {
	times := map[string]int{}
	for _, a := range r.goroutines {
		switch {
		case a.isLoop():
			for wait, n := range a.waits {
				times["a loop waited: "+wait] += n
			}
			for call, n := range a.calls {
				if !callsOfLoops[call] {
					times["a loop made the system call "+call] += n
				}
			}
		case !a.isRuntime() && !a.isTicker() && a.runs > 0:
			times[a.name()+" ran"] += a.runs
		}
	}
	for pair, n := range r.woken {
		who, whom := pair[0], pair[1]
		switch {
		case whom.isRuntime():
		case who.isLoop():
			times["a loop woke "+whom.name()] += n
		case whom.isLoop() && !who.isRuntime(): // the collector wakes whom it made wait; another wait is a fault itself
			times[who.name()+" woke a loop"] += n
		case whom.isTicker() && !who.isTicker() && !who.isRuntime():
			times[who.name()+" woke "+whom.name()+", which is to run by the clock"] += n
		}
	}
	var all []string
	for _, sentence := range slices.Sorted(maps.Keys(times)) {
		all = append(all, fmt.Sprintf("%s, %d times", sentence, times[sentence]))
	}
	return all
}

func (r *recording) count(which func(*account) bool) (n int) {
	for _, a := range r.goroutines {
		if which(a) {
			n++
		}
	}
	return n
}

// String is a table of who ran.
func (r *recording) String() string {
	type row struct{ goroutines, runs, calls, waits int }
	rows := map[string]*row{}
	for _, a := range r.goroutines {
		name := a.name()
		switch {
		case a.isLoop():
			name = "the loops"
		case a.isRuntime():
			name = "Go's runtime"
		case a.isTicker():
			name = "ticker " + name
		}
		n := rows[name]
		if n == nil {
			n = &row{}
			rows[name] = n
		}
		if a.runs > 0 {
			n.goroutines++
		}
		n.runs += a.runs
		for _, k := range a.calls {
			n.calls += k
		}
		for _, k := range a.waits {
			n.waits += k
		}
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%10s %8s %12s %8s  who ran (%d were there)\n", "goroutines", "runs", "system calls", "waits", len(r.goroutines))
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if n := rows[name]; n.runs+n.calls > 0 {
			fmt.Fprintf(&s, "%10d %8d %12d %8d  %s\n", n.goroutines, n.runs, n.calls, n.waits, name)
		}
	}
	return s.String()
}

// read takes a trace.
func read(from io.Reader) (*recording, error) {
	in, err := trace.NewReader(from)
	if err != nil {
		return nil, err
	}
	r := &recording{goroutines: map[trace.GoID]*account{}, woken: map[[2]*account]int{}}
	for {
		event, err := in.ReadEvent()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		if event.Kind() == trace.EventStateTransition {
			if st := event.StateTransition(); st.Resource.Kind == trace.ResourceGoroutine {
				r.changed(event, st)
			}
		}
	}
}

func (r *recording) account(id trace.GoID) *account {
	a := r.goroutines[id]
	if a == nil {
		a = &account{id: id, calls: map[string]int{}, waits: map[string]int{}}
		r.goroutines[id] = a
	}
	return a
}

// changed takes one goroutine's change from one state to another.
func (r *recording) changed(event trace.Event, st trace.StateTransition) {
	a := r.account(st.Resource.Goroutine())
	if s := functions(st.Stack); len(s) > 0 {
		a.stack = s
	}
	from, to := st.Goroutine()
	switch {
	case from == trace.GoUndetermined: // what it did when the trace began
	case to == trace.GoRunning: // it was given a processor, or came back from the kernel
		a.runs++
	case from == trace.GoRunning && to == trace.GoSyscall:
		call := a.innermost("syscall.", "runtime.", "internal/")
		a.calls[call]++
		if call == "unix.write" && a.isLoop() && slices.Contains(a.stack, "loop.(*conn).flush") {
			r.answers++
		}
	case from == trace.GoRunning && (to == trace.GoWaiting || to == trace.GoRunnable):
		if !a.isHarmless(st.Reason) {
			a.waits[st.Reason+" in "+a.innermost("sync.", "internal/", "runtime.")]++
		}
	case (from == trace.GoWaiting || from == trace.GoNotExist) && to == trace.GoRunnable && event.Goroutine() != trace.NoGoroutine:
		who := r.account(event.Goroutine())
		if from == trace.GoNotExist {
			a.parent = who
		}
		r.woken[[2]*account{who, a}]++
	}
}

// innermost is the function that was called last, those of packages that are in the way
// of what is meant left out.
func (a *account) innermost(without ...string) string {
	for _, f := range slices.Backward(a.stack) {
		if !slices.ContainsFunc(without, func(prefix string) bool { return strings.HasPrefix(f, prefix) }) {
			return f
		}
	}
	return a.name()
}

// functions are the names of a stack, outermost first: package and function, without the
// path of the package and its version.
func functions(s trace.Stack) (names []string) {
	for frame := range s.Frames() {
		name := frame.Func
		if !strings.HasPrefix(name, "runtime/") && !strings.HasPrefix(name, "internal/") {
			name = majorVersion.ReplaceAllString(name, ".")
			name = name[strings.LastIndexByte(name, '/')+1:]
		}
		names = append(names, name)
	}
	slices.Reverse(names)
	return names
}

var majorVersion = regexp.MustCompile(`/v[0-9]+\.`)

// traced is a queend that records itself when it is told to.
type traced struct {
	*process
	orders io.Writer
	done   *bufio.Reader
	dir    string
}

// tracedVariable makes this binary a queend: the server's own main, and beside it a
// goroutine that begins and ends traces. The load comes from the test's process.
const tracedVariable = "HANDOFF_TEST_SERVER"

func init() {
	if os.Getenv(tracedVariable) == "" {
		return
	}
	go obey(os.Stdin, os.Stdout)
	main()
	os.Exit(0)
}

// obey takes a path, and begins to record into it, or an empty line, and ends that.
func obey(orders io.Reader, done io.Writer) {
	var file *os.File
	for lines := bufio.NewScanner(orders); lines.Scan(); {
		var err error
		if path := lines.Text(); path != "" {
			if file, err = os.Create(path); err == nil {
				err = rtrace.Start(file)
			}
		} else {
			rtrace.Stop()
			err = file.Close()
		}
		fmt.Fprintln(done, err)
	}
}

// startTraced is start, of this binary.
func startTraced(t *testing.T) *traced {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, news: make(chan struct{}, 1), done: make(chan error, 1)}
	p.cmd = exec.Command(self)
	p.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "HOST=127.0.0.1", "PORT=0", "DB_FAILOVER_MS=60000", "FILE_BUFFER_DIR=" + t.TempDir(),
		"DATABASE_URL=" + postgrestest.Database(t), tracedVariable + "=1",
		fmt.Sprint("NUM_WORKERS=", tracedLoops), fmt.Sprint("GOMAXPROCS=", max(tracedLoops, runtime.GOMAXPROCS(0))),
		// No maintenance: it is one goroutine that runs by the clock, and pgx's around its
		// connection could not be told from the pool's.
		"RETENTION_INTERVAL=0", "EVICTION_INTERVAL=0", "PARTITION_LOOKUP_RECONCILE_INTERVAL_MS=0",
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	orders, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	done, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(log)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("log of process %d:\n%s", p.cmd.Process.Pid, p.text())
		}
	})
	p.await("ready: pushes are stored")
	return &traced{process: p, orders: orders, done: bufio.NewReader(done), dir: t.TempDir()}
}

// tell gives an order and waits until it was carried out.
func (s *traced) tell(order string) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.orders, order); err != nil {
		s.t.Fatal(err)
	}
	if said, err := s.done.ReadString('\n'); err != nil || said != "<nil>\n" {
		s.t.Fatalf("the server cannot record itself: %s %v", said, err)
	}
}

// record pushes from many clients at once while the server records itself.
func (s *traced) record(route string) *recording {
	s.t.Helper()
	var clients []*client
	for range tracedClients {
		c := s.dial(route)
		defer c.Close()
		clients = append(clients, c)
		c.settle()
	}
	path := filepath.Join(s.dir, strings.ReplaceAll(route, "/", "-"))
	s.tell(path)
	var left atomic.Int64
	left.Store(tracedPushes)
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if status, err := c.push(i); err != nil || status != "queued" {
					s.t.Errorf("%s: %s %v", route, status, err)
					return
				}
			}
		})
	}
	all.Wait()
	s.tell("")
	file, err := os.Open(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	r, err := read(bufio.NewReader(file))
	if err != nil {
		s.t.Fatalf("the trace cannot be read: %v", err)
	}
	return r
}

// client is a keep-alive connection.
type client struct {
	net.Conn
	t     *testing.T
	in    *bufio.Reader
	route string
}

func (s *traced) dial(route string) *client {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	return &client{Conn: conn, t: s.t, in: bufio.NewReader(conn), route: route}
}

// push pushes one message and returns its status.
func (c *client) push(partition int) (status string, err error) {
	_ = c.SetDeadline(time.Now().Add(neverHangs))
	body := fmt.Sprintf(`{"items":[{"queue":"q","partition":"%d","payload":"%s"}]}`, partition, strings.Repeat("x", 200))
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: queend\r\nContent-Length: %d\r\n\r\n%s", c.route, len(body), body); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	for _, status := range []string{"queued", "buffered"} {
		if strings.Contains(string(text), `"status":"`+status+`"`) {
			return status, err
		}
	}
	return fmt.Sprintf("%d %s", answer.StatusCode, text), err
}

// settle pushes into all partitions until the pushes go to PostgreSQL: the server has
// looked into its buffer at its start, knows the partitions, and has its connections.
func (c *client) settle() {
	c.t.Helper()
	limit := time.Now().Add(neverHangs)
	for i := 0; i < tracedClients; i++ {
		switch status, err := c.push(i); {
		case err == nil && status == "buffered" && time.Now().Before(limit):
			i = -1
		case err != nil || status != "queued":
			c.t.Fatalf("%s: %s %v", c.route, status, err)
		}
	}
}
