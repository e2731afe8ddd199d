package asyncdb

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/queue"
)

// crowd pushes n messages, one each, into two partitions by turns.
func (r *rig) crowd(name string, n int) (all []*call) {
	for i := range n {
		all = append(all, r.push(fmt.Sprintf("q/p%d/%s-%03d", i%2, name, i)))
	}
	return all
}

func areAll(t *testing.T, calls []*call, want string) {
	t.Helper()
	for _, c := range calls {
		c.is(want)
	}
}

// upAndResolved is a lane that knows the partitions of a crowd.
func upAndResolved(t *testing.T) *rig {
	r := up(t)
	r.crowd("first", 2)
	r.pass()
	r.serve()
	return r
}

// twoInFlight is a lane with a batch in flight, and another behind it.
func twoInFlight(t *testing.T) (r *rig, first, second []*call) {
	r = upAndResolved(t)
	first = r.crowd("a", followRows)
	r.pass()
	second = r.crowd("b", followRows)
	if r.store.stats.Follows.Load() != 1 {
		t.Fatal("no batch follows")
	}
	return r, first, second
}

// names are the transaction ids that the server holds, in the order of their storing.
func (p *server) names() (all []string) {
	for _, m := range p.stored {
		all = append(all, m.transaction)
	}
	return all
}

// inOrder says whether all that begins with one name was stored before all of another.
func (p *server) inOrder(t *testing.T, names ...string) {
	t.Helper()
	last := -1
	for _, stored := range p.names() {
		name, _, _ := strings.Cut(stored, "-")
		i := slices.Index(names, name)
		if i < last {
			t.Fatalf("stored in this order: %v", p.names())
		}
		last = max(last, i)
	}
}

func TestABatchFollowsTheOneInFlight(t *testing.T) {
	r, first, second := twoInFlight(t)
	third := r.crowd("c", followRows) // one follows, not two
	if got := r.store.stats.InFlightRows.Load(); got != 2*followRows {
		t.Errorf("%d rows are in flight", got)
	}
	reply := r.pg.read(t, &r.sent)
	ends := bytes.Index(reply, ready) + len(ready)
	r.answer(reply[:ends])
	areAll(t, first, "queued")
	areAll(t, second, "waits")
	if r.store.stats.Follows.Load() != 2 {
		t.Error("the third does not follow the second")
	}
	r.answer(reply[ends:])
	areAll(t, second, "queued")
	r.serve()
	areAll(t, third, "queued")
	r.pg.inOrder(t, "first", "a", "b", "c")
	if got := r.store.stats.InFlightRows.Load(); got != 0 {
		t.Errorf("%d rows are in flight", got)
	}
}

func TestWhatIsLittleDoesNotFollow(t *testing.T) {
	for what, f := range map[string]func(r *rig){
		"few":                    func(r *rig) { r.crowd("b", followRows-1) },
		"few beside what is":     func(r *rig) { r.crowd("b", 2*followRows*followPart/100-1) },
		"statements do not last": func(r *rig) { r.store.inline = true; r.crowd("b", 2*followRows) },
		"behind a pooler":        func(r *rig) { r.conn.link.inline = true; r.crowd("b", 2*followRows) },
		"other lanes":            func(r *rig) { r.db.turns.lanes.Store(2); r.crowd("b", 2*followRows) },
		"not wanted":             func(r *rig) { r.store.work.Follow = false; r.crowd("b", 2*followRows) },
	} {
		r := upAndResolved(t)
		r.crowd("a", 2*followRows)
		r.pass()
		f(r)
		if r.store.following {
			t.Errorf("%s: a batch follows", what)
		}
	}
}

// What is asked first may change what is stored, or find it stored.
func TestNothingFollowsAStepThatIsNotTheLast(t *testing.T) {
	r := up(t)
	first := r.crowd("a", followRows) // partitions are asked for
	r.pass()
	second := r.crowd("b", followRows)
	if r.store.following {
		t.Error("a batch follows")
	}
	r.serve()
	areAll(t, append(first, second...), "queued")
}

func TestNothingOvertakesWhatFailed(t *testing.T) {
	for code, want := range map[string]string{"40001": "queued", "55P03": "queued", "57P03": "queued", "26000": "queued"} {
		r, first, second := twoInFlight(t)
		r.pg.fail = failOf("push_insert", code, 1)
		for range 10 {
			r.serve()
			r.sleep(300 * time.Millisecond)
			if r.dials > 0 {
				r.open()
			}
		}
		areAll(t, first, want)
		areAll(t, second, "queued")
		r.pg.inOrder(t, "first", "a", "b")
	}
}

func TestADuplicateAmongTheFirstIsFoundBeforeTheSecondGoes(t *testing.T) {
	r := upAndResolved(t)
	first := r.crowd("a", followRows)
	again := r.push("q/p0/first-000")
	r.pass()
	second := r.crowd("b", followRows)
	if !r.store.nextSent {
		t.Fatal("no batch follows")
	}
	r.serve()
	areAll(t, first, "queued")
	again.is("duplicate")
	areAll(t, second, "queued")
	r.pg.inOrder(t, "first", "a", "b")
}

func TestAFailureOfTheSecondIsItsOwn(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.pg.poison = map[string]string{"b-007": "22021"}
	r.serve()
	areAll(t, first, "queued")
	second[7].is("failed")
	areAll(t, append(second[:7:7], second[8:]...), "queued")
}

// A message may be deleted as soon as it is stored.
func TestABatchWhosePredecessorIsGoneIsSentAgain(t *testing.T) {
	r, first, second := twoInFlight(t)
	third := r.crowd("c", followRows)
	r.pg.fail = failOf(pushAfter, "22012", 2)
	r.serve()
	areAll(t, slices.Concat(first, second, third), "queued")
	r.pg.inOrder(t, "first", "a", "b", "c")
}

// A batch of one push cannot be halved: it would be told that it divides by zero.
func TestOnePushWhosePredecessorIsGoneIsSentAgain(t *testing.T) {
	r := upAndResolved(t)
	first := r.crowd("a", followRows)
	r.pass()
	var items [2][]string
	for i := range followRows {
		items[0], items[1] = append(items[0], fmt.Sprintf("q/p0/b-%d", i)), append(items[1], fmt.Sprintf("q/p0/c-%d", i))
	}
	second, third := r.push(items[0]...), r.push(items[1]...)
	r.pg.fail = failOf(pushAfter, "22012", 2)
	reply := r.pg.read(t, &r.sent)
	ends := bytes.Index(reply, ready) + len(ready)
	r.answer(reply[:ends]) // the second is on its own now, the third behind it
	if !r.store.nextSent {
		t.Fatal("the third does not follow")
	}
	r.answer(reply[ends:])
	r.serve()
	all := strings.TrimSpace(strings.Repeat("queued ", followRows))
	areAll(t, first, "queued")
	second.is(all)
	third.is(all)
	r.pg.inOrder(t, "first", "a", "b", "c")
}

// failOf fails the statement of a name so many times.
func failOf(statement, code string, times int) func(int, int, string) *pgproto3.ErrorResponse {
	return func(_, _ int, name string) *pgproto3.ErrorResponse {
		if name != statement || times == 0 {
			return nil
		}
		times--
		return refusalOf("ERROR", code)
	}
}

var ready = encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})

func TestBothAreFoundAfterALostConnection(t *testing.T) {
	for _, done := range []int{0, 1, 2} { // of the steps in flight
		r, first, second := twoInFlight(t)
		if done > 0 {
			var sent bytes.Buffer
			sent.Write(syncs(r.sent.Bytes(), done))
			r.pg.read(t, &sent) // and the answer is lost
		}
		r.sent.Reset()
		r.conn.closedBy(io.EOF)
		if got := r.store.stats.Unknowns.Load(); got != 2 {
			t.Errorf("%d steps are unknown", got)
		}
		r.open()
		r.serve()
		areAll(t, first, "queued")
		areAll(t, second, "queued")
		r.pg.inOrder(t, "first", "a", "b")
		if n := len(r.pg.messages); n != 2+2*followRows {
			t.Errorf("%d messages", n)
		}
	}
}

// syncs is the first n steps of what was sent.
func syncs(b []byte, n int) []byte {
	at := 0
	for ; n > 0; n-- {
		at += bytes.Index(b[at:], appendSync(nil)) + len(appendSync(nil))
	}
	return b[:at]
}

// The first has failed, and its connection ends before the second is answered.
func TestALossAfterTheFirstHasFailed(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.pg.fail = failOf("push_insert", "40001", 1)
	reply := r.pg.read(t, &r.sent)
	ends := bytes.Index(reply, ready) + len(ready)
	r.answer(reply[:ends])
	r.conn.closedBy(io.EOF)
	if got := r.store.stats.Unknowns.Load(); got != 1 {
		t.Errorf("%d steps are unknown", got)
	}
	r.open()
	r.serve()
	areAll(t, first, "queued")
	areAll(t, second, "queued")
	r.pg.inOrder(t, "first", "a", "b")
}

// commitLate has the server store calls, as an earlier try would have that is committed late,
// when the next push begins to insert; that one fails with the code.
func (r *rig) commitLate(calls []*call, code string) {
	fails := failOf("push_insert", code, 1)
	r.pg.fail = func(step, statement int, name string) *pgproto3.ErrorResponse {
		refused := fails(step, statement, name)
		if refused != nil {
			for i, c := range calls {
				it := &c.op.Items[0]
				part := r.pg.partitions[[2]string{"q", fmt.Sprintf("p%d", i%2)}]
				r.pg.messages[message{part, string(it.TransactionID)}] = it.ID
			}
		}
		return refused
	}
}

// A first try whose answer was lost may be committed late: the second step finds it there,
// while the first's own fails because of it.
func TestASecondThatIsStoredBeforeTheFirstIsDecidedIsNotHandedBack(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.store.work.GiveBack = true
	r.commitLate(first, "57P03") // and it is away
	r.serve()
	areAll(t, second, "queued")
}

// The same, and nobody knows what became of the second.
func TestASecondThatMayBeStoredIsHandedBackAsThat(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.store.work.GiveBack = true
	r.commitLate(first, "57P03")
	one := r.pg.fail
	again := failOf("push_insert", "40003", 1)
	r.pg.fail = func(step, statement int, name string) *pgproto3.ErrorResponse {
		if refused := one(step, statement, name); refused != nil {
			return refused
		}
		return again(step, statement, name)
	}
	r.serve()
	for _, c := range second {
		if c.op.Fault.Code != queue.Outage || !strings.Contains(c.op.Fault.Message, "may have been stored") {
			t.Fatal(c.op.Fault)
		}
	}
}

func TestBothAreHandedBackInTheirOrder(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.store.work.GiveBack = true
	waiting := r.push("q/p0/c-0")
	var order []*call
	for _, c := range slices.Concat(first, second, []*call{waiting}) {
		c.told = func() { order = append(order, c) }
	}
	r.conn.closedBy(io.EOF)
	r.refuse(errTest)
	if !slices.Equal(order, slices.Concat(first, second, []*call{waiting})) {
		t.Errorf("%d were handed back, or in another order", len(order))
	}
	for _, c := range order {
		if c.op.Fault.Code != queue.Outage || strings.Contains(c.op.Fault.Message, "may have been stored") != (c != waiting) {
			t.Fatal(c.op.Fault)
		}
	}
	if r.store.working || r.store.following || r.store.gather.held != 0 {
		t.Error("something is kept")
	}
}

func TestBothEndWithTheirTime(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.sleep(2 * time.Second)
	for _, c := range append(first, second...) {
		if c.op.Fault.Code != queue.Unavailable || !strings.Contains(c.op.Fault.Message, "may have been stored") {
			t.Fatal(c.op.Fault)
		}
	}
}

func TestTheTimeOfTheSecondBeginsAfterTheFirst(t *testing.T) {
	r, first, second := twoInFlight(t)
	reply := r.pg.read(t, &r.sent)
	ends := bytes.Index(reply, ready) + len(ready)
	hung := r.db.config.HungAfter
	r.sleep(hung - 10*time.Millisecond)
	r.answer(reply[:ends])
	areAll(t, first, "queued")
	r.sleep(100 * time.Millisecond)
	if r.store.state != busy || r.store.stats.Hangs.Load() != 0 {
		t.Fatal("the second counts as hung")
	}
	r.answer(reply[ends:])
	areAll(t, second, "queued")
}

// A random walk: whatever fails and whenever connections end, each push has one answer, what is
// queued is stored once, and each partition has what one client sent, one after the other, in
// its order.
func TestAWalkOfBatchesThatFollow(t *testing.T) {
	for range 60 {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		r := up(t)
		codes := []string{"40001", "40P01", "55P03", "57014", "26000", "22021", "57P03", "40003"}
		r.pg.fail = func(_, _ int, name string) *pgproto3.ErrorResponse {
			if random.IntN(12) == 0 {
				return refusalOf("ERROR", codes[random.IntN(len(codes))])
			}
			return nil
		}
		// A pipeline of one client: pushes in flight together, in order.
		var calls []*call
		var reply []byte
		for step := 0; step < 60; step++ {
			switch random.IntN(6) {
			case 0, 1, 2:
				for range random.IntN(2 * followRows) {
					n := len(calls)
					name := fmt.Sprintf("q/p%d/t-%06d", n%3, n)
					if random.IntN(200) == 0 && n > 3 {
						name = fmt.Sprintf("q/p%d/t-%06d", n%3, random.IntN(n/3)*3+n%3) // a duplicate
					}
					calls = append(calls, r.pushWithin(time.Hour, name))
				}
				r.pass()
			case 3:
				reply = append(reply, r.pg.read(t, &r.sent)...)
				if n := len(reply); n > 0 && r.store.conn != nil {
					n = random.IntN(n) + 1
					r.answer(reply[:n])
					reply = slices.Clone(reply[n:])
				}
			case 4:
				r.sleep(time.Duration(random.IntN(200)) * time.Millisecond)
			case 5:
				if random.IntN(4) == 0 && r.store.conn != nil {
					if random.IntN(2) == 0 {
						r.pg.read(t, &r.sent) // it is done, and the answer is lost
					}
					r.conn.closedBy(io.EOF)
				}
			}
			if r.store.conn == nil {
				r.sent.Reset()
				reply = nil
				for r.dials == 0 {
					r.sleep(50 * time.Millisecond)
				}
				r.open()
			}
		}
		r.pg.fail = nil
		r.answerAll(reply)
		if len(r.store.gather.ops) > 0 && r.store.gather.held != 0 || r.store.working || r.store.following {
			t.Fatalf("seed %d: something was left", seed)
		}
		places := map[string]int{}
		for i, m := range r.pg.stored {
			places[m.transaction] = i
		}
		last := map[byte]int{}
		for i, c := range calls {
			it := &c.op.Items[0]
			at, stored := places[string(it.TransactionID)]
			switch outcome := c.outcome(); outcome {
			case "queued":
				if !stored || at < last[byte(i%3)] {
					t.Fatalf("seed %d: push %d is queued; stored %v, in place %d after %d", seed, i, stored, at, last[byte(i%3)])
				}
				last[byte(i%3)] = at
			case "duplicate":
				if !stored {
					t.Fatalf("seed %d: push %d is a duplicate of nothing", seed, i)
				}
			case "failed", "unavailable":
			default:
				t.Fatalf("seed %d: push %d: %s", seed, i, outcome)
			}
		}
	}
}

// answerAll serves the lane until it has nothing left to do.
func (r *rig) answerAll(reply []byte) {
	for range 200 {
		if r.store.conn == nil {
			r.sent.Reset()
			reply = nil
			for r.dials == 0 {
				r.sleep(50 * time.Millisecond)
			}
			r.open()
		}
		reply = append(reply, r.pg.read(r.t, &r.sent)...)
		if len(reply) > 0 {
			r.answer(reply)
			reply = nil
		}
		r.pass()
		r.sleep(50 * time.Millisecond)
	}
}

// PostgreSQL itself: a lock holds the first up, and what follows it.
func TestPostgreSQLGoesFromOneBatchToTheNext(t *testing.T) {
	url := migrate(t, postgrestest.Database(t))
	s := newStage(t, url, 1)
	p := s.pusher(0)
	p.push("q/p/first").is("queued")
	ctx := context.Background()
	locker, err := pgconn.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close(ctx)
	if err := locker.Exec(ctx, "BEGIN; SELECT FROM queen.partition_lookup FOR UPDATE").Close(); err != nil {
		t.Fatal(err)
	}
	var done []chan *call
	crowd := func(name string) {
		for i := range followRows {
			done = append(done, p.start(fmt.Sprintf("q/p/%s-%d", name, i)))
		}
	}
	crowd("a")
	until(t, "a batch is in flight", func() bool { return s.stores[0].Stats().InFlightRows.Load() > 0 })
	crowd("b")
	crowd("c")
	until(t, "another follows", func() bool { return s.stores[0].Stats().Follows.Load() > 0 })
	if err := locker.Exec(ctx, "ROLLBACK").Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range done {
		(<-c).is("queued")
	}
	if n := s.stores[0].Stats().Errors[queue.ClassData].Load(); n != 0 {
		t.Errorf("%d errors", n)
	}
}
