package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/schema"
)

// popper is the smallest pop store there is: one connection, one batch at a time.
type popper struct {
	t        testing.TB
	db       string
	conn     *pgconn.PgConn
	prepared map[string]bool
	pushes   *store
	config   *Config
	ids      *IDs
	batch    *PopBatch
	steps    []string // what was sent: statements of a step, joined by a blank

	before func(step []Statement) outcome // may lose or spoil a step
	sent   func()                         // hears that a step is answered, before the batch does
}

func newPopper(t testing.TB, db string) *popper {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	p := &popper{t: t, db: db, conn: conn, prepared: map[string]bool{}, pushes: newStore(t, db), config: &Config{}, ids: NewIDs(wallMs)}
	p.batch = NewPopBatch(p.config, p.ids)
	return p
}

func fresh(t testing.TB) *popper { return newPopper(t, database(t)) }

// another is a popper with a connection of its own on the same database.
func (p *popper) another() *popper { return newPopper(p.t, p.db) }

// push stores n messages in a partition, each by a request of its own; their payloads are
// the numbers from..from+n-1, and so are their transactions.
func (p *popper) push(queue, partition string, from, n int) {
	p.t.Helper()
	var items []string
	for i := from; i < from+n; i++ {
		items = append(items, fmt.Sprintf(`{"queue":%q,"partition":%q,"payload":%d,"transactionId":"%d"}`, queue, partition, i, i))
	}
	expectStatuses(p.t, p.pushes.push(`{"items":[`+strings.Join(items, ",")+`]}`), strings.Repeat("q", n))
}

// id is a partition's id.
func (p *popper) id(queue, partition string) UUID {
	p.t.Helper()
	rows := query(p.t, p.db, `SELECT p.id FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = $1 AND p.name = $2`, queue, partition)
	if len(rows) != 1 {
		p.t.Fatalf("%s/%s: %v", queue, partition, rows)
	}
	u, _ := parseUUID([]byte(rows[0]))
	return u
}

// of makes a pop of one partition.
func of(queue, partition string, change ...func(*PopRequest)) *Op {
	op := &Op{Verb: Pop, Pop: PopRequest{Scope: OnePartition, Queue: []byte(queue), Partition: []byte(partition), Group: []byte(QueueMode), Batch: 1, Partitions: 1}}
	for _, f := range change {
		f(&op.Pop)
	}
	return op
}

// any makes a pop of a queue that tries these partitions.
func (p *popper) any(queue string, partitions string, change ...func(*PopRequest)) *Op {
	p.t.Helper()
	op := &Op{Verb: Pop, Pop: PopRequest{Scope: OneQueue, Queue: []byte(queue), Group: []byte(QueueMode), Batch: 1, Partitions: 1}}
	for _, name := range strings.Fields(partitions) {
		op.Pop.Tries = append(op.Pop.Tries, Try{Queue: queue, Partition: p.id(queue, name)})
	}
	for _, f := range change {
		f(&op.Pop)
	}
	return op
}

func batchOf(n int) func(*PopRequest)      { return func(r *PopRequest) { r.Batch = n } }
func partitionsOf(n int) func(*PopRequest) { return func(r *PopRequest) { r.Partitions = n } }
func autoAck(r *PopRequest)                { r.AutoAck = true }
func as(name string) func(*PopRequest)     { return func(r *PopRequest) { r.Group = []byte(name) } }
func subscribeNew(r *PopRequest)           { r.Subscription.Mode = SubscribeNew }
func subscribeAt(t time.Time) func(*PopRequest) {
	return func(r *PopRequest) { r.Subscription = Subscription{SubscribeAt, t} }
}

// run has the pops answered as one batch.
func (p *popper) run(ops ...*Op) {
	p.t.Helper()
	b := p.batch
	b.Reset()
	for _, op := range ops {
		b.Add(op)
	}
	if err := p.drive(b); err != nil {
		p.t.Fatal(err)
	}
	for _, op := range b.Ops() {
		if _, err := json.Marshal(json.RawMessage(AppendPopAnswer(nil, op))); err != nil {
			p.t.Fatalf("%s: %v", AppendPopAnswer(nil, op), err)
		}
	}
}

// drive talks to PostgreSQL until the batch is decided.
func (p *popper) drive(b *PopBatch) error {
	for rounds := 0; ; rounds++ {
		if rounds > 100 {
			return errors.New("it never ends")
		}
		step := b.Step(now())
		if step == nil {
			return nil
		}
		names := make([]string, len(step))
		for i := range step {
			names[i] = strings.TrimPrefix(step[i].Name, "pop_")
		}
		p.steps = append(p.steps, strings.Join(names, " "))
		o := deliver
		if p.before != nil {
			o = p.before(step)
		}
		if o == loseBefore {
			b.Unknown()
			continue
		}
		deaf := b
		if o == loseAfter {
			deaf = nil
		}
		sqlErr, err := p.send(step, deaf)
		if err != nil {
			return err
		}
		if o == loseAfter {
			b.Unknown()
			continue
		}
		if p.sent != nil {
			p.sent()
		}
		v := b.StepDone(sqlErr, now())
		switch v.Action {
		case Wait:
			time.Sleep(v.After) // the pause is the batch's wish, not the test's
		case Away:
			return fmt.Errorf("away: %+v", sqlErr)
		case Prepare:
			clear(p.prepared)
			if _, err := p.conn.Exec(context.Background(), "DEALLOCATE ALL").ReadAll(); err != nil {
				return err
			}
		}
	}
}

// send sends a step and gives b, unless it is nil, what comes back.
func (p *popper) send(step []Statement, b *PopBatch) (*SQLError, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	for _, st := range step {
		if st.Unnamed || p.prepared[st.Name] {
			continue
		}
		if !slices.Contains(p.config.PreparedPop(), st.Name) {
			return nil, fmt.Errorf("%s is not prepared", st.Name)
		}
		if _, err := p.conn.Prepare(ctx, st.Name, schema.Statement(st.Name), nil); err != nil {
			return nil, err
		}
		p.prepared[st.Name] = true
	}
	pipe := p.conn.StartPipeline(ctx)
	defer pipe.Close()
	binary := []int16{1}
	for _, st := range step {
		formats := make([]int16, len(st.Params))
		for i := range formats {
			formats[i] = 1
		}
		if st.Unnamed {
			pipe.SendQueryParams(schema.Statement(st.Name), st.Params, nil, formats, binary)
		} else {
			pipe.SendQueryPrepared(st.Name, st.Params, formats, binary)
		}
	}
	if err := pipe.Sync(); err != nil {
		return nil, err
	}
	var failed *pgconn.PgError
	for i := 0; ; i++ {
		result, err := pipe.GetResults()
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
						// Rows are valid during the call only: what is kept by mistake is spoilt.
						var copied [][]byte
						for _, v := range r.Values() {
							copied = append(copied, bytes.Clone(v))
						}
						b.Row(i, copied)
						for _, v := range copied {
							for j := range v {
								v[j] = '#'
							}
						}
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
		if err != nil && !errors.As(err, &failed) {
			return nil, err
		}
	}
}

// got is a short form of what came of a pop: the messages' payloads with their partitions'
// names, then what is known of its tries, or of the whole.
func got(op *Op) string {
	if op.Fault.Code != OK {
		return "fault: " + op.Fault.Message
	}
	var messages []struct {
		Partition string
		Data      json.RawMessage
	}
	if err := json.Unmarshal([]byte("["+string(op.Pop.Messages)+"]"), &messages); err != nil {
		return fmt.Sprintf("no JSON: %v: %s", err, op.Pop.Messages)
	}
	var words []string
	for _, m := range messages {
		words = append(words, m.Partition+string(m.Data))
	}
	for i := range op.Pop.Tries {
		t := &op.Pop.Tries[i]
		word := [...]string{"untried", "claimed", "drained", "leased", "undue", "busy", "gone"}[t.Outcome]
		if t.More {
			word += "+"
		}
		words = append(words, word)
	}
	for word, yes := range map[string]bool{"missing": op.Pop.Missing, "held": op.Pop.Held, "window": op.Pop.Window} {
		if yes {
			words = append(words, word)
		}
	}
	if len(messages) != op.Pop.Count {
		words = append(words, "miscounted")
	}
	return strings.Join(words, " ")
}

// expectPop runs a pop alone.
func (p *popper) expectPop(op *Op, want string) *Op {
	p.t.Helper()
	p.run(op)
	if got := got(op); got != want {
		p.t.Errorf("got %q, want %q", got, want)
	}
	return op
}

// ack is what an ack of all that was delivered does to the cursors, and no more.
func (p *popper) ack(op *Op) {
	p.t.Helper()
	n := query(p.t, p.db, `WITH u AS (UPDATE queen.partition_consumers SET last_consumed_created_at = lease_end_created_at, last_consumed_id = lease_end_id, last_seq = greatest(last_seq, lease_end_seq),
		worker_id = NULL, lease_expires_at = NULL, lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL WHERE worker_id = $1 RETURNING 1) SELECT count(*) FROM u`, string(op.Pop.LeaseID))
	if n[0] != fmt.Sprint(op.Pop.Claimed) {
		p.t.Errorf("%s leases of %d", n[0], op.Pop.Claimed)
	}
}

// expire ends all leases as time does.
func (p *popper) expire() {
	p.t.Helper()
	query(p.t, p.db, `UPDATE queen.partition_consumers SET lease_expires_at = clock_timestamp() - interval '1 ms' WHERE lease_expires_at IS NOT NULL`)
}

func (p *popper) configure(queue, set string) {
	p.t.Helper()
	query(p.t, p.db, `UPDATE queen.queues SET `+set+` WHERE name = $1`, queue)
}

func TestAPartitionIsPoppedInOrderUnderOneLeaseAtATime(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 5)
	first := p.expectPop(of("q", "p", batchOf(2)), "p1 p2 claimed+")
	p.expectPop(of("q", "p", batchOf(2)), "leased held")
	p.expectPop(p.any("q", "p"), "leased")
	p.ack(first)
	p.expectPop(of("q", "p", batchOf(2)), "p3 p4 claimed+")
	p.expire()
	p.expectPop(of("q", "p", batchOf(3)), "p3 p4 p5 claimed")
	p.expectPop(of("q", "p", as("other"), batchOf(9)), "p1 p2 p3 p4 p5 claimed")
	p.expectPop(of("q", "nothing"), "missing")
	p.expectPop(of("nothing", "p"), "missing")
}

func TestAPopTakesFromSeveralPartitionsUpToItsBatch(t *testing.T) {
	p := fresh(t)
	p.push("q", "a", 1, 3)
	p.push("q", "b", 1, 1)
	p.push("q", "c", 1, 3)
	p.push("q", "d", 1, 1)
	op := p.expectPop(p.any("q", "a b c d", batchOf(6), partitionsOf(4)), "a1 a2 a3 b1 c1 c2 claimed claimed claimed+ untried")
	if op.Pop.Claimed != 3 || string(op.Pop.FirstName) != "a" || op.Pop.LeaseID[leaseVariantAt] != leaseSeveral {
		t.Errorf("%+v", op.Pop)
	}
	p.ack(op)
	p.expectPop(p.any("q", "a b c d", batchOf(9), partitionsOf(1)), "c3 drained drained claimed untried")
	p.expectPop(p.any("q", "a b c d", batchOf(9), partitionsOf(2)), "d1 drained drained leased claimed")
	if op := p.any("q", "a b"); true {
		op.Pop.Tries = append(op.Pop.Tries, Try{Queue: "q", Partition: UUID{1}})
		p.expectPop(op, "drained drained gone")
	}
}

// A partition that no pop of the group has looked at has no cursor. Pops that find enough
// elsewhere go without it once, and not for ever.
func TestANewPartitionIsNotPassedOverForEver(t *testing.T) {
	p := fresh(t)
	p.push("q", "hot", 1, 1)
	p.expectPop(p.any("q", "hot", autoAck), "hot1 claimed")
	p.push("q", "new", 1, 1)
	p.push("q", "hot", 2, 2)
	p.expectPop(p.any("q", "new hot", autoAck, partitionsOf(2)), "hot2 untried claimed+")
	p.expectPop(p.any("q", "new hot", autoAck, partitionsOf(2)), "new1 claimed untried")
}

func TestALeaseSaysWhereItsPartitionIs(t *testing.T) {
	p := fresh(t)
	p.push("q", "a", 1, 3)
	op := p.expectPop(of("q", "a"), "a1 claimed+")
	id := p.id("q", "a")
	from, to, ok := LeaseIDPartition(op.Pop.LeaseID)
	if !ok || bytes.Compare(from[:], id[:]) > 0 || bytes.Compare(to[:], id[:]) < 0 {
		t.Errorf("%s: %v to %v, %v; the partition is %v", op.Pop.LeaseID, from, to, ok, id)
	}
	expect(t, p.db, `SELECT worker_id, batch_size, acked_count, lease_end_seq, round(extract(epoch FROM lease_expires_at - lease_acquired_at)), last_consumed_created_at IS NULL FROM queen.partition_consumers`,
		string(op.Pop.LeaseID)+"|1|0|1|300|t")
	expect(t, p.db, `SELECT m.transaction_id FROM queen.partition_consumers c JOIN queen.messages m ON (m.partition_id, m.created_at, m.id) = (c.partition_id, c.lease_end_created_at, c.lease_end_id)`, "1")
	if in := op.Pop.Tries[0].In; in != 300*time.Second {
		t.Error(in)
	}
	p.configure("q", "lease_time = 0")
	p.expire()
	if op = p.expectPop(of("q", "a"), "a1 claimed+"); op.Pop.Tries[0].In != time.Minute {
		t.Error(op.Pop.Tries[0].In)
	}
	op = p.expectPop(of("q", "a"), "leased held")
	if in := op.Pop.Tries[0].In; in <= 0 || in > time.Minute {
		t.Error(in)
	}
	for _, text := range []string{"", "x", string(AppendLeaseID(nil, UUID{}, false, id)), "019ac000-0000-7000-a000-0000zz000000"} {
		if _, _, ok := LeaseIDPartition([]byte(text)); ok {
			t.Errorf("%q says where", text)
		}
	}
}

func TestAutoAckMovesTheCursorAtOnce(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 5)
	op := p.expectPop(of("q", "p", autoAck, batchOf(2)), "p1 p2 claimed+")
	if len(op.Pop.LeaseID) != 0 || !strings.Contains(string(op.Pop.Messages), `"leaseId":"",`) {
		t.Errorf("%s", AppendPopAnswer(nil, op))
	}
	expect(t, p.db, `SELECT worker_id, lease_expires_at, lease_end_id, last_seq, total_messages_consumed, total_batches_consumed, batch_size, last_consumed_at IS NULL FROM queen.partition_consumers`, "NULL|NULL|NULL|2|2|1|0|f")
	expect(t, p.db, `SELECT m.transaction_id FROM queen.partition_consumers c JOIN queen.messages m ON (m.partition_id, m.created_at, m.id) = (c.partition_id, c.last_consumed_created_at, c.last_consumed_id)`, "2")
	p.expectPop(p.any("q", "p", autoAck, batchOf(3)), "p3 p4 p5 claimed")
	p.expectPop(p.any("q", "p", autoAck), "drained")
	p.expectPop(of("q", "p", autoAck), "drained")
}

func TestPopsOfABatchAreOneStatement(t *testing.T) {
	p := fresh(t)
	var ops []*Op
	for i := range 20 {
		name := fmt.Sprintf("p%d", i)
		p.push("q", name, 10*i, 3)
		if i%2 == 0 {
			ops = append(ops, of("q", name, batchOf(2)))
		} else {
			ops = append(ops, p.any("q", name, batchOf(2)))
		}
	}
	p.run(ops...)
	if want := []string{"plan claim", "open plan claim"}; !slices.Equal(p.steps, want) {
		t.Errorf("%q", p.steps)
	}
	for i, op := range ops {
		if want := fmt.Sprintf("p%d%d p%d%d claimed+", i, 10*i, i, 10*i+1); got(op) != want {
			t.Errorf("%q, want %q", got(op), want)
		}
		if i > 0 && bytes.Equal(op.Pop.LeaseID[:36], ops[i-1].Pop.LeaseID[:36]) {
			t.Error("two have one lease")
		}
	}
}

// The second waits for the first: with a lease it is held, with autoAck it gets the rest.
func TestTwoPopsOfABatchForOneCursor(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 5)
	f := func(change func(*PopRequest), want ...string) {
		t.Helper()
		query(t, p.db, `DELETE FROM queen.partition_consumers`)
		ops := []*Op{of("q", "p", batchOf(2), change), p.any("q", "p", batchOf(2), change), of("q", "p", batchOf(2), change), of("q", "p", as("other"), change)}
		p.run(ops...)
		for i, op := range ops {
			if got(op) != want[i] {
				t.Errorf("pop %d: %q, want %q", i, got(op), want[i])
			}
		}
	}
	f(func(*PopRequest) {}, "p1 p2 claimed+", "leased", "leased held", "p1 claimed+")
	f(autoAck, "p1 p2 claimed+", "p3 p4 claimed+", "p5 claimed", "p1 claimed+")
}

func TestAGroupBeginsWhereItWantsTo(t *testing.T) {
	p := fresh(t)
	meta := func(want ...string) {
		t.Helper()
		expect(t, p.db, `SELECT consumer_group, queue_name, partition_name, namespace, task, subscription_mode FROM queen.consumer_groups_metadata ORDER BY created_at, consumer_group`, want...)
		query(t, p.db, `DELETE FROM queen.consumer_groups_metadata`)
	}
	p.push("q", "a", 1, 2)
	p.expectPop(p.any("q", "a", as("all"), batchOf(9)), "a1 a2 claimed")
	meta()
	p.expectPop(p.any("q", "a", as("new"), subscribeNew, batchOf(9)), "drained")
	expect(t, p.db, `SELECT last_seq, m.transaction_id FROM queen.partition_consumers c JOIN queen.messages m ON m.id = c.last_consumed_id WHERE consumer_group = 'new'`, "2|2")
	p.push("q", "a", 3, 1)
	p.push("q", "b", 1, 1)
	p.expectPop(p.any("q", "a", as("new"), subscribeNew, batchOf(9)), "a3 claimed")
	p.expectPop(p.any("q", "a b", as("new"), subscribeNew, batchOf(9), partitionsOf(2)), "b1 leased claimed")
	meta("new|q||||new")
	// Who wants nothing in particular begins where the group was told to.
	p.expectPop(of("q", "a", as("one"), subscribeNew), "drained")
	p.push("q", "a", 4, 1)
	query(t, p.db, `DELETE FROM queen.partition_consumers WHERE consumer_group = 'one'`)
	p.expectPop(p.any("q", "a", as("one"), batchOf(9)), "a4 claimed")
	p.expectPop(p.any("q", "b", as("one"), batchOf(9)), "b1 claimed")
	meta("one|q|a|||new")
	// A beginning that somebody deletes is written down again, by whoever wants one.
	query(t, p.db, `DELETE FROM queen.partition_consumers`)
	p.expectPop(of("q", "a", as("one"), subscribeNew, batchOf(9)), "drained")
	meta("one|q|a|||new")
	// A time.
	at := query(t, p.db, `SELECT (extract(epoch FROM created_at) * 1000000)::bigint FROM queen.messages WHERE transaction_id = '3'`)
	var micros int64
	fmt.Sscan(at[0], &micros)
	p.expectPop(p.any("q", "a", as("at"), subscribeAt(time.UnixMicro(micros)), batchOf(9)), "a3 a4 claimed")
	meta("at|q||||timestamp")
	// The queue's own consumers begin at the beginning.
	p.expectPop(p.any("q", "a", subscribeNew, batchOf(9)), "a1 a2 a3 a4 claimed")
	meta()
}

func TestAGroupsBeginningIsWrittenBeforeThereIsAnything(t *testing.T) {
	p := fresh(t)
	p.expectPop(p.any("q", "", as("g"), subscribeNew), "")
	p.push("q", "a", 1, 2)
	p.expectPop(p.any("q", "a", as("g"), subscribeNew, batchOf(9)), "a1 a2 claimed")
	many := func(change ...func(*PopRequest)) *Op {
		op := p.any("q", "a", change...)
		op.Pop.Scope, op.Pop.Queue = ManyQueues, nil
		return op
	}
	ns := func(r *PopRequest) { r.Task = []byte("jobs") }
	none := func(r *PopRequest) { r.Tries = nil }
	p.expectPop(many(as("h"), subscribeNew, ns, none), "")
	p.push("x.jobs", "a", 1, 1)
	query(t, p.db, `UPDATE queen.queues SET task = 'jobs' WHERE name = 'q'`)
	p.expectPop(many(as("h"), subscribeNew, ns), "drained")
	if op := many(as("h"), ns); true {
		op.Pop.Tries[0] = Try{Queue: "x.jobs", Partition: p.id("x.jobs", "a")}
		p.expectPop(op, "a1 claimed")
	}
	p.expectPop(many(as("i"), subscribeNew), "drained")
	expect(t, p.db, `SELECT consumer_group, queue_name, partition_name, namespace, task FROM queen.consumer_groups_metadata ORDER BY 1`, "g|q|||", "h||||jobs", "i||*|*|*")
}

// What a group is told once is good for all that belongs to it: a later and narrower
// beginning is not written.
func TestABeginningIsTakenFromWhereTheGroupBegan(t *testing.T) {
	p := fresh(t)
	meta := func(want ...string) {
		t.Helper()
		expect(t, p.db, `SELECT queue_name, partition_name, namespace, task, subscription_mode, rank() OVER (ORDER BY subscription_timestamp)
			FROM queen.consumer_groups_metadata ORDER BY created_at, queue_name`, want...)
		query(t, p.db, `DELETE FROM queen.consumer_groups_metadata`)
	}
	// The queue's is as good for a partition.
	p.expectPop(p.any("q", "", as("g"), subscribeNew), "")
	p.push("q", "a", 1, 1)
	p.expectPop(of("q", "a", as("g"), subscribeNew, batchOf(9)), "a1 claimed")
	meta("q||||new|1")

	// Queues of a namespace, of a task, or all of them, that come later.
	watch := newRunner(t, p.db)
	f := func(queue, namespace, task string, want ...string) {
		t.Helper()
		ask := func(w WatchRequest) *WatchRequest {
			t.Helper()
			w.Group.Name, w.Subscription = "g", Subscription{Mode: SubscribeNew}
			op := &Op{Verb: Watch, Watch: w, Done: ignored{}}
			watch.run(NewWatchBatch(), op)
			if op.Fault.Code != OK {
				t.Fatal(op.Fault)
			}
			return &op.Watch
		}
		many, one := WatchRequest{Kind: WatchBegin, Scope: ManyQueues}, WatchRequest{Kind: WatchBegin, Scope: OneQueue}
		if namespace != "" {
			many.Namespace = []byte(namespace)
		}
		if task != "" {
			many.Task = []byte(task)
		}
		swept := func(queue string) int {
			t.Helper()
			sweep := WatchRequest{Kind: WatchSweep, Partitions: 9}
			sweep.Group.Queue = queue
			return len(ask(sweep).Pending)
		}
		ask(many)
		p.push(queue, "a", 1, 1)
		p.push("other."+queue, "a", 1, 1)
		ask(many)
		one.Group.Queue = queue
		ask(one) // it has a beginning there
		if n := swept(queue); n != 1 {
			t.Errorf("%d partitions have something to come", n)
		}
		if namespace+task != "" {
			one.Group.Queue = "other." + queue
			ask(one) // not of this namespace: it begins now
			if n := swept("other." + queue); n != 0 {
				t.Errorf("%d partitions of another namespace have something to come", n)
			}
			p.expectPop(p.any("other."+queue, "a", as("g"), batchOf(9)), "drained")
		}
		p.expectPop(p.any(queue, "a", as("g"), subscribeNew, batchOf(9)), "a1 claimed")
		meta(want...)
	}
	f("n.t.1", "n", "", "||n||new|1", "other.n.t.1||||new|2")
	f("n.t.2", "", "t", "|||t|new|1", "other.n.t.2||||new|2")
	f("n.t.3", "n", "t", "||n|t|new|1", "other.n.t.3||||new|2")
	f("n.t.4", "", "", "|*|*|*|new|1")
}

// A beginning in one partition says nothing of the others.
func TestABeginningInAPartitionIsNoneInTheQueue(t *testing.T) {
	p := fresh(t)
	p.push("q", "a", 1, 1)
	p.push("q", "b", 1, 1)
	sweep := func(want int) {
		t.Helper()
		op := &Op{Verb: Watch, Done: ignored{}, Watch: WatchRequest{Kind: WatchSweep, Partitions: 9}}
		op.Watch.Group = Group{"q", "g"}
		if newRunner(t, p.db).run(NewWatchBatch(), op); len(op.Watch.Pending) != want {
			t.Errorf("%d partitions have something to come, not %d", len(op.Watch.Pending), want)
		}
	}
	p.expectPop(of("q", "a", as("g"), subscribeNew), "drained")
	sweep(1)
	p.expectPop(p.any("q", "b", as("g")), "b1 claimed")
	p.expectPop(p.any("q", "", as("h"), subscribeNew), "")
	query(t, p.db, `UPDATE queen.consumer_groups_metadata SET consumer_group = 'g' WHERE consumer_group = 'h'`)
	query(t, p.db, `DELETE FROM queen.partition_consumers`)
	sweep(0) // the queue's goes before what there is not
}

// All that begin in one step are one statement, and are not forgotten in a crash.
func TestBeginningsAreWrittenTogetherAndForGood(t *testing.T) {
	b := NewWatchBatch()
	for i, kind := range []WatchKind{WatchTell, WatchBegin, WatchSweep, WatchBegin} {
		op := &Op{Verb: Watch, Done: ignored{}, Watch: WatchRequest{Kind: kind, Scope: OneQueue, Subscription: Subscription{Mode: SubscribeNew}}}
		op.Watch.Group = Group{fmt.Sprint("q", i), "g"}
		b.Add(op)
	}
	var names []string
	for _, st := range b.Step(0) {
		names = append(names, st.Name)
	}
	if got := strings.Join(names, " "); got != "pop_subscribe watch_here watch_check system_state_read watch_sweep" {
		t.Error(got)
	}
}

// Where a group begins in the middle of a partition its cursor says so from its first lease
// on: what lies before is none of what the lease holds.
func TestALeaseHoldsNothingFromBeforeTheBeginning(t *testing.T) {
	p := fresh(t)
	p.push("q", "a", 1, 3)
	p.expectPop(p.any("q", "", as("g"), subscribeNew), "")
	p.push("q", "a", 4, 2)
	op := p.expectPop(p.any("q", "a", as("g"), subscribeNew, batchOf(9)), "a4 a5 claimed")
	expect(t, p.db, `SELECT m.transaction_id, c.last_seq, c.lease_end_seq FROM queen.partition_consumers c JOIN queen.messages m ON (m.created_at, m.id) = (c.last_consumed_created_at, c.last_consumed_id)`, "3|3|5")
	query(t, p.db, `DELETE FROM queen.messages WHERE transaction_id IN ('4', '5')`)
	r := newRunner(t, p.db)
	a, b := p.id("q", "a"), UUID{}
	r.run(NewAckBatch(), r.ackOp(fmt.Sprintf(`{"consumerGroup":"g","acknowledgments":[{"transactionId":"5","partitionId":"%s","status":"completed","leaseId":"%s"}]}`, a.Append(nil), op.Pop.LeaseID)))
	expect(t, p.db, `SELECT worker_id IS NULL FROM queen.partition_consumers`, "t")
	// With autoAck, and where nothing was before, it is as it was.
	p.push("q", "b", 1, 1)
	p.expectPop(p.any("q", "b", as("g"), batchOf(9)), "b1 claimed")
	b = p.id("q", "b")
	expect(t, p.db, `SELECT last_consumed_created_at IS NULL, last_seq FROM queen.partition_consumers WHERE partition_id = '`+string(b.Append(nil))+`'`, "t|0")
}

// What belongs to the queue without a name is not told apart from what belongs to many
// queues by its name alone.
func TestTheQueueWithoutANameHasABeginningOfItsOwn(t *testing.T) {
	p := fresh(t)
	p.push("", "*", 1, 2)
	query(t, p.db, `INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp)
		VALUES ('g', '', '', 'elsewhere', '', 'new', clock_timestamp())`)
	op := &Op{Verb: Watch, Done: ignored{}, Watch: WatchRequest{Kind: WatchSweep, Partitions: 9}}
	op.Watch.Group.Name = "g"
	if newRunner(t, p.db).run(NewWatchBatch(), op); len(op.Watch.Pending) != 1 {
		t.Error(op.Fault, op.Watch.Pending)
	}
	p.expectPop(p.any("", "*", as("g"), batchOf(9)), "*1 *2 claimed")
}

func TestWhatIsNotDueIsNotDelivered(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 2)
	query(t, p.db, `UPDATE queen.messages SET created_at = clock_timestamp() - interval '1 hour' WHERE transaction_id = '1'`)
	p.configure("q", "delayed_processing = 1800")
	op := p.expectPop(of("q", "p", batchOf(9)), "p1 claimed+")
	p.ack(op)
	op = p.expectPop(p.any("q", "p", batchOf(9)), "undue")
	if in := op.Pop.Tries[0].In; in <= 0 || in > 30*time.Minute {
		t.Error(in)
	}
	// A partition that is not due is passed over.
	p.push("q", "old", 1, 1)
	query(t, p.db, `UPDATE queen.messages SET created_at = clock_timestamp() - interval '1 hour' WHERE partition_id = (SELECT id FROM queen.partitions WHERE name = 'old')`)
	p.expectPop(p.any("q", "p old"), "old1 undue claimed")
	p.configure("q", "delayed_processing = 0")
	p.expectPop(of("q", "p"), "p2 claimed")
}

func TestAWindowHoldsAllMessagesBack(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 3)
	p.configure("q", "window_buffer = 1800")
	op := p.expectPop(of("q", "p", batchOf(9)), "undue window")
	if in := op.Pop.Tries[0].In; in <= 0 || in > 30*time.Minute {
		t.Error(in)
	}
	if text := string(AppendPopAnswer(nil, op)); !strings.HasPrefix(text, `{"consumerGroup":"__QUEUE_MODE__","leaseId":"","messages":[],"partition":"p","partitionId":"`) || !strings.HasSuffix(text, `,"queue":"q","success":true,"windowBufferActive":true}`) {
		t.Error(text)
	}
	p.expectPop(p.any("q", "p"), "undue")
	query(t, p.db, `UPDATE queen.messages SET created_at = created_at - interval '31 minutes'`)
	p.ack(p.expectPop(of("q", "p", batchOf(9)), "p1 p2 p3 claimed"))
	p.expectPop(of("q", "p"), "drained")
}

func TestMessagesThatHaveWaitedTooLongAreHidden(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 3)
	query(t, p.db, `UPDATE queen.messages SET created_at = created_at - interval '1 hour' WHERE transaction_id < '3'`)
	p.configure("q", "max_wait_time_seconds = 1800")
	p.ack(p.expectPop(of("q", "p", batchOf(9)), "p3 claimed"))
	p.expectPop(of("q", "p"), "drained")
	p.push("q", "p", 4, 1)
	p.expectPop(of("q", "p"), "p4 claimed")
	query(t, p.db, `UPDATE queen.messages SET created_at = created_at - interval '1 hour'`)
	p.expectPop(of("q", "p", as("g")), "drained")
}

func TestNothingButMessagesIsNeededToFindThem(t *testing.T) {
	p := fresh(t)
	query(t, p.db, `INSERT INTO queen.queues (name) VALUES ('')`)
	query(t, p.db, `INSERT INTO queen.partitions (queue_id, name) SELECT id, '' FROM queen.queues`)
	query(t, p.db, `INSERT INTO queen.messages (transaction_id, partition_id, payload) SELECT 't', id, '{ "by" : "hand" }' FROM queen.partitions`)
	p.ack(p.expectPop(of("", ""), `{ "by" : "hand" } claimed`))
	expect(t, p.db, `SELECT last_seq, last_consumed_created_at IS NULL FROM queen.partition_consumers`, "0|f")
	p.expectPop(of("", ""), "drained")
}

func TestWhatWasDeletedBehindTheCursorIsNotPending(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 5)
	p.ack(p.expectPop(of("q", "p", batchOf(2)), "p1 p2 claimed+"))
	query(t, p.db, `DELETE FROM queen.messages WHERE transaction_id > '2'`)
	p.expectPop(of("q", "p"), "drained")
	expect(t, p.db, `SELECT c.last_seq, h.seq FROM queen.partition_consumers c JOIN queen.partition_lookup h USING (partition_id)`, "5|5")
	p.push("q", "p", 6, 1)
	p.expectPop(of("q", "p"), "p6 claimed")
}

func TestAQueueThatIsDeletedIsGone(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 5)
	first := p.any("q", "p")
	second := p.any("q", "p")
	p.expectPop(first, "p1 claimed+")
	query(t, p.db, `DELETE FROM queen.queues`)
	p.expectPop(second, "gone")
	p.expectPop(of("q", "p"), "missing")
	p.push("q", "p", 7, 1)
	p.expectPop(of("q", "p"), "p7 claimed")
	// It is deleted between the two steps of a first claim.
	p.push("q", "other", 1, 1)
	p.before = func(step []Statement) outcome {
		if step[0].Name == "pop_open" {
			query(t, p.db, `DELETE FROM queen.queues`)
		}
		return deliver
	}
	p.expectPop(of("q", "other"), "missing")
}

func TestAClaimWhoseAnswerIsLostIsMadeAgain(t *testing.T) {
	p := fresh(t)
	p.push("q", "a", 1, 2)
	p.push("q", "b", 1, 2)
	f := func(o outcome, want string, change ...func(*PopRequest)) {
		t.Helper()
		query(t, p.db, `DELETE FROM queen.partition_consumers`)
		p.run(of("q", "a", as("else"))) // the connection is in use
		losses := 0
		p.before = func([]Statement) outcome {
			if losses++; losses > 4 {
				return deliver
			}
			return o
		}
		op := p.any("q", "a b", append(change, batchOf(9), partitionsOf(2))...)
		p.expectPop(op, want)
		if !op.Pop.AutoAck {
			p.ack(op)
		}
		p.before = nil
	}
	f(loseBefore, "a1 a2 b1 b2 claimed claimed")
	f(loseAfter, "a1 a2 b1 b2 claimed claimed")
	// What was leased in vain is not left leased: while the answer was lost, the first
	// partition got so much that the second is not needed.
	query(t, p.db, `DELETE FROM queen.partition_consumers`)
	p.run(p.any("q", "a b", batchOf(1), partitionsOf(2), autoAck), p.any("q", "b", autoAck))
	p.before = func([]Statement) outcome {
		p.before = func([]Statement) outcome { p.push("q", "a", 3, 5); p.before = nil; return deliver }
		return loseAfter
	}
	p.expectPop(p.any("q", "a b", batchOf(2), partitionsOf(2)), "a2 a3 claimed+ untried")
	p.expectPop(p.any("q", "a b", batchOf(9), partitionsOf(2)), "b2 leased claimed")
	query(t, p.db, `DELETE FROM queen.messages WHERE transaction_id > '2'`)
	lost := "fault: the connection to PostgreSQL was lost; messages may have been acknowledged that nobody has received"
	f(loseBefore, lost, autoAck)
	f(loseAfter, lost, autoAck)
}

func TestALeaseOfAPopWhoseTimeIsOverIsGivenBack(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 2)
	late := of("q", "p")
	late.Deadline = now() + time.Hour
	p.sent = func() {
		if p.batch.tries[0].outcome == popClaimed {
			if ops := p.batch.Expire(late.Deadline); len(ops) != 1 || ops[0] != late || late.Fault.Code != Unavailable || late.Pop.Count != 0 {
				t.Errorf("%d, %+v", len(ops), late)
			}
			late.Pop.Group = nil // it is somebody else's now
			p.sent = nil
		}
	}
	p.run(late)
	if last := p.steps[len(p.steps)-1]; last != "undo" {
		t.Errorf("%q", p.steps)
	}
	p.expectPop(of("q", "p"), "p1 claimed+")
}

func TestWhatAutoAckHasTakenIsDeliveredThoughItsTimeIsOver(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 4)
	expire := func(op *Op, after time.Duration, given int) {
		t.Helper()
		op.Deadline = now() + time.Hour
		due := op.Deadline
		p.sent = func() {
			if p.batch.tries[0].outcome != popClaimed {
				return
			}
			p.sent = nil
			if ops := p.batch.Expire(due); len(ops) != 0 || op.Deadline != due+PopLateMax {
				t.Errorf("%d, %v later", len(ops), op.Deadline-due)
			}
			if ops := p.batch.Expire(due + after); len(ops) != given {
				t.Errorf("%d are given back after %v", len(ops), after)
			}
		}
		p.run(op)
		if p.sent != nil {
			t.Error("nothing was claimed")
		}
		if given == 0 && op.Deadline != due {
			t.Errorf("it keeps a deadline %v later", op.Deadline-due)
		}
	}
	op := of("q", "p", autoAck)
	expire(op, PopLateMax-1, 0)
	if op.Fault.Code != OK || op.Pop.Count != 1 {
		t.Errorf("%+v", op)
	}
	op = of("q", "p", autoAck)
	expire(op, PopLateMax, 1)
	if op.Fault.Code != Unavailable || op.Pop.Count != 0 {
		t.Errorf("%+v", op)
	}
	p.expectPop(of("q", "p", autoAck), "p3 claimed+")
	op = of("q", "p", autoAck)
	op.Deadline = now() - 1
	p.batch.Reset()
	p.batch.Add(op)
	if ops := p.batch.Expire(now()); len(ops) != 1 {
		t.Error("one that is in no step is kept")
	}
}

func TestACursorThatIsLockedIsNotWaitedFor(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 2)
	p.push("q", "free", 1, 1)
	query(t, p.db, `INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT id, '__QUEUE_MODE__' FROM queen.partitions WHERE name = 'p'`)
	query(t, p.db, `BEGIN`)
	query(t, p.db, `SELECT 1 FROM queen.partition_consumers FOR NO KEY UPDATE`)
	ops := []*Op{of("q", "p"), {Verb: Pop}, {Verb: Pop}}
	wait := func(r *PopRequest) { r.Wait = true }
	// The side connection has the lock, so the ids are asked for by it.
	*ops[1], *ops[2] = *p.any("q", "p", wait), *p.any("q", "p free", partitionsOf(2))
	for i, want := range []string{"busy held", "busy", "free1 busy claimed"} {
		p.expectPop(ops[i], want)
	}
	query(t, p.db, `ROLLBACK`)
	p.expectPop(of("q", "p"), "p1 claimed+")
}

func TestAnAnswerIsBoundedInBytes(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 5)
	query(t, p.db, `UPDATE queen.messages SET payload = to_json(repeat('x', 300 << 10)) WHERE transaction_id < '4'`)
	query(t, p.db, `UPDATE queen.messages SET payload = to_json(repeat('x', 900 << 10)) WHERE transaction_id = '4'`)
	p.expectPop(of("q", "p", batchOf(0)), "untried")
	f := func(change func(*PopRequest), counts ...int) {
		t.Helper()
		for i, n := range counts {
			op := of("q", "p", batchOf(9), change)
			p.batch.rate = 700 << 10 * popStepsPerDeadline / 2
			p.run(op)
			if more := i < len(counts)-1; op.Pop.Count != n || op.Pop.Tries[0].More != more {
				t.Errorf("pop %d: %d messages, %d bytes, more: %v", i, op.Pop.Count, len(op.Pop.Messages), op.Pop.Tries[0].More)
			}
			if !op.Pop.AutoAck {
				p.ack(op)
			}
		}
		query(t, p.db, `UPDATE queen.partition_consumers SET last_consumed_created_at = NULL, last_consumed_id = '00000000-0000-0000-0000-000000000000', last_seq = 0`)
	}
	f(autoAck, 2, 1, 1, 1)
	f(func(*PopRequest) {}, 2, 1, 1, 1)
	// What cannot be compressed is not read at all when it is too much.
	query(t, p.db, `UPDATE queen.messages SET payload = to_json((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 20000) i))`)
	f(autoAck, 1, 1, 1, 1, 1)
}

func TestAClaimThatTheTimeoutCutAsksForLess(t *testing.T) {
	p := fresh(t)
	p.push("q", "p", 1, 1)
	b := p.batch
	b.Reset()
	op := of("q", "p")
	b.Add(op)
	for _, want := range []int{popRateFirst, popRateCutMin, popRateCutMin, popRateCutMin} {
		b.Step(now())
		if b.rate != want || b.bytes != want*2/popStepsPerDeadline {
			t.Errorf("%d bytes a second, %d bytes, want %d", b.rate, b.bytes, want)
		}
		b.StepDone(&SQLError{Code: "57014", Message: "canceling statement due to statement timeout"}, now())
	}
	if b.Step(now()) != nil || op.Fault.Code != Unavailable {
		t.Errorf("%+v", op.Fault)
	}
	p.expectPop(of("q", "p"), "p1 claimed")
}

// steady has a popper's batch make steps of so many bytes, whatever the time does.
func (p *popper) steady(bytes int, each func(step []Statement)) {
	p.batch.rate = bytes * popStepsPerDeadline / int(popTimeUsual/time.Second)
	p.before = func(step []Statement) outcome {
		if p.batch.kind == claimPop && p.batch.bytes != bytes {
			p.t.Errorf("a step of %d bytes, want %d", p.batch.bytes, bytes)
		}
		p.batch.giveUp = now() + time.Hour
		return deliver
	}
	p.sent = func() {
		p.batch.sentAt = now() + time.Hour // nothing is learned
		if each != nil {
			each(p.batch.stmts)
		}
	}
}

// fill stores messages of so many characters that cannot be compressed much.
func (p *popper) fill(queue string, partitions, messages, chars int) {
	p.t.Helper()
	var items []string
	for i := range partitions * messages {
		items = append(items, fmt.Sprintf(`{"queue":%q,"partition":"p%d"}`, queue, i%partitions))
	}
	expectStatuses(p.t, p.pushes.push(`{"items":[`+strings.Join(items, ",")+`]}`), strings.Repeat("q", len(items)))
	query(p.t, p.db, `UPDATE queen.messages SET payload = to_json((SELECT left(string_agg(md5(i::text), ''), $1::int) FROM generate_series(1, 1 + $1::int / 32) i))`, fmt.Sprint(chars))
}

func TestManyPopsForMuchHaveAShareOfTheStepEach(t *testing.T) {
	const pops, messages, chars, step = 200, 8, 5000, 4 << 20
	p := fresh(t)
	p.fill("q", pops, messages, chars)
	steps, most := 0, 0
	p.steady(step, func([]Statement) {
		if b := p.batch; b.kind == claimPop {
			steps, most = steps+1, max(most, b.taken)
		}
	})
	ids := query(t, p.db, `SELECT p.id FROM queen.partitions p ORDER BY p.name`)
	delivered, sum := map[string]int{}, 0
	for range 2 {
		var ops []*Op
		for _, id := range ids {
			u, _ := parseUUID([]byte(id))
			op := &Op{Verb: Pop, Pop: PopRequest{Scope: OneQueue, Queue: []byte("q"), Group: []byte(QueueMode), Batch: 1000, Partitions: 1, Tries: []Try{{Queue: "q", Partition: u}}}}
			ops = append(ops, op)
		}
		p.run(ops...)
		for i, op := range ops {
			delivered[ids[i]] += op.Pop.Count
			if op.Fault.Code != OK || op.Pop.Count < 2 || len(op.Pop.Messages) > step/pops || !op.Pop.Tries[0].More {
				t.Fatalf("%d messages, %d bytes, %+v %v", op.Pop.Count, len(op.Pop.Messages), op.Pop.Tries, op.Fault)
			}
		}
		// Leased is what was delivered, and no more.
		wrong := query(t, p.db, `SELECT count(*) FROM queen.partition_consumers k
			WHERE k.batch_size <> (SELECT count(*) FROM queen.messages m WHERE m.partition_id = k.partition_id
				AND (m.created_at, m.id) > (coalesce(k.last_consumed_created_at, '-infinity'), k.last_consumed_id) AND (m.created_at, m.id) <= (k.lease_end_created_at, k.lease_end_id))`)
		leased := query(t, p.db, `SELECT sum(batch_size) FROM queen.partition_consumers WHERE lease_expires_at > now()`)
		n := 0
		for _, op := range ops {
			n += op.Pop.Count
		}
		if wrong[0] != "0" || leased[0] != fmt.Sprint(n) {
			t.Errorf("%d were delivered, %s leased, wrong %s", n, leased[0], wrong[0])
		}
		sum += n
		query(t, p.db, `UPDATE queen.partition_consumers SET last_consumed_created_at = lease_end_created_at, last_consumed_id = lease_end_id, last_seq = greatest(last_seq, lease_end_seq),
			worker_id = NULL, lease_expires_at = NULL, lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL`)
	}
	for id, n := range delivered {
		if n >= messages {
			t.Errorf("%s: %d messages", id, n)
		}
	}
	if rest := query(t, p.db, `SELECT count(*) FROM queen.messages m JOIN queen.partition_consumers k USING (partition_id)
		WHERE (m.created_at, m.id) > (k.last_consumed_created_at, k.last_consumed_id)`); rest[0] != fmt.Sprint(pops*messages-sum) {
		t.Errorf("%s are left after %d", rest[0], sum)
	}
	// The first pops find no cursors; else each batch is one step.
	if steps != 3 || most > step {
		t.Errorf("%d steps, at most %d bytes in one", steps, most)
	}
}

func TestMessagesThatAreTooLargeForOneStepComeInTheNext(t *testing.T) {
	const chars, step = 600_000, 2 << 20
	for _, name := range []string{"incompressible", "compressible"} {
		p := fresh(t)
		p.fill("q", 9, 2, chars)
		if name == "compressible" {
			query(t, p.db, `UPDATE queen.messages SET payload = to_json(repeat('x', $1::int))`, fmt.Sprint(chars))
		}
		var ops []*Op
		for i := range 9 {
			op := p.any("q", fmt.Sprintf("p%d", i), batchOf(2))
			if i%2 > 0 {
				op = of("q", fmt.Sprintf("p%d", i), batchOf(2))
			}
			ops = append(ops, op)
		}
		p.run(p.any("q", "p0 p1 p2 p3 p4 p5 p6 p7 p8", partitionsOf(9), autoAck, as("g"))) // and the cursors are there
		for i := range 9 {
			query(t, p.db, `INSERT INTO queen.partition_consumers (partition_id, consumer_group) VALUES ($1, '__QUEUE_MODE__') ON CONFLICT DO NOTHING`, p.id("q", fmt.Sprintf("p%d", i)).String())
		}
		var sizes []string
		p.steady(step, func([]Statement) {
			served, full := 0, 0
			for i := range p.batch.tries {
				switch p.batch.tries[i].outcome {
				case popClaimed:
					served++
				case popFull:
					full++
				}
			}
			sizes = append(sizes, fmt.Sprintf("%d+%d", served, full))
			if p.batch.taken > step {
				t.Errorf("%s: %d bytes in a step", name, p.batch.taken)
			}
			leases := query(t, p.db, `SELECT count(*) FROM queen.partition_consumers WHERE lease_expires_at > now()`)
			if want := fmt.Sprint(3 * len(sizes)); name == "compressible" && leases[0] != want {
				t.Errorf("%s leases, want %s", leases[0], want)
			}
		})
		p.run(ops...)
		for _, op := range ops {
			if op.Fault.Code != OK || op.Pop.Count < 1 || op.Pop.Tries[0].More != (op.Pop.Count < 2) || op.Pop.Tries[0].Outcome != Claimed {
				t.Errorf("%s: %d messages, %+v", name, op.Pop.Count, op.Pop.Tries)
			}
		}
		// Twice as many as found room are in the next step.
		if got := strings.Join(sizes, " "); name == "compressible" && got != "3+6 3+3 3+0" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestAPopThatFoundNoRoomInTheLastStepLooksAgainSoon(t *testing.T) {
	p := fresh(t)
	p.fill("q", 3, 1, 600_000)
	first := p.any("q", "p0", as("g"), autoAck)
	p.run(first, of("q", "p1", as("g"), autoAck), of("q", "p2", as("g"), autoAck))
	p.expire()
	query(t, p.db, `UPDATE queen.partition_consumers SET last_consumed_created_at = NULL, last_consumed_id = '00000000-0000-0000-0000-000000000000', last_seq = 0`)
	p.batch.rate = 1 << 20 * popStepsPerDeadline / 2
	late := false
	p.before = func([]Statement) outcome {
		p.batch.final, late = true, true
		return deliver
	}
	ops := []*Op{p.any("q", "p0", as("g")), p.any("q", "p1", as("g")), of("q", "p2", as("g"))}
	p.run(ops...)
	for i, want := range []string{"claimed", "undue", "undue"} {
		words := strings.Fields(got(ops[i]))
		if words[len(words)-1] != want || ops[i].Fault.Code != OK {
			t.Errorf("pop %d: %.60q, want %s", i, words[len(words)-1], want)
		}
		if try := &ops[i].Pop.Tries[0]; want == "undue" && (try.In != fullAgain || len(ops[i].Pop.LeaseID) > 0) {
			t.Errorf("%+v", try)
		}
	}
	if answer := string(AppendPopAnswer(nil, ops[2])); !strings.Contains(answer, `"messages":[]`) || !strings.Contains(answer, `"success":true`) {
		t.Error(answer)
	}
	if leases := query(t, p.db, `SELECT count(*) FROM queen.partition_consumers WHERE lease_expires_at > now()`); leases[0] != "1" || !late {
		t.Errorf("%s leases", leases[0])
	}
}

func TestStepsBecomeSmallerWithTheTimeThatIsLeftAndTheRateThatIsSeen(t *testing.T) {
	b := NewPopBatch(&Config{}, NewIDs(wallMs))
	add := func(deadlines ...time.Duration) {
		b.Reset()
		for _, at := range deadlines {
			op := of("q", "p")
			op.Deadline = at
			b.Add(op)
		}
	}
	const at = time.Minute
	f := func(want int, deadlines ...time.Duration) {
		t.Helper()
		add(deadlines...)
		b.plan(at)
		if b.bytes != want {
			t.Errorf("%d bytes, want %d", b.bytes, want)
		}
	}
	b.rate = 100 << 20
	f(10<<20, 0)
	f(10<<20, at+2*time.Second)
	f(5<<20, at+time.Second)
	f(7<<20+512<<10, at+time.Second, at+2*time.Second, 0, at+time.Second)
	f(popShareBytesMin, at-1)
	b.rate = popRateMax
	f(PopAnswerBytesMax, at+time.Minute)

	learn := func(rate, taken int, took time.Duration, want int) {
		t.Helper()
		add(0)
		b.rate = rate
		b.plan(at)
		b.taken, b.count = taken, 1
		b.learn(at + took)
		if b.rate != want {
			t.Errorf("%d a second, want %d", b.rate, want)
		}
	}
	learn(100<<20, 1<<20, 99*time.Millisecond, 100<<20)   // it was quick enough
	learn(100<<20, 10<<20, 200*time.Millisecond, 175<<19) // half as much as was thought
	learn(100<<20, 1<<20, 5*time.Millisecond, 125<<20)    // twice
	learn(100<<20, 1, time.Minute, 100<<20)               // too little to say
	learn(popRateMin, 1<<20, time.Minute, popRateMin)
	learn(popRateCutMin, 1<<20, time.Minute, popRateCutMin)
	learn(popRateCutMin, 1<<20, 10*time.Millisecond, (3*popRateCutMin+100<<20)/4)
	learn(100<<20, 1<<20, 0, 100<<20)
}

// Plans are made for tables of any size and kept: whatever they are made for, they go by
// keys.
func TestAClaimIsPlannedByKeysAlone(t *testing.T) {
	for name, db := range map[string]string{"fresh": database(t), "taken over": takenOver(t)} {
		for _, state := range []string{"as it is", "analyzed", "empty"} {
			switch state {
			case "analyzed":
				query(t, db, `VACUUM ANALYZE`)
			case "empty":
				query(t, db, `DELETE FROM queen.messages`)
				query(t, db, `DELETE FROM queen.queues`)
				query(t, db, `VACUUM ANALYZE`)
			}
			query(t, db, `BEGIN`)
			query(t, db, schema.Statement("pop_plan"))
			query(t, db, `PREPARE c (int[], uuid[], text[], text[], text[], int[], int[], bool[], text[], bool[], bigint[], bigint) AS `+schema.Statement("pop_claim"))
			plan := query(t, db, `EXPLAIN (COSTS off) EXECUTE c ('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', 1)`)
			query(t, db, `DEALLOCATE c`)
			query(t, db, `ROLLBACK`)
			scans := 0
			for i, line := range plan {
				if strings.Contains(line, "Seq Scan") || strings.Contains(line, "Join Filter") || strings.Contains(line, "Hash Join") || strings.Contains(line, "Merge") || strings.Contains(line, "Bitmap") {
					t.Errorf("%s, %s: %s", name, state, line)
				}
				if strings.Contains(line, "Index Scan") || strings.Contains(line, "Index Only Scan") {
					if scans++; !strings.Contains(plan[i+1], "Index Cond") {
						t.Errorf("%s, %s: %s, %s", name, state, line, plan[i+1])
					}
				}
			}
			if scans < 10 {
				t.Errorf("%q", plan)
			}
		}
	}
}

// Whatever many do at once: with autoAck each message is delivered once, and what a lease
// holds is nobody else's.
func TestManyPopAtOnce(t *testing.T) {
	p := fresh(t)
	const partitions, messages, workers = 5, 60, 4
	var names []string
	for i := range partitions {
		names = append(names, fmt.Sprintf("p%d.", i))
		p.push("q", names[i], 100, messages)
	}
	all := strings.Join(names, " ")
	for _, auto := range []bool{true, false} {
		var mu sync.Mutex
		seen := map[string]int{}
		left := partitions * messages
		var group sync.WaitGroup
		for range workers {
			w := p.another()
			group.Go(func() {
				for start := time.Now(); time.Since(start) < hang; {
					mu.Lock()
					over := left == 0
					mu.Unlock()
					if over {
						return
					}
					change := func(r *PopRequest) { r.AutoAck, r.Group = auto, fmt.Appendf(nil, "auto %v", auto) }
					ops := []*Op{w.any("q", all, batchOf(7), partitionsOf(3), change), of("q", names[rand.IntN(partitions)], batchOf(2), change)}
					w.run(ops...)
					for _, op := range ops {
						if op.Fault.Code != OK {
							t.Error(got(op))
						}
						words := strings.Fields(got(op))[:op.Pop.Count]
						mu.Lock()
						for _, word := range words {
							seen[word]++
						}
						left -= len(words)
						mu.Unlock()
						if op.Pop.Claimed > 0 && !auto {
							w.ack(op)
						}
					}
				}
			})
		}
		group.Wait()
		if len(seen) != partitions*messages || left != 0 {
			t.Errorf("%d messages were delivered, %d are left", len(seen), left)
		}
		for word, n := range seen {
			if n != 1 {
				t.Errorf("%s was delivered %d times", word, n)
			}
		}
	}
}

func TestPayloadsAreOpenedWhenTheyArePopped(t *testing.T) {
	p := fresh(t)
	sealer, err := NewSealer(strings.Repeat("0f", 32))
	if err != nil {
		t.Fatal(err)
	}
	p.config.Sealer, p.pushes.config.Sealer = sealer, sealer
	p.push("q", "p", 1, 1)
	p.configure("q", "encryption_enabled = true")
	p.pushes.hints = NewHints(0, 0)
	p.push("q", "p", 2, 2)
	expect(t, p.db, `SELECT count(*) FROM queen.messages WHERE payload::text LIKE '%authTag%'`, "2")
	p.expectPop(of("q", "p", batchOf(9)), "p1 p2 p3 claimed")
	p.config.Sealer = nil
	op := of("q", "p", batchOf(9), as("g"))
	if p.run(op); strings.Count(string(op.Pop.Messages), "authTag") != 2 {
		t.Errorf("%s", op.Pop.Messages)
	}
}

func TestADatabaseThatQueenLaidOutIsPopped(t *testing.T) {
	p := newPopper(t, takenOver(t))
	p.pushes.config = &Config{PayloadJSONB: true}
	rows := query(t, p.db, `SELECT q.name, p.name, c.consumer_group, (SELECT count(*) FROM queen.messages m WHERE m.partition_id = p.id
			AND (c.last_consumed_created_at IS NULL OR (m.created_at, m.id) > (c.last_consumed_created_at, c.last_consumed_id)))
		FROM queen.partition_consumers c JOIN queen.partitions p ON p.id = c.partition_id JOIN queen.queues q ON q.id = p.queue_id
		WHERE NOT EXISTS (SELECT FROM queen.consumer_groups_metadata g WHERE g.consumer_group = c.consumer_group) ORDER BY 1, 2, 3`)
	query(t, p.db, `UPDATE queen.queues SET delayed_processing = 0, window_buffer = 0, max_wait_time_seconds = 0`)
	query(t, p.db, `UPDATE queen.partition_consumers SET lease_expires_at = NULL, worker_id = NULL`)
	for _, row := range rows {
		part := strings.Split(row, "|")
		op := of(part[0], part[1], as(part[2]), batchOf(10_000))
		p.run(op)
		if fmt.Sprint(op.Pop.Count) != part[3] {
			t.Errorf("%s: %d", row, op.Pop.Count)
		}
		if op.Pop.Claimed > 0 {
			p.ack(op)
		}
	}
	if len(rows) < 5 {
		t.Error(rows)
	}
	p.push("new", "p", 1, 3)
	p.expectPop(of("new", "p", batchOf(9)), "p1 p2 p3 claimed")
	p.expectPop(p.any("new", "p", batchOf(9), autoAck, as("g")), "p1 p2 p3 claimed")
}

func TestAPopWithAutoAckThatIsGivenUpSaysWhatMayBeLost(t *testing.T) {
	const lost = "PostgreSQL did not answer in time; messages may have been acknowledged that nobody has received"
	const late = "PostgreSQL did not answer in time, try again in a second"
	f := func(want string, mark bool, end func(b *PopBatch), change ...func(*PopRequest)) {
		t.Helper()
		b, op := NewPopBatch(&Config{}, NewIDs(wallMs)), of("q", "p", change...)
		op.Deadline = time.Second
		b.Add(op)
		end(b)
		if op.Fault != (Fault{Unavailable, want}) || op.Pop.Lost != mark {
			t.Errorf("%+v, lost %v", op.Fault, op.Pop.Lost)
		}
		if op.Again(); op.Pop.Lost {
			t.Error("the mark is kept for the next attempt")
		}
	}
	// As a store does that ends, and one whose PostgreSQL is slow.
	for _, at := range []time.Duration{math.MaxInt64, time.Second + PopLateMax} {
		f(lost, true, func(b *PopBatch) {
			b.Step(0)
			b.Expire(time.Second)
			b.Expire(at)
		}, autoAck)
	}
	f(lost, true, func(b *PopBatch) { b.Step(0); b.Expire(math.MaxInt64) }, autoAck)
	f(late, false, func(b *PopBatch) { b.Step(0); b.Expire(time.Second) })
	f(late, false, func(b *PopBatch) { b.Expire(time.Second) }, autoAck)
	f(late, false, func(b *PopBatch) {
		b.Step(0)
		b.StepDone(&SQLError{Code: "40P01"}, 0)
		b.Expire(time.Second)
	}, autoAck)
	const gone = "the connection to PostgreSQL was lost; messages may have been acknowledged that nobody has received"
	f(gone, true, func(b *PopBatch) { b.Step(0); b.Unknown() }, autoAck)
}

func TestABatchOfPopsKnowsItsWork(t *testing.T) {
	b := NewPopBatch(&Config{}, NewIDs(wallMs))
	f := func(want int, change func(*PopRequest)) {
		t.Helper()
		b.Reset()
		b.Add(of("q", "p"))
		b.Add(of("q", "p", change))
		if b.Rows() != 1+want {
			t.Errorf("%d, want %d", b.Rows(), 1+want)
		}
	}
	f(1, batchOf(1))
	f(10, batchOf(1000))
	f(10, batchOf(10*PopBatchMax))
	f(64, func(r *PopRequest) { r.Scope, r.Tries = OneQueue, make([]Try, 64) })
}
