package longpoll

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// call is a pop on its way. It belongs to the loop of its store; list and what goes with
// it belong to the board.
type call struct {
	store *Store
	op    *queue.Op
	state callState
	gone  bool // its client is gone

	until   time.Duration // wait=true: the end of its time
	place   int           // in store.parked; -1: it is not there
	width   int           // how many candidates it takes
	checked bool          // it has asked what others told
	again   bool          // it has had the group swept for the others' sake
	began   bool          // it has seen, since it was parked last, that its group's beginning is written down
	woke    bool          // the board's: it was woken and not resumed yet
	failed  queue.Fault   // the board's: what it waited for went wrong

	group     *group        // where it looks, held until it is answered; nil: many queues
	queues    []string      // ManyQueues: where to look
	askedAt   time.Duration // and when they were asked for; 0: not yet
	meetings  uint64        // and how many queues had been met then
	partition queue.UUID    // OnePartition: which, once known
	known     bool
	mark      uint32 // of the partition, before the claim

	list          *waiters // the board's
	before, after *call
}

type callState uint8

const (
	free     callState = iota
	asking             // something is under way for it
	claiming           // its op is in the pop lane
	parkedUp           // it waits
)

// widthMax is how many candidates a pop takes, if it has not asked for more partitions,
// when those before were all in vain.
const widthMax = 64

// pop takes a pop.
func (s *Store) pop(op *queue.Op) {
	c := s.call()
	c.op = op
	c.width = max(op.Pop.Partitions, 1)
	if op.Pop.Wait {
		c.until = op.Accepted + op.Pop.Timeout
	}
	op.Wrap(c)
	s.attempt(c)
}

func (s *Store) call() *call {
	if n := len(s.calls); n > 0 {
		c := s.calls[n-1]
		s.calls = s.calls[:n-1]
		return c
	}
	return &call{store: s, place: -1}
}

// callsKept bounds the free list.
const callsKept = 1024

func (s *Store) release(c *call) {
	*c = call{store: s, place: -1}
	if len(s.calls) < callsKept {
		s.calls = append(s.calls, c)
	}
}

// attempt looks for messages.
func (s *Store) attempt(c *call) {
	if c.gone {
		s.finish(c)
		return
	}
	op, b, now := c.op, s.board, s.sv.Now()
	op.Again()
	op.Pop.Paused = false
	if !s.begun(c, now) {
		return
	}
	b.stats.Attempts.Add(1)
	b.mu.Lock()
	if b.flags.Pop {
		s.pause(c)
		return
	}
	if b.position == "" || !b.flags.Known {
		// What others tell is heard from some moment on. Whoever looks before it could wait
		// for what was told in between. And pops may have been stopped before we began.
		b.unlock()
		s.listen(c)
		return
	}
	if op.Pop.Scope == queue.ManyQueues {
		b.unlock()
		s.attemptMany(c, now)
		return
	}
	g := c.group
	if g == nil {
		if g = b.group(string(op.Pop.Queue), string(op.Pop.Group), now); g != nil {
			c.group = g
			g.users++
		}
	}
	swept, sweep := false, false
	if g != nil {
		g.usedAt, swept = now, g.swept
		if op.Pop.Scope == queue.OneQueue {
			op.Pop.Tries = b.take(g, c.width, op.Pop.Tries)
			// What is not on the board must not wait until the board is empty.
			if sweep = len(op.Pop.Tries) > 0 && !swept && !g.sweeping && (g.sweptAt == 0 || now-g.sweptAt > sweepAside); sweep {
				b.beginSweep(g)
			}
		} else {
			c.mark = c.marked()
		}
	}
	b.unlock()
	if sweep {
		b.stats.Sweeps.Add(1)
		s.slice(g, queue.UUID{})
	}
	switch {
	case g == nil:
		s.refuse(c)
	case op.Pop.Scope == queue.OnePartition || len(op.Pop.Tries) > 0:
		s.claim(c, now)
	case !swept:
		s.sweep(c, g)
	default:
		s.nothing(c)
	}
}

// sweepAside is how long after its last sweep a group is swept again for whose pops the
// board still has something.
const sweepAside = time.Second

// marked is the count that says whether something happened to c's partition.
func (c *call) marked() uint32 {
	n := *c.group.nameMark(c.op.Pop.Partition)
	if c.known {
		n += *c.group.mark(c.partition)
	}
	return n
}

// claim sends c to PostgreSQL.
func (s *Store) claim(c *call, now time.Duration) {
	c.state = claiming
	c.op.Deadline = s.deadline(c, now)
	s.lanes.Pop.Do(c.op)
}

// graceful is how much longer than a pop's time an attempt may take that is under way
// when it is over: most are answered by then.
const graceful = 40 * time.Millisecond

// deadline is when an attempt that begins now is given up.
func (s *Store) deadline(c *call, now time.Duration) time.Duration {
	if c.until == 0 {
		return now + s.limit
	}
	return min(now+s.limit, max(c.until, now)+graceful)
}

// OpDone implements queue.Completer: the claim was answered.
func (c *call) OpDone(op *queue.Op) {
	s := c.store
	b, now := s.board, s.sv.Now()
	c.state = asking
	b.mu.Lock()
	switch {
	case op.Fault.Code != queue.OK:
		b.restore(op)
	case op.Pop.Scope != queue.OnePartition:
		b.resolve(op.Pop.Tries, string(op.Pop.Group), op.Pop.AutoAck, now)
	case len(op.Pop.Tries) > 0:
		t, pushed := &op.Pop.Tries[0], c.marked() != c.mark
		b.resolveOne(c.group, t, op.Pop.AutoAck, pushed, pushed || !c.known || t.Partition != c.partition, now)
	}
	if c.group != nil {
		b.kick(c.group)
	}
	b.unlock()
	s.arm()
	switch {
	case op.Fault.Code != queue.OK:
		s.failed(c, op.Fault)
	case op.Pop.Count > 0 || op.Pop.Claimed > 0:
		if len(op.Pop.LeaseID) > 0 && (c.gone || op.Pop.Client != nil && op.Pop.Client.Gone()) {
			s.giveBack(op)
		}
		s.finish(c)
	default:
		b.stats.Vain.Add(1)
		c.width = max(min(2*c.width, widthMax), c.width)
		c.askedAt = 0 // what it tried may be none of its queues any more
		switch {
		case op.Pop.Scope == queue.OnePartition:
			s.nothingThere(c)
		case c.until != 0 && now >= c.until+graceful:
			s.finish(c) // a claim may end late, but none begins then
		default:
			s.attempt(c)
		}
	}
}

// restore puts what was taken for a claim that failed back on the board.
func (b *Board) restore(op *queue.Op) {
	for i := len(op.Pop.Tries) - 1; i >= 0; i-- {
		t := &op.Pop.Tries[i]
		if g := b.groups[queue.Group{Queue: t.Queue, Name: string(op.Pop.Group)}]; g != nil {
			if e := g.entries[t.Partition]; e.takenFor(t) {
				b.putBack(e)
			}
		}
	}
}

// nothing: the board has nothing for c, and has been swept.
func (s *Store) nothing(c *call) {
	switch {
	case c.waits():
		s.park(c)
	case c.checked:
		s.finish(c)
	default:
		s.check(c)
	}
}

// waits says whether c may wait for messages.
func (c *call) waits() bool {
	return c.op.Pop.Wait && !c.gone && !c.store.closed && c.until > c.store.sv.Now()
}

// park lets c wait, unless something has come meanwhile.
func (s *Store) park(c *call) {
	b := s.board
	b.mu.Lock()
	g := c.group
	switch {
	case b.stats.Parked.Load() >= int64(b.limits.ParkedMax):
		b.unlock()
		s.refuse(c)
		return
	case g.first != nil || !g.swept || b.flags.Pop:
		b.unlock()
		s.attempt(c)
		return
	}
	b.list(&g.waiting, c)
	c.state, c.began = parkedUp, false
	b.unlock()
	s.rest(c)
}

// nothingThere: the claim of one partition found nothing in it.
func (s *Store) nothingThere(c *call) {
	op, b := c.op, s.board
	if !c.waits() {
		s.finish(c)
		return
	}
	if is := len(op.Pop.Tries) > 0; is != c.known || is && op.Pop.Tries[0].Partition != c.partition {
		// Now that it is known which partition it is, what happens to it can be seen; what
		// happened until now was not. It may have been deleted, or made anew.
		if c.known = is; is {
			c.partition = op.Pop.Tries[0].Partition
		}
		s.attempt(c)
		return
	}
	b.mu.Lock()
	g := c.group
	switch {
	case b.stats.Parked.Load() >= int64(b.limits.ParkedMax):
		b.unlock()
		s.refuse(c)
		return
	case c.marked() != c.mark || b.flags.Pop:
		b.unlock()
		s.attempt(c)
		return
	}
	var w *waiters
	if c.known {
		b.renamed(g, c.partition, op.Pop.Partition)
		if g.named == nil {
			g.named = map[string]queue.UUID{}
		}
		g.named[string(op.Pop.Partition)] = c.partition
		w = waitersOf(&g.byID, c.partition)
	} else {
		w = waitersOf(&g.byName, string(op.Pop.Partition))
	}
	b.list(w, c)
	c.state, c.began = parkedUp, false
	b.unlock()
	s.rest(c)
}

// waitersOf returns the list of a key, made if need be.
func waitersOf[K comparable](lists *map[K]*waiters, key K) *waiters {
	if *lists == nil {
		*lists = map[K]*waiters{}
	}
	w := (*lists)[key]
	if w == nil {
		w = &waiters{}
		(*lists)[key] = w
	}
	return w
}

// resume goes on with a call that was woken.
func (s *Store) resume(c *call) {
	if c.state != parkedUp || !c.woke {
		return // answered meanwhile
	}
	s.unrest(c)
	c.state, c.woke = asking, false
	if c.failed.Code != queue.OK {
		f := c.failed
		c.failed = queue.Fault{}
		s.failed(c, f)
		return
	}
	if c.gone = c.gone || c.op.Pop.Client != nil && c.op.Pop.Client.Gone(); c.gone {
		s.pass(c)
	}
	s.attempt(c)
}

// pass hands on what c was woken for.
func (s *Store) pass(c *call) {
	b := s.board
	b.mu.Lock()
	if c.group != nil {
		b.kick(c.group)
	}
	b.unlock()
}

// timeout answers a pop whose time is over.
func (s *Store) timeout(c *call) {
	s.dismiss(c)
	c.op.Pop.Expired = true
	s.board.stats.Expired.Add(1)
	s.finish(c)
}

// dismiss takes a parked call out of all lists.
func (s *Store) dismiss(c *call) {
	b := s.board
	s.unrest(c)
	b.mu.Lock()
	b.unpark(c)
	if c.woke { // what it was woken for is for another
		c.woke = false
		if c.group != nil {
			b.kick(c.group)
		}
	}
	b.unlock()
	for i, w := range s.stalled {
		if w == c {
			s.stalled = append(s.stalled[:i], s.stalled[i+1:]...)
			break
		}
	}
	c.state = asking
}

// Cancel implements queue.Store: the client is gone.
func (s *Store) Cancel(op *queue.Op) {
	c, ok := op.Done.(*call)
	if !ok {
		return
	}
	c.gone = true
	if c.state == parkedUp {
		s.dismiss(c)
		s.finish(c)
	}
}

// finish answers.
func (s *Store) finish(c *call) {
	op := c.op
	if c.op.Pop.Count == 0 && op.Fault.Code == queue.OK && op.Pop.Wait && !op.Pop.Expired && op.Pop.Claimed == 0 && c.until <= s.sv.Now() {
		op.Pop.Expired = true
	}
	if c.group != nil {
		s.board.mu.Lock()
		c.group.users--
		s.board.mu.Unlock()
	}
	s.release(c)
	op.Unwrap()
	op.Done.OpDone(op)
}

// refuse answers a pop for which there is no room.
func (s *Store) refuse(c *call) {
	s.board.stats.Refused.Add(1)
	c.op.Fault = queue.Fault{Code: queue.Overloaded, Message: "too many pops wait already, try again in a second"}
	s.finish(c)
}

// stall keeps a pop until PostgreSQL is back, or less busy, or its time is over: a client
// that hears of trouble at once would only ask again at once.
func (s *Store) stall(c *call) {
	c.state = parkedUp
	s.stalled = append(s.stalled, c)
	s.rest(c)
}

// recovered: PostgreSQL answers again.
func (s *Store) recovered() {
	list := s.stalled
	s.stalled = nil
	for _, c := range list {
		c.woke = true
		s.resume(c)
	}
}
