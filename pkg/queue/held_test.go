package queue

import (
	"strings"
	"testing"
	"time"
)

const asksWho = "push_held"

// heldScript has made the partitions a and b of the queue q.
func heldScript(t testing.TB) *script {
	s := newScript(t)
	s.to("a")
	s.to("b")
	for step := s.b.Step(s.now); step != nil; step = s.b.Step(s.now) {
		s.done(step)
	}
	s.b.Reset()
	return s
}

// to adds a push to some partitions.
func (s *script) to(partitions ...string) *Op {
	s.t.Helper()
	var items []string
	for _, p := range partitions {
		items = append(items, `{"queue":"q","partition":"`+p+`"}`)
	}
	return s.add(`{"items":[` + strings.Join(items, ",") + `]}`)
}

// lock has a transaction lock a partition; 0: nobody holds it.
func (s *script) lock(partition string, transaction int) {
	id := s.m.queues["q"].partitions[partition]
	if s.m.held[id] = transaction; transaction == 0 {
		delete(s.m.held, id)
	}
}

// waited is a push that waits for a lock in vain, and asks who holds it until that is known.
func (s *script) waited() {
	s.t.Helper()
	s.now += s.done(s.step(pushing)).After
	s.expect(s.done(s.step(asksWho)), Verdict{Action: Wait, After: heldSure})
	s.now += heldSure
	s.expect(s.done(s.step(asksWho)), Verdict{})
}

const heldSentence = `another session holds the partition "a" of the queue "q" locked in PostgreSQL; try again in a second`

func TestALockedPartitionHoldsUpNoOther(t *testing.T) {
	s := heldScript(t)
	s.lock("a", 7)
	locked, both, free := s.to("a"), s.to("b", "a"), s.to("b")
	s.waited()
	s.done(s.step(lockFirst))
	s.step("")
	s.expect(statuses(free), "q")
	for _, op := range []*Op{locked, both} {
		s.expect(op.Fault, Fault{Unavailable, heldSentence})
	}
	s.expect([]bool{locked.Items[0].Locked, both.Items[0].Locked, both.Items[1].Locked, free.Items[0].Locked}, []bool{true, false, true, false})
}

func TestWhileAPartitionIsHeldNobodyWaitsForIt(t *testing.T) {
	s := heldScript(t)
	s.lock("a", 7)
	s.to("a")
	s.waited()
	s.step("")
	s.b.Reset()

	locked, free := s.to("a"), s.to("b")
	s.done(s.step(lockFirst)) // b alone, and nobody is asked
	s.step("")
	s.expect(locked.Fault, Fault{Unavailable, heldSentence})
	s.expect(statuses(free), "q")
	s.b.Reset()

	s.now += heldFor
	locked = s.to("a")
	s.expect(s.done(s.step(asksWho)), Verdict{}) // and nobody waits
	s.step("")
	s.expect(locked.Fault, Fault{Unavailable, heldSentence})
	s.b.Reset()

	s.lock("a", 0)
	s.now += heldFor
	freed := s.to("a")
	s.done(s.step(asksWho))
	s.done(s.step(lockFirst))
	s.step("")
	s.expect(statuses(freed), "q")
	s.b.Reset()

	freed = s.to("a")
	s.done(s.step(lockFirst)) // it is as any other
	s.step("")
	s.expect(statuses(freed), "q")
}

// Pushes lock heads too, each for the time of a commit: other processes' do.
func TestAPartitionThatManyLockInTurnIsNotHeld(t *testing.T) {
	s := heldScript(t)
	s.lock("a", 7)
	op := s.to("a")
	s.done(s.step(pushing))
	s.done(s.step(asksWho))
	s.lock("a", 8) // another one's turn
	s.now += heldSure
	s.expect(s.done(s.step(asksWho)), Verdict{})
	s.expect(s.done(s.step(lockFirst)).Action, Wait) // it waits again, and asks again
	s.step(asksWho)
	s.done(s.step(asksWho))
	s.lock("a", 0)
	s.now += heldSure
	s.done(s.step(asksWho))
	s.done(s.step(lockFirst))
	s.step("")
	s.expect(statuses(op), "q")
	s.expect(s.hints.get([]byte("q"), []byte("a")).holder, 0)
}

func TestALockThatIsGoneWhenItIsAskedForIsForgotten(t *testing.T) {
	s := heldScript(t)
	s.lock("a", 7)
	op := s.to("a")
	s.done(s.step(pushing))
	s.lock("a", 0)
	s.expect(s.done(s.step(asksWho)), Verdict{})
	s.done(s.step(lockFirst))
	s.step("")
	s.expect(statuses(op), "q")
}

func TestOnlyALockThatWasWaitedForIsAskedAbout(t *testing.T) {
	for _, code := range []string{"40001", "57014"} {
		s := heldScript(t)
		s.lock("a", 7)
		s.to("a")
		s.step(pushing)
		s.fail(code)
		s.step(pushing)
	}
}

// By whatever plan a push has moved the heads: the next ones cannot meet each other. Where
// lock_timeout is shorter than deadlock_timeout a deadlock is a lock that was waited for in vain.
func TestAfterAPushWasBlockedHeadsAreLockedFirst(t *testing.T) {
	for _, code := range []string{deadlockDetected, lockNotAvailable} {
		s := heldScript(t)
		op := s.to("a", "b")
		s.step(pushing)
		s.expect(s.fail(code).Action, Wait)
		if code == lockNotAvailable {
			s.done(s.step(asksWho)) // it is over by now
		}
		for range lockFirstBatches {
			s.done(s.step(lockFirst))
			s.step("")
			s.expect(statuses(op), "qq")
			s.b.Reset()
			op = s.to("b", "a")
		}
		s.done(s.step(pushing))
	}
}

// A batch may end before it has found out.
func TestWhoHoldsALockIsKnownToTheNextBatch(t *testing.T) {
	s := heldScript(t)
	s.lock("a", 7)
	op := s.to("a")
	op.Deadline = time.Second
	s.done(s.step(pushing))
	s.done(s.step(asksWho))
	s.now = 2 * time.Second
	s.expect(len(s.b.Expire(s.now)), 1)
	s.step("")
	s.b.Reset()
	locked := s.to("a")
	s.expect(s.done(s.step(asksWho)), Verdict{})
	s.step("")
	s.expect(locked.Fault, Fault{Unavailable, heldSentence})
}

func TestWhatIsHeldAndMayBeStoredSaysSo(t *testing.T) {
	s := heldScript(t)
	op := s.to("a")
	s.step(pushing)
	s.b.Unknown()
	s.done(s.step(asking))
	s.lock("a", 7)
	s.waited()
	s.step("")
	s.expect(op.Fault, Fault{Unavailable, strings.Replace(heldSentence, "try again in a second", pushDoubt, 1)})
}
