package pooldb

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/queue"
	"github.com/queend/queend/pkg/schema"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// neverHangs bounds what a test waits for. It is not a measurement.
const neverHangs = time.Minute

// caller stands for a loop: what is posted runs on one goroutine, in order.
type caller struct {
	t     *testing.T
	tasks chan func()
	ids   *queue.IDs
}

func newCaller(t *testing.T) *caller {
	return &caller{t: t, tasks: make(chan func(), 1000), ids: queue.NewIDs(func() int64 { return time.Now().UnixMilli() })}
}

func (c *caller) post(f func()) { c.tasks <- f }

type waiter struct{ done chan *queue.Op }

func (w waiter) OpDone(op *queue.Op) { w.done <- op }

var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }

// push sends a body and returns its answer, or its fault's sentence.
func (c *caller) push(store queue.Store, body string, within time.Duration) (string, queue.Code) {
	c.t.Helper()
	op := &queue.Op{}
	if fault := queue.Decode(op, []byte(body), &queue.Config{}, c.ids); fault.Code != queue.OK {
		c.t.Fatal(fault.Message)
	}
	w := waiter{make(chan *queue.Op, 1)}
	op.Accepted, op.Deadline, op.Done = now(), now()+within, w
	store.Do(op)
	for {
		select {
		case task := <-c.tasks:
			task()
		case <-w.done:
			if op.Fault.Code != queue.OK {
				return op.Fault.Message, op.Fault.Code
			}
			return string(queue.AppendPushAnswer(nil, op)), queue.OK
		case <-time.After(neverHangs):
			c.t.Fatal("no answer")
		}
	}
}

func migrate(t *testing.T, connString string) {
	t.Helper()
	config, err := pgconn.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(context.Background(), config, nil); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, connString string, change func(*Options)) *Pool {
	t.Helper()
	conn, err := pgconn.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Conn: conn, Workers: 8, Now: now,
		NewBatch: func() *queue.Batch { return queue.NewBatch(&queue.Config{}, queue.NewHints(0, 0)) },
	}
	if change != nil {
		change(&o)
	}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func count(t *testing.T, connString, where string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), connString)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM queen.messages WHERE "+where).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAPushIsStoredAndItsDuplicateIsNot(t *testing.T) {
	db := postgrestest.Database(t)
	migrate(t, db)
	store, c := open(t, db, nil), newCaller(t)
	s := store.Store(c.post)
	first, _ := c.push(s, `{"items":[{"queue":"q","transactionId":"a","payload":{"n": 1}}]}`, neverHangs)
	again, _ := c.push(s, `{"items":[{"queue":"q","transactionId":"a"},{"queue":"q","transactionId":"b"}]}`, neverHangs)
	if !strings.Contains(first, `"status":"queued"`) || strings.Count(again, `"status":"duplicate"`) != 1 || strings.Count(again, `"status":"queued"`) != 1 {
		t.Errorf("first %s\nagain %s", first, again)
	}
	if n := count(t, db, `payload::text = '{"n": 1}'`); n != 1 {
		t.Errorf("%d rows hold the payload as sent", n)
	}
	if n := count(t, db, `true`); n != 2 {
		t.Errorf("%d rows", n)
	}
}

func TestEightLoopsPushOneTransactionAndOneWins(t *testing.T) {
	db := postgrestest.Database(t)
	migrate(t, db)
	pool := open(t, db, nil)
	answers := make([]string, 8)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			c := newCaller(t)
			answers[i], _ = c.push(pool.Store(c.post), `{"items":[{"queue":"q","transactionId":"race"}]}`, neverHangs)
		})
	}
	all.Wait()
	winners := map[string]bool{}
	queued := 0
	for _, a := range answers {
		queued += strings.Count(a, `"status":"queued"`)
		_, rest, _ := strings.Cut(a, `"message_id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		winners[id] = true
	}
	if queued != 1 || len(winners) != 1 || count(t, db, "true") != 1 {
		t.Errorf("%d queued, %d ids, answers %q", queued, len(winners), answers)
	}
}

func TestAnAbsentPostgreSQLIsAnOutageByTheDeadline(t *testing.T) {
	pool := open(t, "host=127.0.0.1 port=1 user=nobody dbname=none sslmode=disable", nil)
	c := newCaller(t)
	if sentence, code := c.push(pool.Store(c.post), `{"items":[{"queue":"q"}]}`, 200*time.Millisecond); code != queue.Outage {
		t.Errorf("code %d: %s", code, sentence)
	}
}

// A process that stood still finds the commit's answer and the end of the push's time together.
func TestAPushThatIsStoredIsAnsweredSoAfterItsTimeToo(t *testing.T) {
	db := postgrestest.Database(t)
	migrate(t, db)
	var pool *Pool
	over := false
	pool = open(t, db, func(o *Options) {
		o.Now = func() time.Duration {
			if !over && count(t, db, "true") > 0 { // its commit was answered
				over = true
				pool.stop() // as the end of its time does
			}
			return now()
		}
	})
	c := newCaller(t)
	if answer, code := c.push(pool.Store(c.post), `{"items":[{"queue":"q","transactionId":"a"}]}`, neverHangs); code != queue.OK || !strings.Contains(answer, `"queued"`) || !over {
		t.Errorf("code %d: %s", code, answer)
	}
}

// The server has the push, and the time is over before it answers.
func TestAPushThatMayBeStoredIsNotSaidToHaveFailed(t *testing.T) {
	db := postgrestest.Database(t)
	migrate(t, db)
	pool, c := open(t, db, nil), newCaller(t)
	ctx := context.Background()
	locker, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close(ctx)
	if _, err := locker.Exec(ctx, "BEGIN; LOCK queen.messages IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer pool.stop() // as the end of its time does
		for end := now() + neverHangs; now() < end; time.Sleep(5 * time.Millisecond) {
			waits := false
			if err := locker.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'queen.messages'::regclass)").Scan(&waits); err != nil || waits {
				return
			}
		}
	}()
	answer, code := c.push(pool.Store(c.post), `{"items":[{"queue":"q"}]}`, neverHangs)
	if code == queue.OK || !strings.Contains(answer, "may have been stored") {
		t.Errorf("code %d: %s", code, answer)
	}
}

// A server that is stopped may have committed before it says so.
func TestAPushWhoseServerEndsMayBeStored(t *testing.T) {
	db := postgrestest.Database(t)
	migrate(t, db)
	execute(t, db, `CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON queen.messages DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()`)
	var pool *Pool
	dials := 0
	pool = open(t, db, func(o *Options) {
		o.Workers = 1
		dial := o.Conn.DialFunc
		o.Conn.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials++; dials == 2 {
				pool.stop() // as the end of its time does
			}
			return dial(ctx, network, address)
		}
	})
	c := newCaller(t)
	answer, code := c.push(pool.Store(c.post), `{"items":[{"queue":"q"}]}`, neverHangs)
	if code == queue.OK || !strings.Contains(answer, "may have been stored") {
		t.Errorf("code %d: %s", code, answer)
	}
}

func TestPushesAreDurableWhateverTheServerSays(t *testing.T) {
	db := postgrestest.Database(t)
	migrate(t, db)
	execute(t, db, `CREATE TABLE seen (at serial, setting text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen (setting) VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER see AFTER INSERT ON queen.messages DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see()`)
	ctx := context.Background()
	f := func(server, within, want string) {
		t.Helper()
		execute(t, db, `TRUNCATE seen; DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit TO `+server+`', current_database()); END $$`)
		pool, c := open(t, db, func(o *Options) { o.Workers = 1 }), newCaller(t)
		run := func(sql string) (text string) {
			t.Helper()
			if err := pool.db.QueryRow(ctx, sql).Scan(&text); err != nil {
				t.Fatal(err)
			}
			return text
		}
		if source := run(`SELECT source FROM pg_settings WHERE name = 'synchronous_commit'`); source != "session" {
			t.Errorf("%s: a reload changes it, its source is %s", server, source)
		}
		for range 2 {
			if answer, code := c.push(pool.Store(c.post), `{"items":[{"queue":"q"}]}`, neverHangs); code != queue.OK {
				t.Fatal(answer)
			}
			run(within) // another connection of a pooler's, for the push that follows
		}
		if got := run(`SELECT string_agg(setting, ' ' ORDER BY at) FROM seen`); got != want {
			t.Errorf("%s: %s", server, got)
		}
	}
	f("off", `SELECT set_config('synchronous_commit', 'off', false)`, "on on")
	f("local", `SELECT ''`, "local local")
}

// execute runs SQL of a test.
func execute(t *testing.T, connString, sql string) {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), connString)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

func TestAConnectionLostBetweenPushesIsNotNoticed(t *testing.T) {
	db := postgrestest.Database(t)
	migrate(t, db)
	pool := open(t, db, func(o *Options) { o.Workers = 1 })
	c := newCaller(t)
	s := pool.Store(c.post)
	for i := range 3 {
		if answer, code := c.push(s, fmt.Sprintf(`{"items":[{"queue":"q","transactionId":"%d"}]}`, i), neverHangs); code != queue.OK {
			t.Fatal(answer)
		}
		conn, err := pgx.Connect(context.Background(), db)
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close(context.Background())
	}
	if n := count(t, db, "true"); n != 3 {
		t.Errorf("%d rows", n)
	}
}

func TestWhatWaitsForThePoolIsBounded(t *testing.T) {
	f := func(change func(*Options)) {
		t.Helper()
		c := newCaller(t)
		// Nothing listens, so the one worker is busy until its op's deadline.
		pool := open(t, "host=127.0.0.1 port=1 user=nobody dbname=none sslmode=disable", change)
		s := pool.Store(c.post)
		w := waiter{make(chan *queue.Op, 10)}
		for range 4 {
			op := &queue.Op{}
			queue.Decode(op, []byte(`{"items":[{"queue":"q"}]}`), &queue.Config{}, c.ids)
			op.Accepted, op.Deadline, op.Done = now(), now()+time.Second, w
			s.Do(op)
		}
		overloaded := 0
		for range 4 {
			for len(w.done) == 0 {
				select {
				case task := <-c.tasks:
					task()
				case <-time.After(neverHangs):
					t.Fatal("an op was never completed")
				}
			}
			if (<-w.done).Fault.Code == queue.Overloaded {
				overloaded++
			}
		}
		if overloaded == 0 {
			t.Error("nothing was refused")
		}
	}
	f(func(o *Options) { o.Workers, o.WaitingOpsMax = 1, 1 })
	f(func(o *Options) { o.Workers, o.WaitingBytesMax = 1, 1 })
}

func TestAClosedPoolRefuses(t *testing.T) {
	pool := open(t, "host=127.0.0.1 port=1 user=nobody dbname=none sslmode=disable", nil)
	pool.Close()
	c := newCaller(t)
	if _, code := c.push(pool.Store(c.post), `{"items":[{"queue":"q"}]}`, time.Second); code != queue.Unavailable {
		t.Errorf("code %d", code)
	}
}
