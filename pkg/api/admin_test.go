package api

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/admindb"
	"github.com/queend/queend/pkg/pooldb"
	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/queue"
	"github.com/queend/queend/pkg/schema"
)

// neverHangs bounds what a test waits for. It is not a measurement.
const neverHangs = 2 * time.Minute

// adminWorld is a router with a real database behind its administrative routes, and the
// push of the pool to fill it.
type adminWorld struct {
	*world
	t       *testing.T
	db      *pgx.Conn
	config  *queue.Config
	posts   chan func()
	changed []string // what the hook heard
}

func onFresh(t *testing.T) *adminWorld { return newAdminWorld(t, false) }

// onBoth runs a test on a database that queend laid out, and on one that Queen did.
func onBoth(t *testing.T, test func(w *adminWorld)) {
	t.Run("fresh", func(t *testing.T) { test(newAdminWorld(t, false)) })
	t.Run("taken over", func(t *testing.T) { test(newAdminWorld(t, true)) })
}

func newAdminWorld(t *testing.T, queens bool) *adminWorld {
	t.Helper()
	ctx := context.Background()
	conn := migrated(t, queens)
	db, err := pgx.Connect(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(ctx) })
	if _, err := db.Exec(ctx, "SET timezone TO 'UTC'"); err != nil {
		t.Fatal(err)
	}
	sealer, err := queue.NewSealer(strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	w := &adminWorld{world: newWorld(), t: t, db: db, posts: make(chan func(), 1000)}
	w.config = &queue.Config{PayloadJSONB: queens, Sealer: sealer}
	config, err := pgconn.ParseConfig(conn)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["timezone"] = "UTC"
	post := func(f func()) { w.posts <- f }
	start := time.Now()
	pushes, err := pooldb.Open(pooldb.Options{
		Conn: config, Workers: 4, Now: func() time.Duration { return time.Since(start) },
		NewBatch: func() *queue.Batch { return queue.NewBatch(w.config, queue.NewHints(0, 0)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pushes.Close)
	// A session in another zone, as an administrator may have set for his role.
	config.RuntimeParams["timezone"] = "Asia/Kathmandu"
	admin, err := admindb.Open(admindb.Options{Conn: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close(ctx) })
	w.router.Deadline = neverHangs
	w.router.Open(Stores{
		PushLegacy: pushes.Store(post), Config: w.config, IDs: queue.NewIDs(func() int64 { return time.Now().UnixMilli() }),
		Admin: func(within time.Duration, work func(Session), done func()) bool {
			call := func(s *admindb.Session) { work(s); post(done) }
			if within > 0 {
				return admin.DoWithin(within, call)
			}
			return admin.Do(call)
		},
		Changed:    func(name string) { w.changed = append(w.changed, name) },
		AllChanged: func() { w.changed = append(w.changed, "*") },
	})
	return w
}

// layouts are databases to copy: migrated once, empty of ours.
var (
	layouts sync.Map
	copies  atomic.Int64
)

// migrated is a database of the test's own that queend, or Queen, laid out.
func migrated(t *testing.T, queens bool) string {
	t.Helper()
	server, copied := postgrestest.Shared(t), "laid_out_by_queend"
	if queens {
		copied = "laid_out_by_queen"
	}
	root, err := pgconn.Connect(context.Background(), server.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close(context.Background())
	run := func(conn *pgconn.PgConn, statement string) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), statement).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	if _, made := layouts.LoadOrStore(copied, true); !made {
		if err := server.CreateDatabase(context.Background(), copied); err != nil {
			t.Fatal(err)
		}
		config, err := pgconn.ParseConfig(server.ConnString(copied))
		if err != nil {
			t.Fatal(err)
		}
		if queens {
			fixture, err := os.ReadFile("../schema/testdata/queen-0.15.sql")
			if err != nil {
				t.Fatal(err)
			}
			conn, err := pgconn.ConnectConfig(context.Background(), config)
			if err != nil {
				t.Fatal(err)
			}
			run(conn, string(fixture))
			_ = conn.Close(context.Background())
		}
		if _, err := schema.Migrate(context.Background(), config, func(schema.Progress) {}); err != nil {
			t.Fatal(err)
		}
		run(root, "ALTER DATABASE "+copied+" ALLOW_CONNECTIONS false")
	}
	name := fmt.Sprintf("copy_%d", copies.Add(1))
	run(root, "CREATE DATABASE "+name+" TEMPLATE "+copied)
	t.Cleanup(func() {
		conn, err := pgconn.Connect(context.Background(), server.ConnString("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		run(conn, "DROP DATABASE "+name+" WITH (FORCE)")
	})
	return server.ConnString(name)
}

// ask sends a request and waits for its answer.
func (w *adminWorld) ask(method, target, body string) *exchange {
	w.t.Helper()
	x := w.send(w.t, method, target, body)
	for x.replies == 0 {
		w.turn()
	}
	sorted(w.t, x.body)
	return x
}

// turn runs what was posted to the loop.
func (w *adminWorld) turn() {
	w.t.Helper()
	select {
	case f := <-w.posts:
		f()
	case <-time.After(neverHangs):
		w.t.Fatal("no answer")
	}
}

var (
	aUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	aTime = regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`)
)

// plain is an answer with U for every id and T for every time.
func plain(body string) string {
	return aTime.ReplaceAllString(aUUID.ReplaceAllString(body, "U"), "T")
}

// says checks an answer: its status, and its text with ids and times made plain.
func (w *adminWorld) says(method, target, body string, status int, answer string) *exchange {
	w.t.Helper()
	x := w.ask(method, target, body)
	if got := plain(x.body); x.replies != 1 || x.status != status || got != answer {
		w.t.Errorf("%s %s %s\n got %d %s\nwant %d %s", method, target, body, x.status, got, status, answer)
	}
	return x
}

// sorted checks that an answer is JSON whose keys are in the order of their bytes, but
// for what is the client's own.
func sorted(t *testing.T, body string) {
	t.Helper()
	var check func(text json.RawMessage)
	check = func(text json.RawMessage) {
		var elements []json.RawMessage
		if json.Unmarshal(text, &elements) == nil {
			for _, e := range elements {
				check(e)
			}
			return
		}
		var members map[string]json.RawMessage
		if json.Unmarshal(text, &members) != nil {
			return
		}
		d, last := json.NewDecoder(strings.NewReader(string(text))), ""
		_, _ = d.Token()
		for d.More() {
			key, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			var value json.RawMessage
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
			if key.(string) <= last {
				t.Errorf("%q comes after %q in %s", key, last, text)
			}
			if last = key.(string); last != "payload" && last != "message_payload" && last != "data" {
				check(value)
			}
		}
	}
	if !json.Valid([]byte(body)) {
		t.Fatalf("no JSON: %s", body)
	}
	check(json.RawMessage(body))
}

// sql runs a statement and returns its rows, columns parted by |.
func (w *adminWorld) sql(statement string, arguments ...any) []string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), neverHangs)
	defer cancel()
	rows, err := w.db.Query(ctx, statement, append([]any{pgx.QueryExecModeSimpleProtocol}, arguments...)...)
	if err != nil {
		w.t.Fatalf("%s: %v", statement, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var row []string
		for _, v := range rows.RawValues() {
			row = append(row, string(v))
		}
		all = append(all, strings.Join(row, "|"))
	}
	if rows.Err() != nil {
		w.t.Fatalf("%s: %v", statement, rows.Err())
	}
	return all
}

// holds checks what a statement returns.
func (w *adminWorld) holds(statement string, want ...string) {
	w.t.Helper()
	if got := w.sql(statement); fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%s\n got %q\nwant %q", statement, got, want)
	}
}

// one is the one value that a statement returns.
func (w *adminWorld) one(statement string, arguments ...any) string {
	w.t.Helper()
	rows := w.sql(statement, arguments...)
	if len(rows) != 1 {
		w.t.Fatalf("%s: %d rows", statement, len(rows))
	}
	return rows[0]
}

// push stores messages q/p/t, each in a request of its own, with {"t":"…"} as payload.
func (w *adminWorld) push(queue, partition string, transactions ...string) {
	w.t.Helper()
	for _, tx := range transactions {
		body, _ := json.Marshal(map[string]any{"items": []any{map[string]any{
			"queue": queue, "partition": partition, "transactionId": tx, "payload": map[string]string{"t": tx}}}})
		if x := w.ask("POST", "/api/v1/push-legacy", string(body)); x.status != 201 || !strings.Contains(x.body, `"status":"queued"`) {
			w.t.Fatalf("%s: %d %s", body, x.status, x.body)
		}
	}
}

func (w *adminWorld) partition(queue, partition string) string {
	w.t.Helper()
	return w.one(`SELECT p.id FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = $1 AND p.name = $2`, queue, partition)
}

// consume puts a group's cursor at a message, as an ack of it would.
func (w *adminWorld) consume(partition, group, transaction string) {
	w.t.Helper()
	w.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group, last_consumed_id, last_consumed_created_at, last_seq, last_consumed_at)
		SELECT partition_id, $2, id, created_at, seq, now() FROM queen.messages WHERE partition_id = $1 AND transaction_id = $3
		ON CONFLICT (partition_id, consumer_group) DO UPDATE SET last_consumed_id = excluded.last_consumed_id,
			last_consumed_created_at = excluded.last_consumed_created_at, last_seq = excluded.last_seq`, partition, group, transaction)
}

// lease gives a group a lease of a partition, as a pop does.
func (w *adminWorld) lease(partition, group string) {
	w.t.Helper()
	w.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group, lease_expires_at, lease_acquired_at, worker_id, batch_size,
			lease_end_created_at, lease_end_id, lease_end_seq)
		SELECT h.partition_id, $2, now() + interval '1 hour', now(), 'worker', 3, h.last_message_created_at, h.last_message_id, h.seq
		  FROM queen.partition_lookup h WHERE h.partition_id = $1
		ON CONFLICT (partition_id, consumer_group) DO UPDATE SET lease_expires_at = excluded.lease_expires_at, lease_acquired_at = now(),
			worker_id = excluded.worker_id, batch_size = excluded.batch_size, lease_end_created_at = excluded.lease_end_created_at,
			lease_end_id = excluded.lease_end_id, lease_end_seq = excluded.lease_end_seq`, partition, group)
}

// bury writes a dead letter, as an ack does.
func (w *adminWorld) bury(partition, group, transaction string) {
	w.t.Helper()
	w.sql(`INSERT INTO queen.dead_letter_queue (message_id, partition_id, consumer_group, error_message, retry_count, original_created_at,
			transaction_id, trace_id, payload, is_encrypted, producer_sub)
		SELECT id, partition_id, $2, 'dead', 2, created_at, transaction_id, trace_id, payload::text::json, is_encrypted, producer_sub
		FROM queen.messages WHERE partition_id = $1 AND transaction_id = $3`, partition, group, transaction)
}

// dense checks what must hold of the numbers whatever was done: they rise with the order,
// none is given twice, those that are missing are holes, and the head is the newest.
func (w *adminWorld) dense() {
	w.t.Helper()
	w.holds(`SELECT h.partition_id, 'head' FROM queen.partition_lookup h
		LEFT JOIN LATERAL (SELECT id, created_at, seq FROM queen.messages m WHERE m.partition_id = h.partition_id ORDER BY created_at DESC, m.id DESC LIMIT 1) m ON true
		WHERE m.id IS NOT NULL AND ((m.created_at, m.id) > (h.last_message_created_at, h.last_message_id) OR m.seq > h.seq)
		UNION ALL
		SELECT partition_id, 'order' FROM (SELECT partition_id, seq, lag(seq) OVER (PARTITION BY partition_id ORDER BY created_at, id) AS before FROM queen.messages) x WHERE before >= seq
		UNION ALL
		SELECT h.partition_id, 'count' FROM queen.partition_lookup h
		WHERE h.seq - h.tail_seq <> (SELECT count(*) FROM queen.messages m WHERE m.partition_id = h.partition_id)
			+ (SELECT count(*) FROM queen.message_holes o WHERE o.partition_id = h.partition_id AND o.seq > h.tail_seq)`)
}

func TestAdministrativeBodiesAreParsedStrictly(t *testing.T) {
	w := newWorld() // nothing of this reaches a database
	f := func(body string, status int, answer string) {
		t.Helper()
		x := w.send(t, "POST", "/api/v1/configure", body)
		if x.replies != 1 || x.status != status || x.body != answer {
			t.Errorf("%s: %d %s", body, x.status, x.body)
		}
	}
	f(``, 400, `{"error":"Empty request body"}`)
	f(" \n", 400, `{"error":"Empty request body"}`)
	f(`{"queue":`, 400, `{"error":"Invalid JSON: unexpected end of JSON input"}`)
	f(`{"queue":"a"} x`, 400, `{"error":"Invalid JSON: invalid character 'x' after top-level value"}`)
	f(`{'queue':"a"}`, 400, `{"error":"Invalid JSON: invalid character '\\'' looking for beginning of object key string"}`)
	f("{\"queue\":\"\xff\"}", 400, `{"error":"Invalid JSON: the text is not valid UTF-8"}`)
	f(`{"options":{}}`, 400, `{"error":"queue is required"}`)
	f(`{"queue":5}`, 400, `{"error":"queue is required"}`)
	f(`{"queue":null}`, 400, `{"error":"queue is required"}`)
	f(`{"Queue":"a"}`, 400, `{"error":"queue is required"}`) // names have a case
	f(`[]`, 400, `{"error":"queue is required"}`)
	f(`null`, 400, `{"error":"queue is required"}`)
	f(`"queue"`, 400, `{"error":"queue is required"}`)
	f(`{"queue":"a","options":[]}`, 400, `{"error":"options must be an object"}`)
	f(`{"queue":"`+strings.Repeat("ü", 256)+`"}`, 400, `{"error":"queue is longer than 255 characters"}`)
	f(`{"queue":"a","task":"`+strings.Repeat("t", 256)+`"}`, 400, `{"error":"task is longer than 255 characters"}`)
	f(`{"queue":"`+strings.Repeat("a", AdminBodyBytesMax)+`"}`, 413, `{"error":"the body of an administrative request may have 1 MiB"}`)
	f(`{"queue":"a"}`, 503, `{"error":"the database is not ready yet, try again in a second"}`)
}

func TestTooManyAdministrativeRequestsAreRefused(t *testing.T) {
	w := newWorld()
	w.router.stores.Admin = func(time.Duration, func(Session), func()) bool { return false }
	x := w.send(t, "GET", "/api/v1/dlq", "")
	if x.status != 503 || !strings.Contains(x.header, "Retry-After: 1\r\n") || x.body != `{"error":"too many administrative requests at once, try again in a second"}` {
		t.Errorf("%d %q %s", x.status, x.header, x.body)
	}
	// PostgreSQL is known to be away: nobody waits to find out.
	w.connected = false
	x = w.send(t, "GET", "/api/v1/dlq", "")
	if x.status != 503 || !strings.Contains(x.header, "Retry-After: 1\r\n") || x.body != `{"error":"PostgreSQL does not answer, try again in a second"}` {
		t.Errorf("%d %q %s", x.status, x.header, x.body)
	}
	if n := w.router.Counters.Admin.Overloaded.Load(); n != 2 {
		t.Errorf("%d were counted", n)
	}
}

// failing is a database that says one thing.
type failing struct{ err error }

func (f failing) Rows(string, ...any) ([][][]byte, error) { return nil, f.err }
func (f failing) Transaction(work func() error) error     { return work() }

func TestWhatTheDatabaseSaysBecomesAStatus(t *testing.T) {
	w := newWorld()
	f := func(err error, status int, header, answer string) {
		t.Helper()
		w.router.stores.Admin = func(_ time.Duration, work func(Session), done func()) bool {
			work(failing{err})
			done()
			return true
		}
		x := w.send(t, "DELETE", "/api/v1/resources/queues/q", "")
		if x.replies != 1 || x.status != status || !strings.Contains(x.header, header) || x.body != answer {
			t.Errorf("%v: %d %q %s", err, x.status, x.header, x.body)
		}
	}
	f(fmt.Errorf("cannot reach PostgreSQL: %w", context.DeadlineExceeded), 503, "Retry-After: 1\r\n", `{"error":"PostgreSQL does not answer, try again in a second"}`)
	f(&admindb.Error{State: "57P03", Message: "it starts"}, 503, "Retry-After: 1\r\n", `{"error":"PostgreSQL cannot do this now: it starts"}`)
	f(&admindb.Error{State: "42501", Message: "no right"}, 503, "Retry-After: 1\r\n", `{"error":"PostgreSQL cannot do this now: no right"}`)
	f(&admindb.Error{State: "40P01", Message: "deadlock"}, 503, "Retry-After: 1\r\n", `{"error":"others were at work on the same rows all the time, try again in a second"}`)
	f(&admindb.Error{State: "22P02", Message: "no uuid"}, 400, "application/json", `{"error":"no uuid"}`)
	f(inDoubt{}, 503, "Retry-After: 1\r\n", `{"error":"PostgreSQL does not answer, try again in a second"}`) // what it reads first
	f(admindb.ErrTooLarge, 413, "application/json", `{"error":"the answer would be too large; ask for fewer rows with limit"}`)
}

// inDoubt is the error of a transaction whose commit nobody has heard of.
type inDoubt struct{}

func (inDoubt) Error() string   { return "nobody knows" }
func (inDoubt) MayBeDone() bool { return true }

// ending is a session of which the transactions after so many end with err, done if that
// leaves it open.
type ending struct {
	Session
	after int
	err   error
}

func (e *ending) Transaction(work func() error) error {
	if e.after--; e.after >= 0 || mayBeDone(e.err) {
		if err := e.Session.Transaction(work); err != nil {
			return err
		}
	}
	if e.after >= 0 {
		return nil
	}
	return e.err
}

func (e *ending) Rows(name string, arguments ...any) (rows [][][]byte, err error) {
	if name == "admin_trace" || name == "admin_traces" { // a transaction of their own
		err = e.Transaction(func() error {
			rows, err = e.Session.Rows(name, arguments...)
			return err
		})
		return rows, err
	}
	return e.Session.Rows(name, arguments...)
}

// end has the transactions of a request end with err, after so many.
func (w *adminWorld) end(after int, err error) (undo func()) {
	admin := w.router.stores.Admin
	w.router.stores.Admin = func(within time.Duration, work func(Session), done func()) bool {
		return admin(within, func(s Session) { work(&ending{s, after, err}) }, done)
	}
	return func() { w.router.stores.Admin = admin }
}

func TestWhatMayHaveBeenDoneIsSaidAndWakesWhoWaits(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a", "b", "c")
	p := w.partition("q", "p")
	w.end(0, inDoubt{})
	f := func(method, target, body, wakes string) {
		t.Helper()
		w.changed = nil
		w.says(method, target, body, 503, `{"error":"PostgreSQL does not answer, try again in a second; it may have been done"}`)
		if got := fmt.Sprint(w.changed); got != wakes {
			t.Errorf("%s %s: the hook heard %s", method, target, got)
		}
	}
	f("POST", "/api/v1/messages/"+p+"/a/retry", "", "[*]")
	f("POST", "/api/v1/messages/"+p+"/b/dlq", `{"consumerGroup":"g"}`, "[*]")
	f("DELETE", "/api/v1/messages/"+p+"/c", "", "[*]")
	f("POST", "/api/v1/traces", `{"transactionId":"a","partitionId":"`+p+`","data":{}}`, "[*]")
	f("POST", "/api/v1/consumer-groups/g/queues/q/seek", `{"toEnd":true}`, "[*]")
	f("DELETE", "/api/v1/consumer-groups/g", "", "[*]")
	w.order(p, "a") // all of it was
	f("DELETE", "/api/v1/resources/queues/q", "", "[*]")
	w.holds(`SELECT count(*) FROM queen.queues`, "0")
	// Nothing is in doubt of what only reads.
	w.changed = nil
	w.says("GET", "/api/v1/traces/"+p+"/a", "", 503, `{"error":"PostgreSQL does not answer, try again in a second"}`)
	if len(w.changed) > 0 {
		t.Errorf("the hook heard %v", w.changed)
	}
}

// jsonList is a list of objects in an answer.
func jsonList(t *testing.T, body, name string) []map[string]any {
	t.Helper()
	var all map[string]json.RawMessage
	var elements []map[string]any
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if err := json.Unmarshal(all[name], &elements); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return elements
}
