package longpoll

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// ask is a question to PostgreSQL that no client asked. It belongs to its store's loop.
type ask struct {
	op    queue.Op
	store *Store
	then  func(op *queue.Op) // op is valid during the call
}

// OpDone implements queue.Completer.
func (a *ask) OpDone(op *queue.Op) {
	then := a.then
	a.then = nil
	then(op)
	op.Reset()
	if len(a.store.asks) < callsKept {
		a.store.asks = append(a.store.asks, a)
	}
}

// ask sends a question; set fills it in.
func (s *Store) ask(set func(op *queue.Op), then func(op *queue.Op)) {
	var a *ask
	if n := len(s.asks); n > 0 {
		a = s.asks[n-1]
		s.asks = s.asks[:n-1]
	} else {
		a = &ask{store: s}
	}
	a.then = then
	op := &a.op
	op.Verb, op.Done = queue.Watch, a
	op.Deadline = s.sv.Now() + s.limit
	set(op)
	if op.Verb == queue.Watch {
		s.lanes.Watch.Do(op)
	} else {
		s.lanes.Ack.Do(op)
	}
}

// askFor asks what c waits for: no longer than c has time. then is called with the answer,
// unless it failed; c has heard that.
func (s *Store) askFor(c *call, set, then func(op *queue.Op)) {
	c.state = asking
	s.ask(func(op *queue.Op) {
		op.Deadline = s.deadline(c, s.sv.Now())
		set(op)
	}, func(op *queue.Op) {
		if op.Fault.Code != queue.OK {
			s.failed(c, op.Fault)
			return
		}
		then(op)
	})
}

// giveBack releases the lease of a pop whose client is gone.
func (s *Store) giveBack(pop *queue.Op) {
	lease := append([]byte(nil), pop.Pop.LeaseID...)
	s.ask(func(op *queue.Op) {
		op.Verb = queue.Release
		op.Lease.ID = lease
	}, func(op *queue.Op) {
		b := s.board
		b.mu.Lock()
		if op.Fault.Code == queue.OK {
			b.stats.Released.Add(1)
			b.learnFreed(op.Freed)
		}
		b.unlock()
	})
}

// sweepRest is how long a large group is left alone after a sweep, for each slice beyond
// the first: what others push into it is then found by what they tell, a moment later.
const sweepRest = 10 * time.Millisecond

// check asks, for c, what others told: it has found nothing and is about to say so.
func (s *Store) check(c *call) {
	b := s.board
	c.checked = true
	b.stats.Checks.Add(1)
	s.askFor(c, func(op *queue.Op) {
		op.Watch.Kind, op.Watch.Process = queue.WatchCheck, b.self
		if c.group != nil {
			op.Watch.Empty = append(op.Watch.Empty, c.group.Group)
		}
		b.mu.Lock()
		op.Watch.Since = b.position
		b.mu.Unlock()
	}, func(op *queue.Op) {
		b.mu.Lock()
		b.heard(&op.Watch)
		if b.others && !c.again {
			// What others have pushed they tell within a moment; he asks now.
			for _, g := range b.groupsOf(c) {
				if s.sv.Now()-g.sweptAt >= time.Duration(g.slices-1)*sweepRest {
					c.again = true
					g.swept = false
				}
			}
		}
		b.unlock()
		s.arm()
		s.attempt(c)
	})
}

// listen begins to hear what others tell, and then looks for c.
func (s *Store) listen(c *call) {
	b := s.board
	b.mu.Lock()
	set := b.flagsSet
	b.mu.Unlock()
	s.askFor(c, func(op *queue.Op) {
		op.Watch.Kind, op.Watch.Process = queue.WatchCheck, b.self
	}, func(op *queue.Op) {
		b.heardFlags(op.Watch.Flags, set)
		b.mu.Lock()
		b.heard(&op.Watch)
		b.unlock()
		s.attempt(c)
	})
}

// heard takes what others told.
func (b *Board) heard(w *queue.WatchRequest) {
	if w.Since != "" || b.position == "" {
		// All that was told between the two was heard. An answer that has heard nothing,
		// because it was asked to begin, must not move one that hears already.
		b.position = w.Snapshot
	}
	if w.Others && !b.others {
		// They are there, and were perhaps before this process knew: what it did meanwhile it
		// has not told.
		b.told(everything)
		b.active.Store(true)
	}
	b.others = w.Others
	b.stats.Heard.Add(uint64(len(w.Heard)))
	for i := range w.Heard {
		switch t := &w.Heard[i]; {
		case t.Group == "":
			var name []byte
			if t.Name != "" {
				name = []byte(t.Name)
			}
			b.changed(t.Queue, t.Partition, name)
		case *t == everything:
			b.allChanged()
		case t.Group == everyGroup && t.Partition == queue.UUID{}:
			b.queueChanged(t.Queue)
		default:
			b.freed(t.Queue, t.Group, t.Partition, true)
		}
	}
}

// sweep has c wait until the group is swept, or something is found on the way.
func (s *Store) sweep(c *call, g *group) {
	b := s.board
	b.mu.Lock()
	if g.swept || g.first != nil {
		b.unlock()
		s.attempt(c)
		return
	}
	c.state = parkedUp
	b.list(&g.sweepers, c)
	start := !g.sweeping
	if start {
		b.beginSweep(g)
	}
	b.unlock()
	if c.op.Pop.Wait {
		s.rest(c)
	}
	if start {
		b.stats.Sweeps.Add(1)
		s.slice(g, queue.UUID{})
	}
}

// A sweep for which somebody waits has slices of so many partitions. Mostly he has what he
// wants after the first, which has fewer; and fewer still when many groups are swept at
// once, as when hundreds are new: then the order among the first that are found is that of
// part of the queue.
const (
	slicePartitions = 4000
	firstPartitions = 1000
	crowdPartitions = 100
	crowdSweeps     = 16 // more than these are many
)

func (b *Board) beginSweep(g *group) {
	g.sweeping, g.lost, g.slices = true, false, 0
	b.sweeps.Add(1)
}

func (b *Board) endSweep(g *group) {
	g.sweeping = false
	b.sweeps.Add(-1)
}

// slicePartitions is how many partitions the slice of a sweep has that begins after one.
func (b *Board) slicePartitions(after queue.UUID) int {
	switch {
	case after != queue.UUID{}:
		return slicePartitions
	case b.sweeps.Load() > crowdSweeps:
		return crowdPartitions
	}
	return firstPartitions
}

// slice asks for one slice of a sweep, and then for the next.
func (s *Store) slice(g *group, after queue.UUID) {
	b := s.board
	b.stats.Slices.Add(1)
	partitions := b.slicePartitions(after)
	b.mu.Lock()
	since := g.marks
	b.mu.Unlock()
	s.ask(func(op *queue.Op) {
		w := &op.Watch
		w.Kind, w.Group, w.After, w.Partitions = queue.WatchSweep, g.Group, after, partitions
	}, func(op *queue.Op) {
		now := s.sv.Now()
		b.mu.Lock()
		if op.Fault.Code != queue.OK {
			b.endSweep(g)
			for g.sweepers.first != nil {
				g.sweepers.first.failed = op.Fault
				b.wake(g.sweepers.first)
			}
			b.unlock()
			return
		}
		b.found(g, op.Watch.Pending, &since, now)
		g.slices++
		if !op.Watch.More {
			b.endSweep(g)
			g.swept, g.sweptAt, g.slow = !g.lost, now, queue.UUID{}
			b.wakeAll(&g.sweepers)
		}
		b.unlock()
		s.arm()
		if op.Watch.More {
			s.slice(g, op.Watch.Next)
		}
	})
}

// queuesFor is how long the answer to which queues a pop of many means is good.
const queuesFor = time.Second

// sweepsAtOnce is how many groups a pop of many queues has swept at once.
const sweepsAtOnce = 64

// attemptMany looks for messages in many queues.
func (s *Store) attemptMany(c *call, now time.Duration) {
	op, b := c.op, s.board
	if met := b.meetings.Load(); c.askedAt == 0 || now-c.askedAt > queuesFor || c.meetings != met {
		c.meetings = met
		b.mu.Lock()
		b.many = true // pushes tell of new queues from here on
		b.mu.Unlock()
		b.active.Store(true)
		s.askFor(c, func(ask *queue.Op) {
			ask.Watch.Kind, ask.Watch.Namespace, ask.Watch.Task = queue.WatchQueues, op.Pop.Namespace, op.Pop.Task
		}, func(ask *queue.Op) {
			c.askedAt = s.sv.Now()
			c.queues = append(c.queues[:0], ask.Watch.Queues...)
			s.attempt(c)
		})
		return
	}
	name := string(op.Pop.Group)
	var unswept []*group
	b.mu.Lock()
	if b.flags.Pop {
		s.pause(c)
		return
	}
	groups, room := make([]*group, 0, len(c.queues)), true
	for _, q := range c.queues {
		if g := b.group(q, name, now); g == nil {
			room = false
		} else {
			groups = append(groups, g)
			if !g.swept && !g.sweeping && len(unswept) < sweepsAtOnce {
				unswept = append(unswept, g)
			}
		}
	}
	for range c.width {
		var oldest *group
		for _, g := range groups {
			if g.first != nil && (oldest == nil || g.first.turn < oldest.first.turn) {
				oldest = g
			}
		}
		if oldest == nil {
			break
		}
		op.Pop.Tries = b.take(oldest, 1, op.Pop.Tries)
	}
	if len(op.Pop.Tries) > 0 {
		b.unlock()
		s.claim(c, now)
		return
	}
	if !room {
		b.unlock()
		s.refuse(c)
		return
	}
	var under *group // a sweep to wait for
	for _, g := range unswept {
		b.beginSweep(g)
		under = g
	}
	for _, g := range groups {
		if under == nil && g.sweeping {
			under = g
		}
	}
	wait := c.waits()
	switch {
	case under != nil:
		c.state = parkedUp
		b.list(&under.sweepers, c)
	case wait && c.meetings != b.meetings.Load():
		b.unlock()
		s.attemptMany(c, now) // a queue was met in this moment
		return
	case wait:
		c.state, c.began = parkedUp, false
		b.list(waitersOf(&b.filters, name), c)
	}
	b.unlock()
	for _, g := range unswept {
		b.stats.Sweeps.Add(1)
		s.slice(g, queue.UUID{})
	}
	switch {
	case under != nil && op.Pop.Wait, under == nil && wait:
		s.rest(c)
	case under != nil:
	case c.checked:
		s.finish(c)
	default:
		s.check(c)
	}
}

// groupsOf are the groups that c looks into.
func (b *Board) groupsOf(c *call) (groups []*group) {
	if c.group != nil {
		return []*group{c.group}
	}
	for _, q := range c.queues {
		if g := b.groups[queue.Group{Queue: q, Name: string(c.op.Pop.Group)}]; g != nil {
			groups = append(groups, g)
		}
	}
	return groups
}

// wants says whether a pop of many queues means this one.
func (c *call) wants(q string) bool {
	for _, name := range c.queues {
		if name == q {
			return true
		}
	}
	return false
}

// failed takes the failure of what was asked for c. What was acknowledged and never received
// must be told: another attempt would forget it.
func (s *Store) failed(c *call, f queue.Fault) {
	c.op.Fault = f
	if !c.op.Pop.Lost && (f.Code == queue.Unavailable || f.Code == queue.Overloaded) && c.waits() {
		s.stall(c)
		return
	}
	s.finish(c)
}
