package queue

import (
	"encoding/json"
	"fmt"
	"strings"
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
