package queue

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// transactionOp decodes a transaction that must be well-formed; operations is the array's
// text without its brackets.
func (r *runner) transactionOp(operations string) *Op {
	r.t.Helper()
	op := new(Op)
	if f := DecodeTransaction(op, []byte(`{"operations":[`+operations+`]}`), r.config, r.ids); f.Code != OK {
		r.t.Fatalf("%s: %s", operations, f.Message)
	}
	return op
}

// transact runs one transaction and returns its answer, what is random in it replaced.
func (r *runner) transact(operations string) string {
	r.t.Helper()
	op := r.transactionOp(operations)
	r.run(NewTransactionBatch(r.config, r.hints), op)
	return r.transactionAnswer(op)
}

func (r *runner) transactionAnswer(op *Op) string {
	r.t.Helper()
	if op.Fault.Code != OK {
		return op.Fault.Message
	}
	text := string(AppendTransactionAnswer(nil, op, UUID{}))
	if !json.Valid([]byte(text)) {
		r.t.Errorf("not JSON: %s", text)
	}
	text = strings.ReplaceAll(text, UUID{}.String(), "T")
	for i := range op.Items {
		it := &op.Items[i]
		text = strings.ReplaceAll(text, `"messageId":"`+it.ID.String(), fmt.Sprintf(`"messageId":"M%d`, i))
		text = strings.ReplaceAll(text, `"partitionId":"`+it.PartitionID.String(), `"partitionId":"P`)
	}
	return text
}

// ackStep is an ack operation: item is as in acks, group "": the default.
func (s *stream) ackStep(group, item string) string {
	text := strings.TrimSuffix(s.one(item), "}") + `,"type":"ack"`
	if group != "" {
		text += fmt.Sprintf(`,"consumerGroup":%q`, group)
	}
	return text + "}"
}

func pushes(items ...string) string {
	return `{"type":"push","items":[` + strings.Join(items, ",") + `]}`
}

func TestATransactionPushesAndAcksAtOnce(t *testing.T) {
	r := newRunner(t, database(t))
	s := r.stream("orders", 1)
	s.lease(QueueMode, "L1", 1)
	got := r.transact(s.ackStep("", "m1") + "," + pushes(`{"queue":"next","transactionId":"n1","payload":{"done": 1}}`, `{"queue":"next","transactionId":"n2"}`))
	want := `{"results":[{"dlq":false,"error":null,"index":0,"success":true,"transactionId":"m1","type":"ack"},` +
		`{"index":1,"messageId":"M0","partitionId":"P","queueName":"next","success":true,"transactionId":"n1","type":"push"},` +
		`{"index":2,"messageId":"M1","partitionId":"P","queueName":"next","success":true,"transactionId":"n2","type":"push"}],"success":true,"transactionId":"T"}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.expectState(QueueMode, "at m1 consumed 1/1 seq 1")
	expect(t, r.db, `SELECT m.transaction_id, m.payload, p.name, m.seq FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id
		WHERE q.name = 'next' ORDER BY seq`, `n1|{"done": 1}|Default|1`, `n2|{}|Default|2`)
	consistent(t, r.db)
}

func TestATransactionThatFailsIsUndoneWhole(t *testing.T) {
	r := newRunner(t, database(t))
	s := r.stream("q", 3)
	s.lease(QueueMode, "L", 2)
	before := s.state(QueueMode)
	f := func(want string, operations ...string) {
		t.Helper()
		if got := r.transact(strings.Join(operations, ",")); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		s.expectState(QueueMode, before)
		s.expectState("g", "none")
		expect(t, r.db, `SELECT count(*) FROM queen.messages`, "3")
		expect(t, r.db, `SELECT count(*) FROM queen.dead_letter_queue`, "0")
		expect(t, r.db, `SELECT count(*) FROM queen.queues WHERE name = 'never'`, "0")
	}
	never := pushes(`{"queue":"never","payload":1,"transactionId":"n"}`)
	f(`{"error":"ACK operation failed: Message not found","results":[{"dlq":false,"error":"Message not found","index":0,"success":false,"transactionId":"zzz","type":"ack"}],"success":false,"transactionId":"T"}`,
		s.ackStep("", "zzz"), never)
	f(`{"error":"ACK operation failed: Message not found","results":[{"index":0,"messageId":"M0","partitionId":null,"queueName":"never","success":true,"transactionId":"n","type":"push"},`+
		`{"dlq":false,"error":null,"index":1,"success":true,"transactionId":"m1","type":"ack"},`+
		`{"dlq":false,"error":"Message not found","index":2,"success":false,"transactionId":"zzz","type":"ack"}],"success":false,"transactionId":"T"}`,
		never, s.ackStep("g", "m1"), s.ackStep("", "zzz"), s.ackStep("", "m2"))
	f(`{"error":"ACK operation failed: Invalid or expired lease","results":[{"dlq":true,"error":null,"index":0,"success":true,"transactionId":"m1","type":"ack"},`+
		`{"dlq":false,"error":"Invalid or expired lease","index":1,"success":false,"transactionId":"m2","type":"ack"}],"success":false,"transactionId":"T"}`,
		s.ackStep("", "m1 failed L"), s.ackStep("", "m2 completed X"), never)
	f(`{"error":"ACK operation failed: Unknown error","results":[{"dlq":false,"error":null,"index":0,"success":false,"transactionId":"m1","type":"ack"}],"success":false,"transactionId":"T"}`,
		s.ackStep("", "m1 retry"), never)
	f(`{"error":"Unknown operation type: frob","results":[{"error":"Unknown operation type: frob","index":0,"success":false,"type":"frob"}],"success":false,"transactionId":"T"}`,
		`{"type":"frob"}`, never)
	f(`{"error":"Unknown operation type: ","results":[{"dlq":false,"error":null,"index":0,"success":true,"transactionId":"m1","type":"ack"},`+
		`{"error":"Unknown operation type: ","index":1,"success":false,"type":""}],"success":false,"transactionId":"T"}`,
		s.ackStep("g", "m1"), `{"items":[]}`, never)
	f(`{"error":"invalid input syntax for type uuid: \"bad\"","results":[],"success":false,"transactionId":"T"}`,
		s.ackStep("g", "m1"), `{"type":"ack","transactionId":"zzz","partitionId":"bad"}`, never)

	// Duplicates: of a message that is there, and of another of the transaction.
	f(`{"error":"duplicate transactionId: a message already has \"m1\" in queue \"q\", partition \"p\"","results":[],"success":false,"transactionId":"T"}`,
		s.ackStep("", "m1"), pushes(`{"queue":"q","partition":"p","transactionId":"m4"}`, `{"queue":"q","partition":"p","transactionId":"m1"}`))
	f(`{"error":"duplicate transactionId: two messages of the transaction have \"x\" in queue \"q\", partition \"p\"","results":[],"success":false,"transactionId":"T"}`,
		pushes(`{"queue":"q","partition":"p","transactionId":"x"}`, `{"queue":"q","partition":"p","transactionId":"x"}`), s.ackStep("", "m1"))
	consistent(t, r.db)

	// What failed can be tried again.
	if got := r.transact(s.ackStep("", "m2 completed L") + "," + pushes(`{"queue":"q","partition":"p","transactionId":"x"}`)); !strings.Contains(got, `"success":true,"transactionId":"T"}`) {
		t.Error(got)
	}
	s.expectState(QueueMode, "at m2 consumed 1/1 seq 2")
}

func TestTheAcksOfATransactionHaveRulesOfTheirOwn(t *testing.T) {
	r := newRunner(t, database(t))
	s := r.stream("q", 9)
	ok := func(operations ...string) *Op {
		t.Helper()
		op := r.transactionOp(strings.Join(operations, ","))
		r.run(NewTransactionBatch(r.config, r.hints), op)
		if op.Fault.Code != OK || TransactionFailed(op) {
			t.Errorf("%q: %s", operations, r.transactionAnswer(op))
		}
		return op
	}
	// The group's row is made; several groups in one.
	ok(s.ackStep("g1", "m2"), s.ackStep("g2", "m3 success"))
	s.expectState("g1", "at m2 consumed 1/0 seq 2")
	s.expectState("g2", "at m3 consumed 1/0 seq 3")
	// The lease ends at its last message, in whatever order.
	s.lease("g1", "L", 3)
	op := ok(s.ackStep("g1", "m5 completed L"), s.ackStep("g1", "m3 completed L"), s.ackStep("g1", "m4 completed"))
	s.expectState("g1", "at m5 consumed 2/1 seq 5")
	if len(op.Freed) != 1 || op.Freed[0].Group != "g1" {
		t.Errorf("freed %+v", op.Freed)
	}
	// failed and dlq are dead letters at once; the lease ends with them.
	s.lease("g1", "L2", 4)
	ok(s.ackStep("g1", "m6 failed - why"))
	s.expectState("g1", "at m6 consumed 3/1 seq 6")
	s.lease("g1", "L3", 3)
	ok(s.ackStep("g1", "m7 dlq L3"))
	s.expectState("g1", "at m7 consumed 4/1 seq 7")
	if got, want := s.dead("g1"), "m6|why|0|6 m7|Unknown error|0|7"; got != want {
		t.Errorf("dead %q, want %q", got, want)
	}
	// The cursor never goes back.
	ok(s.ackStep("g1", "m1"))
	s.expectState("g1", "at m7 consumed 4/1 seq 7")
	// Nothing asked for is nothing done.
	if got, want := r.transact(`{"type":"push","items":[]}`), `{"results":[],"success":true,"transactionId":"T"}`; got != want {
		t.Errorf("got %s", got)
	}
	// Who pushed.
	op = r.transactionOp(pushes(`{"queue":"q","partition":"p","transactionId":"signed"}`))
	op.SetProducer([]byte("ada"))
	r.run(NewTransactionBatch(r.config, r.hints), op)
	expect(t, r.db, `SELECT producer_sub FROM queen.messages WHERE transaction_id = 'signed'`, "ada")
	consistent(t, r.db)
}

func TestATransactionsRowsAreComparedToTheLast(t *testing.T) {
	r := newRunner(t, database(t))
	s := r.stream("q", 5)
	other := &stream{runner: newRunner(t, r.db), queue: "q", id: s.id}
	meanwhile := func(do func()) {
		r.before = func(step []Statement) outcome {
			if step[len(step)-1].Name == "transaction_write" {
				r.before = nil
				do()
			}
			return deliver
		}
	}
	s.lease(QueueMode, "L", 4)
	meanwhile(func() { other.call(QueueMode, "yes", "m1 completed L") })
	got := r.transact(s.ackStep("", "m2 completed L") + "," + pushes(`{"queue":"q2","transactionId":"a"}`))
	if !strings.Contains(got, `"success":true,"transactionId":"T"}`) {
		t.Error(got)
	}
	s.expectState(QueueMode, "at m2 lease L 2/4 consumed 2/0 seq 2")
	// The lease was lost in between.
	meanwhile(func() { other.call(QueueMode, "yes released", "m3 failed L") })
	got = r.transact(s.ackStep("", "m3 completed L") + "," + pushes(`{"queue":"q2","transactionId":"b"}`))
	if !strings.Contains(got, `"error":"ACK operation failed: Invalid or expired lease"`) {
		t.Error(got)
	}
	// The group's row was made in between.
	meanwhile(func() { other.lease("g", "G", 2) })
	if got = r.transact(s.ackStep("g", "m1")); !strings.Contains(got, `"success":true,"transactionId":"T"}`) {
		t.Error(got)
	}
	s.expectState("g", "at m1 lease G 1/2 consumed 1/0 seq 1")
	// The queue went in between: its message is not there any more.
	meanwhile(func() { r.sql(`DELETE FROM queen.queues WHERE name = 'q'`) })
	got = r.transact(s.ackStep("new", "m1") + "," + pushes(`{"queue":"q2","transactionId":"c"}`))
	if !strings.Contains(got, `"error":"ACK operation failed: Message not found"`) {
		t.Error(got)
	}
	expect(t, r.db, `SELECT m.transaction_id FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id ORDER BY 1`, "a")
	// The queue that is pushed to went, and is made again.
	r.sql(`DELETE FROM queen.queues`)
	if got = r.transact(pushes(`{"queue":"q2","transactionId":"c"}`)); !strings.Contains(got, `"success":true,"transactionId":"T"}`) {
		t.Error(got)
	}
	expect(t, r.db, `SELECT m.transaction_id FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id ORDER BY 1`, "c")
}

func TestATransactionWhoseAnswerWasLostIsSettled(t *testing.T) {
	for _, o := range []outcome{loseBefore, loseAfter} {
		r := newRunner(t, database(t))
		s := r.stream("q", 4)
		lose := func() {
			r.before = func(step []Statement) outcome {
				if name := step[len(step)-1].Name; name == "transaction_write" || name == "push_insert" {
					r.before = nil
					return o
				}
				return deliver
			}
		}
		ok := func(operations ...string) {
			t.Helper()
			lose()
			if got := r.transact(strings.Join(operations, ",")); !strings.Contains(got, `"success":true,"transactionId":"T"}`) || strings.Contains(got, `"partitionId":null`) {
				t.Errorf("%d: %s", o, got)
			}
		}
		s.lease(QueueMode, "L", 3)
		ok(s.ackStep("", "m1 completed L"), pushes(`{"queue":"n","transactionId":"a"}`, `{"queue":"n"}`))
		s.expectState(QueueMode, "at m1 lease L 1/3 consumed 1/0 seq 1")
		ok(pushes(`{"queue":"n","transactionId":"b"}`))
		ok(s.ackStep("", "m2 failed L"), s.ackStep("g", "m1"), s.ackStep("g", "m2 dlq"))
		s.expectState(QueueMode, "at m2 consumed 2/0 seq 2")
		s.expectState("g", "at m2 consumed 2/0 seq 2")
		expect(t, r.db, `SELECT consumer_group, transaction_id FROM queen.dead_letter_queue ORDER BY 1`, "__QUEUE_MODE__|m2", "g|m2")
		expect(t, r.db, `SELECT count(*) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE name = 'Default'`, "3")
		lose()
		if got := r.transact(pushes(`{"queue":"n","transactionId":"b"}`)); !strings.Contains(got, `"error":"duplicate transactionId: a message already has`) {
			t.Errorf("%d: %s", o, got)
		}
		consistent(t, r.db)
	}
}

func TestTransactionsInOneBatchAreTransactionsOfTheirOwn(t *testing.T) {
	r := newRunner(t, database(t))
	s := r.stream("q", 3)
	a := r.transactionOp(s.ackStep("g", "m1") + "," + pushes(`{"queue":"n","transactionId":"a"}`))
	b := r.transactionOp(s.ackStep("g", "zzz"))
	c := r.transactionOp(pushes(`{"queue":"n","transactionId":"a"}`))
	d := r.transactionOp(s.ackStep("g", "m2") + "," + pushes(`{"queue":"n","transactionId":"d","payload":"\u0000"}`))
	batch := NewTransactionBatch(r.config, r.hints)
	r.run(batch, a, b, c, d)
	var got []string
	for _, op := range []*Op{a, b, c, d} {
		got = append(got, fmt.Sprint(op.Fault.Code, TransactionFailed(op)))
	}
	if strings.Join(got, " ") != "0 false 0 true 0 true 0 false" {
		t.Errorf("%q", got)
	}
	s.expectState("g", "at m2 consumed 2/0 seq 2")
	consistent(t, r.db)

	// A batch is used again.
	batch.Reset()
	e := r.transactionOp(s.ackStep("g", "m3"))
	r.run(batch, e)
	s.expectState("g", "at m3 consumed 3/0 seq 3")
}

func TestWhatPostgreSQLRefusesFailsTheTransaction(t *testing.T) {
	r := newRunner(t, database(t))
	r.sql(`ALTER TABLE queen.messages ADD CHECK (transaction_id <> 'poison')`)
	s := r.stream("q", 1)
	got := r.transact(s.ackStep("g", "m1") + "," + pushes(`{"queue":"q","transactionId":"fine"}`, `{"queue":"q","transactionId":"poison"}`))
	if !strings.HasPrefix(got, `{"error":"new row for relation`) || !strings.Contains(got, `"results":[],"success":false`) {
		t.Error(got)
	}
	s.expectState("g", "none")
	expect(t, r.db, `SELECT count(*) FROM queen.messages`, "1")
}

func TestTransactionsOverTheSamePartitionsInOppositeOrdersDoNotBlockEachOther(t *testing.T) {
	db := database(t)
	r := newRunner(t, db)
	a, b := r.stream("a", 100), r.stream("b", 100)
	r.sql(`INSERT INTO queen.queues (name) VALUES ('out')`)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		mine := newRunner(t, db)
		go func() {
			defer wg.Done()
			for i := range 25 {
				m := fmt.Sprintf("m%d", 1+w+4*i)
				steps := []string{
					a.ackStep("g", m), b.ackStep("g", m),
					pushes(fmt.Sprintf(`{"queue":"out","partition":"x","transactionId":"%d-%d"}`, w, i)), pushes(fmt.Sprintf(`{"queue":"out","partition":"y","transactionId":"%d-%d"}`, w, i)),
				}
				if w%2 == 1 {
					slices.Reverse(steps)
				}
				op := new(Op)
				if f := DecodeTransaction(op, []byte(`{"operations":[`+strings.Join(steps, ",")+`]}`), mine.config, mine.ids); f.Code != OK {
					t.Error(f)
				}
				batch := NewTransactionBatch(mine.config, mine.hints)
				batch.Add(op)
				if err := mine.drive(batch); err != nil || op.Fault.Code != OK || TransactionFailed(op) {
					t.Errorf("%v %+v %s", err, op.Fault, AppendTransactionAnswer(nil, op, UUID{}))
				}
			}
		}()
	}
	wg.Wait()
	for _, s := range []*stream{a, b} {
		if got := s.state("g"); !strings.HasPrefix(got, "at m100 ") {
			t.Error(got)
		}
	}
	expect(t, db, `SELECT count(*) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE p.name IN ('x', 'y')`, "200")
	expect(t, db, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`, "0")
	consistent(t, db)
}

func TestATransactionInADatabaseThatQueenLaidOut(t *testing.T) {
	r := newRunner(t, takenOver(t))
	r.config = &Config{PayloadJSONB: true}
	s := r.stream("of ours", 2)
	got := r.transact(s.ackStep("g", "m1 dlq") + "," + s.ackStep("g", "m2") + "," + pushes(`{"queue":"of ours","partition":"p","transactionId":"x","payload":{"a":1}}`))
	if !strings.Contains(got, `"success":true,"transactionId":"T"}`) {
		t.Error(got)
	}
	s.expectState("g", "at m2 consumed 2/0 seq 2")
	if got = r.transact(pushes(`{"queue":"of ours","partition":"p","transactionId":"x"}`)); !strings.Contains(got, `"error":"duplicate transactionId: a message already has`) {
		t.Error(got)
	}
}
