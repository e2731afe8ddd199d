package asyncdb

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/queend/queend/pkg/loop"
	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/queue"
	"github.com/queend/queend/pkg/schema"
)

// guard is only there so that a test that hangs ends; nothing is expected to take so
// long.
const guard = 2 * time.Minute

// patience is a deadline for pushes that no machine is slow enough to meet.
const patience = 10 * time.Minute

// stage is stores on real loops with a real PostgreSQL behind them.
type stage struct {
	t      *testing.T
	loops  *loop.Server
	db     *Database
	stores []*Store
	log    logBuffer
	within time.Duration // the deadline of each push
	queue  queue.Config
	named  atomic.Int64
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newStage starts loops and stores, and stops them at the end of the test, when no
// goroutine may be left.
func newStage(t *testing.T, connString string, loops int, change ...func(*Config)) *stage {
	t.Helper()
	leftBefore := goleak.IgnoreCurrent()
	s := &stage{t: t}
	c := Config{ConnString: connString, FailoverTimeout: patience, ConnectTimeout: guard, Log: zerolog.New(&s.log).Level(zerolog.InfoLevel)}
	for _, f := range change {
		f(&c)
	}
	s.within = c.FailoverTimeout
	var err error
	if s.db, err = Open(c); err != nil {
		t.Fatal(err)
	}
	if s.loops, err = loop.New(loop.Options{Loops: loops, Handler: func(*loop.Exchange) {}, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.loops.Loops() {
		hints := queue.NewHints(0, 0)
		s.stores = append(s.stores, s.db.Store(Services{
			Attach: l.Attach, Post: l.Post, Defer: l.Defer, Now: l.Now,
			After: func(d time.Duration, f func()) { l.After(d, f) },
		}, Work{NewBatch: func() Batch { return queue.NewBatch(&s.queue, hints) }, Prepare: s.queue.Prepared(), Follow: true, Early: s.queue.PreparedEarly()}))
	}
	if err := s.loops.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), guard)
		defer cancel()
		for _, store := range s.stores {
			if err := store.Close(ctx); err != nil {
				t.Errorf("a store does not close: %v", err)
			}
		}
		if err := s.loops.Shutdown(ctx); err != nil {
			t.Errorf("the loops do not stop: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", s.log.String())
		}
		postgrestest.NoGoroutines(t, leftBefore,
			goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
			goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
			goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"))
	})
	return s
}

// pusher is one client: it knows a loop and gives ids.
type pusher struct {
	s     *stage
	store *Store
	loop  *loop.Loop
	ids   *queue.IDs
}

func (s *stage) pusher(i int) *pusher {
	i %= len(s.stores)
	return &pusher{s, s.stores[i], s.loops.Loops()[i], queue.NewIDs(func() int64 { return time.Now().UnixMilli() })}
}

// push pushes items and waits for the answer.
func (p *pusher) push(items ...string) *call {
	done := p.start(items...)
	select {
	case c := <-done:
		return c
	case <-time.After(guard):
		panic("a push was never answered")
	}
}

// start pushes items; the call is sent when it is answered.
func (p *pusher) start(items ...string) chan *call {
	c := newCall(p.s.t, &p.s.queue, p.ids, items...)
	done := make(chan *call, 1)
	c.told = func() { done <- c }
	p.loop.Post(func() {
		now := p.loop.Now()
		c.op.Accepted, c.op.Deadline = now, now+p.s.within
		p.store.Do(&c.op)
	})
	return done
}

// until waits until f says yes.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(guard); !f(); {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// well waits until every store is connected, and sick until one is known not to be.
func (s *stage) well() {
	s.t.Helper()
	until(s.t, "every store is connected", func() bool { return s.db.Health().OK() })
}

func (s *stage) sick(sqlstate string) {
	s.t.Helper()
	until(s.t, "PostgreSQL counts as away, SQLSTATE "+sqlstate, func() bool {
		h := s.db.Health()
		return !h.OK() && h.LastError != "" && (sqlstate == "" || h.SQLState == sqlstate)
	})
}

// sum adds up a counter over all stores.
func (s *stage) sum(f func(*Stats) *atomic.Uint64) (n uint64) {
	for _, store := range s.stores {
		n += f(store.Stats()).Load()
	}
	return n
}

// crowd is clients that push one message after another, each until it is stored.
type crowd struct {
	s     *stage
	stop  chan struct{}
	wait  sync.WaitGroup
	mu    sync.Mutex
	heard map[string]queue.UUID // by transaction id: the message id that its client heard
	says  map[string]int        // how often which answer was heard
	done  atomic.Int64
}

func (s *stage) crowd(clients int) *crowd {
	c := &crowd{s: s, stop: make(chan struct{}), heard: make(map[string]queue.UUID), says: make(map[string]int)}
	for i := range clients {
		c.wait.Add(1)
		go c.client(i)
	}
	return c
}

func (c *crowd) client(number int) {
	defer c.wait.Done()
	p := c.s.pusher(number)
	for i := 0; ; i++ {
		select {
		case <-c.stop:
			return
		default:
		}
		transaction := fmt.Sprintf("%d-%d-%d", c.s.named.Add(1), number, i)
		for end := time.Now().Add(guard); ; {
			call := p.push("crowd/" + strconv.Itoa(i%7) + "/" + transaction)
			outcome := call.outcome()
			c.mu.Lock()
			c.says[outcome]++
			if outcome == "queued" || outcome == "duplicate" {
				c.heard[transaction] = call.op.Items[0].WinnerID
			}
			c.mu.Unlock()
			if outcome == "queued" || outcome == "duplicate" {
				c.done.Add(1)
				break
			}
			if time.Now().After(end) {
				c.s.t.Errorf("the push of %s never succeeds: %s", transaction, outcome)
				return
			}
			time.Sleep(5 * time.Millisecond) // as a client that was told to try again
		}
	}
}

// more waits until the clients have stored n further messages.
func (c *crowd) more(n int) {
	c.s.t.Helper()
	target := c.done.Load() + int64(n)
	until(c.s.t, fmt.Sprintf("%d more messages are stored", n), func() bool { return c.done.Load() >= target })
}

// end stops the clients, when each has stored what it was at.
func (c *crowd) end() {
	close(c.stop)
	c.wait.Wait()
}

// check compares what the clients heard with what is stored: each message once, with
// the id that its client heard. Messages whose transaction id begins with "while" are not
// the crowd's: they were pushed while PostgreSQL was away, and may be there once.
func (c *crowd) check(connString string) {
	c.s.t.Helper()
	stored := storedMessages(c.s.t, connString)
	for transaction, id := range c.heard {
		ids := stored[transaction]
		switch {
		case len(ids) == 0:
			c.s.t.Errorf("message %s is lost", transaction)
		case len(ids) > 1:
			c.s.t.Errorf("message %s is stored %d times", transaction, len(ids))
		case ids[0] != uuidText(id):
			c.s.t.Errorf("message %s is %s, and its client heard %x", transaction, ids[0], id)
		}
	}
	for transaction, ids := range stored {
		if strings.HasPrefix(transaction, "while") {
			if delete(stored, transaction); len(ids) > 1 {
				c.s.t.Errorf("message %s is stored %d times", transaction, len(ids))
			}
		}
	}
	if len(stored) != len(c.heard) {
		c.s.t.Errorf("%d messages are stored, the clients know of %d", len(stored), len(c.heard))
	}
}

func uuidText(u queue.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// storedMessages returns the ids of all messages by transaction id.
func storedMessages(t *testing.T, connString string) map[string][]string {
	t.Helper()
	stored := make(map[string][]string)
	for _, row := range ask(t, connString, "SELECT transaction_id, id::text FROM queen.messages") {
		stored[string(row[0])] = append(stored[string(row[0])], string(row[1]))
	}
	return stored
}

// ask runs SQL on a connection of its own, and returns the last statement's rows. It
// tries again while the server cannot be reached: that is not what is tested here.
func ask(t *testing.T, connString, sql string) (rows [][][]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	for {
		conn, err := pgconn.Connect(ctx, connString)
		if err != nil {
			if ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			t.Fatal(err)
		}
		results, err := conn.Exec(ctx, sql).ReadAll()
		conn.Close(ctx)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if len(results) > 0 {
			rows = results[len(results)-1].Rows
		}
		return rows
	}
}

// migrate gives a database queend's tables.
func migrate(t *testing.T, connString string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	config, err := pgconn.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(ctx, config, func(schema.Progress) {}); err != nil {
		t.Fatal(err)
	}
	return connString
}

// connect makes a connection of the test's own, which its caller closes.
func connect(t *testing.T, connString string) *pgconn.PgConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	conn, err := pgconn.Connect(ctx, connString)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// connString gives the name of a connection string's database too.
func connString(t *testing.T, given string) (string, string) {
	t.Helper()
	config, err := pgconn.ParseConfig(given)
	if err != nil {
		t.Fatal(err)
	}
	return given, config.Database
}

func newLog(l *logBuffer) zerolog.Logger { return zerolog.New(l) }
