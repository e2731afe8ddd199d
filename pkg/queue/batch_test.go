package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// script drives a batch by hand against the model.
type script struct {
	t     testing.TB
	m     *model
	c     *Config
	hints *Hints
	ids   *IDs
	b     *Batch
	now   time.Duration
}

func newScript(t testing.TB) *script {
	c, h := &Config{}, NewHints(0, 0)
	s := &script{t: t, m: newModel(), c: c, hints: h, ids: NewIDs(wallMs), b: NewBatch(c, h)}
	s.b.jitter = func() float64 { return 0.5 }
	return s
}

func (s *script) add(body string) *Op {
	s.t.Helper()
	op := new(Op)
	if f := Decode(op, []byte(body), s.c, s.ids); f.Code != OK {
		s.t.Fatal(f.Message)
	}
	s.b.Add(op)
	return op
}

// step returns the next step and expects it to be so.
func (s *script) step(want string) []Statement {
	s.t.Helper()
	var names []string
	step := s.b.Step(s.now)
	for _, st := range step {
		names = append(names, st.Name)
	}
	if got := strings.Join(names, " "); got != want {
		s.t.Fatalf("step %q, want %q", got, want)
	}
	return step
}

// done lets the model execute the step.
func (s *script) done(step []Statement) Verdict {
	s.t.Helper()
	next := s.m.clone()
	replies, err := next.run(s.t, step)
	for i, r := range replies {
		for _, row := range r.rows {
			s.b.Row(i, row)
		}
		s.b.Tag(i, r.tag)
	}
	if err == nil {
		*s.m = *next
	}
	return s.b.StepDone(err, s.now)
}

func (s *script) fail(code string) Verdict {
	return s.b.StepDone(&SQLError{Code: code, Message: "no (" + code + ")"}, s.now)
}

func (s *script) expect(got any, want any) {
	s.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Errorf("%v, want %v", got, want)
	}
}

const one = `{"items":[{"queue":"q","transactionId":"t"}]}`

func TestAStepMayBeAskedForTwice(t *testing.T) {
	s := newScript(t)
	op := s.add(one)
	s.step(resolving)
	s.done(s.step(resolving))
	s.step(pushing)
	s.done(s.step(pushing))
	s.step("")
	s.step("")
	s.expect(statuses(op), "q")
}

func TestRetriesWaitLongerEachTimeAndEnd(t *testing.T) {
	s := newScript(t)
	op := s.add(one)
	s.done(s.step(resolving))
	for _, after := range []time.Duration{10, 30, 90} {
		s.step(pushing)
		s.expect(s.fail("40001"), Verdict{Wait, after * time.Millisecond, ClassRetry})
	}
	s.step(pushing)
	s.expect(s.fail("40001"), Verdict{Continue, 0, ClassRetry})
	s.step("")
	s.expect(op.Fault, Fault{Unavailable, "PostgreSQL could not store the messages, try 4 ended with: no (40001)"})
}

func TestARetryThatWouldEndAfterTheDeadlineIsNotMade(t *testing.T) {
	s := newScript(t)
	op, patient := s.add(one), s.add(one)
	op.Deadline, patient.Deadline = 10*time.Millisecond, 11*time.Millisecond
	s.done(s.step(resolving))
	s.step(pushing)
	s.expect(s.fail("40001"), Verdict{Wait, 10 * time.Millisecond, ClassRetry})
	s.done(s.step(pushing))
	s.step("")
	s.expect(op.Fault.Code, Unavailable)
	s.expect(statuses(patient), "q") // and is nobody's duplicate
}

func TestAnOpThatExpiresIsGivenBackAtOnceAndNotTouchedAgain(t *testing.T) {
	s := newScript(t)
	a, b, c := s.add(`{"items":[{"queue":"q","transactionId":"t"},{"queue":"q"}]}`), s.add(one), s.add(one)
	a.Deadline, c.Deadline = 5, 9
	s.done(s.step(resolving))
	step := s.step(pushing)
	s.expect(len(s.b.Expire(4)), 0)
	s.expect(s.b.Expire(5)[0] == a, true)
	s.expect(len(s.b.Ops()), 2)
	*a = Op{} // its owner uses it again
	s.done(step)
	s.step("")
	s.expect(len(s.b.Expire(100)), 0)
	s.expect(statuses(b)+statuses(c), "dd") // what was sent is stored
	s.expect(fmt.Sprint(a.Items, a.Fault), "[] {0 }")
	s.expect(len(s.b.Ops()), 2)
}

func TestAllOpsMayExpire(t *testing.T) {
	s := newScript(t)
	a, b := s.add(one), s.add(one)
	a.Deadline, b.Deadline = 5, 5
	step := s.step(resolving)
	s.expect(len(s.b.Expire(5)), 2)
	s.done(step)
	s.step("")
	s.expect(len(s.b.Ops()), 0)
	s.expect(a.Fault.Code == Unavailable && strings.Contains(a.Fault.Message, "same transactionId"), true)
}

func TestWhatIsDecidedNeedNotWaitForTheRest(t *testing.T) {
	s := newScript(t)
	a, b := s.add(`{"items":[{"queue":"q"}]}`), s.add(`{"items":[{"queue":"q","payload":"poison"}]}`)
	s.done(s.step(resolving))
	s.expect(s.done(s.step(pushing)), Verdict{Continue, 0, ClassData})
	s.expect(len(s.b.Decided()), 0)
	s.done(s.step(pushing))
	step := s.step(pushing)
	decided := s.b.Decided()
	s.expect(len(decided) == 1 && decided[0] == a && statuses(a) == "q", true)
	s.done(step)
	s.step("")
	s.expect(len(s.b.Ops()) == 1 && s.b.Ops()[0] == b, true)
	s.expect(b.Items[0].Error, "no such thing")
}

func TestAStoreMayGiveUp(t *testing.T) {
	s := newScript(t)
	a := s.add(one)
	s.step(resolving)
	s.expect(s.fail("57P01"), Verdict{Away, 0, ClassAway})
	s.step(resolving)
	s.expect(s.fail("28P01"), Verdict{Away, 0, ClassSetup})
	s.expect(s.b.MayBeStored(), false)
	s.step(resolving)
	s.b.Unknown()
	s.expect(s.b.MayBeStored(), false)
	s.done(s.step(resolving))
	s.step(pushing)
	s.b.Unknown()
	s.expect(s.b.MayBeStored(), true)
	s.b.Fail(Fault{Unavailable, "away"})
	s.step("")
	s.expect(a.Fault, Fault{Unavailable, "away"})
	s.b.Reset()
	s.expect(s.b.MayBeStored(), false)
	s.expect(len(s.b.Ops())+s.b.Rows()+s.b.Bytes(), 0)
}

func TestLostStatementsArePreparedAgainOnce(t *testing.T) {
	s := newScript(t)
	s.add(one)
	s.done(s.step(resolving))
	s.step(pushing)
	s.expect(s.fail("26000"), Verdict{Prepare, 0, ClassLost})
	s.step(pushing)
	s.expect(s.fail("0A000"), Verdict{Away, 0, ClassLost})
	s.done(s.step(pushing))
	s.step("")
}

func TestAnUnknownOutcomeIsAskedForFirst(t *testing.T) {
	s := newScript(t)
	op := s.add(`{"items":[{"queue":"q"},{"queue":"q","transactionId":"t"}]}`)
	s.done(s.step(resolving))
	step := s.step(pushing)
	if _, err := s.m.run(t, step); err != nil { // it is committed
		t.Fatal(err)
	}
	s.b.Unknown()
	s.done(s.step(asking))
	s.step("")
	s.expect(statuses(op), "qq")
	s.expect(op.Items[0].WinnerID == op.Items[0].ID && op.Items[0].PartitionID != UUID{}, true)
}

func TestARequestThatMayBeStoredDoesNotFail(t *testing.T) {
	s := newScript(t)
	op := s.add(one)
	s.done(s.step(resolving))
	s.step(pushing)
	s.b.Unknown()
	s.done(s.step(asking))
	s.step(pushing)
	s.expect(s.fail("22021").Class, ClassData)
	s.step("")
	s.expect(op.Fault, Fault{Unavailable, "the messages may have been stored; push them again with the same transactionId (no (22021))"})
}

// It may be committed when the answer was lost, and at any time after.
func TestAPushThatIsGivenUpSaysWhetherItMayBeStored(t *testing.T) {
	maybe := "; the messages may have been stored: push them again with the same transactionId"
	var s *script
	f := func(want string, end func(op *Op)) {
		t.Helper()
		s = newScript(t)
		op := s.add(one)
		s.done(s.step(resolving))
		end(op)
		s.step("")
		s.expect(op.Fault, Fault{Unavailable, want})
	}
	lost := func() {
		s.step(pushing)
		s.b.Unknown()
		s.done(s.step(asking))
	}
	tries := func(code string) {
		for range RetriesMax + 1 {
			s.step(pushing)
			s.fail(code)
		}
	}
	f("PostgreSQL could not store the messages, try 4 ended with: no (40001)", func(*Op) { tries("40001") })
	f("PostgreSQL could not store the messages, try 4 ended with: no (40001)"+maybe, func(*Op) {
		lost()
		tries("40001")
	})
	f("PostgreSQL could not store the messages, try 1 ended with: no (40003)"+maybe, func(op *Op) {
		op.Deadline = 1
		s.step(pushing)
		s.fail("40003")
	})
	gone := func() {
		for range staleMax {
			s.step(pushing)
			s.fail("23503")
			s.done(s.step(resolving))
		}
		s.step(pushing)
		s.fail("23503")
	}
	f("the queue was deleted or changed while the messages were pushed; push them again", func(*Op) { gone() })
	f("the queue was deleted or changed while the messages were pushed"+maybe, func(*Op) {
		lost()
		gone()
	})
	vain := func() {
		for range vainMax + 1 {
			s.step(pushing)
			s.b.StepDone(&SQLError{Code: "23505", Table: "messages"}, 0)
			s.done(s.step(asking))
		}
	}
	f("PostgreSQL reports a duplicate that cannot be found; push the messages again", func(*Op) { vain() })
	f("PostgreSQL reports a duplicate that cannot be found"+maybe, func(*Op) {
		lost()
		vain()
	})

	// What was not in the step that was lost is not in doubt.
	s = newScript(t)
	a, b := s.add(one), s.add(`{"items":[{"queue":"q"}]}`)
	s.done(s.step(resolving))
	s.step(pushing)
	s.fail("22021")
	lost()
	s.done(s.step(pushing))
	tries("40001")
	s.step("")
	s.expect(statuses(a), "q")
	s.expect(b.Fault.Message, "PostgreSQL could not store the messages, try 4 ended with: no (40001)")
}

// PostgreSQL may report a duplicate that is gone when we look for it (somebody deletes
// messages), or that is of a key which we do not know. Neither goes on for ever.
func TestADuplicateThatCannotBeFoundEnds(t *testing.T) {
	s := newScript(t)
	op := s.add(one)
	s.done(s.step(resolving))
	for range vainMax + 1 {
		s.step(pushing)
		s.expect(s.b.StepDone(&SQLError{Code: "23505", Table: "messages"}, 0), Verdict{Continue, 0, ClassDuplicate})
		s.done(s.step(asking))
	}
	s.step("")
	s.expect(op.Fault.Code, Unavailable)

	s = newScript(t)
	s.add(one)
	s.step(resolving)
	s.expect(s.b.StepDone(&SQLError{Code: "23505", Table: "partitions"}, 0).Class, ClassRetry)
}

func TestHeadsThatWereNotMovedAreOurOwnFault(t *testing.T) {
	s := newScript(t)
	op := s.add(one)
	s.done(s.step(resolving))
	s.step(pushing)
	s.b.Tag(1, 0)
	s.b.StepDone(nil, 0)
	s.step("")
	s.expect(op.Fault.Code, Internal)
}

func TestTheHeadsAreAnalyzedWhenTheyHaveDoubled(t *testing.T) {
	s := newScript(t)
	run := func(n int, analyze bool) {
		t.Helper()
		var items []string
		for range n {
			items = append(items, fmt.Sprintf(`{"queue":"q","partition":"%s"}`, s.ids.Next()))
		}
		op := s.add(`{"items":[` + strings.Join(items, ",") + `]}`)
		s.done(s.step(resolving))
		if analyze {
			s.step("push_analyze")
			s.expect(s.fail("42501").Action, Away) // what is set up wrong is the store's to say
		}
		s.done(s.step(pushing))
		s.step("")
		s.expect(statuses(op), strings.Repeat("q", n))
		s.b.Reset()
	}
	run(31, false)
	run(1, true)
	run(63, false)
	run(10, true)
	run(127, false)
	run(200, true)

	s = newScript(t)
	s.hints.analyzeAt = 1
	s.add(one)
	s.done(s.step(resolving))
	s.step("push_analyze")
	s.expect(s.fail("57014"), Verdict{Continue, 0, ClassRetry}) // no op has lost a try
	s.step(pushing)
}

func TestHintsAreBounded(t *testing.T) {
	h := NewHints(100, 1<<20)
	for i := range 1000 {
		h.get(fmt.Append(nil, i), nil).known = true
		h.get([]byte("often"), []byte("used")).known = true
		h.trim()
	}
	if h.Len() > 102 || !h.get([]byte("often"), []byte("used")).known || !h.get([]byte("999"), nil).known || h.get([]byte("5"), nil).known {
		t.Errorf("%d hints", h.Len())
	}
	h = NewHints(0, 1000)
	for i := range 1000 {
		h.get([]byte(strings.Repeat("x", 100)), fmt.Append(nil, i))
		h.trim()
	}
	if h.Len() > 22 {
		t.Errorf("%d hints of 100 bytes", h.Len())
	}
	// Two names do not run into each other.
	h.get([]byte("a"), []byte("bc")).known = true
	if h.get([]byte("ab"), []byte("c")).known {
		t.Error("(a, bc) is (ab, c)")
	}
}

func TestALargeBatchGivesItsMemoryBack(t *testing.T) {
	s := newScript(t)
	known(s.hints, "q", "Default", UUID{1}, false)
	item := `{"queue":"q","payload":"` + strings.Repeat("x", 1000) + `"},`
	op := s.add(`{"items":[` + strings.TrimSuffix(strings.Repeat(item, rowsKeptMax+1), ",") + `]}`)
	s.step(pushing)
	s.b.Tag(s.b.gather.insert, rowsKeptMax+1)
	s.b.StepDone(nil, 0)
	s.step("")
	s.expect(op.Items[rowsKeptMax].Status, Queued)
	s.b.Reset()
	for i := range s.b.buf {
		if cap(s.b.buf[i]) > bytesKeptMax {
			t.Errorf("param %d keeps %d bytes", i, cap(s.b.buf[i]))
		}
	}
	if cap(s.b.gather.rows) != 0 {
		t.Error("the rows are kept")
	}
}

// cycle is one batch of ops that are all stored.
func cycle(b *Batch, ops []*Op) {
	b.Reset()
	for _, op := range ops {
		for i := range op.Items {
			op.Items[i].Status = Pending
		}
		b.Add(op)
	}
	if len(b.Step(0)) != 2 {
		panic("it does not push")
	}
	b.Tag(1, int64(len(b.gather.heads)))
	b.StepDone(nil, 0)
	if b.Step(0) != nil {
		panic("it does not end")
	}
}

func benchmarkOps(t testing.TB, n, partitions int) (*Batch, []*Op) {
	c, h, ids := &Config{}, NewHints(0, 0), NewIDs(wallMs)
	var ops []*Op
	for i := range n {
		op := new(Op)
		body := strings.Replace(pushOf370, "customer-4711", fmt.Sprint("customer-", i%partitions), 1)
		body = strings.Replace(body, "019dc9b7", fmt.Sprintf("%08x", i), 1)
		if f := Decode(op, []byte(body), c, ids); f.Code != OK {
			t.Fatal(f)
		}
		known(h, "orders.created", fmt.Sprint("customer-", i%partitions), UUID{byte(i % partitions * 7), byte(i % partitions)}, false)
		ops = append(ops, op)
	}
	return NewBatch(c, h), ops
}

func TestTheCommonPathDoesNotAllocate(t *testing.T) {
	b, ops := benchmarkOps(t, 100, 100)
	cycle(b, ops)
	if n := testing.AllocsPerRun(20, func() { cycle(b, ops) }); n != 0 {
		t.Errorf("a batch of 100 allocates %v times", n)
	}
	op, ids, c, body := new(Op), NewIDs(wallMs), &Config{}, []byte(strings.Replace(pushOf370, `"transactionId":"019dc9b7-cb4f-7c1a-9b21-7e8a5c3a40e1",`, "", 1))
	var answer []byte
	once := func() {
		op.Reset()
		if f := Decode(op, body, c, ids); f.Code != OK {
			t.Fatal(f)
		}
		op.Items[0].Status = Queued
		answer = AppendPushAnswer(answer[:0], op)
	}
	once()
	if n := testing.AllocsPerRun(20, once); n != 0 {
		t.Errorf("decoding and answering allocates %v times", n)
	}
}

func BenchmarkBatch(b *testing.B) {
	for _, c := range []struct{ rows, partitions int }{{1, 1}, {100, 1}, {100, 100}, {1000, 100}} {
		b.Run(fmt.Sprintf("rows=%d/partitions=%d", c.rows, c.partitions), func(b *testing.B) {
			batch, ops := benchmarkOps(b, c.rows, c.partitions)
			b.ReportAllocs()
			for b.Loop() {
				cycle(batch, ops)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*c.rows), "ns/row")
		})
	}
}

func TestImpossibleStatesStopTheProgram(t *testing.T) {
	f := func(want string, do func(s *script)) {
		t.Helper()
		defer func() {
			if got := fmt.Sprint(recover()); got != "BUG: "+want {
				t.Errorf("%s, want %s", got, want)
			}
		}()
		do(newScript(t))
	}
	f("an op is added to a batch under way", func(s *script) { s.add(one); s.b.Step(0); s.add(one) })
	f("a step is done that was not begun", func(s *script) { s.add(one); s.b.StepDone(nil, 0) })
	f("a push is answered before it is decided", func(s *script) { AppendPushAnswer(nil, s.add(one)) })
	f("a bigint of another length than 8 bytes", func(s *script) { int8Column(nil) })
	f("a uuid of another length than 16 bytes", func(s *script) { uuidColumn([]byte("00000000-0000-0000-0000-000000000000")) })
	f("a boolean of another length than 1 byte", func(s *script) { boolColumn(nil) })
}
