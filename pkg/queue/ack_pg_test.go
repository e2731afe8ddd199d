package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/schema"
)

// conversation is a batch of any verb, as a runner sees it.
type conversation interface {
	Add(op *Op)
	Step(now time.Duration) []Statement
	Row(stmt int, values [][]byte)
	Tag(stmt int, rows int64)
	StepDone(err *SQLError, now time.Duration) Verdict
	Unknown()
}

// runner is the smallest store for batches of any verb: one connection, one batch at a
// time.
type runner struct {
	t      testing.TB
	db     string
	conn   *pgconn.PgConn
	config *Config
	ids    *IDs
	hints  *Hints
	steps  []string // what was sent: statements of a step, joined by a blank

	prepared []string

	before func(step []Statement) outcome // may lose or spoil a step
}

func newRunner(t testing.TB, db string) *runner {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return &runner{t: t, db: db, conn: conn, config: &Config{}, ids: NewIDs(wallMs), hints: NewHints(0, 0)}
}

// run takes the ops to their end, in one batch.
func (r *runner) run(b conversation, ops ...*Op) {
	r.t.Helper()
	for _, op := range ops {
		b.Add(op)
	}
	if err := r.drive(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *runner) drive(b conversation) error {
	for {
		step := b.Step(now())
		if step == nil {
			return nil
		}
		names := make([]string, len(step))
		for i := range step {
			names[i] = step[i].Name
		}
		r.steps = append(r.steps, strings.Join(names, " "))
		o := deliver
		if r.before != nil {
			o = r.before(step)
		}
		if o == loseBefore {
			b.Unknown()
			continue
		}
		heard := b
		if o == loseAfter {
			heard = nil
		}
		refusal, err := r.send(step, heard)
		if err != nil {
			return err
		}
		if o == loseAfter {
			b.Unknown()
			continue
		}
		switch v := b.StepDone(refusal, now()); v.Action {
		case Wait:
			time.Sleep(v.After) // the pause is the batch's wish, not the test's
		case Away, Prepare:
			return fmt.Errorf("away: %+v", refusal)
		}
	}
}

// send sends a step and gives b, unless it is nil, what comes back.
func (r *runner) send(step []Statement, b conversation) (*SQLError, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	for _, st := range step {
		if st.Unnamed || slices.Contains(r.prepared, st.Name) {
			continue
		}
		if _, err := r.conn.Prepare(ctx, st.Name, schema.Statement(st.Name), nil); err != nil {
			return nil, err
		}
		r.prepared = append(r.prepared, st.Name)
	}
	p := r.conn.StartPipeline(ctx)
	defer p.Close()
	for _, st := range step {
		formats := make([]int16, len(st.Params))
		for i := range formats {
			formats[i] = 1
		}
		if st.Unnamed {
			p.SendQueryParams(schema.Statement(st.Name), st.Params, nil, formats, []int16{1})
		} else {
			p.SendQueryPrepared(st.Name, st.Params, formats, []int16{1})
		}
	}
	if err := p.Sync(); err != nil {
		return nil, err
	}
	var failed *pgconn.PgError
	for i := 0; ; i++ {
		result, err := p.GetResults()
		if err == nil {
			switch x := result.(type) {
			case *pgconn.PipelineSync:
				if failed == nil {
					return nil, nil
				}
				return &SQLError{Severity: failed.Severity, Code: failed.Code, Message: failed.Message, Detail: failed.Detail,
					Schema: failed.SchemaName, Table: failed.TableName, Constraint: failed.ConstraintName}, nil
			case *pgconn.ResultReader:
				for x.NextRow() {
					if b != nil {
						b.Row(i, x.Values())
					}
				}
				tag, closeErr := x.Close()
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

// ackOp decodes a request that must be well-formed: an object with acknowledgments is a
// batch.
func (r *runner) ackOp(body string) *Op {
	r.t.Helper()
	op := new(Op)
	decode := DecodeAck
	if strings.Contains(body, `"acknowledgments"`) {
		decode = DecodeAcks
	}
	if f := decode(op, []byte(body), r.config); f.Code != OK {
		r.t.Fatalf("%s: %s", body, f.Message)
	}
	return op
}

// ack runs one request and returns its answer.
func (r *runner) ack(body string) string {
	r.t.Helper()
	op := r.ackOp(body)
	r.run(NewAckBatch(), op)
	if op.Fault.Code != OK {
		return op.Fault.Message
	}
	return string(AppendAckAnswer(nil, op))
}

// sql runs statements on a connection beside the runner's.
func (r *runner) sql(text string, args ...any) []string {
	r.t.Helper()
	return query(r.t, r.db, fmt.Sprintf(text, args...))
}

// stream is one partition of a queue with some messages: m1, m2, …
type stream struct {
	*runner
	queue, id string
}

func (r *runner) stream(queue string, messages int) *stream {
	r.t.Helper()
	s := &stream{runner: r, queue: queue}
	if messages > 0 {
		s.push(1, messages)
	} else {
		s.push(1, 1)
		r.sql(`DELETE FROM queen.messages WHERE transaction_id = 'm1'`)
	}
	s.id = r.sql(`SELECT p.id FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = '%s'`, queue)[0]
	return s
}

// push pushes the messages from m<from> to m<to>.
func (s *stream) push(from, to int) {
	s.t.Helper()
	var items []string
	for i := from; i <= to; i++ {
		items = append(items, fmt.Sprintf(`{"queue":%q,"partition":"p","transactionId":"m%d","payload":%d}`, s.queue, i, i))
	}
	op := new(Op)
	if f := Decode(op, []byte(`{"items":[`+strings.Join(items, ",")+`]}`), s.config, s.ids); f.Code != OK {
		s.t.Fatal(f.Message)
	}
	s.run(NewBatch(s.config, s.hints), op)
	s.steps = nil
}

// lease claims the next messages for a group, as a pop does.
func (s *stream) lease(group, lease string, messages int) {
	s.t.Helper()
	s.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) VALUES ('%s', '%s') ON CONFLICT DO NOTHING`, s.id, group)
	got := s.sql(`WITH c AS (SELECT * FROM queen.partition_consumers WHERE partition_id = '%[1]s' AND consumer_group = '%[2]s' AND (lease_expires_at IS NULL OR lease_expires_at <= clock_timestamp())),
		m AS (SELECT n.* FROM c, queen.messages n WHERE n.partition_id = c.partition_id
			AND (n.created_at, n.id) > (coalesce(c.last_consumed_created_at, '-infinity'), c.last_consumed_id) ORDER BY n.created_at, n.id LIMIT %[4]d),
		e AS (SELECT * FROM m ORDER BY created_at DESC, id DESC LIMIT 1)
		UPDATE queen.partition_consumers x SET worker_id = '%[3]s', lease_expires_at = clock_timestamp() + interval '1 hour', lease_acquired_at = clock_timestamp(),
			batch_size = (SELECT count(*) FROM m), acked_count = 0, lease_end_created_at = e.created_at, lease_end_id = e.id, lease_end_seq = e.seq
		FROM c, e WHERE x.partition_id = c.partition_id AND x.consumer_group = c.consumer_group RETURNING x.batch_size`, s.id, group, lease, messages)
	if len(got) != 1 {
		s.t.Fatalf("nothing to lease: %q", got)
	}
}

// state is a group's row: the message consumed last, the lease, and the counts.
func (s *stream) state(group string) string {
	s.t.Helper()
	got := s.sql(`SELECT coalesce((SELECT transaction_id FROM queen.messages m WHERE m.partition_id = c.partition_id AND m.id = c.last_consumed_id), '-'),
		coalesce(worker_id, '-'), lease_expires_at IS NOT NULL, batch_size, acked_count, batch_retry_count, total_messages_consumed, total_batches_consumed, last_seq, lease_end_id IS NOT NULL
		FROM queen.partition_consumers c WHERE partition_id = '%s' AND consumer_group = '%s'`, s.id, group)
	if len(got) == 0 {
		return "none"
	}
	var f [10]string
	copy(f[:], strings.Split(got[0], "|"))
	text := "at " + f[0]
	if f[1] != "-" || f[2] != "f" || f[9] != "f" {
		text += " lease " + f[1] + " " + f[4] + "/" + f[3]
	}
	if f[5] != "0" {
		text += " retries " + f[5]
	}
	return text + " consumed " + f[6] + "/" + f[7] + " seq " + f[8]
}

// expectState compares state.
func (s *stream) expectState(group, want string) {
	s.t.Helper()
	if got := s.state(group); got != want {
		s.t.Errorf("group %s: %q, want %q", group, got, want)
	}
}

// acks is the body of a batch: each item is "m1 status lease reason", all but the first
// word optional.
func (s *stream) acks(group string, items ...string) string {
	var list []string
	for _, it := range items {
		list = append(list, s.one(it))
	}
	return fmt.Sprintf(`{"consumerGroup":%q,"acknowledgments":[%s]}`, group, strings.Join(list, ","))
}

func (s *stream) one(item string) string {
	f := strings.Fields(item)
	text := fmt.Sprintf(`{"transactionId":%q,"partitionId":%q`, f[0], s.id)
	for i, key := range []string{"status", "leaseId", "error"} {
		if len(f) > i+1 && f[i+1] != "-" {
			text += fmt.Sprintf(`,%q:%q`, key, f[i+1])
		}
	}
	return text + "}"
}

// outcomes is a short form of what became of an op's acks.
func outcomes(op *Op) string {
	if op.Fault.Code != OK {
		return "fault: " + op.Fault.Message
	}
	var list []string
	for i := range op.Acks {
		a := &op.Acks[i]
		text := "no"
		if a.Success {
			text = "yes"
		}
		if a.Dead {
			text += " dead"
		}
		switch a.Released {
		case Yes:
			text += " released"
		case Unset:
			text += " null"
		}
		switch a.Why {
		case "":
		case ackNotFound:
			text += " notfound"
		case ackNoLease:
			text += " nolease"
		case ackStopped:
			text += " stopped"
		default:
			text += " " + a.Why
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// call acks a batch in one request and compares its outcomes.
func (s *stream) call(group string, want string, items ...string) *Op {
	s.t.Helper()
	op := s.ackOp(s.acks(group, items...))
	s.run(NewAckBatch(), op)
	if got := outcomes(op); got != want {
		s.t.Errorf("%q: %q, want %q", items, got, want)
	}
	return op
}

// dead is the dead letters of a group, oldest message first.
func (s *stream) dead(group string) string {
	s.t.Helper()
	return strings.Join(s.sql(`SELECT transaction_id, error_message, retry_count, payload FROM queen.dead_letter_queue WHERE partition_id = '%s' AND consumer_group = '%s' ORDER BY original_created_at, message_id`, s.id, group), " ")
}

func TestOneAckIsTakenEndToEnd(t *testing.T) {
	s := newRunner(t, database(t)).stream("orders", 2)
	s.lease(QueueMode, "L1", 2)
	want := `[{"dlq":false,"error":null,"index":0,"leaseReleased":false,"partitionName":"p","queueName":"orders","success":true,"transactionId":"m1"}]`
	if got := s.ack(s.one("m1 completed L1")); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.expectState(QueueMode, "at m1 lease L1 1/2 consumed 1/0 seq 1")
	if got := s.ack(s.one("m2 completed L1")); !strings.Contains(got, `"leaseReleased":true`) {
		t.Errorf("got %s", got)
	}
	s.expectState(QueueMode, "at m2 consumed 2/1 seq 2")
	if got, want := strings.Join(s.steps, ","), "pop_plan ack_messages ack_groups,pop_plan ack_write,pop_plan ack_messages ack_groups,pop_plan ack_write"; got != want {
		t.Errorf("steps %q, want %q", got, want)
	}
}

// However the messages are sought, what becomes of their acks is the same.
// An ack that is said again is no other message's.
func TestAnAckThatIsRepeatedIsNotCountedBeyondTheLease(t *testing.T) {
	s := newRunner(t, database(t)).stream("orders", 2)
	s.lease("g", "L1", 2)
	for range 4 {
		s.call("g", "yes", "m1 completed L1")
	}
	s.expectState("g", "at m1 lease L1 2/2 consumed 1/0 seq 1")
	s.call("g", "yes released", "m2 completed L1")
	s.expectState("g", "at m2 consumed 2/1 seq 2")
}

// A lease whose last messages were deleted ends with the last one that is there.
func TestALeaseEndsWithWhatIsLeftOfIt(t *testing.T) {
	s := newRunner(t, database(t)).stream("orders", 12)
	gone := func(n ...string) {
		t.Helper()
		if got := s.sql(`DELETE FROM queen.messages WHERE partition_id = '%s' AND transaction_id IN ('%s') RETURNING 1`, s.id, strings.Join(n, "','")); len(got) != len(n) {
			t.Fatal(got)
		}
	}
	s.lease("g", "L1", 3)
	gone("m3")
	s.call("g", "yes, yes released", "m1 completed L1", "m2 completed L1")
	s.expectState("g", "at m2 consumed 2/1 seq 2")

	s.lease("g", "L2", 3) // m4 to m6
	gone("m5", "m6")
	s.call("g", "yes released, no notfound, no notfound", "m4 completed L2", "m5 completed L2", "m6 completed L2")

	// Whoever says that he has the others may still fail.
	s.lease("g", "L3", 3) // m7 to m9
	gone("m9")
	s.call("g", "yes, yes released, no notfound", "m7 completed L3", "m8 failed L3", "m9 completed L3")
	s.expectState("g", "at m7 retries 1 consumed 4/2 seq 7")

	// All of them: the lease ends when its holder says so, nobody else.
	s.lease("g", "L4", 1)
	gone("m8")
	s.call("g", "no notfound", "m8 completed X")
	s.call("g", "no notfound", "m8 completed")
	if state := s.state("g"); !strings.Contains(state, "lease L4") {
		t.Error(state)
	}
	if op := s.call("g", "no notfound", "m8 completed L4"); len(op.Freed) != 1 {
		t.Errorf("%+v", op.Freed)
	}
	if state := s.state("g"); strings.Contains(state, "lease") || strings.Contains(state, "retries") {
		t.Error(state)
	}
	// A group that has consumed nothing.
	s.lease("new", "L5", 1) // m1
	gone("m1")
	s.call("new", "no notfound", "m1 completed L5")
	s.expectState("new", "at - consumed 0/0 seq 0")
}

func TestMessagesBehindTheCursorAreFoundTogether(t *testing.T) {
	const together, named, write = "pop_plan ack_next ack_groups", "pop_plan ack_messages ack_groups", "pop_plan ack_write"
	r := newRunner(t, database(t))
	s := r.stream("q", 12)
	for name, c := range map[string]struct{ items, steps string }{
		"all":             {"m1 m2 m3 m4 m5 m6 m7 m8 m9 m10", together + "," + write},
		"not all":         {"m1 m2 m3 m4 m5 m6 m7 m8", together + "," + write},
		"too many":        {"m1 m2 m3 m4 m5 m6 m7 m8 m9 m10 m11", together + "," + write},
		"one has failed":  {"m1 m2 m3:failed m4 m5 m6 m7 m8 m9 m10", together + "," + write},
		"all have failed": {"m1:failed m2:failed m3:failed m4:failed m5:failed m6:failed m7:failed m8:failed m9:failed m10:failed", together + "," + write},
		"one is dead":     {"m1 m2 m3:dlq m4 m5 m6 m7 m8 m9 m10", together + "," + write + "_dead"},
		"few":             {"m1 m2 m3 m4 m5 m6 m7", named + "," + write},
		"not in order":    {"m2 m1 m3 m4 m5 m6 m7 m8 m9 m10", together + "," + named + "," + write},
		"with a gap":      {"m1 m2 m3 m5 m6 m7 m8 m9 m10", together + "," + named + "," + write},
		"twice":           {"m1 m2 m3 m4 m4 m5 m6 m7 m8 m9 m10", together + "," + named + "," + write},
		"of nobody":       {"m1 m2 m3 m4 m5 m6 m7 m8 m9 other", together + "," + named + "," + write},
		"nowhere":         {"m1 m2 m3 m4 m5 m6 m7 m8 m9 " + strings.Repeat("x", 300), named + "," + write},
	} {
		var items []string
		for _, it := range strings.Fields(c.items) {
			m, status, is := strings.Cut(it, ":")
			if !is {
				status = "completed"
			}
			items = append(items, m+" "+status+" L")
		}
		var became [2]string
		for i, group := range []string{name, name + ", named"} {
			s.lease(group, "L", 10)
			s.steps = nil
			b, op := NewAckBatch(), s.ackOp(s.acks(group, items...))
			b.searched = i == 1
			s.run(b, op)
			became[i] = outcomes(op) + ": " + s.state(group) + ": " + s.dead(group)
			if got := strings.Join(s.steps, ","); i == 0 && got != c.steps {
				t.Errorf("%s: steps %q, want %q", name, got, c.steps)
			}
		}
		if became[0] != became[1] {
			t.Errorf("%s: %q, and named %q", name, became[0], became[1])
		}
	}
}

func TestWhoDoesNotAckInOrderIsNotSoughtTogetherForAWhile(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", ackNextMin)
	var order, mixed []string
	for i := range ackNextMin {
		order = append(order, fmt.Sprintf("m%d completed", i+1))
		mixed = append(mixed, fmt.Sprintf("m%d completed", ackNextMin-i))
	}
	b, n := NewAckBatch(), 0
	together := func(items []string) bool {
		n++
		s.lease(fmt.Sprint(n), "L", ackNextMin)
		s.steps = nil
		b.Reset()
		s.run(b, s.ackOp(s.acks(fmt.Sprint(n), items...)))
		return strings.Contains(s.steps[0], "ack_next")
	}
	for _, rest := range []int{1, 2, 4} {
		if !together(mixed) {
			t.Errorf("it does not try after %d", n)
		}
		for range rest {
			if together(order) {
				t.Errorf("it tries again too soon: %d, rest %d", n, rest)
			}
		}
	}
	for range 2 {
		if !together(order) || b.pause != 0 {
			t.Errorf("it does not try, or has not forgotten: %d", b.pause)
		}
	}
}

func TestOnlyWhatAcksSendOftenIsPrepared(t *testing.T) {
	r := newRunner(t, database(t))
	s := r.stream("q", 3)
	r.prepared = nil
	if _, err := r.conn.Exec(context.Background(), "DEALLOCATE ALL").ReadAll(); err != nil {
		t.Fatal(err)
	}
	lease := s.ourLease(true)
	s.lease("g", lease, 3)
	s.call("g", "yes", "m1 completed "+lease)
	s.call("g", "yes dead", "m2 dlq "+lease)
	r.run(NewAckBatch(), s.ackOp(s.acks("g", slices.Repeat([]string{"m3 completed"}, ackNextMin)...)))
	s.extend(lease, "")
	r.run(NewAckBatch(), r.releaseOp(lease), r.releaseOp("anywhere"))
	slices.Sort(r.prepared)
	want := r.config.PreparedAck()
	if slices.Sort(want); !slices.Equal(r.prepared, want) {
		t.Errorf("prepared are %q, said was %q", r.prepared, want)
	}
	r.transact(s.ackStep("g", "m2") + "," + pushes(`{"queue":"q"}`))
	r.transact(s.ackStep("new", "m1 dlq"))
	for _, name := range r.prepared {
		if !slices.Contains(append(want, r.config.PreparedTransaction()...), name) {
			t.Errorf("%s is prepared", name)
		}
	}
}

// Plans are made for tables of any size and kept: whatever they are made for, they go by
// keys.
func TestAcksArePlannedByKeysAlone(t *testing.T) {
	rows := strings.TrimSuffix(strings.Repeat("NULL, ", 17), ", ")
	statements := map[string]string{
		"ack_groups": "NULL, NULL", "ack_next": "NULL, NULL, NULL", "ack_write": rows, "transaction_write": rows, "lease_extend": "NULL, NULL, NULL, NULL", "lease_release": "NULL, NULL, NULL",
	}
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
			for statement, params := range statements {
				query(t, db, `BEGIN`)
				query(t, db, schema.Statement("pop_plan"))
				query(t, db, `PREPARE c AS `+schema.Statement(statement))
				plan := query(t, db, `EXPLAIN (COSTS off) EXECUTE c (`+params+`)`)
				query(t, db, `DEALLOCATE c`)
				query(t, db, `ROLLBACK`)
				scans := 0
				for i, line := range plan {
					if strings.Contains(line, "Seq Scan") || strings.Contains(line, "Hash Join") || strings.Contains(line, "Merge") || strings.Contains(line, "Bitmap") ||
						statement == "ack_next" && strings.Contains(line, "Sort") {
						t.Errorf("%s, %s, %s: %s", name, state, statement, line)
					}
					if strings.Contains(line, "Index Scan") {
						if scans++; !strings.Contains(plan[i+1], "Index Cond") {
							t.Errorf("%s, %s, %s: %s, %s", name, state, statement, line, plan[i+1])
						}
					}
				}
				if scans == 0 {
					t.Errorf("%s: %q", statement, plan)
				}
			}
		}
	}
}
