package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

// hang is how long a test waits for what must happen.
const hang = 2 * time.Minute

// template is a database with queend's tables, made once; databases are its copies.
var template struct {
	once sync.Once
	n    atomic.Int64
}

// database is a fresh database with queend's tables.
func database(t testing.TB) string {
	t.Helper()
	server := postgrestest.Shared(t)
	admin := server.ConnString("postgres")
	template.once.Do(func() {
		if err := server.CreateDatabase(context.Background(), "queue_template"); err != nil {
			t.Fatal(err)
		}
		migrate(t, server.ConnString("queue_template"))
	})
	name := fmt.Sprintf("queue_%d", template.n.Add(1))
	run := func(sql string) {
		conn, err := pgconn.Connect(context.Background(), admin)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	run("CREATE DATABASE " + name + " TEMPLATE queue_template")
	t.Cleanup(func() { run("DROP DATABASE " + name + " WITH (FORCE)") })
	return server.ConnString(name)
}

func migrate(t testing.TB, connString string) {
	t.Helper()
	config, err := pgconn.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(context.Background(), config, nil); err != nil {
		t.Fatal(err)
	}
}

// store is the smallest store there is: one connection, one batch at a time, and
// nobody else to wait for.
type store struct {
	t        testing.TB
	conn     *pgconn.PgConn
	prepared map[string]bool
	hints    *Hints
	ids      *IDs
	config   *Config
	steps    []string // what was sent: statements of a step, joined by a blank

	sql    func(name string) string       // the statements' texts; nil: schema.Statement
	before func(step []Statement) outcome // may lose or spoil a step
}

// outcome is what a test does to a step.
type outcome uint8

const (
	deliver    outcome = iota
	loseBefore         // nothing is sent, and the store cannot know
	loseAfter          // it is committed, and the answer is lost
)

func newStore(t testing.TB, connString string) *store {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), connString)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return &store{t: t, conn: conn, prepared: map[string]bool{}, hints: NewHints(0, 0), ids: NewIDs(wallMs), config: &Config{}}
}

func wallMs() int64 { return time.Now().UnixMilli() }

var began = time.Now()

func now() time.Duration { return time.Since(began) }

// another is a store on the same connection that knows nothing yet.
func (s *store) another() *store {
	c := *s
	c.hints, c.steps, c.before = NewHints(0, 0), nil, nil
	return &c
}

// op decodes a request that must be well-formed.
func (s *store) op(body string) *Op {
	s.t.Helper()
	op := new(Op)
	if f := Decode(op, []byte(body), s.config, s.ids); f.Code != OK {
		s.t.Fatalf("%s: %s", body, f.Message)
	}
	return op
}

// push runs the requests as one batch and returns their answers.
func (s *store) push(bodies ...string) []*Op {
	s.t.Helper()
	var ops []*Op
	for _, body := range bodies {
		ops = append(ops, s.op(body))
	}
	s.run(ops...)
	return ops
}

func (s *store) run(ops ...*Op) {
	s.t.Helper()
	b := NewBatch(s.config, s.hints)
	for _, op := range ops {
		b.Add(op)
	}
	if err := s.drive(b); err != nil {
		s.t.Fatal(err)
	}
}

// drive talks to PostgreSQL until the batch is decided.
func (s *store) drive(b *Batch) error {
	for {
		step := b.Step(now())
		if step == nil {
			return nil
		}
		names := make([]string, len(step))
		for i := range step {
			names[i] = step[i].Name
		}
		s.steps = append(s.steps, strings.Join(names, " "))
		o := deliver
		if s.before != nil {
			o = s.before(step)
		}
		if o == loseBefore {
			b.Unknown()
			continue
		}
		deaf := b
		if o == loseAfter {
			deaf = nil
		}
		sqlErr, err := s.send(step, deaf)
		if err != nil {
			return err
		}
		if o == loseAfter {
			b.Unknown()
			continue
		}
		v := b.StepDone(sqlErr, now())
		switch v.Action {
		case Wait:
			time.Sleep(v.After) // the pause is the batch's wish, not the test's
		case Away:
			return fmt.Errorf("away: %+v", sqlErr)
		case Prepare:
			clear(s.prepared)
			if _, err := s.conn.Exec(context.Background(), "DEALLOCATE ALL").ReadAll(); err != nil {
				return err
			}
		}
	}
}

// send sends a step and gives b, unless it is nil, what comes back.
func (s *store) send(step []Statement, b *Batch) (*SQLError, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	text := schema.Statement
	if s.sql != nil {
		text = s.sql
	}
	for _, st := range step {
		if st.Unnamed || s.prepared[st.Name] {
			continue
		}
		if _, err := s.conn.Prepare(ctx, st.Name, text(st.Name), nil); err != nil {
			return nil, err
		}
		s.prepared[st.Name] = true
	}
	p := s.conn.StartPipeline(ctx)
	defer p.Close()
	binary := []int16{1}
	for _, st := range step {
		formats := make([]int16, len(st.Params))
		for i := range formats {
			formats[i] = 1
		}
		if st.Unnamed {
			p.SendQueryParams(text(st.Name), st.Params, nil, formats, binary)
		} else {
			p.SendQueryPrepared(st.Name, st.Params, formats, binary)
		}
	}
	if err := p.Sync(); err != nil {
		return nil, err
	}
	var failed *pgconn.PgError
	for i := 0; ; i++ {
		result, err := p.GetResults()
		if err == nil {
			switch r := result.(type) {
			case *pgconn.PipelineSync:
				if failed == nil {
					return nil, nil
				}
				return &SQLError{Severity: failed.Severity, Code: failed.Code, Message: failed.Message, Detail: failed.Detail,
					Schema: failed.SchemaName, Table: failed.TableName, Constraint: failed.ConstraintName}, nil
			case *pgconn.ResultReader:
				for r.NextRow() {
					if b != nil {
						b.Row(i, r.Values())
					}
				}
				tag, closeErr := r.Close()
				if err = closeErr; err == nil && b != nil {
					b.Tag(i, tag.RowsAffected())
				}
			default:
				return nil, fmt.Errorf("unexpected result %T", result)
			}
		}
		if err != nil {
			if !errors.As(err, &failed) {
				return nil, err
			}
		}
	}
}

// side is a test's connection for looking at its database, made when it is first
// needed.
var side struct {
	sync.Mutex
	conns map[string]*pgconn.PgConn
}

func sideConn(t testing.TB, connString string) *pgconn.PgConn {
	if conn := side.conns[connString]; conn != nil {
		return conn
	}
	conn, err := pgconn.Connect(context.Background(), connString)
	if err != nil {
		t.Fatal(err)
	}
	if side.conns == nil {
		side.conns = map[string]*pgconn.PgConn{}
	}
	side.conns[connString] = conn
	t.Cleanup(func() {
		side.Lock()
		defer side.Unlock()
		delete(side.conns, connString)
		conn.Close(context.Background())
	})
	return conn
}

// query returns one line per row, columns joined by |.
func query(t testing.TB, connString, sql string, args ...string) []string {
	t.Helper()
	side.Lock()
	defer side.Unlock()
	conn := sideConn(t, connString)
	params := make([][]byte, len(args))
	for i := range args {
		params[i] = []byte(args[i])
	}
	r := conn.ExecParams(context.Background(), sql, params, nil, nil, nil).Read()
	if r.Err != nil {
		t.Fatalf("%s: %v", sql, r.Err)
	}
	lines := []string{}
	for _, row := range r.Rows {
		var columns []string
		for _, v := range row {
			if v == nil {
				columns = append(columns, "NULL")
			} else {
				columns = append(columns, string(v))
			}
		}
		lines = append(lines, strings.Join(columns, "|"))
	}
	return lines
}

func expect(t testing.TB, connString, sql string, want ...string) {
	t.Helper()
	got := query(t, connString, sql)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n got %q\nwant %q", sql, got, want)
	}
}

// statuses is a short form of what became of an op: q, d, f per item, or its fault.
func statuses(op *Op) string {
	if op.Fault.Code != OK {
		return fmt.Sprintf("fault %d: %s", op.Fault.Code, op.Fault.Message)
	}
	text := ""
	for i := range op.Items {
		text += string("pqdf"[op.Items[i].Status])
	}
	return text
}

func expectStatuses(t testing.TB, ops []*Op, want ...string) {
	t.Helper()
	var got []string
	for _, op := range ops {
		got = append(got, statuses(op))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("statuses: got %q, want %q", got, want)
	}
}

func (s *store) expectSteps(want ...string) {
	s.t.Helper()
	if strings.Join(s.steps, "\n") != strings.Join(want, "\n") {
		s.t.Errorf("steps:\n got %q\nwant %q", s.steps, want)
	}
	s.steps = nil
}

const (
	resolving = "push_queues push_partitions push_heads push_ids"
	pushing   = "push_plan push_insert"
	lockFirst = "push_plan push_lock push_insert"
	locking   = "push_lock push_insert_sealed"
	asking    = "push_winners"
)

// consistent checks what must hold in any database after any pushes.
func consistent(t testing.TB, connString string) {
	t.Helper()
	expect(t, connString, `SELECT partition_id, transaction_id, count(*) FROM queen.messages GROUP BY 1, 2 HAVING count(*) > 1`)
	expect(t, connString, `SELECT h.partition_id, h.seq, count(m.id) FROM queen.partition_lookup h LEFT JOIN queen.messages m USING (partition_id)
		GROUP BY 1, 2 HAVING h.seq <> count(m.id)`)
	expect(t, connString, `SELECT m.id FROM (SELECT id, seq, row_number() OVER (PARTITION BY partition_id ORDER BY created_at, id) n FROM queen.messages) m WHERE seq <> n`)
	expect(t, connString, `SELECT h.partition_id FROM queen.partition_lookup h
		JOIN LATERAL (SELECT id, created_at FROM queen.messages WHERE partition_id = h.partition_id ORDER BY created_at DESC, id DESC LIMIT 1) m ON true
		WHERE (h.last_message_id, h.last_message_created_at, h.updated_at) IS DISTINCT FROM (m.id, m.created_at, m.created_at)`)
}

func TestAPushIsStoredAsItWasSent(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	ops := s.push(`{"items":[
		{"queue":"shop.orders.eu","partition":"p","transactionId":"t1","traceId":"{01900000-0000-7000-8000-00000000000A}","payload":{ "b" :1.10, "a":"\u00e9é", "b":2}},
		{"queue":"shop.orders.eu","partition":"p","transactionId":"t2"},
		{"queue":"plain","payload":null}]}`)
	expectStatuses(t, ops, "qqq")
	s.expectSteps(resolving, pushing)
	expect(t, db, `SELECT q.name, q.namespace, q.task, p.name, m.transaction_id, m.trace_id, m.payload, m.is_encrypted, m.producer_sub, m.seq
		FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id
		WHERE q.name = 'shop.orders.eu' ORDER BY m.created_at, m.id`,
		`shop.orders.eu|shop|orders|p|t1|01900000-0000-7000-8000-00000000000a|{ "b" :1.10, "a":"\u00e9é", "b":2}|f|NULL|1`,
		`shop.orders.eu|shop|orders|p|t2|NULL|null|f|NULL|2`)
	it := &ops[0].Items[2]
	expect(t, db, `SELECT q.namespace, q.task, p.name, m.id, m.transaction_id, m.partition_id, m.payload
		FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'plain'`,
		fmt.Sprintf(`plain||Default|%s|%s|%s|null`, it.ID, it.TransactionID, it.PartitionID))
	consistent(t, db)

	// Who pushed, when the token said so.
	signed := s.op(`{"items":[{"queue":"plain","transactionId":"signed"},{"queue":"plain"}]}`)
	signed.SetProducer([]byte("ada"))
	s.run(signed, s.op(`{"items":[{"queue":"plain"}]}`))
	expect(t, db, `SELECT producer_sub, count(*) FROM queen.messages GROUP BY 1 ORDER BY 1`, "ada|2", "NULL|4")
	s.steps = nil

	// Known partitions need one round trip.
	expectStatuses(t, s.push(`{"items":[{"queue":"plain"},{"queue":"shop.orders.eu","partition":"p"}]}`, `{"items":[{"queue":"plain"}]}`), "qq", "q")
	s.expectSteps(pushing)
	consistent(t, db)
}

func TestOnlyWhatIsSentOftenIsPrepared(t *testing.T) {
	db := database(t)
	for _, jsonb := range []bool{false, true} {
		s := newStore(t, db)
		s.config = &Config{PayloadJSONB: jsonb}
		s.push(`{"items":[{"queue":"q","transactionId":"t"}]}`)
		s.push(`{"items":[{"queue":"q","transactionId":"t"}]}`)
		if got, want := slices.Sorted(maps.Keys(s.prepared)), slices.Sorted(slices.Values(s.config.Prepared())); !slices.Equal(got, want) {
			t.Errorf("prepared are %q, said was %q", got, want)
		}
	}
}

func TestDuplicatesHearTheWinner(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	first := s.push(`{"items":[{"queue":"q","transactionId":"a","payload":1},{"queue":"q","transactionId":"a","payload":2},{"queue":"q","partition":"other","transactionId":"a"}]}`)
	expectStatuses(t, first, "qdq")
	winner := first[0].Items[0].ID
	if first[0].Items[1].WinnerID != winner {
		t.Errorf("in the request: %s, want %s", first[0].Items[1].WinnerID, winner)
	}
	s.expectSteps(resolving, pushing)

	// In other requests, alone and among new ones.
	again := s.push(`{"items":[{"queue":"q","transactionId":"a"}]}`, `{"items":[{"queue":"q","transactionId":"b"},{"queue":"q","transactionId":"a"},{"queue":"q","transactionId":"b"}]}`)
	expectStatuses(t, again, "d", "qdd")
	s.expectSteps(pushing, asking, pushing)
	for _, it := range []*Item{&again[0].Items[0], &again[1].Items[1]} {
		if it.WinnerID != winner {
			t.Errorf("winner %s, want %s", it.WinnerID, winner)
		}
	}
	if again[1].Items[2].WinnerID != again[1].Items[0].ID {
		t.Error("the duplicate of a new message does not hear its id")
	}

	// While duplicates are frequent they are asked for first.
	expectStatuses(t, s.push(`{"items":[{"queue":"q","transactionId":"a"},{"queue":"q","transactionId":"c"}]}`), "dq")
	s.expectSteps(asking, pushing)
	expectStatuses(t, s.push(`{"items":[{"queue":"q","transactionId":"a"}]}`), "d")
	s.expectSteps(asking)
	for range stormBatches {
		expectStatuses(t, s.push(`{"items":[{"queue":"q"}]}`), "q")
	}
	s.steps = nil
	s.push(`{"items":[{"queue":"q"}]}`)
	s.expectSteps(pushing)

	// A message that is deleted frees its transaction.
	query(t, db, `DELETE FROM queen.messages WHERE transaction_id = 'a'`)
	expectStatuses(t, s.push(`{"items":[{"queue":"q","transactionId":"a"}]}`), "q")
}

func TestDuplicatesAcrossTheRequestsOfABatch(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	ops := s.push(`{"items":[{"queue":"q","transactionId":"a"}]}`, `{"items":[{"queue":"q","transactionId":"a"},{"queue":"q","transactionId":"b"}]}`, `{"items":[{"queue":"q","transactionId":"b"}]}`)
	expectStatuses(t, ops, "q", "dq", "d")
	if ops[1].Items[0].WinnerID != ops[0].Items[0].ID || ops[2].Items[0].WinnerID != ops[1].Items[1].ID {
		t.Error("a duplicate does not hear the first one's id")
	}
	consistent(t, db)
}

func TestADuplicateOfARefusedRequestIsStored(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	query(t, db, `ALTER TABLE queen.messages ADD CHECK (payload::text <> '"poison"')`)
	ops := s.push(`{"items":[{"queue":"q","transactionId":"a"},{"queue":"q","payload":"poison"}]}`, `{"items":[{"queue":"q","transactionId":"a"}]}`)
	expectStatuses(t, ops, "ff", "q")
	expect(t, db, `SELECT id FROM queen.messages`, ops[1].Items[0].ID.String())
	consistent(t, db)
}

func TestPoisonIsItsRequestsAlone(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	query(t, db, `ALTER TABLE queen.messages ADD CHECK (payload::text <> '"poison"')`)
	for n := 1; n <= 9; n++ {
		for guilty := range n {
			var bodies, want []string
			for i := range n {
				if i == guilty {
					bodies, want = append(bodies, `{"items":[{"queue":"q"},{"queue":"q","payload":"poison"}]}`), append(want, "ff")
				} else {
					bodies, want = append(bodies, fmt.Sprintf(`{"items":[{"queue":"q","partition":"%d"},{"queue":"q"}]}`, i)), append(want, "qq")
				}
			}
			ops := s.push(bodies...)
			expectStatuses(t, ops, want...)
			for _, it := range ops[guilty].Items {
				if !strings.Contains(it.Error, "violates check constraint") {
					t.Errorf("error: %q", it.Error)
				}
			}
		}
	}
	consistent(t, db)
	// All guilty.
	expectStatuses(t, s.push(`{"items":[{"queue":"q","payload":"poison"}]}`, `{"items":[{"queue":"q","payload":"poison"}]}`), "f", "f")
}

func TestNamesThatTheDatabaseCannotEncodeAreTheirRequestsAlone(t *testing.T) {
	server := postgrestest.Shared(t)
	query(t, server.ConnString("postgres"), `DROP DATABASE IF EXISTS latin1`)
	query(t, server.ConnString("postgres"), `CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`)
	db := server.ConnString("latin1")
	t.Cleanup(func() { query(t, server.ConnString("postgres"), `DROP DATABASE latin1 WITH (FORCE)`) })
	migrate(t, db)
	s := newStore(t, db)
	if _, err := s.conn.Exec(t.Context(), `SET client_encoding TO 'UTF8'`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	ops := s.push(`{"items":[{"queue":"é"}]}`, `{"items":[{"queue":"q"},{"queue":"€"}]}`, `{"items":[{"queue":"q","transactionId":"€"}]}`, `{"items":[{"queue":"q","payload":"é"}]}`)
	expectStatuses(t, ops, "q", "ff", "f", "q")
	if e := ops[1].Items[0].Error; !strings.Contains(e, "has no equivalent in encoding") {
		t.Errorf("error: %q", e)
	}
}

func TestAPartitionThatIsGoneIsResolvedAgain(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	s.push(`{"items":[{"queue":"a"},{"queue":"b"},{"queue":"c"}]}`)
	s.steps = nil
	query(t, db, `DELETE FROM queen.queues WHERE name IN ('a', 'b')`)
	expectStatuses(t, s.push(`{"items":[{"queue":"a","transactionId":"t"},{"queue":"c"}]}`, `{"items":[{"queue":"b"}]}`), "qq", "q")
	s.expectSteps(pushing, resolving, pushing)
	expect(t, db, `SELECT q.name, h.seq FROM queen.queues q JOIN queen.partition_lookup h ON h.queue_name = q.name ORDER BY 1`, "a|1", "b|1", "c|2")

	// All heads are gone at once.
	query(t, db, `DELETE FROM queen.queues`)
	expectStatuses(t, s.push(`{"items":[{"queue":"a"}]}`), "q")
	s.expectSteps(pushing, resolving, pushing)

	// Only the head is gone: the partition's messages are still there, and the new head
	// begins behind them. It is not counted.
	query(t, db, `DELETE FROM queen.partition_lookup`)
	query(t, db, `UPDATE queen.messages SET created_at = now() + interval '1 hour'`)
	expectStatuses(t, s.push(`{"items":[{"queue":"a"}]}`), "q")
	s.expectSteps(pushing, resolving, pushing)
	expect(t, db, `SELECT h.seq, h.last_message_created_at > now() + interval '1 hour', (SELECT count(*) FROM queen.messages m WHERE m.partition_id = h.partition_id)
		FROM queen.partition_lookup h WHERE h.queue_name = 'a'`, "NULL|f|2")
}

// What is left of a partition that is gone is about to be swept away: it makes nobody's
// message a duplicate, also when duplicates are looked for before messages are pushed.
func TestAMessageOfAPartitionThatIsGoneHasNoDuplicate(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	expectStatuses(t, s.push(`{"items":[{"queue":"o","transactionId":"x"}]}`), "q")
	expectStatuses(t, s.push(`{"items":[{"queue":"o","transactionId":"x"}]}`), "d") // from here on they are looked for
	expectStatuses(t, s.push(`{"items":[{"queue":"a","transactionId":"1"},{"queue":"a","transactionId":"2"}]}`), "qq")
	query(t, db, `DELETE FROM queen.queues WHERE name = 'a'`)
	expect(t, db, `SELECT count(*) FROM queen.messages WHERE transaction_id IN ('1', '2')`, "2") // nobody has swept yet
	expectStatuses(t, s.push(`{"items":[{"queue":"a","transactionId":"1"},{"queue":"a","transactionId":"3"},{"queue":"o","transactionId":"x"}]}`), "qqd")
	expect(t, db, `SELECT m.transaction_id FROM queen.messages m JOIN queen.partition_lookup h ON h.partition_id = m.partition_id WHERE h.queue_name = 'a' ORDER BY 1`, "1", "3")
}

func TestAQueueThatIsDeletedAllTheTimeIsUnavailableAndItsNeighboursAreNot(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	s.push(`{"items":[{"queue":"a"},{"queue":"b"}]}`)
	s.before = func(step []Statement) outcome {
		if step[0].Name == "push_plan" {
			query(t, db, `DELETE FROM queen.queues WHERE name = 'a'`)
		}
		return deliver
	}
	ops := s.push(`{"items":[{"queue":"b"}]}`, `{"items":[{"queue":"a"}]}`, `{"items":[{"queue":"b"}]}`)
	expectStatuses(t, ops, "q", "fault 3: the queue was deleted or changed while the messages were pushed; push them again", "q")
	consistent(t, db)
}

func TestAnAnswerThatIsLostChangesNothing(t *testing.T) {
	db := database(t)
	plain := newStore(t, db)
	for _, lost := range []outcome{loseBefore, loseAfter} {
		for n := range 6 { // lose the n-th step
			for _, again := range []int{1, 2} { // once or twice in a row
				s := plain.another()
				left, at := again, n
				s.before = func([]Statement) outcome {
					if at--; at < 0 && left > 0 {
						left--
						return lost
					}
					return deliver
				}
				queue := fmt.Sprintf("q%d.%d.%d", lost, n, again)
				old := plain.push(fmt.Sprintf(`{"items":[{"queue":"%s","transactionId":"old"}]}`, queue))
				ops := s.push(
					fmt.Sprintf(`{"items":[{"queue":"%s","transactionId":"a"},{"queue":"%[1]s"},{"queue":"%[1]s","partition":"p2"},{"queue":"%[1]s","transactionId":"old"}]}`, queue),
					fmt.Sprintf(`{"items":[{"queue":"%s"},{"queue":"%[1]s","transactionId":"a"}]}`, queue))
				expectStatuses(t, ops, "qqqd", "qd")
				if ops[0].Items[3].WinnerID != old[0].Items[0].ID || ops[1].Items[1].WinnerID != ops[0].Items[0].ID {
					t.Error("a duplicate does not hear its winner")
				}
				for _, it := range append(ops[0].Items[:3], ops[1].Items[0]) {
					expect(t, db, fmt.Sprintf(`SELECT partition_id FROM queen.messages WHERE id = '%s'`, it.WinnerID), it.PartitionID.String())
				}
			}
		}
	}
	consistent(t, db)
}

func TestAnEightWayRaceHasOneWinner(t *testing.T) {
	db := database(t)
	const racers = 8
	stores := make([]*store, racers)
	for i := range stores {
		stores[i] = newStore(t, db)
	}
	for round := range 20 {
		ops := make([]*Op, racers)
		var start, done sync.WaitGroup
		start.Add(1)
		for i, s := range stores {
			ops[i] = s.op(fmt.Sprintf(`{"items":[{"queue":"race","partition":"%d","transactionId":"x"},{"queue":"race","partition":"%[1]d"}]}`, round))
			done.Go(func() {
				start.Wait()
				b := NewBatch(s.config, s.hints)
				b.Add(ops[i])
				if err := s.drive(b); err != nil {
					t.Error(err)
				}
			})
		}
		start.Done()
		done.Wait()
		var winner UUID
		queued := 0
		for _, op := range ops {
			if op.Items[0].Status == Queued {
				queued, winner = queued+1, op.Items[0].ID
			}
		}
		for _, op := range ops {
			if op.Items[0].WinnerID != winner || op.Items[1].Status != Queued {
				t.Errorf("%s: winner %s, want %s", statuses(op), op.Items[0].WinnerID, winner)
			}
		}
		if queued != 1 {
			t.Fatalf("%d were queued", queued)
		}
	}
	consistent(t, db)
}

func TestDeadlocksAndLockTimeoutsAreTriedAgain(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	s.push(`{"items":[{"queue":"a"}]}`)
	for _, state := range []string{"40P01", "40001", "55P03", "57014"} {
		for fail := 1; fail <= RetriesMax+1; fail++ {
			// A trigger that nobody should have raises the error fail times.
			query(t, db, `CREATE SEQUENCE failures`)
			query(t, db, fmt.Sprintf(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('failures') <= %d THEN RAISE EXCEPTION 'injected' USING ERRCODE = '%s'; END IF; RETURN NEW; END $$`, fail, state))
			query(t, db, `CREATE TRIGGER fail BEFORE INSERT ON queen.messages FOR EACH ROW EXECUTE FUNCTION fail()`)
			ops := s.push(`{"items":[{"queue":"a"}]}`)
			want := "q"
			if fail > RetriesMax {
				want = "fault 3: PostgreSQL could not store the messages, try 4 ended with: injected"
			}
			expectStatuses(t, ops, want)
			query(t, db, `DROP TRIGGER fail ON queen.messages`)
			query(t, db, `DROP FUNCTION fail`)
			query(t, db, `DROP SEQUENCE failures`)
		}
	}
	consistent(t, db)
}

func TestJSONBColumns(t *testing.T) {
	db := database(t)
	query(t, db, `ALTER TABLE queen.messages ALTER payload TYPE jsonb USING payload::jsonb`)
	s := newStore(t, db)
	s.config = &Config{PayloadJSONB: true}
	expectStatuses(t, s.push(`{"items":[{"queue":"q","payload":{"b":1,"a":[1.50,"\u00e9"]}},{"queue":"q","payload":1e400},{"queue":"q"}]}`), "qqq")
	s.expectSteps(resolving, "push_plan push_insert_jsonb")
	expect(t, db, `SELECT left(payload::text, 25) FROM queen.messages ORDER BY created_at, id`, `{"a": [1.50, "é"], "b": 1`, `1000000000000000000000000`, `null`)
	consistent(t, db)
}

// The plans of a table of ten heads read it from end to end. They must not outlive it,
// and what comes after them must be made once.
func TestPlansFollowTheNumberOfPartitions(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	for range 10 { // PostgreSQL settles on a generic plan
		s.push(`{"items":[{"queue":"q"}]}`)
	}
	s.steps = nil
	made := 1
	for made < 5000 {
		var items []string
		for range 250 {
			items = append(items, fmt.Sprintf(`{"queue":"q","partition":"%d"}`, made))
			made++
		}
		expectStatuses(t, s.push(`{"items":[`+strings.Join(items, ",")+`]}`), strings.Repeat("q", 250))
	}
	analyzed := 0
	for _, step := range s.steps {
		if step == "push_analyze" {
			analyzed++
		}
	}
	if analyzed < 3 || analyzed > 8 {
		t.Errorf("analyzed %d times for %d partitions", analyzed, made)
	}
	// Many heads and a small push: a plan for this very array would be cheaper to execute
	// and dearer to make than one for any.
	count := "string_agg(custom_plans::text, ' ' ORDER BY name)"
	if s.conn.ParameterStatus("server_version") < "14" {
		t.Log("PostgreSQL 13 does not count the plans that it makes: whether statements are planned anew was not looked at")
		count = "'0'"
	}
	custom := func() string {
		results, err := s.conn.Exec(t.Context(), "SELECT "+count+" FROM pg_prepared_statements").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return string(results[0].Rows[0][0])
	}
	// PostgreSQL compares what one costs with the mean of all it made before, and so takes
	// some pushes to forget how cheap they were when there were few heads.
	for range 200 {
		s.push(`{"items":[{"queue":"q"}]}`)
	}
	before := custom()
	for range 20 {
		s.push(`{"items":[{"queue":"q"}]}`)
	}
	if after := custom(); after != before {
		t.Errorf("statements were planned anew: %s custom plans, %s before", after, before)
	}
	results, err := s.conn.Exec(t.Context(), `EXPLAIN EXECUTE push_insert('{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}','{1}','{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}','{1}','{1}',
		'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}','{t}','{NULL}','{1}','{f}','{NULL}')`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var plan []string
	for _, row := range results[0].Rows {
		plan = append(plan, string(row[0]))
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan on partition_lookup") || !strings.Contains(text, "Index Cond: (partition_id = g.part)") {
		t.Errorf("push_insert reads all heads:\n%s", text)
	}
}

// What the door lets in, PostgreSQL stores.
func TestPostgreSQLTakesWhatTheScannerAccepts(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	deep := strings.Repeat("[", DepthMax-3) + strings.Repeat("]", DepthMax-3)
	payloads := []string{`"\u0000"`, `"\ud800"`, `{"\u0000":1}`, `1e999999`, `-0`, `"` + "\u2028\x7f\ufffe\U0010ffff" + `"`, `{"a":1,"a":2}`, deep, " [ 1 ,\t2 ] ", `""`, strings.Repeat("9", 5000)}
	for _, p := range payloads {
		expectStatuses(t, s.push(`{"items":[{"queue":"q","payload":`+p+`}]}`), "q")
		expect(t, db, `SELECT payload FROM queen.messages ORDER BY created_at DESC, id DESC LIMIT 1`, strings.TrimSpace(p))
	}
	names := []string{"", " ", "é", strings.Repeat("😀", 255), "a.b.c", "..", "x\ty\nz", `"\'`, "\x7f", "Ä", "ä", "%s", "$1"}
	for _, name := range names {
		quoted := string(appendJSONString(nil, name))
		ops := s.push(fmt.Sprintf(`{"items":[{"queue":%s,"partition":%[1]s,"transactionId":%[1]s}]}`, quoted))
		expectStatuses(t, ops, "q")
		got := query(t, db, `SELECT q.name = $1 AND p.name = $1 AND q.namespace = split_part($1, '.', 1) AND q.task = split_part($1, '.', 2) FROM queen.messages m
			JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE m.id = $2::uuid`, name, ops[0].Items[0].ID.String())
		if len(got) != 1 || got[0] != "t" {
			t.Errorf("%q: %q", name, got)
		}
	}
	consistent(t, db)

	query(t, db, `ALTER TABLE queen.messages ALTER payload TYPE jsonb USING '1'`)
	s = newStore(t, db)
	s.config = &Config{PayloadJSONB: true}
	for _, p := range []string{`1e400`, `-1e-400`, strings.Repeat("9", NumberDigitsMax) + "e400", "0." + strings.Repeat("9", NumberDigitsMax-1) + "e-400", deep,
		`"` + "\u2028\x7f\ufffe\U0010ffff" + `\ud83d\ude00"`, `{"` + strings.Repeat("k", 70000) + `":1}`} {
		expectStatuses(t, s.push(`{"items":[{"queue":"q","payload":`+p+`}]}`), "q")
	}
}

func TestManyStoresAndManyPartitionsDoNotDeadlock(t *testing.T) {
	db := database(t)
	var all sync.WaitGroup
	for i := range 6 {
		s := newStore(t, db)
		r := rand.New(rand.NewPCG(1, uint64(i)))
		all.Go(func() {
			for range 40 {
				var items []string
				for range 1 + r.IntN(30) {
					items = append(items, fmt.Sprintf(`{"queue":"q%d","partition":"%d","transactionId":"%d"}`, r.IntN(3), r.IntN(10), r.IntN(2000)))
				}
				b := NewBatch(s.config, s.hints)
				for len(items) > 0 {
					n := 1 + r.IntN(len(items))
					b.Add(s.op(`{"items":[` + strings.Join(items[:n], ",") + `]}`))
					items = items[n:]
				}
				if err := s.drive(b); err != nil {
					t.Error(err)
					return
				}
				for _, op := range b.Ops() {
					if strings.Trim(statuses(op), "qd") != "" {
						t.Error(statuses(op))
					}
				}
			}
		})
	}
	all.Wait()
	consistent(t, db)
	for _, s := range query(t, db, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`) {
		if s != "0" {
			t.Errorf("%s deadlocks", s)
		}
	}
}

func TestPostgreSQLReadsUUIDsAsWeDo(t *testing.T) {
	db := postgrestest.Database(t)
	conn := sideConn(t, db)
	for _, c := range uuidTexts {
		r := conn.ExecParams(t.Context(), `SELECT $1::text::uuid`, [][]byte{[]byte(c.text)}, nil, nil, nil).Read()
		got := ""
		if r.Err == nil {
			got = string(r.Rows[0][0])
		}
		if got != c.want {
			t.Errorf("%q: PostgreSQL says %q, we say %q", c.text, got, c.want)
		}
	}
}

func TestPayloadsOfEncryptedQueues(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	var warned []string
	s.config = &Config{Warn: func(queue string) { warned = append(warned, queue) }}

	// Without a key they are stored as they are, and somebody hears of it, once.
	s.push(`{"items":[{"queue":"secret","transactionId":"1","payload":{"n": 1}},{"queue":"open"}]}`)
	query(t, db, `UPDATE queen.queues SET encryption_enabled = true WHERE name = 'secret'`)
	s.hints = NewHints(0, 0)
	s.push(`{"items":[{"queue":"secret","transactionId":"2","payload":{"n": 2}},{"queue":"secret","partition":"p"}]}`)
	s.hints = NewHints(0, 0)
	s.push(`{"items":[{"queue":"secret"}]}`)
	if strings.Join(warned, ",") != "secret" {
		t.Errorf("warned of %q", warned)
	}
	expect(t, db, `SELECT payload, is_encrypted FROM queen.messages WHERE transaction_id IN ('1', '2') ORDER BY transaction_id`, `{"n": 1}|f`, `{"n": 2}|f`)

	// With one: the envelope, once per payload however often it is sent.
	s.config = &Config{Sealer: testSealer(t)}
	s.hints, s.steps = NewHints(0, 0), nil
	lose := 2
	s.before = func(step []Statement) outcome {
		if step[0].Name == "push_lock" && lose > 0 {
			lose--
			return loseBefore
		}
		return deliver
	}
	ops := s.push(`{"items":[{"queue":"secret","transactionId":"3","payload":{"n": 3}},{"queue":"open","transactionId":"3","payload":3}]}`)
	expectStatuses(t, ops, "qq")
	if lose != 0 || len(ops[0].sealed) > 200 {
		t.Error("a payload was encrypted twice")
	}
	rows := query(t, db, `SELECT payload, is_encrypted FROM queen.messages WHERE transaction_id = '3' ORDER BY is_encrypted`)
	if len(rows) != 2 || rows[0] != "3|f" || !strings.HasSuffix(rows[1], "|t") {
		t.Fatalf("%q", rows)
	}
	if got := unseal(t, []byte(strings.TrimSuffix(rows[1], "|t"))); got != `{"n": 3}` {
		t.Errorf("read %s", got)
	}

	// The flag is switched while we believe the old one: no payload slips through.
	s.steps = nil
	query(t, db, `UPDATE queen.queues SET encryption_enabled = NOT encryption_enabled`)
	expectStatuses(t, s.push(`{"items":[{"queue":"open","transactionId":"4","payload":4}]}`, `{"items":[{"queue":"secret","transactionId":"4","payload":4}]}`), "q", "q")
	s.expectSteps(locking, resolving, locking)
	rows = query(t, db, `SELECT payload, is_encrypted FROM queen.messages WHERE transaction_id = '4' ORDER BY is_encrypted`)
	if len(rows) != 2 || rows[0] != "4|f" || !strings.HasSuffix(rows[1], "|t") || unseal(t, []byte(strings.TrimSuffix(rows[1], "|t"))) != "4" {
		t.Errorf("%q", rows)
	}
	consistent(t, db)
}
