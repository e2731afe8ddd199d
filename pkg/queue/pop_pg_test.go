package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
