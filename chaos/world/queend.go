package world

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Queend is one queend that is started, killed, paused and started again. Its address
// changes with each start. Methods may be called from any goroutine.
type Queend struct {
	Name   string
	Limit  int    // of descriptors; 0: as many as we may have
	Buffer string // the directory of its file buffer; all lives have the same one
	Binary string
	env    []string
	log    string // path

	mu    sync.Mutex
	run   *run
	lives int
}

// run is one life.
type run struct {
	cmd     *exec.Cmd
	address string
	ready   chan struct{} // it said so
	done    chan struct{} // it has ended
	err     error         // how, once done is closed
}

// Queend prepares one; it logs to a file in dir. env are settings, NAME=value. It has a
// buffer directory of its own, which is there until the world ends or somebody removes it.
func (w *World) Queend(name, dir string, env ...string) (*Queend, error) {
	buffer, err := os.MkdirTemp(w.Dir, "buffer-"+name+"-")
	if err != nil {
		return nil, err
	}
	base := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "HOST=127.0.0.1", "PORT=0", "NUM_WORKERS=2", "QUEEN_LEGACY_POOL_SIZE=4", "WORKER_ID=" + name}
	return &Queend{Name: name, Binary: w.Binary, Buffer: buffer, env: append(base, env...), log: filepath.Join(dir, name+".log")}, nil
}

// command is the process of one life.
func (q *Queend) command() *exec.Cmd {
	cmd := exec.Command(q.Binary)
	if q.Limit > 0 {
		cmd = exec.Command("/bin/sh", "-c", `ulimit -n "$0" && exec "$1"`, fmt.Sprint(q.Limit), q.Binary)
	}
	cmd.Env = append(q.env[:len(q.env):len(q.env)], "FILE_BUFFER_DIR="+q.Buffer)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Launch starts it and waits until it listens.
func (q *Queend) Launch() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	file, err := os.OpenFile(q.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := q.command()
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start queend: %w", err)
	}
	q.lives++
	fmt.Fprintf(file, "# life %d, pid %d\n", q.lives, cmd.Process.Pid)
	r := &run{cmd: cmd, ready: make(chan struct{}), done: make(chan struct{})}
	listening := make(chan string, 1)
	go r.read(out, file, listening)
	select {
	case r.address = <-listening:
		q.run = r
		return nil
	case <-r.done:
		return fmt.Errorf("%s ended before it listened: %w", q.Name, errors.Join(r.err, errors.New(q.tail())))
	case <-time.After(Hang):
		_ = cmd.Process.Kill()
		return fmt.Errorf("%s does not listen", q.Name)
	}
}

// read keeps the log and waits for the end.
func (r *run) read(out io.Reader, file *os.File, listening chan<- string) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	ready := false
	for lines.Scan() {
		_, _ = file.Write(append(lines.Bytes(), '\n'))
		var entry struct{ Message, Address string }
		if json.Unmarshal(lines.Bytes(), &entry) != nil {
			continue
		}
		switch {
		case entry.Message == "listening":
			select {
			case listening <- entry.Address:
			default: // it says so twice
			}
		case !ready && (strings.HasPrefix(entry.Message, "ready") || strings.HasPrefix(entry.Message, "listening without PostgreSQL")):
			ready = true
			close(r.ready)
		}
	}
	_, _ = io.Copy(file, out) // a line that is too long
	r.err = r.cmd.Wait()
	fmt.Fprintf(file, "# ended: %v\n", r.cmd.ProcessState)
	_ = file.Close()
	close(r.done)
}

func (q *Queend) tail() string {
	text, _ := os.ReadFile(q.log)
	return string(text[max(0, len(text)-2000):])
}

// Logged is how often its logs, of all lives, hold a text.
func (q *Queend) Logged(text string) int {
	all, _ := os.ReadFile(q.log)
	return strings.Count(string(all), text)
}

// Text is its logs, of all lives.
func (q *Queend) Text() string {
	all, _ := os.ReadFile(q.log)
	return string(all)
}

// Ready waits until it has said that it is: pushes are stored, or buffered.
func (q *Queend) Ready(ctx context.Context) error {
	r := q.current()
	if r == nil {
		return errors.New(q.Name + " does not run")
	}
	select {
	case <-r.ready:
		return nil
	case <-r.done:
		return fmt.Errorf("%s ended: %w: %s", q.Name, r.err, q.tail())
	case <-ctx.Done():
		return fmt.Errorf("%s is not ready: %w", q.Name, ctx.Err())
	}
}

func (q *Queend) current() *run {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.run
}

// ErrAway is what Dial says while no life of it runs: nothing was sent.
var ErrAway = errors.New("queend does not run")

// Dial connects to it.
func (q *Queend) Dial() (net.Conn, error) {
	r := q.current()
	if r == nil {
		return nil, ErrAway
	}
	return net.DialTimeout("tcp", r.address, 5*time.Second)
}

// Pid is its process, 0: none.
func (q *Queend) Pid() int {
	if r := q.current(); r != nil {
		return r.cmd.Process.Pid
	}
	return 0
}

// Signal sends a signal.
func (q *Queend) Signal(sig syscall.Signal) error {
	r := q.current()
	if r == nil {
		return errors.New(q.Name + " does not run")
	}
	return r.cmd.Process.Signal(sig)
}

// Kill ends it with SIGKILL and waits for that.
func (q *Queend) Kill() {
	q.mu.Lock()
	r := q.run
	q.run = nil
	q.mu.Unlock()
	if r == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	<-r.done
}

// End is how a life ended.
type End struct {
	Status int // -1: by a signal
	Took   time.Duration
	Text   string // the end of the log
}

// Terminate sends SIGTERM, and again after each of the pauses, and waits for the end. An
// error says that it did not end.
func (q *Queend) Terminate(pauses ...time.Duration) (End, error) {
	q.mu.Lock()
	r := q.run
	q.run = nil
	q.mu.Unlock()
	if r == nil {
		return End{}, errors.New(q.Name + " does not run")
	}
	began := time.Now()
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	for _, pause := range pauses {
		select {
		case <-r.done:
		case <-time.After(pause):
			began = time.Now()
			_ = r.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	select {
	case <-r.done:
		return End{r.cmd.ProcessState.ExitCode(), time.Since(began), q.tail()}, nil
	case <-time.After(Hang):
		_ = r.cmd.Process.Kill()
		<-r.done
		return End{Text: q.tail()}, fmt.Errorf("%s did not stop: %s", q.Name, q.tail())
	}
}

// RunToEnd runs a life that is meant to end by itself. An error says that it did not.
func (q *Queend) RunToEnd(most time.Duration) (End, error) {
	cmd := q.command()
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return End{}, fmt.Errorf("cannot start queend: %w", err)
	}
	timer := time.AfterFunc(most, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	inTime := timer.Stop()
	end := End{cmd.ProcessState.ExitCode(), time.Since(began), text.String()}
	if !inTime {
		return end, fmt.Errorf("%s still ran after %v: %s", q.Name, most, end.Text)
	}
	return end, nil
}

// Stop ends it with SIGTERM. An error says that it did not end well.
func (q *Queend) Stop() error {
	q.mu.Lock()
	r := q.run
	q.run = nil
	q.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-r.done:
		return fmt.Errorf("%s had ended by itself: %v: %s", q.Name, r.err, q.tail())
	default:
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.done:
		if r.err != nil {
			return fmt.Errorf("%s did not stop well: %v: %s", q.Name, r.err, q.tail())
		}
		return nil
	case <-time.After(Hang):
		_ = r.cmd.Process.Kill()
		<-r.done
		return fmt.Errorf("%s did not stop", q.Name)
	}
}

// Ended says that it ended by itself.
func (q *Queend) Ended() error {
	r := q.current()
	if r == nil {
		return nil
	}
	select {
	case <-r.done:
		return fmt.Errorf("%s has ended by itself: %v: %s", q.Name, r.err, q.tail())
	default:
		return nil
	}
}
