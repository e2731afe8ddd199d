package longpoll

import "github.com/queend/queend/pkg/queue"

// waiters is a list of pops that wait, the longest first. A pop is in one list at most.
type waiters struct{ first, last *call }

func (w *waiters) append(c *call) {
	if c.list != nil {
		panic("BUG: a pop waits twice")
	}
	c.list, c.before, c.after = w, w.last, nil
	if w.last != nil {
		w.last.after = c
	} else {
		w.first = c
	}
	w.last = c
}

// leave takes c out of the list that it is in, if it is in one.
func (c *call) leave() {
	w := c.list
	if w == nil {
		return
	}
	if c.before != nil {
		c.before.after = c.after
	} else {
		w.first = c.after
	}
	if c.after != nil {
		c.after.before = c.before
	} else {
		w.last = c.before
	}
	c.list, c.before, c.after = nil, nil, nil
}

// wakeFor wakes one who waits for this partition, or for any of the group.
func (b *Board) wakeFor(e *entry) {
	g := e.group
	if w := g.byID[e.id]; w != nil && w.first != nil {
		b.wake(w.first)
		return
	}
	for _, w := range [...]*waiters{&g.waiting, &g.sweepers} {
		if w.first != nil {
			b.wake(w.first)
			return
		}
	}
	if w := b.filters[g.Name]; w != nil {
		for c := w.first; c != nil; c = c.after {
			if c.wants(g.Queue) {
				b.wake(c)
				return
			}
		}
	}
}

// kick wakes another one if there is still something for him: whoever was woken before may
// have gone away, or wanted something else.
func (b *Board) kick(g *group) {
	if g.first != nil {
		b.wakeFor(g.first)
	}
}

// wake takes c out of its list and tells its loop.
func (b *Board) wake(c *call) {
	b.unpark(c)
	c.woke = true
	s := c.store
	s.woken = append(s.woken, c)
	b.stats.Wakes.Add(1)
	if !s.posted {
		s.posted = true
		b.post = append(b.post, s)
	}
}

func (b *Board) wakeAll(w *waiters) {
	for w.first != nil {
		b.wake(w.first)
	}
}

// list appends c to those that wait.
func (b *Board) list(w *waiters, c *call) {
	w.append(c)
	b.stats.Parked.Add(1)
	if w == &b.held {
		b.stats.Paused.Add(1)
	}
}

// unpark takes c out of the list that it waits in, and empty lists out of the board.
func (b *Board) unpark(c *call) {
	if c.list == nil {
		return
	}
	if c.list == &b.held {
		b.stats.Paused.Add(-1)
	}
	c.leave()
	b.stats.Parked.Add(-1)
	if c.op.Pop.Scope == queue.ManyQueues {
		if w := b.filters[string(c.op.Pop.Group)]; w != nil && w.first == nil {
			delete(b.filters, string(c.op.Pop.Group))
		}
		return
	}
	if c.op.Pop.Scope != queue.OnePartition || c.group == nil {
		return
	}
	g := c.group
	if w := g.byID[c.partition]; c.known && w != nil && w.first == nil {
		delete(g.byID, c.partition)
		if name := c.op.Pop.Partition; g.named[string(name)] == c.partition {
			delete(g.named, string(name))
		}
	}
	if name := string(c.op.Pop.Partition); !c.known {
		if w := g.byName[name]; w != nil && w.first == nil {
			delete(g.byName, name)
		}
	}
}

// unlock gives the lock back and tells the loops what was found out meanwhile.
func (b *Board) unlock() {
	var few [8]*Store
	post := append(few[:0], b.post...)
	b.post = b.post[:0]
	b.mu.Unlock()
	for _, s := range post {
		s.sv.Post(s.drainFn)
	}
}
