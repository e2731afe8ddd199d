package queue

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Each row of what a status does, then each trap, then the counting examples; against
// PostgreSQL.

func TestCompletedMovesTheCursorAndImpliesAllBeforeIt(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 5)
	s.lease(QueueMode, "L", 4)
	s.call(QueueMode, "yes", "m1 completed L")
	s.expectState(QueueMode, "at m1 lease L 1/4 consumed 1/0 seq 1")
	s.call(QueueMode, "yes", "m3 success L")
	s.expectState(QueueMode, "at m3 lease L 2/4 consumed 2/0 seq 3")
	// The lease ends when the cursor reaches the last message that it delivered, though only
	// three of four were acked.
	s.call(QueueMode, "yes released", "m4 completed L")
	s.expectState(QueueMode, "at m4 consumed 3/1 seq 4")
	s.lease(QueueMode, "L2", 9)
	s.expectState(QueueMode, "at m4 lease L2 0/1 consumed 3/1 seq 4")
}

func TestALeaseThatSaysNoEndEndsByItsCount(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 3)
	s.lease(QueueMode, "L", 2)
	s.sql(`UPDATE queen.partition_consumers SET lease_end_created_at = NULL, lease_end_id = NULL, lease_end_seq = NULL`)
	s.call(QueueMode, "yes", "m2 completed L")
	s.call(QueueMode, "yes released", "m1 completed L")
	s.expectState(QueueMode, "at m2 consumed 1/1 seq 2")
}

func TestFailedWithRetriesLeftReleasesAndCountsOnce(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 3)
	s.lease(QueueMode, "L", 3)
	op := s.call(QueueMode, "yes released", "m2 failed L boom")
	s.expectState(QueueMode, "at - retries 1 consumed 0/0 seq 0")
	if len(op.Freed) != 1 || op.Freed[0].Queue != "q" || op.Freed[0].Group != QueueMode || op.Freed[0].Partition.String() != s.id {
		t.Errorf("freed %+v", op.Freed)
	}
	// Without a lease nothing is counted.
	s.call(QueueMode, "yes released", "m2 failed")
	s.expectState(QueueMode, "at - retries 1 consumed 0/0 seq 0")
}

func TestFailedWithRetriesUsedUpIsADeadLetter(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 3)
	s.sql(`UPDATE queen.queues SET retry_limit = 1`)
	s.lease(QueueMode, "L1", 2)
	s.call(QueueMode, "yes released", "m1 failed L1 first")
	s.lease(QueueMode, "L2", 2)
	s.call(QueueMode, "yes dead", "m1 failed L2 second")
	s.expectState(QueueMode, "at m1 lease L2 1/2 consumed 1/0 seq 1")
	if got, want := s.dead(QueueMode), "m1|second|1|1"; got != want {
		t.Errorf("dead %q, want %q", got, want)
	}
	// The cursor has moved past it: the next message has all its retries.
	s.call(QueueMode, "yes released", "m2 failed L2")
	s.expectState(QueueMode, "at m1 retries 1 consumed 1/0 seq 1")
	s.lease(QueueMode, "L3", 1)
	s.call(QueueMode, "yes dead", "m2 failed L3")
	if got, want := s.dead(QueueMode), "m1|second|1|1 m2|Retries exhausted|1|2"; got != want {
		t.Errorf("dead %q, want %q", got, want)
	}
	s.expectState(QueueMode, "at m2 consumed 2/1 seq 2")
}

func TestDLQIsADeadLetterAtOnceAndOutlivesItsMessage(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	s.lease(QueueMode, "L", 2)
	s.call(QueueMode, "yes dead", "m1 dlq L bad")
	s.expectState(QueueMode, "at m1 lease L 1/2 consumed 1/0 seq 1")
	s.call(QueueMode, "yes dead", "m2 dlq L")
	s.expectState(QueueMode, "at m2 consumed 2/1 seq 2")
	s.sql(`DELETE FROM queen.messages`)
	if got, want := s.dead(QueueMode), "m1|bad|0|1 m2|Retries exhausted|0|2"; got != want {
		t.Errorf("dead %q, want %q", got, want)
	}
}

func TestAMessageIsOneDeadLetterHoweverOftenOneWriteIsAskedForIt(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	s.lease(QueueMode, "L", 2)
	a, b := s.ackOp(s.acks(QueueMode, "m1 dlq - first", "m1 dlq")), s.ackOp(s.acks(QueueMode, "m1 dlq"))
	c := s.ackOp(s.acks("never popped", "m1 dlq - its", "m1 failed"))
	s.run(NewAckBatch(), a, b, c)
	if got, want := outcomes(a)+"; "+outcomes(b)+"; "+outcomes(c), "yes dead, yes dead; yes dead; yes dead, yes dead"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := s.dead(QueueMode)+" "+s.dead("never popped"), "m1|first|0|1 m1|its|0|1"; got != want {
		t.Errorf("dead %q, want %q", got, want)
	}
}

func TestRetryReleasesAndCountsNothing(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	s.lease(QueueMode, "L", 2)
	s.call(QueueMode, "yes released", "m1 retry L")
	s.expectState(QueueMode, "at - consumed 0/0 seq 0")
	s.lease(QueueMode, "L2", 2)
	s.expectState(QueueMode, "at - lease L2 0/2 consumed 0/0 seq 0")
}

func TestAnUnknownStatusHasNoEffect(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	s.lease(QueueMode, "L", 2)
	want := `[{"dlq":false,"error":null,"index":0,"leaseReleased":false,"partitionName":"p","queueName":"q","success":false,"transactionId":"m1"}]`
	if got := s.ack(s.one("m1 weird")); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.expectState(QueueMode, "at - lease L 0/2 consumed 0/0 seq 0")
}

func TestWhatIsAskedForOneByOneIsAppliedInOrderOfTheMessages(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 4)
	s.lease(QueueMode, "L", 4)
	s.call(QueueMode, "yes, yes released, yes", "m2 completed L", "m3 failed L", "m1 completed L")
	s.expectState(QueueMode, "at m2 retries 1 consumed 2/0 seq 2")
}

func TestInOneCallARetryableFailureStopsLaterCompletions(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 5)
	s.lease(QueueMode, "L", 5)
	s.call(QueueMode, "yes, yes released, no stopped, no stopped, yes released",
		"m1 completed L", "m2 failed L", "m3 completed L", "m4 dlq L", "m5 failed L")
	s.expectState(QueueMode, "at m1 retries 1 consumed 1/0 seq 1")
	if got := s.dead(QueueMode); got != "" {
		t.Errorf("dead %q", got)
	}
	s.lease(QueueMode, "L2", 4)
	s.call(QueueMode, "yes released, no stopped", "m2 retry L2", "m3 completed L2")
	s.expectState(QueueMode, "at m1 retries 1 consumed 1/0 seq 1")
}

func TestTwoRequestsInOneBatchAreTwoCalls(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 3)
	s.lease(QueueMode, "L", 3)
	a, b := s.ackOp(s.acks(QueueMode, "m1 failed L")), s.ackOp(s.acks(QueueMode, "m2 completed"))
	c := s.ackOp(s.acks(QueueMode, "m3 completed L"))
	s.run(NewAckBatch(), a, b, c)
	// The second has no lease to check and is not stopped by the first's failure; the third's
	// lease has been ended by the first.
	if got, want := outcomes(a)+"; "+outcomes(b)+"; "+outcomes(c), "yes released; yes; no nolease"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.expectState(QueueMode, "at m2 consumed 1/0 seq 2")
	if len(s.steps) != 2 {
		t.Errorf("steps %q", s.steps)
	}
}

func TestTheCursorNeverGoesBack(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 3)
	s.lease(QueueMode, "L", 3)
	s.call(QueueMode, "yes", "m2 completed L")
	s.call(QueueMode, "yes", "m1 completed L")
	s.call(QueueMode, "yes", "m1 completed")
	s.expectState(QueueMode, "at m2 lease L 2/3 consumed 1/0 seq 2")
}

func TestAnAckWithoutALeaseIsNotChecked(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	s.lease(QueueMode, "L", 2)
	s.call(QueueMode, "yes released", "m2 completed")
	s.expectState(QueueMode, "at m2 consumed 1/1 seq 2")
	s.call(QueueMode, "yes", "m2 completed")
}

func TestAnAckWithAnotherOrAnExpiredLeaseIsRefused(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	s.lease(QueueMode, "L", 2)
	s.call(QueueMode, "no nolease, no", "m1 completed X", "m2 weird")
	s.sql(`UPDATE queen.partition_consumers SET lease_expires_at = now() - interval '1 second'`)
	s.call(QueueMode, "no nolease", "m1 completed L")
	s.expectState(QueueMode, "at - lease L 0/2 consumed 0/0 seq 0")
	// It is over: somebody else takes it.
	s.lease(QueueMode, "L2", 2)
	s.call(QueueMode, "no nolease, yes released", "m1 completed L", "m2 completed")
}

func TestAGroupThatNeverPoppedHasNothingToComplete(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	s.call("g", "yes null, yes null", "m1 completed", "m2 retry")
	s.expectState("g", "none")
	s.call("g", "yes dead, yes dead", "m1 failed", "m2 dlq - why")
	s.expectState("g", "none")
	if got, want := s.dead("g"), "m1|Retries exhausted|0|1 m2|why|0|2"; got != want {
		t.Errorf("dead %q, want %q", got, want)
	}
	s.call("g", "no nolease", "m1 completed L")
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 1)
	s.call(QueueMode, "no notfound", "m9")
	if got, want := s.ack(`{"transactionId":"m1","partitionId":"00000000-0000-0000-0000-000000000001"}`),
		`[{"dlq":false,"error":"Message not found","index":0,"leaseReleased":false,"partitionName":null,"queueName":null,"success":false,"transactionId":"m1"}]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// Ids that no message can have do not reach PostgreSQL, which would refuse the statement.
	for _, id := range []string{`a\u0000b`, `\ud800`, strings.Repeat("x", 256)} {
		if got := s.ack(`{"transactionId":"` + id + `","partitionId":"` + s.id + `"}`); !strings.Contains(got, `"error":"Message not found"`) || !strings.Contains(got, `"queueName":"q"`) {
			t.Errorf("%s: %s", id, got)
		}
	}
	// In a batch a partition that is no UUID is that item's fault.
	op := s.ackOp(`{"acknowledgments":[{"transactionId":"m1","partitionId":"xyz"},{"transactionId":"m1","partitionId":"` + s.id + `"}]}`)
	s.run(NewAckBatch(), op)
	if got, want := outcomes(op), "no partitionId is not a UUID, yes null"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// The messages of a deleted partition are not there.
	s.sql(`DELETE FROM queen.queues`)
	s.call(QueueMode, "no notfound", "m1 dlq")
}

func TestABatchThatFailsAsOneIsOneRetryAndThenAllDeadLetters(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 100)
	s.sql(`UPDATE queen.queues SET retry_limit = 3`)
	items := func(lease string) (list []string) {
		for i := range 100 {
			list = append(list, fmt.Sprintf("m%d failed %s r%d", i+1, lease, i+1))
		}
		return list
	}
	released := strings.TrimSuffix(strings.Repeat("yes released, ", 100), ", ")
	for i, lease := range []string{"L1", "L2", "L3"} {
		s.lease(QueueMode, lease, 100)
		s.call(QueueMode, released, items(lease)...)
		s.expectState(QueueMode, fmt.Sprintf("at - retries %d consumed 0/0 seq 0", i+1))
	}
	s.lease(QueueMode, "L4", 100)
	s.call(QueueMode, strings.TrimSuffix(strings.Repeat("yes dead, ", 100), ", "), items("L4")...)
	expect(t, s.db, `SELECT count(*), count(DISTINCT message_id), min(retry_count), max(retry_count), count(*) FILTER (WHERE error_message = 'r' || substr(transaction_id, 2)) FROM queen.dead_letter_queue`, "100|100|3|3|100")
	s.expectState(QueueMode, "at m100 consumed 100/1 seq 100")
}

func TestTheNumberOfDeliveriesIsAsTheLimitSays(t *testing.T) {
	r := newRunner(t, database(t))
	deliveries := func(queue string, limit, failures int, then string) string {
		s := r.stream(queue, 1)
		r.sql(`UPDATE queen.queues SET retry_limit = %d WHERE name = '%s'`, limit, queue)
		for i := range failures {
			lease := fmt.Sprintf("%s-%d", queue, i)
			s.lease(QueueMode, lease, 1)
			s.call(QueueMode, "yes released", "m1 failed "+lease)
		}
		s.lease(QueueMode, queue, 1)
		op := s.ackOp(s.acks(QueueMode, "m1 "+then+" "+queue+" last"))
		s.run(NewAckBatch(), op)
		return outcomes(op) + " " + s.state(QueueMode) + " dead " + s.dead(QueueMode)
	}
	f := func(queue string, limit, failures int, then, want string) {
		t.Helper()
		if got := deliveries(queue, limit, failures, then); got != want {
			t.Errorf("limit %d: %q, want %q", limit, got, want)
		}
	}
	f("a", 3, 2, "completed", "yes released at m1 consumed 1/1 seq 1 dead ")
	f("b", 1, 1, "failed", "yes dead at m1 consumed 1/1 seq 1 dead m1|last|1|1")
	f("c", 2, 2, "failed", "yes dead at m1 consumed 1/1 seq 1 dead m1|last|2|1")
	f("d", 0, 0, "failed", "yes dead at m1 consumed 1/1 seq 1 dead m1|last|0|1")
}

func TestAnExpiredLeaseIsNoRetry(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 1)
	s.lease(QueueMode, "L", 1)
	s.sql(`UPDATE queen.partition_consumers SET lease_expires_at = now() - interval '1 second'`)
	s.call(QueueMode, "yes released", "m1 failed")
	s.expectState(QueueMode, "at - consumed 0/0 seq 0")
}

func TestABatchMaySpanPartitionsAndQueues(t *testing.T) {
	r := newRunner(t, database(t))
	a, b := r.stream("a", 2), r.stream("b", 2)
	a.lease("g", "A", 2)
	b.lease("g", "B", 2)
	op := r.ackOp(fmt.Sprintf(`{"consumerGroup":"g","acknowledgments":[%s,%s,%s,%s]}`,
		b.one("m2 completed B"), a.one("m1 completed A"), b.one("m1 completed B"), a.one("m2 failed A")))
	r.run(NewAckBatch(), op)
	if got, want := outcomes(op), "yes released, yes, yes, yes released"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	a.expectState("g", "at m1 retries 1 consumed 1/0 seq 1")
	b.expectState("g", "at m2 consumed 2/1 seq 2")
	if got := string(AppendAckAnswer(nil, op)); !strings.Contains(got, `"index":3,"leaseReleased":true,"partitionName":"p","queueName":"a"`) {
		t.Error(got)
	}
}

func TestTwentyBatchesAtOnceLeaveTheCursorAtTheLast(t *testing.T) {
	db := database(t)
	s := newRunner(t, db).stream("q", 200)
	s.lease(QueueMode, "L", 200)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		r := newRunner(t, db)
		go func() {
			defer wg.Done()
			mine := &stream{runner: r, queue: "q", id: s.id}
			for j := range 5 {
				// Each acks ten of its own, from all over the partition.
				var items []string
				for k := range 2 {
					items = append(items, fmt.Sprintf("m%d completed", 1+i+20*(2*j+k)))
				}
				op := mine.ackOp(mine.acks(QueueMode, items...))
				b := NewAckBatch()
				b.Add(op)
				if err := r.drive(b); err != nil {
					t.Error(err)
				}
				if got := outcomes(op); strings.Contains(got, "no") {
					t.Errorf("%q: %s", items, got)
				}
			}
		}()
	}
	wg.Wait()
	if got := s.state(QueueMode); !strings.HasPrefix(got, "at m200 consumed ") || !strings.HasSuffix(got, "/1 seq 200") {
		t.Error(got)
	}
}

func TestALostAnswerIsSettledByReading(t *testing.T) {
	for _, o := range []outcome{loseBefore, loseAfter} {
		s := newRunner(t, database(t)).stream("q", 4)
		s.sql(`UPDATE queen.queues SET retry_limit = 1`)
		lose := func(name string) {
			lost := false
			s.before = func(step []Statement) outcome {
				if !lost && strings.HasPrefix(step[len(step)-1].Name, name) {
					lost = true
					return o
				}
				return deliver
			}
		}
		s.lease(QueueMode, "L", 2)
		lose("ack_write")
		s.call(QueueMode, "yes released", "m1 failed L")
		s.expectState(QueueMode, "at - retries 1 consumed 0/0 seq 0")
		s.lease(QueueMode, "L2", 2)
		lose("ack_write")
		s.call(QueueMode, "yes dead, yes released", "m1 failed L2", "m2 completed L2")
		s.expectState(QueueMode, "at m2 consumed 2/1 seq 2")
		lose("ack_write")
		s.call("other", "yes dead", "m1 dlq")
		expect(t, s.db, `SELECT consumer_group, transaction_id FROM queen.dead_letter_queue ORDER BY 1`, "__QUEUE_MODE__|m1", "other|m1")

		// Somebody else took the rest before the answer was asked for again: what the cursor has
		// passed is done.
		s.lease(QueueMode, "L3", 1)
		lose("ack_write")
		inner := s.before
		s.before = func(step []Statement) outcome {
			got := inner(step)
			if got == loseAfter {
				s.before = func([]Statement) outcome {
					s.before = nil
					s.lease(QueueMode, "L4", 1)
					return deliver
				}
			}
			return got
		}
		s.call(QueueMode, map[outcome]string{loseBefore: "yes released", loseAfter: "yes"}[o], "m3 completed L3")
	}
}

func TestARowThatOthersChangedIsReadAgain(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 4)
	s.lease(QueueMode, "L", 4)
	s.before = func(step []Statement) outcome {
		if step[len(step)-1].Name == "ack_write" {
			s.before = nil
			other := newRunner(t, s.db)
			(&stream{runner: other, queue: "q", id: s.id}).call(QueueMode, "yes", "m3 completed L")
		}
		return deliver
	}
	s.call(QueueMode, "yes", "m2 completed L")
	s.expectState(QueueMode, "at m3 lease L 2/4 consumed 1/0 seq 3")
	if got, want := strings.Join(s.steps, ","), "pop_plan ack_messages ack_groups,pop_plan ack_write,pop_plan ack_messages ack_groups,pop_plan ack_write"; got != want {
		t.Errorf("steps %q", got)
	}
}

func TestOneRequestThatPostgreSQLRefusesFailsAlone(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 3)
	s.sql(`ALTER TABLE queen.dead_letter_queue ADD CHECK (error_message <> 'poison')`)
	s.lease(QueueMode, "L", 3)
	good, bad, more := s.ackOp(s.acks(QueueMode, "m1 completed L")), s.ackOp(s.acks(QueueMode, "m2 dlq L poison")), s.ackOp(s.acks(QueueMode, "m3 completed L"))
	s.run(NewAckBatch(), good, bad, more)
	if outcomes(good) != "yes" || outcomes(more) != "yes released" || bad.Fault.Code != Internal {
		t.Errorf("%q, %q, %q", outcomes(good), outcomes(bad), outcomes(more))
	}
}

func TestAReasonMayHoldWhatATextCannot(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 1)
	s.ack(`{"transactionId":"m1","partitionId":"` + s.id + `","status":"dlq","consumerGroup":"g","error":"a\u0000b"}`)
	if got, want := s.dead("g"), "m1|a\ufffdb|0|1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAcksInADatabaseThatQueenLaidOut(t *testing.T) {
	db := takenOver(t)
	r := newRunner(t, db)
	r.config = &Config{PayloadJSONB: true}
	s := r.stream("of ours", 3)
	s.lease("g", "L", 3)
	s.call("g", "yes, yes dead, yes released", "m1 completed L", "m2 dlq L why", "m3 completed L")
	s.expectState("g", "at m3 consumed 3/1 seq 3")
	if got, want := s.dead("g"), "m2|why|0|2"; got != want {
		t.Errorf("dead %q, want %q", got, want)
	}
	// A partition of Queen's, its messages perhaps without numbers.
	old := r.sql(`SELECT m.partition_id, m.transaction_id FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id
		WHERE q.name <> 'of ours' ORDER BY m.created_at DESC, m.id DESC LIMIT 1`)[0]
	partition, transaction, _ := strings.Cut(old, "|")
	q := &stream{runner: r, id: partition}
	q.lease("fresh", "L9", 100_000)
	q.call("fresh", "yes released", transaction+" completed L9")
	if got := q.state("fresh"); !strings.HasPrefix(got, "at "+transaction+" consumed 1/1") {
		t.Error(got)
	}
}
