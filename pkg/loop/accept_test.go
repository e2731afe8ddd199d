package loop

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

func TestClientsAboveTheBoundHear503(t *testing.T) {
	b := newBench(t, Options{ConnsMax: 3, Header: "Access-Control-Allow-Origin: *\r\n"})
	var in []*client
	for range 3 {
		c := b.dial()
		c.send(get("/a"))
		c.hears(200, "/a")
		in = append(in, c)
	}
	for range 5 {
		c := b.dial()
		c.send(get("/a")) // it is not read, and the answer comes all the same
		r := c.hears(503, "")
		for _, name := range []string{"Retry-After", "Date", "X-Request-Id", "X-Content-Type-Options", "Access-Control-Allow-Origin"} {
			if r.Header.Get(name) == "" {
				t.Fatal(name, "is missing:", r.Header)
			}
		}
		if !r.Close {
			t.Fatal("no Connection: close")
		}
		c.hearsEnd()
	}
	_ = in[0].Close()
	eventually(t, "there is room", func() bool { return b.Stats().ConnsOpen == 2 })
	c := b.dial()
	c.send(get("/b"))
	c.hears(200, "/b")
	if s := b.Stats(); s.ConnsTurned != 5 || s.ConnsAccepted != 9 || s.ConnsOpen != 3 {
		t.Fatalf("%+v", s)
	}
}

func TestConnectionsAreDealtOutInTurn(t *testing.T) {
	b := newBench(t, Options{Loops: 3})
	for range 9 {
		c := b.dial()
		c.send(get("/a"))
		c.hears(200, "/a")
	}
	for _, l := range b.Loops() {
		on(t, l, func() {
			if len(l.conns) != 3 {
				t.Error(l.Index(), "has", len(l.conns))
			}
		})
	}
}

// A client that vanishes without a word is found by the kernel.
func TestAcceptedConnectionsAreProbed(t *testing.T) {
	b := newBench(t, Options{WriteTimeout: 7 * time.Second})
	c := b.dial()
	c.send(get("/hold"))
	x := b.take()
	on(t, x.Loop(), func() {
		f := func(level, name, want int) {
			t.Helper()
			if got, err := unix.GetsockoptInt(x.conn.fd, level, name); err != nil || got != want {
				t.Error(name, "is", got, err)
			}
		}
		f(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		f(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 12)
		f(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 4)
		f(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4)
		f(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 8_000)
		f(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, kernelBytesMax)
		f(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	})
	b.reply(x, 200, "")
}

// Tests that need a process of their own run this binary again: TestMain calls the
// function named in the environment. It is talked to in lines.

const childEnv = "QUEEND_LOOP_TEST_CHILD"

var children = map[string]func(){"few files": fewFiles}

type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	log   *journal
}

func startChild(t *testing.T, role string, env ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"="+role), env...)
	c := &child{t: t, cmd: cmd, lines: make(chan string, 100), log: new(journal)}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in, cmd.Stderr = in, c.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = c.in.Close() // the child ends
		for range c.lines {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the child ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the child's log:\n%s", c.log)
		}
	})
	return c
}

func (c *child) ask(line string) string {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
	return receive(c.t, c.lines)
}

// fewFiles is a server in a process that may have few descriptors (FILES). Asked to
// "hog" it opens files until there are only LEFT left, "free" closes them again, "stats"
// tells what the server has counted.
func fewFiles() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var files uint64
	var left int
	_, err := fmt.Sscan(os.Getenv("FILES"), &files)
	check(err)
	_, err = fmt.Sscan(os.Getenv("LEFT"), &left)
	check(err)
	check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}))
	s, err := New(Options{Loops: 2, Log: zerolog.New(os.Stderr), Handler: func(x *Exchange) { x.Reply(200, nil, []byte("ok"), false) }})
	check(err)
	check(s.Listen("127.0.0.1:0"))
	check(s.Start())
	// PostgreSQL's socket, as it were: it must not suffer.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	check(err)
	file := os.NewFile(uintptr(pair[0]), "")
	nc, err := net.FileConn(file)
	check(err)
	check(file.Close())
	echoed := make(chan struct{}, 1)
	s.Loops()[0].Attach(nc, func(func([]byte) error, func()) {}, func([]byte) { echoed <- struct{}{} }, func(error) {})

	var hogs []int
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		switch commands.Text() {
		case "address":
			fmt.Println(s.Addr())
		case "hog":
			for {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					break
				}
				hogs = append(hogs, fd)
			}
			for range left {
				check(unix.Close(hogs[len(hogs)-1]))
				hogs = hogs[:len(hogs)-1]
			}
			fmt.Println(len(hogs))
		case "free":
			for _, fd := range hogs {
				check(unix.Close(fd))
			}
			hogs = nil
			fmt.Println("freed")
		case "guest":
			_, err := unix.Write(pair[1], []byte("x"))
			check(err)
			<-echoed
			fmt.Println("alive")
		case "stats":
			j, err := json.Marshal(s.Stats())
			check(err)
			fmt.Println(string(j))
		}
	}
	check(s.Shutdown(context.Background()))
}

func (c *child) stats() (s Stats) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.ask("stats")), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// dial connects to the child's server.
func (c *child) dial(address string) *client {
	c.t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &client{nc.(*net.TCPConn), c.t, bufio.NewReader(nc)}
}

// gnet's own acceptor ends the process here.
func TestRunningOutOfDescriptorsIsSurvived(t *testing.T) {
	c := startChild(t, "few files", "FILES=100", "LEFT=6")
	address := c.ask("address")
	first := c.dial(address)
	first.send(get("/"))
	first.hears(200, "ok")
	c.ask("hog")
	var clients []*client
	for range 20 { // the kernel takes them, the server cannot
		k := c.dial(address)
		k.send(get("/"))
		clients = append(clients, k)
	}
	eventually(t, "accept fails", func() bool { return c.stats().AcceptErrors > 0 })
	first.send(get("/")) // who is in is served
	first.hears(200, "ok")
	if got := c.ask("guest"); got != "alive" {
		t.Fatal(got)
	}
	c.ask("free")
	served, cut := 0, 0
	for _, k := range clients {
		// One that was accepted but could not be enrolled was closed.
		if rest, err := io.ReadAll(io.LimitReader(k.r, 12)); err == nil && string(rest) == "HTTP/1.1 200" {
			served++
		} else {
			cut++
		}
	}
	t.Logf("%d served, %d closed", served, cut)
	if served < 10 {
		t.Fatal("served only", served)
	}
	eventually(t, "the log says that it is over", func() bool { return c.log.count("clients are accepted again") > 0 })
	if n := c.log.count("\n"); n > 20 { // an outage is two lines, and this is one or a few
		t.Fatal(n, "lines about an outage")
	}
}

// The limit leaves room for what is not a client.
func TestAProcessWithFewDescriptorsTakesFewerClients(t *testing.T) {
	c := startChild(t, "few files", "FILES=64", "LEFT=0")
	address := c.ask("address")
	var in, out []*client
	for range 100 {
		k := c.dial(address)
		k.send(get("/"))
		if r, _ := k.answer(); r.StatusCode == 200 {
			in = append(in, k)
		} else if r.StatusCode == 503 && r.Header.Get("Retry-After") != "" {
			out = append(out, k)
			_ = k.Close()
		} else {
			t.Fatal(r)
		}
	}
	if len(in) != 32 || len(out) != 68 {
		t.Fatal(len(in), "in,", len(out), "out")
	}
	if got := c.ask("guest"); got != "alive" {
		t.Fatal(got)
	}
	if s := c.stats(); s.AcceptErrors != 0 || s.ConnsOpen != 32 {
		t.Fatalf("%+v", s)
	}
	for _, k := range in {
		_ = k.Close()
	}
	eventually(t, "all have gone", func() bool { return c.stats().ConnsOpen == 0 })
	k := c.dial(address)
	k.send(get("/"))
	k.hears(200, "ok")
	if strings.Contains(c.log.String(), `"level":"error"`) {
		t.Fatal("something went wrong")
	}
}
