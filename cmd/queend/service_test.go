package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

const onePush = `{"items":[{"queue":"q"}]}`

func TestASecondProcessOnThePortIsRefusedUnlessHandOverIsAskedFor(t *testing.T) {
	db := postgrestest.Database(t)
	first := start(t, "DATABASE_URL="+db)
	_, port, _ := net.SplitHostPort(first.address)
	second := launch(t, "DATABASE_URL="+db, "PORT="+port)
	if err := <-second.done; err == nil {
		t.Error("a second process took the port")
	}
	third := start(t, "DATABASE_URL="+db, "QUEEND_HAND_OVER=true")
	_, port, _ = net.SplitHostPort(third.address)
	fourth := start(t, "DATABASE_URL="+db, "QUEEND_HAND_OVER=true", "PORT="+port)
	third.stop()
	if status, _, text := fourth.push(routes[0], onePush); status != 201 {
		t.Errorf("after the hand-over: %d %s", status, text)
	}
}

func TestWithoutABufferPushesHear503WhilePostgreSQLIsAway(t *testing.T) {
	server := postgrestest.Own(t, nil)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "DATABASE_URL="+server.URL("postgres"), "DB_FAILOVER_MS=2000", "FILE_BUFFER_MAX_BYTES=0")
	p.await("listening")
	away := func(when string) {
		t.Helper()
		for _, route := range routes {
			r, err := http.Post(p.url(route), "", strings.NewReader(onePush))
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			if r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
				t.Errorf("%s, %s: %d, Retry-After %q", when, route, r.StatusCode, r.Header.Get("Retry-After"))
			}
		}
	}
	back := func(when string) {
		t.Helper()
		for _, route := range routes {
			limit := time.Now().Add(neverHangs)
			for status := 0; status != 201; {
				var text string
				if status, _, text = p.push(route, onePush); status != 201 && status != 503 || time.Now().After(limit) {
					t.Fatalf("%s, %s: %d %s", when, route, status, text)
				}
			}
		}
	}
	away("before its first start")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	back("after its first start")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	away("after kill -9")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	back("after the crash")
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	away("hung")
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	back("after the hang")
}

func TestAStopAnswersWhatIsInFlight(t *testing.T) {
	server := postgrestest.Own(t, nil)
	p := start(t, "DATABASE_URL="+server.URL("postgres"))
	if status, _, text := p.push(routes[0], onePush); status != 201 {
		t.Fatal(text)
	}
	// The server stands still with a push in flight, queend is asked to stop, and
	// only then the server goes on.
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		status, _, text := p.push(routes[0], onePush)
		answered <- fmt.Sprint(status, " ", text)
	}()
	waitFor(t, "the push to be in flight", func() bool {
		return strings.Contains(get(t, p.url("/metrics/prometheus")), "\nqueend_in_flight_messages{lane=\"push\"} 1\n")
	})
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await("stopping: answering what is in flight")
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; !strings.HasPrefix(a, "201 ") {
		t.Errorf("the push in flight heard %s", a)
	}
	if err := <-p.done; err != nil {
		t.Errorf("queend ended with %v", err)
	}
}

// SIGHUP is what a process hears whose terminal goes away.
func TestEachSignalThatStopsStopsInOrder(t *testing.T) {
	for _, signal := range stopSignals {
		p := start(t, "DATABASE_URL="+postgrestest.Database(t), "JWT_ENABLED=no", "DEFAULT_SUBSCRIPTION_MODE=nwe")
		p.await("DEFAULT_SUBSCRIPTION_MODE is neither new nor all")
		if err := p.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		p.await("stopping: answering what is in flight")
		if err := <-p.done; err != nil {
			t.Errorf("%v: queend ended with %v", signal, err)
		}
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(neverHangs); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var text strings.Builder
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestSystemdHearsOfTheStartWhenPushesAreStored(t *testing.T) {
	db := postgrestest.Database(t)
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	hear := func(want string) {
		t.Helper()
		_ = socket.SetReadDeadline(time.Now().Add(neverHangs))
		for buf := make([]byte, 256); ; {
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatalf("%s was never said: %v", want, err)
			}
			if string(buf[:n]) == want {
				return
			}
		}
	}
	p := launch(t, "DATABASE_URL="+db, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")
	hear("READY=1")
	p.await("ready: pushes are stored")
	if status, _, text := p.push(routes[0], onePush); status != 201 {
		t.Errorf("ready, and yet %d %s", status, text)
	}
	hear("WATCHDOG=1")
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	hear("STOPPING=1")
}

func TestAtDebugLevelEachPushSaysWhereItsTimeWent(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db, "LOG_LEVEL=debug")
	r, err := http.NewRequest("POST", p.url(routes[0]), strings.NewReader(onePush))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Request-Id", "mine-1")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if got := answer.Header.Get("X-Request-Id"); got != "mine-1" {
		t.Errorf("the answer's request id is %q", got)
	}
	p.await(`"request":"mine-1"`)
	for _, part := range []string{`"parse":`, `"wait":`, `"database":`, `"total":`} {
		p.await(part)
	}
}

func TestThePrivatePostgreSQLSurvivesRestartsAndLeavesNoOrphan(t *testing.T) {
	dir, err := os.MkdirTemp("", "queend-local-") // not t.TempDir: another user must reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"QUEEND_LOCAL_POSTGRES=true", "QUEEND_DATA_DIR=" + dir}
	body := `{"items":[{"queue":"q","transactionId":"once"}]}`
	first := start(t, env...)
	if status, items, text := first.push(routes[0], body); status != 201 || items[0].Status != "queued" {
		t.Fatalf("%d %s", status, text)
	}
	if err := first.stop(); err != nil {
		t.Errorf("the first stop: %v", err)
	}
	second := start(t, env...)
	if status, items, text := second.push(routes[0], body); status != 201 || items[0].Status != "duplicate" {
		t.Errorf("after a restart: %d %s", status, text)
	}
	if err := second.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-second.done
	waitFor(t, "PostgreSQL to end after kill -9 of queend", func() bool {
		// No process has the data directory in its arguments any more.
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range procs {
			text, _ := os.ReadFile(file)
			if strings.Contains(string(text), dir) {
				return false
			}
		}
		return true
	})
	third := start(t, env...)
	if status, items, text := third.push(routes[0], body); status != 201 || items[0].Status != "duplicate" {
		t.Errorf("after kill -9: %d %s", status, text)
	}
}
