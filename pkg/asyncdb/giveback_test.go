package asyncdb

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/queue"
)

// giver is a rig whose lane gives back what PostgreSQL cannot take, and notes in which
// order the pushes came to their ends.
type giver struct {
	*rig
	order []string
	calls []*call
}

// newGiver returns one that is connecting, upGiver one that is connected.
func newGiver(t testing.TB, change ...func(*Config)) *giver {
	g := &giver{rig: newRig(t, change...)}
	g.store.work.GiveBack = true
	return g
}

func upGiver(t testing.TB, change ...func(*Config)) *giver {
	g := newGiver(t, change...)
	g.open()
	return g
}

// note pushes one message, and has its end noted. then runs inside its completion.
func (g *giver) note(name string, then ...func()) *call {
	return g.noteWithin(2*time.Second, name, then...)
}

func (g *giver) noteWithin(d time.Duration, name string, then ...func()) *call {
	g.t.Helper()
	c := newCall(g.t, &g.queue, g.ids, "q/p/"+name)
	c.op.Accepted, c.op.Deadline = g.now, g.now+d
	g.calls = append(g.calls, c)
	c.told = func() {
		g.order = append(g.order, name)
		for _, f := range then {
			f()
		}
	}
	g.store.Do(&c.op)
	return c
}

// gave checks that all pushes that were noted were given back, once each and in this order.
func (g *giver) gave(want ...string) {
	g.t.Helper()
	if !slices.Equal(g.order, want) {
		g.t.Errorf("given back in the order %v, not %v", g.order, want)
	}
	for _, c := range g.calls {
		c.is("outage")
	}
	if s := g.store; s.gather.held != 0 || s.gather.heldBytes != 0 || s.gather.waiting() != 0 || s.working {
		g.t.Errorf("the lane still holds something: %d ops", s.gather.held)
	}
	if n := g.store.Stats().WaitingOps.Load(); n != 0 {
		g.t.Errorf("%d ops wait, says the gauge", n)
	}
}

// inFlight has two pushes in flight, in their push step, and two that wait.
func (g *giver) inFlight() {
	g.t.Helper()
	g.note("1")
	g.note("2")
	g.pass()
	g.answer(g.pg.read(g.t, &g.sent)) // resolved
	g.note("3")
	g.note("4")
	g.pass()
}

func (g *giver) sentences(want ...string) {
	g.t.Helper()
	for i, c := range g.calls {
		if !strings.Contains(c.op.Fault.Message, want[min(i, len(want)-1)]) {
			g.t.Errorf("push %d hears %q, not %q", i+1, c.op.Fault.Message, want[min(i, len(want)-1)])
		}
	}
}

const maybe = "may have been stored"

func TestAllIsGivenBackWhenNobodyAnswersTheDoor(t *testing.T) {
	g := newGiver(t)
	g.note("1")
	g.note("2")
	g.pass()
	g.refuse(errTest)
	g.gave("1", "2")
	g.sentences("PostgreSQL is away")
	g.note("3") // known to be away
	g.gave("1", "2", "3")
	for _, c := range g.calls {
		if strings.Contains(c.op.Fault.Message, maybe) {
			t.Errorf("nothing was sent, and the push hears %q", c.op.Fault.Message)
		}
	}
	g.open()
	back := g.push("q/p/5")
	g.pass()
	g.serve()
	back.is("queued")
}

func TestAllIsGivenBackWhenTheConnectionIsLostAndNoneIsToBeHad(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.conn.closedBy(errTest)
	g.pass()
	for _, c := range g.calls {
		c.is("waits") // the next connection may be there in a moment
	}
	g.refuse(errTest)
	g.gave("1", "2", "3", "4")
	g.sentences(maybe, maybe, "PostgreSQL is away", "PostgreSQL is away")
}

func TestAllIsGivenBackWhenTheServerHangs(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.sleep(g.db.config.HungAfter + 10*time.Millisecond)
	g.gave("1", "2", "3", "4")
	g.sentences(maybe, maybe, "PostgreSQL is away", "PostgreSQL is away")
	if g.store.Stats().Hangs.Load() != 1 {
		t.Error("no hang is counted")
	}
}

func TestAllIsGivenBackWhenTheServerSaysThatItCannot(t *testing.T) {
	for _, code := range []string{"57P03", "25006", "53100", "53300"} {
		g := upGiver(t)
		g.inFlight()
		g.pg.fail = func(int, int, string) *pgproto3.ErrorResponse { return refusalOf("ERROR", code) }
		g.answer(g.pg.read(t, &g.sent))
		g.gave("1", "2", "3", "4")
		g.sentences("PostgreSQL is away")
		for _, c := range g.calls {
			if strings.Contains(c.op.Fault.Message, maybe) {
				t.Errorf("%s: it was rolled back, and the push hears %q", code, c.op.Fault.Message)
			}
		}
		// A connection that is there again is tried, and gives back what fails on it.
		g.open()
		g.note("5")
		g.pass()
		g.answer(g.pg.read(t, &g.sent))
		g.gave("1", "2", "3", "4", "5")
	}
}

func TestAllIsGivenBackWhenTheServerIsToldToStop(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.answer(encode(refusalOf("FATAL", "57P01")))
	g.refuse(errTest)
	g.gave("1", "2", "3", "4")
	g.sentences(maybe, maybe, "PostgreSQL is away", "PostgreSQL is away")
}

func TestALaneThatIsDownForHalfTheDeadlineGivesAllBack(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.conn.closedBy(errTest)
	g.pass()
	g.sleep(g.db.config.FailoverTimeout/2 - 50*time.Millisecond)
	for _, c := range g.calls {
		c.is("waits")
	}
	g.sleep(100 * time.Millisecond)
	g.gave("1", "2", "3", "4")
	g.note("5") // nor does what comes then
	g.gave("1", "2", "3", "4", "5")
}

// Also what came when the lane was down already, and with nothing after it that would
// push it on.
func TestAPushThatComesToALaneThatIsDownDoesNotWaitForItsDeadline(t *testing.T) {
	g := upGiver(t)
	g.conn.closedBy(errTest)
	g.pass()
	g.sleep(100 * time.Millisecond)
	g.noteWithin(10*time.Second, "1")
	g.pass()
	g.sleep(g.db.config.FailoverTimeout / 2)
	g.gave("1")
}

func TestADeadlineThatComesWhileDownGivesAllBack(t *testing.T) {
	g := upGiver(t)
	g.note("1")
	g.pass()
	g.answer(g.pg.read(t, &g.sent))
	g.noteWithin(300*time.Millisecond, "2")
	g.note("3")
	g.pass()
	g.conn.closedBy(errTest)
	g.pass()
	g.sleep(200 * time.Millisecond)
	for _, c := range g.calls {
		c.is("waits")
	}
	g.sleep(150 * time.Millisecond)
	g.gave("1", "2", "3") // all of them, or the second would overtake the first
}

func TestALaneThatGetsAnotherConnectionAtOnceGivesNothingBack(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.conn.closedBy(errTest)
	g.open()
	g.serve()
	for _, c := range g.calls {
		c.is("queued")
	}
	if want := []string{"1", "2", "3", "4"}; !slices.Equal(g.order, want) {
		t.Errorf("answered in the order %v", g.order)
	}
}

// What a push's end brings forth at once (the next request of its connection) stands
// behind all that are given back with it.
func TestNoneOvertakesWhatIsGivenBack(t *testing.T) {
	f := func(name string, end func(g *giver)) {
		t.Helper()
		g := upGiver(t)
		g.note("1", func() { g.note("5", func() { g.note("7") }) })
		g.note("2", func() { g.note("6") })
		g.pass()
		g.answer(g.pg.read(t, &g.sent))
		g.note("3")
		g.note("4")
		g.pass()
		end(g)
		g.pass()
		g.sleep(10 * time.Millisecond)
		if t.Failed() {
			t.Fatal(name)
		}
		g.gave("1", "2", "3", "4", "5", "6", "7")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	f("a hang", func(g *giver) { g.sleep(g.db.config.HungAfter + 10*time.Millisecond) })
	f("a server that cannot", func(g *giver) {
		g.pg.fail = func(int, int, string) *pgproto3.ErrorResponse { return refusalOf("ERROR", "57P03") }
		g.answer(g.pg.read(t, &g.sent))
	})
	f("no connection", func(g *giver) {
		g.conn.closedBy(errTest)
		g.refuse(errTest)
	})
	f("half the deadline", func(g *giver) {
		g.conn.closedBy(errTest)
		g.pass()
		g.sleep(g.db.config.FailoverTimeout/2 + 100*time.Millisecond)
	})
}

// A push that comes when half the deadline is over, before the timer has said so.
func TestAPushThatFindsTheLaneAwayStandsBehindThoseItHolds(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.conn.closedBy(errTest)
	g.pass()
	g.now += g.db.config.FailoverTimeout/2 + 100*time.Millisecond // the loop was busy; no timer fired
	g.note("5")
	if len(g.order) > 0 {
		t.Errorf("%v ended at once", g.order)
	}
	g.pass()
	g.gave("1", "2", "3", "4", "5")
}

// The same, and the connection comes in the very moment: then all are stored.
func TestAConnectionInTheLastMomentTakesAll(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.conn.closedBy(errTest)
	g.pass()
	g.now += g.db.config.FailoverTimeout/2 + 100*time.Millisecond
	g.note("5")
	g.open()
	g.serve()
	for _, c := range g.calls {
		c.is("queued")
	}
	if want := []string{"1", "2", "3", "4", "5"}; !slices.Equal(g.order, want) {
		t.Errorf("answered in the order %v", g.order)
	}
}

// What a batch has decided before the outage stays decided.
func TestWhatWasStoredBeforeIsNotGivenBack(t *testing.T) {
	g := upGiver(t)
	g.pg.poison = map[string]string{"bad": "22P02"}
	a, bad, c := g.note("a"), g.note("bad"), g.note("c")
	g.pass()
	for range 20 { // the batch is halved; then the server goes away
		if a.done > 0 {
			break
		}
		g.answer(g.pg.read(t, &g.sent))
	}
	a.is("queued")
	g.pg.fail = func(int, int, string) *pgproto3.ErrorResponse { return refusalOf("ERROR", "57P03") }
	g.answer(g.pg.read(t, &g.sent))
	for _, c := range []*call{bad, c} {
		if got := c.outcome(); got != "outage" && got != "failed" {
			t.Errorf("a push is %q", got)
		}
	}
	a.is("queued")
	c.is("outage")
}

func TestWithoutGiveBackOpsWait(t *testing.T) {
	g := upGiver(t)
	g.store.work.GiveBack = false
	g.inFlight()
	g.conn.closedBy(errTest)
	g.refuse(errTest)
	for _, c := range g.calls {
		c.is("waits")
	}
	g.push("q/p/5").is("unavailable")
	g.open()
	g.serve()
	for _, c := range g.calls {
		c.is("queued")
	}
	g = upGiver(t)
	g.store.work.GiveBack = false
	g.db.hung(g.now + 1)
	g.now += 10
	a := g.push("q/p/1")
	g.pass()
	g.serve()
	a.is("queued")
}

// Another lane's server hangs: an idle lane asks its own for a sign of life before it
// takes anything.
func TestAnIdleLaneThatIsSuspectedAsksFirst(t *testing.T) {
	g := upGiver(t)
	g.sleep(100 * time.Millisecond)
	if g.store.Away() {
		t.Error("it is away, it says")
	}
	g.db.hung(g.now)
	if !g.store.Away() {
		t.Error("it is not suspected")
	}
	g.note("1")
	g.gave("1")
	g.note("2") // while it asks: that may take as long as a hang
	g.gave("1", "2")
	if !g.store.Away() {
		t.Error("while it asks it is not suspected")
	}
	g.pass()
	g.serve() // the sign of life
	if g.store.Away() {
		t.Error("it has heard from its server and is still suspected")
	}
	back := g.push("q/p/3")
	g.pass()
	g.serve()
	back.is("queued")

	// And if its server does hang.
	g.sleep(100 * time.Millisecond)
	g.db.hung(g.now)
	g.note("4")
	g.sleep(g.db.config.HungAfter + 10*time.Millisecond)
	g.note("5")
	g.gave("1", "2", "4", "5")
	if g.store.Stats().Hangs.Load() != 1 {
		t.Error("no hang is counted")
	}
}

// A lane that asks for a sign of life as it does now and then, and has taken a push
// meanwhile, lets none overtake that one.
func TestASuspectedLaneThatHoldsSomethingTakesMore(t *testing.T) {
	g := upGiver(t)
	g.sleep(g.db.config.ProbeAfter + 10*time.Millisecond)
	if g.store.state != probing {
		t.Fatal("it does not probe")
	}
	a := g.note("1")
	g.db.hung(g.now)
	b := g.note("2")
	g.pass()
	a.is("waits")
	b.is("waits")
	g.serve()
	a.is("queued")
	b.is("queued")
}

func TestALaneThatIsClosedGivesNothingBackTwice(t *testing.T) {
	g := upGiver(t)
	g.inFlight()
	g.store.closing = true
	g.conn.closedBy(errTest)
	g.refuse(errTest)
	g.gave("1", "2", "3", "4")
	select {
	case <-g.store.end:
	default:
		t.Error("it holds nothing and is not closed")
	}
	g.push("q/p/5").is("unavailable")
	g.sleep(5 * time.Second)
}

// Random walks: whatever happens, every push ends once, and of those that are given back
// or stored none overtakes another.
func TestGivingBackKeepsTheOrderWhateverHappens(t *testing.T) {
	for seed := range 300 {
		g := newGiver(t)
		s := walker{g: g, random: uint64(seed)*2654435761 + 1}
		s.other.store = newRig(t).store
		s.other.seats.take(&newCall(t, &g.queue, g.ids, "q/p/any").op)
		s.other.seats.settle()
		g.store.work.Turns = seed%2 == 1
		g.db.turns.lanes.Store(2)
		for range 60 {
			s.step()
		}
		s.settle()
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, strings.Join(s.did, ", "))
		}
	}
}

type walker struct {
	g      *giver
	random uint64
	n      int
	moves  int

	other    turn // of a lane that may be in the way of everything
	inTheWay bool

	did []string
}

func (s *walker) chance(n int) int {
	s.random = s.random*6364136223846793005 + 1442695040888963407
	return int(s.random>>33) % n
}

func (s *walker) step() {
	g := s.g
	say := func(what string) { s.did = append(s.did, what) }
	switch s.chance(13) {
	case 0, 1, 2:
		s.n++
		name := fmt.Sprint(s.n)
		say("push " + name)
		// Deadlines rise, as they do on a loop.
		g.noteWithin(2*time.Second, name)
	case 3:
		say("pass")
		g.pass()
	case 4:
		say("answer")
		if g.store.conn != nil {
			if reply := g.pg.read(g.t, &g.sent); len(reply) > 0 {
				g.answer(reply)
			}
		}
	case 5:
		say("serve")
		if g.store.conn != nil {
			g.pass()
			g.serve()
		}
	case 6:
		say("lose")
		if c := g.store.conn; c != nil {
			if s.chance(2) == 0 {
				g.pg.read(g.t, &g.sent) // it was done, and the answer is lost
			}
			c.closedBy(errTest)
		}
	case 7:
		say("refuse")
		if g.dials > 0 {
			g.dials--
			g.store.dialFailed(errTest)
		}
	case 8:
		say("open")
		if g.dials > 0 {
			g.open()
		}
	case 9:
		d := time.Duration(s.chance(800)) * time.Millisecond
		say("sleep " + d.String())
		g.sleep(d)
	case 10:
		say("hung elsewhere")
		g.db.hung(g.now)
	case 11:
		say("moved")
		s.moves++
		g.elsewhere(fmt.Sprint("server ", s.moves), s.moves)
	case 12:
		if s.inTheWay = !s.inTheWay; s.inTheWay {
			say("another lane is in the way")
			g.db.turns.join(&s.other, g.now)
		} else {
			say("it is not")
			g.db.turns.leave(&s.other, g.now)
		}
	}
}

// settle brings the server back, and checks what came of it all.
func (s *walker) settle() {
	g := s.g
	if s.inTheWay {
		g.db.turns.leave(&s.other, g.now)
	}
	g.pass()
	for range 100 {
		if g.store.conn == nil {
			g.open()
		}
		g.serve()
		g.sleep(50 * time.Millisecond)
		if g.store.gather.held == 0 {
			break
		}
	}
	// A push that is answered 503 says so; all others in the order in which they came.
	if n := len(g.db.turns.line); n != 0 {
		g.t.Errorf("%d lanes stand in line, and nothing is to be sent", n)
	}
	last, byEnd := 0, map[string]*call{}
	for i, c := range g.calls {
		if c.done != 1 {
			g.t.Errorf("push %d ended %d times", i+1, c.done)
		}
		byEnd[fmt.Sprint(i+1)] = c
	}
	for _, name := range g.order {
		c := byEnd[name]
		if c.op.Fault.Code == queue.Unavailable || c.op.Fault.Code == queue.Overloaded {
			continue
		}
		var n int
		_, _ = fmt.Sscan(name, &n)
		if n < last {
			g.t.Errorf("push %d ended after push %d", n, last)
		}
		last = n
	}
}
