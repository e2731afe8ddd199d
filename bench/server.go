package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

// server is one server process under test.
type server struct {
	name   string
	addr   string
	prefix string // before the paths of its API
	host   string // the Host field; empty: addr
	cmd    *exec.Cmd
	paused bool   // see fleet
	log    string // path of what it wrote to stderr

	db       *pgx.Conn // to its database; nil: nobody has told where that is
	postgres int       // the postmaster; 0: not known, or not on this machine
	foreign  bool      // somebody else has started it, and owns what is in its database
	process  int       // of a foreign one; 0: not known
	lacks    reasons   // what cannot be measured of it
	profiles string    // where it serves Go's profiles; empty: nowhere
}

// readyMax and stopMax bound a server's start (migrations included) and its end.
const (
	readyMax = 30 * time.Second
	stopMax  = 15 * time.Second
)

// start runs a binary that takes --host and --port and finds PostgreSQL by
// DATABASE_URL, and waits until its /health says 200. The world stops it.
func (w *world) start(ctx context.Context, name, binary string, env ...string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{name: name, addr: net.JoinHostPort("127.0.0.1", port), log: filepath.Join(w.dir, name+".log"), db: w.db, postgres: w.pg.Pid()}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.Command(binary, "--host", "127.0.0.1", "--port", port)
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "DATABASE_URL=" + w.pg.URL("postgres"),
		"FILE_BUFFER_DIR=" + filepath.Join(w.dir, name+"-buffers")}, append(env, w.env...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	w.fleet.servers = append(w.fleet.servers, s)
	if err := s.ready(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w; it wrote: %s", name, err, s.lastWords())
	}
	return s, nil
}

// freePort finds a port that nothing listens on. Another process can take it
// before the server does, which then says so and fails to start.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// pid is 0 when there is no process, or nobody knows which.
func (s *server) pid() int {
	if s.cmd == nil {
		return s.process
	}
	return s.cmd.Process.Pid
}

// target is where the generator sends its requests.
func (s *server) target() load.Target {
	return load.Target{Addr: s.addr, Host: s.host, Prefix: s.prefix}
}

// ready polls /health.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyMax)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := s.get(ctx, "/health"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errNotReady
		case <-tick.C:
		}
	}
}

// get fetches a path, each time on a connection of its own: no idle connection of
// ours is left on the server while it is measured.
func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, "http://"+s.addr+s.prefix+path)
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != 200 {
		err = fmt.Errorf("%s answered %s", url, response.Status)
	}
	return body, err
}

// counts are what a server says of itself.
type counts struct {
	mallocs          float64 // objects allocated since it started
	batches, batched float64 // batches of pushes, and the messages in them
}

// counts reads the server's metrics. The baseline knows no batches.
func (s *server) counts(ctx context.Context) (c counts, err error) {
	text, err := s.get(ctx, "/metrics/prometheus")
	if err != nil {
		return c, err
	}
	c.batches, _ = metric(text, `queend_batch_messages_count{lane="push"}`)
	c.batched, _ = metric(text, `queend_batch_messages_sum{lane="push"}`)
	if s.profiles == "" {
		c.mallocs, err = metric(text, "go_memstats_mallocs_total")
		return c, err
	}
	// The metrics are some thousand objects behind, which a short measurement would take for
	// its own: what each processor has allocated is added up when a cache of its own is used
	// up. Where the profiles are, it is added up first.
	if text, err = get(ctx, "http://"+s.profiles+"/debug/pprof/allocs?debug=1"); err == nil {
		c.mallocs, err = metric(text, "# Mallocs =")
	}
	return c, err
}

// startQueend starts a queend that serves its profiles.
func (w *world) startQueend(ctx context.Context, name, binary string, env ...string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	profiles := net.JoinHostPort("127.0.0.1", port)
	s, err := w.start(ctx, name, binary, append(env, "QUEEND_PPROF="+profiles)...)
	if err == nil {
		s.profiles = profiles
	}
	return s, err
}

// countsIfAny is counts where they can be had.
func (s *server) countsIfAny(ctx context.Context) (c counts, err error) {
	if _, lacks := s.lacks[lackAllocations]; lacks {
		return c, nil
	}
	return s.counts(ctx)
}

// sample is what the process, or where it is not ours its tree, has used.
func (s *server) sample() (proc.Sample, error) {
	switch {
	case s.pid() == 0:
		return proc.Sample{}, nil
	case s.foreign:
		return proc.Tree(s.pid())
	}
	return proc.Process(s.pid())
}

// postgresCPU is what PostgreSQL has used, all its processes together.
func (s *server) postgresCPU() (time.Duration, error) {
	if s.postgres == 0 {
		return 0, nil
	}
	return proc.TreeCPU(s.postgres)
}

// The names of figures that a server may lack.
const (
	lackAllocations = "allocations_per_message"
	lackPostgres    = "postgres_cpu_us_per_message"
	lackWAL         = "wal_bytes_per_message"
)

var lackProcess = []string{"server_cpu_us_per_message", "voluntary_switches_per_message", "involuntary_switches_per_message", "syscalls_per_message", "server_rss_bytes"}

// lack notes that figures cannot be measured.
func (s *server) lack(why string, figures ...string) {
	if s.lacks == nil {
		s.lacks = reasons{}
	}
	for _, figure := range figures {
		s.lacks[figure] = why
	}
}

// metric reads one sample from Prometheus' text format; its labels are part of the name.
func metric(text []byte, name string) (float64, error) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
		}
	}
	return 0, fmt.Errorf("the metrics do not have %s", name)
}

// stop asks the server to end and waits for it; it is killed when it does not.
func (s *server) stop() error {
	if s.cmd.ProcessState != nil {
		return nil
	}
	s.pause(false)
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%s ended badly: %w; it wrote: %s", s.name, err, s.lastWords())
		}
		return nil
	case <-time.After(stopMax):
		_ = s.cmd.Process.Kill()
		<-ended
		return fmt.Errorf("%s did not end within %v of SIGTERM and was killed", s.name, stopMax)
	}
}

// lastWords is the end of the server's log.
func (s *server) lastWords() string {
	const bytesMax = 1000
	log, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-bytesMax):])
}
