package queue

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"
)

// What PostgreSQL sends, written by hand: for what it does not do on demand.

func int8Value(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
func int4Value(n int) []byte   { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func boolValue(v bool) []byte {
	if v {
		return []byte{1}
	}
	return []byte{0}
}

// messageRow is a row of ack_messages: message n of a partition.
func messageRow(o int, n int64) [][]byte {
	return [][]byte{int8Value(int64(o)), int8Value(n), {15: byte(n)}, int8Value(n)}
}

// groupRow is a row of ack_groups: a live lease of three messages on a partition that has
// been consumed up to message at.
func groupRow(o int, at int64, lease string) [][]byte {
	row := [][]byte{
		int8Value(int64(o)), []byte("q"), []byte("p"), int4Value(3), boolValue(true), int8Value(at), {15: byte(at)}, int8Value(99), []byte(lease), boolValue(true),
		int4Value(3), int4Value(0), int4Value(0), int8Value(3), {15: 3}, int8Value(9), {15: 9},
	}
	if at == 0 {
		row[5] = nil
	}
	return row
}

func TestAReadBehindTheCursorThatFailsIsNotDoneAgain(t *testing.T) {
	f := func(end func(b *AckBatch)) {
		t.Helper()
		b := NewAckBatch()
		op := &Op{Verb: Ack, Deadline: time.Hour}
		for range ackNextMin {
			op.Acks = append(op.Acks, AckItem{TransactionID: []byte("x"), IsPartition: true, Group: []byte("g")})
		}
		b.Add(op)
		read := func(want string) {
			t.Helper()
			if s := b.Step(0); len(s) < 2 || s[1].Name != want {
				t.Fatalf("%v, want %s", s, want)
			}
		}
		read("ack_next")
		end(b)
		read("ack_messages")
		end(b)
		read("ack_messages")
	}
	failed := func(code string) func(*AckBatch) {
		return func(b *AckBatch) { b.StepDone(&SQLError{Code: code, Message: "no"}, 0) }
	}
	f(failed("57014")) // its statement time-out
	f(failed("26000"))
	f((*AckBatch).Unknown)
}

func ackOf(t *testing.T, transaction string) *Op {
	t.Helper()
	op := new(Op)
	if f := DecodeAck(op, []byte(`{"transactionId":"`+transaction+`","partitionId":"00000000-0000-0000-0000-000000000001","leaseId":"L"}`), &Config{}); f.Code != OK {
		t.Fatal(f.Message)
	}
	return op
}

// names are the statements of a step.
func names(step []Statement) string {
	var list []string
	for _, st := range step {
		list = append(list, st.Name)
	}
	return strings.Join(list, " ")
}

const (
	ackReading = "pop_plan ack_messages ack_groups"
	ackWriting = "pop_plan ack_write"
)

func expectStep(t *testing.T, b conversation, want string) {
	t.Helper()
	if got := names(b.Step(0)); got != want {
		t.Fatalf("step %q, want %q", got, want)
	}
}

// answerRead answers a read of one ack: message n, consumed up to at.
func answerRead(b *AckBatch, n, at int64) {
	b.Row(planFirst, [][]byte{int8Value(7)})
	b.Row(readMessages, messageRow(1, n))
	b.Row(readGroups, groupRow(1, at, "L"))
	b.StepDone(nil, 0)
}

func TestWhatBecomesOfAcksWhenPostgreSQLFails(t *testing.T) {
	f := func(code string, action Action, class Class, then string) {
		t.Helper()
		for _, writing := range []bool{false, true} {
			b := NewAckBatch()
			op := ackOf(t, "m1")
			b.Add(op)
			expectStep(t, b, ackReading)
			if writing {
				answerRead(b, 1, 0)
				expectStep(t, b, ackWriting)
			}
			v := b.StepDone(&SQLError{Code: code, Message: "m"}, 0)
			if v.Action != action || v.Class != class || action == Wait && v.After <= 0 {
				t.Errorf("%s, writing %v: %+v", code, writing, v)
			}
			if got := names(b.Step(0)); got != then {
				t.Errorf("%s, writing %v: step %q, want %q", code, writing, got, then)
			}
			if then == "" && op.Fault.Code != Internal {
				t.Errorf("%s: %+v", code, op.Fault)
			}
			if b.MayBeStored() != (writing && class == ClassUnknown) {
				t.Errorf("%s, writing %v: may be stored: %v", code, writing, b.MayBeStored())
			}
		}
	}
	f("40P01", Wait, ClassRetry, ackReading)
	f("55P03", Wait, ClassRetry, ackReading)
	f("57014", Wait, ClassRetry, ackReading)
	f("40003", Wait, ClassUnknown, ackReading)
	f("23505", Wait, ClassDuplicate, ackReading)
	f("57P01", Away, ClassAway, ackReading)
	f("25006", Away, ClassAway, ackReading)
	f("42P01", Away, ClassSetup, ackReading)
	f("26000", Prepare, ClassLost, ackReading)
	f("23503", Continue, ClassStale, ackReading)
	f("23514", Continue, ClassData, "")

	// Not for ever.
	b := NewAckBatch()
	op := ackOf(t, "m1")
	b.Add(op)
	for range RetriesMax {
		expectStep(t, b, ackReading)
		if v := b.StepDone(&SQLError{Code: "40P01", Message: "deadlock"}, 0); v.Action != Wait {
			t.Errorf("%+v", v)
		}
	}
	expectStep(t, b, ackReading)
	if v := b.StepDone(&SQLError{Code: "40P01", Message: "deadlock"}, 0); v.Action != Continue || b.Step(0) != nil || op.Fault.Code != Unavailable || !strings.Contains(op.Fault.Message, "deadlock") {
		t.Errorf("%+v, %+v", v, op.Fault)
	}
	// Statements that stay lost: another connection.
	b, op = NewAckBatch(), ackOf(t, "m1")
	b.Add(op)
	for _, want := range []Action{Prepare, Away, Prepare} {
		expectStep(t, b, ackReading)
		if v := b.StepDone(&SQLError{Code: "26000"}, 0); v.Action != want {
			t.Errorf("%+v, want %d", v, want)
		}
	}
	// Others that are always faster.
	b, op = NewAckBatch(), ackOf(t, "m1")
	b.Add(op)
	rounds := 0
	for b.Step(0) != nil {
		answerRead(b, 1, 0)
		expectStep(t, b, ackWriting)
		b.StepDone(nil, 0)
		rounds++
	}
	if rounds != ackRoundsMax+1 || op.Fault.Code != Unavailable {
		t.Errorf("%d rounds, %+v", rounds, op.Fault)
	}
}

// acksOf is a request for messages of partitions 1, 2, …, as "m1 1".
func acksOf(t *testing.T, acks ...string) *Op {
	t.Helper()
	var list []string
	for _, a := range acks {
		transaction, partition, _ := strings.Cut(a, " ")
		list = append(list, `{"transactionId":"`+transaction+`","partitionId":"00000000-0000-0000-0000-00000000000`+partition+`","leaseId":"L"}`)
	}
	op := new(Op)
	if f := DecodeAcks(op, []byte(`{"acknowledgments":[`+strings.Join(list, ",")+`]}`), &Config{}); f.Code != OK {
		t.Fatal(f.Message)
	}
	return op
}

// answerRows answers a read, whatever its statements.
func answerRows(b conversation, messages, groups [][][]byte) {
	b.Row(planFirst, [][]byte{int8Value(7)})
	for _, row := range messages {
		b.Row(readMessages, row)
	}
	for _, row := range groups {
		b.Row(readGroups, row)
	}
	b.StepDone(nil, 0)
}

// ackedRow is a groupRow whose lease has had messages acked, up to its cursor.
func ackedRow(o int, at int64, lease string) [][]byte {
	row := groupRow(o, at, lease)
	row[11] = int4Value(int(at))
	return row
}

// allAcked is a groupRow of a lease whose messages are all acked, though its last one is not
// passed: nothing is left to count.
func allAcked(o int) [][]byte {
	row := ackedRow(o, 1, "L")
	row[11] = int4Value(3)
	return row
}

func failTries(t *testing.T, b conversation, step func()) {
	t.Helper()
	for range RetriesMax + 1 {
		step()
		b.StepDone(&SQLError{Code: "40P01", Message: "deadlock"}, 0)
	}
	expectStep(t, b, "")
}

const ackTries = "fault: PostgreSQL could not take the acknowledgments, try 4 ended with: deadlock"

func TestAnAckThatIsGivenUpSaysWhetherItMayBeTaken(t *testing.T) {
	b, op := NewAckBatch(), ackOf(t, "m1")
	reading := func() { expectStep(t, b, ackReading) }
	begin := func(ops ...*Op) {
		t.Helper()
		b.Reset()
		for _, op := range ops {
			b.Add(op)
		}
		reading()
	}
	is := func(op *Op, want string) {
		t.Helper()
		if got := outcomes(op); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	const maybe = "; the acknowledgments may have been taken"
	begin(op)
	answerRead(b, 1, 0)
	expectStep(t, b, ackWriting)
	b.Unknown()
	failTries(t, b, reading)
	is(op, ackTries+maybe)

	op = ackOf(t, "m1")
	op.Deadline = 1
	begin(op)
	answerRead(b, 1, 0)
	expectStep(t, b, ackWriting)
	b.StepDone(&SQLError{Code: "40003", Message: "no"}, 0)
	expectStep(t, b, "")
	is(op, "fault: PostgreSQL could not take the acknowledgments, try 1 ended with: no"+maybe)

	// One of two partitions is written, and the other one never; who has nothing in it is not
	// told of it.
	for _, never := range []func(){
		func() { failTries(t, b, reading) },
		func() {
			for range ackRoundsMax {
				reading()
				answerRows(b, [][][]byte{messageRow(1, 1), messageRow(2, 1)}, [][][]byte{groupRow(1, 0, "L"), groupRow(2, 0, "L")})
				expectStep(t, b, ackWriting)
				b.StepDone(nil, 0)
			}
			expectStep(t, b, "")
		},
	} {
		two, none := acksOf(t, "m1 1", "m1 2"), acksOf(t, "m1 3")
		begin(two, none)
		answerRows(b, [][][]byte{messageRow(1, 1), messageRow(2, 1), messageRow(3, 1)},
			[][][]byte{groupRow(1, 0, "L"), groupRow(2, 0, "L"), groupRow(3, 0, "L")})
		expectStep(t, b, ackWriting)
		b.Row(1, [][]byte{int8Value(1)})
		b.StepDone(nil, 0)
		never()
		if got := two.Fault; got.Code != Unavailable || !strings.HasSuffix(got.Message, maybe) {
			t.Errorf("%+v", got)
		}
		if got := none.Fault; got.Code != Unavailable || strings.Contains(got.Message, maybe) {
			t.Errorf("%+v", got)
		}
	}
}

// The first try may be committed when the row has moved on, or its message is gone since.
func TestAnAckInDoubtIsNotToldThatItWasNotTaken(t *testing.T) {
	b := NewAckBatch()
	op, other := acksOf(t, "m1 1", "m2 1", "m9 1"), acksOf(t, "m8 1", "m1 2")
	b.Add(op)
	b.Add(other)
	expectStep(t, b, ackReading)
	answerRows(b, [][][]byte{messageRow(1, 1), messageRow(2, 2), messageRow(5, 1)}, [][][]byte{groupRow(1, 0, "L"), allAcked(2)})
	expectStep(t, b, ackWriting)
	b.Unknown()
	expectStep(t, b, ackReading)
	answerRows(b, [][][]byte{messageRow(1, 1)}, [][][]byte{groupRow(1, 0, "X"), allAcked(2)})
	expectStep(t, b, "")
	// What was not found before was in no write, nor was what changed nothing.
	if got, want := outcomes(op)+"; "+outcomes(other), "no Invalid or expired lease; it may have been taken, no Message not found; it may have been taken, no notfound; no notfound, no notfound"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestARequestThatWasInNoWriteIsNotSettledByAnothers(t *testing.T) {
	b := NewAckBatch()
	first, second := ackOf(t, "m1"), ackOf(t, "m2")
	b.Add(first)
	b.Add(second)
	expectStep(t, b, ackReading)
	answerRows(b, [][][]byte{messageRow(1, 1), messageRow(2, 2)}, [][][]byte{groupRow(1, 0, "L")})
	expectStep(t, b, ackWriting)
	b.StepDone(&SQLError{Code: "23514", Message: "no"}, 0) // now one by one
	expectStep(t, b, ackReading)
	answerRows(b, [][][]byte{messageRow(1, 1)}, [][][]byte{groupRow(1, 0, "L")})
	expectStep(t, b, ackWriting)
	b.Unknown() // and it was committed
	expectStep(t, b, ackReading)
	answerRows(b, [][][]byte{messageRow(1, 1)}, [][][]byte{ackedRow(1, 1, "L")})
	expectStep(t, b, ackReading)
	if got := b.Decided(); len(got) != 1 || got[0] != first || outcomes(first) != "yes" {
		t.Errorf("%v: %s", got, outcomes(first))
	}
	answerRows(b, [][][]byte{messageRow(1, 2)}, [][][]byte{ackedRow(1, 1, "L")})
	expectStep(t, b, ackWriting)
	b.Row(1, [][]byte{int8Value(1)})
	b.StepDone(nil, 0)
	expectStep(t, b, "")
	if got := outcomes(second); got != "yes" {
		t.Error(got)
	}

	// A write of both that is committed in the end was for both.
	b, first, second = NewAckBatch(), ackOf(t, "m1"), ackOf(t, "m2")
	b.Add(first)
	b.Add(second)
	for _, end := range []func(){b.Unknown, func() { b.StepDone(&SQLError{Code: "23514", Message: "no"}, 0) }} {
		expectStep(t, b, ackReading)
		answerRows(b, [][][]byte{messageRow(1, 1), messageRow(2, 2)}, [][][]byte{groupRow(1, 0, "L")})
		expectStep(t, b, ackWriting)
		end()
	}
	for n := range int64(2) {
		expectStep(t, b, ackReading)
		answerRows(b, [][][]byte{messageRow(1, n+1)}, [][][]byte{ackedRow(1, 2, "L")})
	}
	expectStep(t, b, "")
	if got := outcomes(first) + "; " + outcomes(second); got != "yes; yes" {
		t.Error(got)
	}
}

func TestAnAckThatWasGivenBackIsNotTouched(t *testing.T) {
	for _, when := range []string{"reading", "read", "writing"} {
		b := NewAckBatch()
		late, other := ackOf(t, "m1"), ackOf(t, "m2")
		late.Deadline, other.Deadline = time.Second, time.Minute
		b.Add(late)
		b.Add(other)
		expectStep(t, b, ackReading)
		expire := func() {
			t.Helper()
			if got := b.Expire(2 * time.Second); len(got) != 1 || got[0] != late || late.Fault.Code != Unavailable {
				t.Fatalf("%s: %v", when, got)
			}
			*late = Op{} // its owner uses it for another request
		}
		if when == "reading" {
			expire()
		}
		b.Row(planFirst, [][]byte{int8Value(7)})
		b.Row(readMessages, messageRow(1, 1))
		b.Row(readMessages, messageRow(2, 2))
		b.Row(readGroups, groupRow(1, 0, "L"))
		b.StepDone(nil, 0)
		if when == "read" {
			expire()
		}
		expectStep(t, b, ackWriting)
		if when == "writing" {
			expire()
		}
		b.Row(planFirst, [][]byte{int8Value(7)})
		b.Row(1, [][]byte{int8Value(1)})
		b.StepDone(nil, 0)
		if b.Step(0) != nil || outcomes(other) != "yes" || len(late.Acks) != 0 || late.Fault.Code != OK {
			t.Errorf("%s: %s, %+v", when, outcomes(other), late)
		}
		if got := b.Ops(); len(got) != 1 || got[0] != other {
			t.Errorf("%s: %d ops", when, len(got))
		}
	}
}

func TestAcksThatAreDecidedNeedNotWaitForOthers(t *testing.T) {
	b := NewAckBatch()
	extend, ack := new(Op), ackOf(t, "m1")
	if f := DecodeExtend(extend, []byte("L"), nil, &Config{}); f.Code != OK {
		t.Fatal(f.Message)
	}
	b.Add(extend)
	b.Add(ack)
	expectStep(t, b, "lease_extend_scan")
	b.StepDone(nil, 0)
	expectStep(t, b, ackReading)
	if got := b.Decided(); len(got) != 1 || got[0] != extend || extend.Lease.Why != leaseNotFound {
		t.Errorf("%v", got)
	}
	b.Fail(Fault{Overloaded, "enough"})
	if b.Step(0) != nil || ack.Fault.Code != Overloaded || extend.Fault.Code != OK {
		t.Errorf("%+v, %+v", ack.Fault, extend.Fault)
	}
	b.Reset()
	if b.Rows() != 0 || b.Bytes() != 0 || len(b.Ops()) != 0 || b.Step(0) != nil {
		t.Error("a batch that was reset is not empty")
	}
}

func transactionOf(t *testing.T, operations string) *Op {
	t.Helper()
	op := new(Op)
	if f := DecodeTransaction(op, []byte(`{"operations":[`+operations+`]}`), &Config{}, NewIDs(wallMs)); f.Code != OK {
		t.Fatal(f.Message)
	}
	return op
}

const (
	anAck = `{"type":"ack","transactionId":"m1","partitionId":"00000000-0000-0000-0000-000000000001","leaseId":"L"}`
	aPush = `{"type":"push","items":[{"queue":"q"}]}`
	allOf = lockFirst + " pop_plan transaction_write"
)

// toCommit brings a batch with one transaction, anAck and aPush, to its commit.
func toCommit(t *testing.T, b *TransactionBatch) {
	t.Helper()
	step := names(b.Step(0))
	if step == asking {
		b.StepDone(nil, 0)
		step = names(b.Step(0))
	}
	if step != ackReading {
		t.Fatalf("step %q", step)
	}
	b.Row(planFirst, [][]byte{int8Value(7)})
	b.Row(readMessages, messageRow(1, 1))
	b.Row(readGroups, groupRow(1, 0, "L"))
	b.StepDone(nil, 0)
	if step = names(b.Step(0)); step == resolving {
		b.Row(resolveIDs, [][]byte{int8Value(1), {15: 5}, boolValue(false)})
		b.StepDone(nil, 0)
		step = names(b.Step(0))
	}
	if step != allOf {
		t.Fatalf("step %q, want %q", step, allOf)
	}
}

func TestWhatBecomesOfATransactionWhenPostgreSQLFails(t *testing.T) {
	f := func(code, table string, action Action, then, fault string) {
		t.Helper()
		b := NewTransactionBatch(&Config{}, NewHints(0, 0))
		op := transactionOf(t, anAck+","+aPush)
		b.Add(op)
		toCommit(t, b)
		v := b.StepDone(&SQLError{Code: code, Message: "m", Table: table}, 0)
		if got := names(b.Step(0)); v.Action != action || got != then {
			t.Errorf("%s: %+v, step %q", code, v, got)
		}
		switch {
		case then != "":
		case op.Fault.Code != OK:
			if op.Fault.Message != fault {
				t.Errorf("%s: %+v", code, op.Fault)
			}
		default:
			if op.Steps[0].Error != fault || !op.Steps[0].Alone {
				t.Errorf("%s: %+v", code, op.Steps)
			}
		}
	}
	f("22012", "", Continue, ackReading, "")
	f("23505", "messages", Continue, asking, "")
	f("23505", "other", Wait, ackReading, "")
	f("23503", "partition_consumers", Continue, ackReading, "")
	f("23502", "messages", Continue, ackReading, "")
	f("40P01", "", Wait, ackReading, "")
	f("40003", "", Wait, asking, "")
	f("57P01", "", Away, allOf, "")
	f("26000", "", Prepare, allOf, "")
	f("22001", "", Continue, "", "m")

	// Whom a transaction has met may have been a push that moved heads in another order.
	for _, code := range []string{deadlockDetected, lockNotAvailable} {
		h := NewHints(0, 0)
		b := NewTransactionBatch(&Config{}, h)
		b.Add(transactionOf(t, anAck+","+aPush))
		toCommit(t, b)
		b.StepDone(&SQLError{Code: code}, 0)
		if h.lockFirst != lockFirstBatches {
			t.Errorf("%s: %d batches lock first", code, h.lockFirst)
		}
	}

	// In doubt, a refusal is no proof that nothing was done.
	b := NewTransactionBatch(&Config{}, NewHints(0, 0))
	op := transactionOf(t, anAck+","+aPush)
	b.Add(op)
	toCommit(t, b)
	b.Unknown()
	toCommit(t, b)
	b.StepDone(&SQLError{Code: "22001", Message: "m"}, 0)
	if b.Step(0) != nil || op.Fault.Code != Unavailable || !b.MayBeStored() {
		t.Errorf("%+v", op.Fault)
	}

	// Rows that are never what was read.
	b, op = NewTransactionBatch(&Config{}, NewHints(0, 0)), transactionOf(t, anAck+","+aPush)
	b.Add(op)
	for range ackRoundsMax + 1 {
		toCommit(t, b)
		b.StepDone(&SQLError{Code: "22012"}, 0)
	}
	if b.Step(0) != nil || op.Fault.Code != Unavailable {
		t.Errorf("%+v", op.Fault)
	}
}

func TestATransactionThatIsGivenUpSaysWhetherItMayBeDone(t *testing.T) {
	var b *TransactionBatch
	f := func(doubt bool, end func(), want string) {
		t.Helper()
		b = NewTransactionBatch(&Config{}, NewHints(0, 0))
		op := transactionOf(t, anAck+","+aPush)
		b.Add(op)
		if doubt {
			toCommit(t, b)
			b.Unknown()
			want += "; the transaction may have been done"
		}
		end()
		expectStep(t, b, "")
		if op.Fault.Code != Unavailable || op.Fault.Message != want {
			t.Errorf("%+v, want %q", op.Fault, want)
		}
	}
	fails := func(n int, code, table string) {
		t.Helper()
		for range n {
			toCommit(t, b)
			b.StepDone(&SQLError{Code: code, Message: "m", Table: table}, 0)
		}
	}
	for _, doubt := range []bool{false, true} {
		or := func(advice string) string {
			if doubt {
				return ""
			}
			return "; " + advice
		}
		f(doubt, func() { failTries(t, b, func() { toCommit(t, b) }) }, "PostgreSQL could not do the transaction, try 4 ended with: deadlock")
		f(doubt, func() { fails(ackRoundsMax+1, "22012", "") }, "others change these partitions all the time"+or("try again in a second"))
		f(doubt, func() { fails(staleMax+1, "23503", "messages") }, "the queue was deleted or changed while the messages were pushed"+or("push them again"))
		f(doubt, func() {
			fails(vainMax+1, "23505", "messages")
			expectStep(t, b, asking)
			b.StepDone(nil, 0)
		}, "PostgreSQL reports a duplicate that cannot be found"+or("push the messages again"))
	}
}

// The first try may be committed when the row has moved on, or a message is gone since.
func TestATransactionInDoubtIsNotToldThatItFailed(t *testing.T) {
	f := func(messages [][][]byte, group [][]byte, why string) {
		t.Helper()
		b := NewTransactionBatch(&Config{}, NewHints(0, 0))
		op := transactionOf(t, anAck+","+aPush)
		b.Add(op)
		toCommit(t, b)
		b.Unknown()
		expectStep(t, b, asking)
		b.StepDone(nil, 0)
		expectStep(t, b, ackReading)
		answerRows(b, messages, [][][]byte{group})
		expectStep(t, b, "")
		if want := (Fault{Unavailable, "the transaction may have been done (ACK operation failed: " + why + ")"}); op.Fault != want {
			t.Errorf("%+v, want %+v", op.Fault, want)
		}
	}
	f(nil, groupRow(1, 0, "L"), "Message not found")
	f([][][]byte{messageRow(1, 1)}, groupRow(1, 0, "X"), "Invalid or expired lease")
}

// Rows that others change too may be as a lost commit was to leave them without it.
func TestATransactionOfAcksIsSettledByAllItsRows(t *testing.T) {
	const ack = `{"type":"ack","transactionId":"m1","partitionId":"00000000-0000-0000-0000-000000000001","leaseId":"L"}`
	two := ack + "," + strings.Replace(ack, `001"`, `002"`, 1)
	var b *TransactionBatch
	var op *Op
	messages := [][][]byte{messageRow(1, 1), messageRow(2, 1)}
	lost := func(operations string, read, then [][][]byte, commit string) {
		t.Helper()
		b, op = NewTransactionBatch(&Config{}, NewHints(0, 0)), transactionOf(t, operations)
		b.Add(op)
		expectStep(t, b, ackReading)
		answerRows(b, messages, read)
		if got := names(b.Step(0)); !strings.HasPrefix(got, "pop_plan transaction_write") {
			t.Fatalf("step %q", got)
		}
		b.Unknown()
		expectStep(t, b, ackReading)
		answerRows(b, messages, then)
		expectStep(t, b, commit)
	}
	done := func() {
		t.Helper()
		if expectStep(t, b, ""); op.Fault.Code != OK || TransactionFailed(op) || !op.Acks[0].Success || !op.Acks[1].Success {
			t.Errorf("%+v, %+v", op.Fault, op.Steps)
		}
	}
	writes := func(want ...int32) {
		t.Helper()
		if !slices.Equal(b.work.writes, want) {
			t.Errorf("writes %v, want %v", b.work.writes, want)
		}
		b.StepDone(nil, 0)
		done()
	}
	const writing = "pop_plan transaction_write"
	was := [][][]byte{groupRow(1, 0, "L"), groupRow(2, 0, "L")}
	lost(two, was, [][][]byte{ackedRow(1, 1, "L"), ackedRow(2, 1, "L")}, "")
	done()
	// The first row is as somebody else left it.
	lost(two, was, [][][]byte{ackedRow(1, 1, "L"), groupRow(2, 0, "L")}, writing)
	writes(1)
	// A row that is only compared proves nothing.
	was = [][][]byte{allAcked(1), groupRow(2, 0, "L")}
	lost(two, was, was, writing)
	writes(0, 1)
	// It was committed, and somebody else has the first partition now: nothing of his is touched.
	was = [][][]byte{groupRow(1, 0, "L"), groupRow(2, 0, "L")}
	lost(two, was, [][][]byte{groupRow(1, 1, "X"), ackedRow(2, 1, "L")}, "")
	done()
	dead := strings.Replace(two, `"leaseId":"L"`, `"status":"dlq"`, 1)
	lost(dead, was, [][][]byte{groupRow(1, 1, "X"), ackedRow(2, 1, "L")}, writing+"_dead")
	if d := b.work.chains[0].effect.dead; len(d) != 1 || !d[0].once || !op.Acks[0].Dead {
		t.Errorf("%+v", d)
	}
	writes()
}

func TestATransactionThatWasGivenBackIsNotTouched(t *testing.T) {
	b := NewTransactionBatch(&Config{}, NewHints(0, 0))
	late, other := transactionOf(t, anAck+","+aPush), transactionOf(t, aPush)
	late.Deadline, other.Deadline = time.Second, time.Minute
	b.Add(late)
	b.Add(other)
	toCommit(t, b)
	if got := b.Expire(2 * time.Second); len(got) != 1 || got[0] != late || late.Fault.Code != Unavailable {
		t.Fatalf("%v", got)
	}
	*late = Op{}
	b.Row(2, [][]byte{int8Value(7)})
	b.Tag(b.push.gather.insert, 1)
	b.StepDone(nil, 0)
	expectStep(t, b, lockFirst)
	b.Tag(b.push.gather.insert, 1)
	b.StepDone(nil, 0)
	if b.Step(0) != nil || other.Fault.Code != OK || other.Items[0].Status != Queued || len(late.Freed) != 0 || late.Fault.Code != OK {
		t.Errorf("%+v, %+v", other.Fault, late)
	}

	// Also when the answer was an error, or none came.
	for _, end := range []func(b *TransactionBatch){
		func(b *TransactionBatch) { b.StepDone(&SQLError{Code: "23505", Table: "messages"}, 0) },
		func(b *TransactionBatch) { b.StepDone(&SQLError{Code: "22001"}, 0) },
		func(b *TransactionBatch) { b.Unknown() },
	} {
		b := NewTransactionBatch(&Config{}, NewHints(0, 0))
		late := transactionOf(t, anAck+","+aPush)
		late.Deadline = time.Second
		b.Add(late)
		toCommit(t, b)
		b.Expire(2 * time.Second)
		*late = Op{}
		if end(b); b.Step(0) != nil || late.Fault.Code != OK || len(late.Steps) != 0 {
			t.Errorf("%+v", late)
		}
	}
}
