package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// neverHangs bounds what a test waits for. It is not a measurement.
const neverHangs = 2 * time.Minute

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "queend-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "queend")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// process is a running queend.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string

	mu   sync.Mutex
	log  []string
	news chan struct{} // a line was logged
	done chan error    // it has ended
}

// launch starts queend on a free port, with nothing of the test's own environment,
// and does not wait.
func launch(t *testing.T, env ...string) *process {
	t.Helper()
	p := &process{t: t, news: make(chan struct{}, 1), done: make(chan error, 1)}
	p.cmd = exec.Command(binary)
	// A long deadline: a machine that is busy with other tests must not make a push
	// hear 503. Tests of the deadline itself set their own.
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "HOST=127.0.0.1", "PORT=0", "DB_FAILOVER_MS=60000", "FILE_BUFFER_DIR=" + t.TempDir()}, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(out)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("log of process %d:\n%s", p.cmd.Process.Pid, p.text())
		}
	})
	return p
}

// start starts queend and waits until it is ready.
func start(t *testing.T, env ...string) *process {
	t.Helper()
	p := launch(t, env...)
	p.await("ready: pushes are stored")
	return p
}

func (p *process) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.log = append(p.log, lines.Text())
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
	p.done <- p.cmd.Wait()
	close(p.done)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

// await waits for a line of the log that holds text, and learns the address.
func (p *process) await(text string) {
	p.t.Helper()
	limit := time.After(neverHangs)
	for {
		all := p.text()
		for _, line := range strings.Split(all, "\n") {
			var entry struct{ Message, Address string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "listening" {
				p.address = entry.Address
			}
		}
		if strings.Contains(all, text) {
			return
		}
		select {
		case <-p.news:
		case err := <-p.done:
			p.t.Fatalf("queend ended before %q was logged: %v\n%s", text, err, p.text())
		case <-limit:
			p.t.Fatalf("%q was never logged:\n%s", text, all)
		}
	}
}

// stop asks the process to end and returns how it ended.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.done:
		return err
	case <-time.After(neverHangs):
		_ = p.cmd.Process.Kill()
		p.t.Error("queend did not end")
		return <-p.done
	}
}

func (p *process) url(path string) string { return "http://" + p.address + path }

// item is one element of a push's answer.
type item struct {
	Index         int
	Status        string
	MessageID     string `json:"message_id"`
	TransactionID string `json:"transaction_id"`
	Error         string
}

// push posts a body and returns status and items. It may be called from any
// goroutine: a failure to get an answer is status 0.
func (p *process) push(route, body string) (int, []item, string) {
	client := http.Client{Timeout: neverHangs}
	r, err := client.Post(p.url(route), "application/json", strings.NewReader(body))
	if err != nil {
		return 0, nil, err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, err.Error()
	}
	var items []item
	_ = json.Unmarshal(bytes.TrimSpace(text), &items)
	return r.StatusCode, items, string(text)
}

// query runs SQL that returns one value.
func query[T any](t *testing.T, db, sql string, args ...any) (value T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), neverHangs)
	defer cancel()
	conn, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}
