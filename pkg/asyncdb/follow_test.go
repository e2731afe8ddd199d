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

// firstRows in flight are few enough for followRows to follow them.
const firstRows = 100 * followRows / followPart

// crowd pushes n messages, one each, into two partitions by turns.
func (r *rig) crowd(name string, n int) (all []*call) {
	for i := range n {
		all = append(all, r.push(fmt.Sprintf("q/p%d/%s-%03d", i%2, name, i)))
	}
	return all
}

func areAll(t testing.TB, calls []*call, want string) {
	t.Helper()
	for _, c := range calls {
		c.is(want)
	}
}

// areBothStored checks the crowds "a" and "b".
func (r *rig) areBothStored(first, second []*call) {
	r.t.Helper()
	areAll(r.t, first, "queued")
	areAll(r.t, second, "queued")
	r.pg.inOrder(r.t, "first", "a", "b")
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
	first, second = r.two("a", "b")
	return r, first, second
}

func (r *rig) two(one, other string) (first, second []*call) {
	first = r.crowd(one, firstRows)
	r.pass()
	second = r.crowd(other, followRows)
	if !r.store.nextSent {
		r.t.Fatal("no batch follows")
	}
	return first, second
}

// cutReply is the answers that come, those of the first step apart.
func (r *rig) cutReply() (first, rest []byte) {
	reply := r.pg.read(r.t, &r.sent)
	ends := bytes.Index(reply, ready) + len(ready)
	return reply[:ends], reply[ends:]
}

var ready = encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})

// names are the transaction ids that the server holds, in the order of their storing.
func (p *server) names() (all []string) {
	for _, m := range p.stored {
		all = append(all, m.transaction)
	}
	return all
}

// inOrder says whether all that begins with one name was stored before all of another.
func (p *server) inOrder(t testing.TB, names ...string) {
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
	third := r.crowd("c", 2*followRows) // one follows, not two
	if got := r.store.stats.InFlightRows.Load(); got != firstRows+followRows {
		t.Errorf("%d rows are in flight", got)
	}
	one, other := r.cutReply()
	r.answer(one)
	areAll(t, first, "queued")
	areAll(t, second, "waits")
	if r.store.stats.Follows.Load() != 2 {
		t.Error("the third does not follow the second")
	}
	r.answer(other)
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
		"statements do not last": func(r *rig) { r.store.inline = true; r.crowd("b", 3*followRows) },
		"behind a pooler":        func(r *rig) { r.conn.link.inline = true; r.crowd("b", 3*followRows) },
		"other lanes":            func(r *rig) { r.db.turns.lanes.Store(2); r.crowd("b", 3*followRows) },
		"not wanted":             func(r *rig) { r.store.work.Follow = false; r.crowd("b", 3*followRows) },
	} {
		r := upAndResolved(t)
		r.crowd("a", 2*followRows)
		r.pass()
		f(r)
		if r.store.following {
			t.Errorf("%s: a batch follows", what)
		}
	}
	r := upAndResolved(t)
	r.crowd("a", markedRows-1) // without a mark
	r.pass()
	if r.crowd("b", followRows); r.store.following {
		t.Error("a batch follows a few pushes")
	}
}

// What is asked first may change what is stored, or find it stored.
func TestNothingFollowsAStepThatIsNotTheLast(t *testing.T) {
	r := up(t)
	first := r.crowd("a", followRows) // partitions are asked for
	r.pass()
	second := r.crowd("b", 2*followRows)
	if r.store.following {
		t.Error("a batch follows")
	}
	r.serve()
	areAll(t, append(first, second...), "queued")

	r.pg.poison = map[string]string{"c-050": "22021"}
	first = r.crowd("c", followRows*4)
	r.pass()
	r.answer(r.pg.read(t, &r.sent)) // refused; the first half of it is in flight now
	if r.crowd("d", followRows*4); r.store.state != busy || r.store.following {
		t.Error("a batch follows a half")
	}
	r.serve()
	first[50].is("failed")
	first[51].is("queued")
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
	first := r.crowd("a", firstRows-1)
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

// A pooler may give the second step another session than the first.
func TestABatchThatDoesNotFindTheOneBeforeIsSentAgain(t *testing.T) {
	r, first, second := twoInFlight(t)
	third := r.crowd("c", 2*followRows)
	r.pg.fail = failOf(pushAfter, "22P02", 2)
	r.serve()
	areAll(t, slices.Concat(first, second, third), "queued")
	r.pg.inOrder(t, "first", "a", "b", "c")
}

// A batch of one push cannot be halved: it would be told what was wrong with the mark.
func TestOnePushThatDoesNotFindTheOneBeforeIsSentAgain(t *testing.T) {
	for _, alone := range []bool{true, false} {
		r := upAndResolved(t)
		first := r.crowd("a", firstRows)
		r.pass()
		large := func(name string, n int) *call {
			var items []string
			for i := range n {
				items = append(items, fmt.Sprintf("q/p0/%s-%d", name, i))
			}
			return r.push(items...)
		}
		calls := []*call{large("b", followRows)}
		r.pg.fail = failOf(pushAfter, "22P02", 2)
		if !alone {
			calls = append(calls, large("c", 2*followRows))
		}
		one, other := r.cutReply()
		r.answer(one) // the second is on its own now, the third behind it
		if r.store.nextSent == alone {
			t.Fatal("the third does not follow, or there is one")
		}
		r.answer(other)
		r.serve()
		areAll(t, first, "queued")
		for i, c := range calls {
			c.is(strings.TrimSpace(strings.Repeat("queued ", (1+i)*followRows)))
		}
		r.pg.inOrder(t, "first", "a", "b", "c")
	}
}

// What is in flight is not touched: its rows are still to come.
func TestATrimmedLaneKeepsWhatIsAtWorkAndNothingElse(t *testing.T) {
	r, first, second := twoInFlight(t)
	s := r.store
	current, next, spare := s.current, s.next, s.spare
	s.Trim()
	if s.current != current || s.next != next || s.spare == spare || s.out != nil {
		t.Error("two are in flight, and not they are what is kept")
	}
	one, other := r.cutReply()
	r.answer(one)
	current, next = s.current, s.next // in flight alone
	s.Trim()
	if s.current != current || s.next != next {
		t.Error("a reply is to come")
	}
	r.answer(other)
	r.serve()
	r.areBothStored(first, second)
	current, next, spare = s.current, s.next, s.spare
	s.Trim()
	if s.current == current || s.next == next || s.spare == spare || s.out != nil {
		t.Error("nothing is at work, and something is kept")
	}
	again := r.crowd("again", 3)
	r.pass()
	r.serve()
	areAll(t, again, "queued")
}

func TestWhereNothingCanFollowNothingDoes(t *testing.T) {
	r := upAndResolved(t)
	r.pg.fail = failOf(pushAfter, "22P02", 1000)
	follows := func() uint64 { return r.store.stats.Follows.Load() }
	for i := range voidsMax {
		first, second := r.two(fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i))
		r.serve()
		areAll(t, append(first, second...), "queued")
	}
	r.crowd("c", firstRows)
	r.pass()
	r.crowd("d", followRows)
	if follows() != voidsMax {
		t.Errorf("%d batches followed", follows())
	}
	if n := strings.Count(r.log.String(), "does not find"); n != 1 {
		t.Errorf("that was said %d times", n)
	}
	r.serve()
	r.conn.closedBy(io.EOF)
	r.open()
	for i := range 2 * voidsMax { // now and then is no rule
		r.pg.fail = failOf(pushAfter, "22P02", 1)
		r.two(fmt.Sprintf("e%d", i), fmt.Sprintf("f%d", i))
		r.serve()
		r.two(fmt.Sprintf("g%d", i), fmt.Sprintf("h%d", i))
		r.serve()
	}
}

func TestWhatFollowsIsDurable(t *testing.T) {
	r := newRig(t)
	r.lax = true
	r.open()
	r.crowd("first", 2)
	r.pass()
	r.serve()
	r.two("a", "b")
	var names [][]string
	r.pg.fail = func(step, _ int, name string) *pgproto3.ErrorResponse {
		for len(names) <= step {
			names = append(names, nil)
		}
		names[step] = append(names[step], name)
		return nil
	}
	r.serve()
	if got := names[len(names)-1]; !slices.Equal(got, []string{pushAfter, durable, "push_plan", "push_insert"}) {
		t.Error(got)
	}
}

// A large one may take longer than others.
func TestALargePushThatFollowsGetsItsTime(t *testing.T) {
	r := upAndResolved(t)
	r.crowd("a", firstRows)
	r.pass()
	var items []string
	for i := range queue.AllowanceRowsFree + 1000 {
		items = append(items, fmt.Sprintf("q/p0/b-%d", i))
	}
	r.push(items...)
	one, other := r.cutReply()
	if len(r.pg.patience) != 1 {
		t.Errorf("the server was told %v", r.pg.patience)
	}
	r.answer(one)
	if r.store.hungAt <= r.now+r.db.config.HungAfter {
		t.Error("it has the time of others")
	}
	r.answer(other)
}

func TestABatchFollowsPushesThatWereGivenUp(t *testing.T) {
	r := upAndResolved(t)
	for i := range firstRows {
		r.pushWithin(100*time.Millisecond, fmt.Sprintf("q/p0/a-%d", i))
	}
	r.pass()
	r.sleep(200 * time.Millisecond)
	second := r.crowd("b", followRows)
	if !r.store.nextSent {
		t.Error("no batch follows")
	}
	r.serve()
	areAll(t, second, "queued")
	r.pg.inOrder(t, "first", "a", "b")
}

// A step whose first statement fails is no void one only because the one before it was one
// that follows.
func TestAFailureAfterwardsIsNotVoid(t *testing.T) {
	r, _, _ := twoInFlight(t)
	r.serve()
	c := r.push("q/p0/c-0")
	r.pg.fail = failOf("push_insert", "40001", 1)
	r.pass()
	r.serve()
	if r.store.state != resting {
		t.Error("it does not wait before it tries again")
	}
	r.sleep(time.Second)
	r.serve()
	c.is("queued")
}

// The lanes of a loop share what they know of partitions, and one may find that there are so
// many new ones that statements are to be planned anew.
func TestWhatOtherLanesFindIsNoStepMore(t *testing.T) {
	r, first, second := twoInFlight(t)
	other := queue.NewBatch(&r.queue, r.hints)
	const n = 40
	for i := range n {
		other.Add(&newCall(t, &r.queue, r.ids, fmt.Sprintf("other/x%d/t", i)).op)
	}
	other.Step(r.now)
	other.Tag(2, n) // all were made, and deleted before they were read
	other.StepDone(nil, r.now)
	if len(other.Step(r.now)) != 4 {
		t.Fatal("it does not ask for them again")
	}
	r.serve()
	areAll(t, append(first, second...), "queued")
}

// Nobody knows whether the first was committed, and the second's answer never comes.
func TestADoubtOutlivesTheConnection(t *testing.T) {
	r, first, _ := twoInFlight(t)
	r.store.work.GiveBack = true
	r.pg.fail = failOf("push_insert", "40003", 1)
	one, _ := r.cutReply()
	r.answer(one)
	r.conn.closedBy(io.EOF)
	r.refuse(errTest)
	if got := first[0].op.Fault.Message; !strings.Contains(got, "may have been stored") {
		t.Error(got)
	}
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
		r.areBothStored(first, second)
		if n := len(r.pg.messages); n != 2+firstRows+followRows {
			t.Errorf("%d messages", n)
		}
		for i := range 100 { // duplicates are looked for first for a while
			r.push(fmt.Sprintf("q/p0/c-%03d", i))
			r.pass()
			r.serve()
		}
		r.two("d", "e")
		r.serve()
		r.pg.inOrder(t, "first", "a", "b", "c", "d", "e")
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
	one, _ := r.cutReply()
	r.answer(one)
	r.conn.closedBy(io.EOF)
	if got := r.store.stats.Unknowns.Load(); got != 1 {
		t.Errorf("%d steps are unknown", got)
	}
	r.open()
	r.serve()
	r.areBothStored(first, second)
}

// A server, or what is in between, that lets the second step through though the first has
// failed: what it says is not believed, and found out anew.
func TestASuccessBehindAFailureIsNotBelieved(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.pg.believes = true
	r.pg.fail = failOf("push_insert", "40001", 1)
	r.answer(r.pg.read(t, &r.sent))
	areAll(t, second, "waits")
	r.sleep(time.Second)
	r.serve()
	areAll(t, append(first, second...), "queued")
	if n := len(r.pg.stored); n != 2+firstRows+followRows {
		t.Errorf("%d are stored", n)
	}
}

func TestASecondThatMayBeStoredIsHandedBackAsThat(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.pg.believes, r.store.work.GiveBack = true, true
	r.pg.fail = failOf("push_insert", "57P03", 1)
	r.answer(r.pg.read(t, &r.sent))
	for i, calls := range [][]*call{first, second} {
		for _, c := range calls {
			if c.op.Fault.Code != queue.Outage || strings.Contains(c.op.Fault.Message, "may have been stored") != (i == 1) {
				t.Fatal(c.op.Fault)
			}
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

func TestEachEndsWithItsTime(t *testing.T) {
	r := upAndResolved(t)
	var both [2][]*call
	for i, name := range []string{"a", "b"} {
		for n := range []int{firstRows, followRows}[i] {
			both[i] = append(both[i], r.pushWithin(time.Duration(i+1)*500*time.Millisecond, fmt.Sprintf("q/p0/%s-%d", name, n)))
		}
		r.pass()
	}
	if !r.store.nextSent {
		t.Fatal("no batch follows")
	}
	for i := range both {
		areAll(t, both[i], "waits")
		r.sleep(500 * time.Millisecond)
		for _, c := range both[i] {
			if c.op.Fault.Code != queue.Unavailable || !strings.Contains(c.op.Fault.Message, "may have been stored") {
				t.Fatal(c.op.Fault)
			}
		}
	}
}

func TestWhatEndsWhileTheConnectionIsLostIsForgotten(t *testing.T) {
	r, first, second := twoInFlight(t)
	r.conn.closedBy(io.EOF)
	r.sleep(2 * time.Second)
	areAll(t, append(first, second...), "unavailable")
	if s := r.store; s.working || s.following || s.stats.InFlightRows.Load() != 0 {
		t.Errorf("working %v, following %v, %d rows", s.working, s.following, s.stats.InFlightRows.Load())
	}
}

func TestTheTimeOfTheSecondBeginsAfterTheFirst(t *testing.T) {
	r, first, second := twoInFlight(t)
	one, other := r.cutReply()
	hung := r.db.config.HungAfter
	r.sleep(hung - 10*time.Millisecond)
	r.answer(one)
	areAll(t, first, "queued")
	r.sleep(100 * time.Millisecond)
	if r.store.state != busy || r.store.stats.Hangs.Load() != 0 {
		t.Fatal("the second counts as hung")
	}
	r.answer(other)
	areAll(t, second, "queued")
}

// A random walk: whatever fails and whenever connections end, each push has one answer, which is
// true; what is queued is stored once; each partition has in their order what one client has
// sent without waiting, and gets back in that order what it gets back.
func TestAWalkOfBatchesThatFollow(t *testing.T) {
	follows := uint64(0)
	for range 25 {
		w := newWalk(t, 20)
		for range 150 {
			w.step()
			w.isSound()
		}
		w.end()
		follows += w.r.store.stats.Follows.Load()
	}
	if follows < 25 {
		t.Errorf("%d batches followed", follows)
	}
}

type walk struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	r      *rig
	calls  []*call
	back   []int // calls that were given back
	depth  int   // of pushes from inside answers
	reply  []byte
	aide   *aide  // the lane's helper, if it has one
	early  []byte // what was answered to that
}

// newWalk is one in which one of at least so many statements fails.
func newWalk(t *testing.T, rate int) *walk {
	w := &walk{t: t, seed: rand.Uint64(), r: up(t)}
	w.random = rand.New(rand.NewPCG(w.seed, 0))
	w.r.store.work.GiveBack = w.random.IntN(2) == 0
	codes := []string{"40001", "40P01", "55P03", "57014", "26000", "22021", "57P03", "40003", "23502", "22P02"}
	rate += w.random.IntN(5 * rate)
	w.r.pg.fail = func(_, _ int, name string) *pgproto3.ErrorResponse {
		switch {
		case w.random.IntN(rate) > 0:
			return nil
		case w.random.IntN(20) == 0:
			return refusalOf("FATAL", "57P01")
		}
		return refusalOf("ERROR", codes[w.random.IntN(len(codes))])
	}
	return w
}

func (w *walk) push() {
	n := len(w.calls)
	name := fmt.Sprintf("q/p%d/t-%06d", n%3, n)
	if w.random.IntN(300) == 0 && n > 3 {
		name = fmt.Sprintf("q/p%d/t-%06d", n%3, w.random.IntN(n/3)*3+n%3) // again
	}
	within := time.Hour
	if w.random.IntN(3) == 0 {
		within = time.Duration(200+w.random.IntN(3000)) * time.Millisecond
	}
	items := []string{name}
	if w.aide != nil { // large ones
		for i := range 20 + w.random.IntN(40) {
			items = append(items, fmt.Sprintf("%s+%d", name, i))
		}
	}
	c := newCall(w.t, &w.r.queue, w.r.ids, items...)
	c.op.Accepted, c.op.Deadline = w.r.now, w.r.now+within
	w.calls = append(w.calls, c)
	c.told = func() {
		if c.op.Fault.Code == queue.Outage {
			w.back = append(w.back, n)
		}
		if w.depth < 3 && w.random.IntN(3) == 0 {
			w.depth++
			w.push()
			w.depth--
		}
	}
	w.r.store.Do(&c.op)
}

func (w *walk) step() {
	r := w.r
	switch w.random.IntN(8) {
	case 0, 1, 2, 3:
		n := 3 * followRows
		if w.aide != nil {
			n = 16
		}
		for range w.random.IntN(n) {
			w.push()
		}
		r.pass()
	case 4, 5:
		w.reply = append(w.reply, r.pg.read(w.t, &r.sent)...)
		if n := len(w.reply); n > 0 && r.store.conn != nil {
			if w.random.IntN(2) == 0 {
				n = w.random.IntN(n) + 1
			}
			now := w.reply[:n]
			w.reply = slices.Clone(w.reply[n:])
			r.answer(now)
		}
	case 6:
		r.sleep(time.Duration(w.random.IntN(100)) * time.Millisecond)
		if w.random.IntN(20) == 0 {
			r.sleep(2 * time.Second)
		}
	case 7:
		if w.random.IntN(10) == 0 {
			r.fails = errTest
		}
		if w.random.IntN(6) == 0 && r.store.conn != nil {
			if w.random.IntN(2) == 0 {
				r.pg.read(w.t, &r.sent) // it is done, and the answer is lost
			}
			r.conn.closedBy(io.EOF)
		}
	}
	w.reconnect()
	if w.aide != nil {
		w.stepOfHelper()
		w.stepOfHelper()
	}
	if w.random.IntN(4) == 0 {
		r.store.Trim()
	}
}

func (w *walk) reconnect() {
	r := w.r
	if r.store.conn != nil {
		return
	}
	r.sent.Reset()
	w.reply = nil
	dialed := func() {
		for r.dials == 0 {
			r.sleep(50 * time.Millisecond)
		}
	}
	if dialed(); w.random.IntN(8) == 0 {
		r.refuse(errTest)
		dialed()
	}
	r.open()
}

// isSound checks what is always so between two events.
func (w *walk) isSound() {
	s := w.r.store
	for what, is := range map[string]bool{
		"what is sent behind is in flight there":        s.nextSent == s.behind.busy() && (!s.nextSent || s.following && s.state == busy && s.failure == nil),
		"a failure waits for what follows":              s.failure == nil || s.state == busy && s.following && s.working,
		"something is in flight while the lane is busy": (s.state == busy || s.state == probing) == s.pipeline.busy(),
		"who is busy works":                             s.state != busy || s.working,
		"nothing stands still":                          s.state != idle || s.armed || !s.following || len(s.next.Ops()) == 0,
		"what is early is in the helper's hands":        s.early == noEarly || s.helper.state == busy || s.helper.state == lent && s.early == stored,
		"who is helped waits for that":                  s.state != helped || s.early != noEarly && s.working,
		"who is down has no connection":                 (s.state == down) == (s.conn == nil),
	} {
		if !is {
			w.t.Fatalf("seed %d: not so: %s", w.seed, what)
		}
	}
}

// end serves the lane until it has nothing left to do, and compares.
func (w *walk) end() {
	r, t := w.r, w.t
	r.pg.fail, r.pg.idles, w.depth = nil, false, 3
	for range 200 {
		w.reconnect()
		w.reply = append(w.reply, r.pg.read(t, &r.sent)...)
		now := w.reply
		w.reply = nil
		r.answer(now)
		if h := w.aide; h != nil && h.conn != nil && !h.conn.gone {
			now := append(w.early, h.read()...)
			w.early = nil
			h.conn.data(now)
			r.pass()
		}
		r.sleep(50 * time.Millisecond)
	}
	if s := r.store; s.gather.held != 0 || s.working || s.following {
		t.Fatalf("seed %d: %d are left", w.seed, s.gather.held)
	}
	places := map[string]int{}
	for i, m := range r.pg.stored {
		if _, twice := places[m.transaction]; twice {
			t.Fatalf("seed %d: %s is stored twice", w.seed, m.transaction)
		}
		places[m.transaction] = i
	}
	var last [3]int
	for i, c := range w.calls {
		it, says := &c.op.Items[0], c.outcome()
		says, _, _ = strings.Cut(says, " ")
		at, stored := places[string(it.TransactionID)]
		mine := stored && r.pg.messages[r.pg.stored[at]] == it.ID
		switch {
		case says == "waits",
			says == "queued" && (!mine || at < last[i%3]),
			says == "duplicate" && !stored,
			says != "queued" && mine && !strings.Contains(c.op.Fault.Message, "may have been stored"):
			t.Fatalf("seed %d: push %d is %q (%s); stored %v, in place %d after %d", w.seed, i, says, c.op.Fault.Message, mine, at, last[i%3])
		case says == "queued":
			last[i%3] = at
		}
	}
	for i, n := range w.back {
		if before := slices.Index(w.back[:i], n-3); slices.Contains(w.back, n-3) && before < 0 {
			t.Fatalf("seed %d: %d was given back before %d", w.seed, n, n-3)
		}
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
	var items []string // of one push: it is in flight whole
	for i := range firstRows {
		items = append(items, fmt.Sprintf("q/p/a-%d", i))
	}
	first := p.start(items...)
	until(t, "a batch is in flight", func() bool { return s.stores[0].Stats().InFlightRows.Load() > 0 })
	crowd("b")
	crowd("c")
	until(t, "another follows", func() bool { return s.stores[0].Stats().Follows.Load() > 0 })
	until(t, "the first is tried again", func() bool {
		ask(t, url, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
		return s.stores[0].Stats().Retries.Load() > 0
	})
	if err := locker.Exec(ctx, "ROLLBACK").Close(); err != nil {
		t.Fatal(err)
	}
	(<-first).is(strings.TrimSpace(strings.Repeat("queued ", firstRows)))
	for _, c := range done {
		(<-c).is("queued")
	}
	stats := s.stores[0].Stats()
	if data, connects := stats.Errors[queue.ClassData].Load(), stats.Connects.Load(); data != 0 || connects != 1 {
		t.Errorf("%d errors, %d connections", data, connects)
	}
	order := ask(t, url, "SELECT string_agg(name, '' ORDER BY first) FROM (SELECT left(transaction_id, 1) AS name, min(seq) AS first FROM queen.messages GROUP BY 1) x")
	if got := string(order[0][0]); got != "fabc" {
		t.Errorf("stored in this order: %s", got)
	}
	apart := ask(t, url, "SELECT count(*)::text FROM queen.messages a JOIN queen.messages b ON a.seq > b.seq WHERE a.transaction_id LIKE 'a-%' AND b.transaction_id LIKE 'b-%'")
	if got := string(apart[0][0]); got != "0" {
		t.Errorf("%s of the second are before one of the first", got)
	}
}
