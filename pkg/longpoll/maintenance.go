package longpoll

import "github.com/queend/queend/pkg/queue"

// Maintenance: an administrator stops the pops of all processes. While they are stopped
// nothing is claimed. A pop that does not wait hears so at once; one that waits is held, so
// that its client does not spin, until its time is over or pops go on: then it looks afresh.
//
//	 pops stop: all that are parked are woken      pops go on: all that are held are woken
//	   │                                             │
//	attempt ─▶ wait=false ─▶ answer "paused"        attempt
//	        └▶ wait=true  ─▶ held ─┬─────────────────┘
//	                               └─ time is over ─▶ answer "paused"
//
// What a pop was woken for stays on the board. Nobody is parked elsewhere than among the
// held while pops are stopped (a sweep that is under way apart): so whoever is woken at the
// end needs to think of nobody else.

// Flags are the maintenance flags as this process knows them; false until they are known.
// Any goroutine.
func (b *Board) Flags() (push, pop bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flags.Push, b.flags.Pop
}

// OnFlags has hear called with the flags when they change or are first known; and now, if
// they are known. It is called on the loop of the watcher or on the goroutine that calls
// SetFlags or OnFlags, never twice at a time and in the order of the changes. It must not
// wait, nor call SetFlags or OnFlags. Any goroutine.
func (b *Board) OnFlags(hear func(push, pop bool)) {
	b.hearing.Lock()
	defer b.hearing.Unlock()
	b.hear = append(b.hear, hear)
	b.mu.Lock()
	f := b.flags
	b.mu.Unlock()
	if f.Known {
		hear(f.Push, f.Pop)
	}
}

// SetFlags takes what this process has read from the database itself or has committed
// there; nil is as it was. What was asked before and is answered later is older, and is
// not listened to. Any goroutine.
func (b *Board) SetFlags(push, pop *bool) {
	b.hearing.Lock()
	defer b.hearing.Unlock()
	b.mu.Lock()
	b.flagsSet++
	f := b.flags
	if push != nil {
		f.Push = *push
	}
	if pop != nil {
		f.Pop = *pop
	}
	f.Known = f.Known || push != nil && pop != nil
	b.turnFlags(f)
}

// heardFlags takes what the database said. set is flagsSet when that was asked. On a loop.
func (b *Board) heardFlags(f queue.Flags, set uint64) {
	b.hearing.Lock()
	defer b.hearing.Unlock()
	b.mu.Lock()
	if set != b.flagsSet || !f.Known {
		b.mu.Unlock()
		return
	}
	b.turnFlags(f)
}

// turnFlags makes f the flags. It is called with both locks held and gives b.mu back.
func (b *Board) turnFlags(f queue.Flags) {
	before := b.flags
	b.flags = f
	switch {
	case f.Pop && !before.Pop:
		b.wakeParked()
	case before.Pop && !f.Pop:
		b.wakeAll(&b.held)
	}
	b.unlock()
	if f == before {
		return
	}
	for _, hear := range b.hear {
		hear(f.Push, f.Pop)
	}
}

// wakeParked wakes all that wait for messages.
func (b *Board) wakeParked() {
	for _, g := range b.groups {
		b.wakeAll(&g.waiting)
		for _, w := range g.byID {
			b.wakeAll(w)
		}
		for _, w := range g.byName {
			b.wakeAll(w)
		}
	}
	for _, w := range b.filters {
		b.wakeAll(w)
	}
}

// pause answers c, or holds it: pops are stopped. The board is locked, and is given back.
func (s *Store) pause(c *call) {
	b := s.board
	c.op.Pop.Paused = true
	switch {
	case !c.waits():
		b.unlock()
		s.finish(c)
		return
	case b.stats.Parked.Load() >= int64(b.limits.ParkedMax):
		b.unlock()
		s.refuse(c)
		return
	}
	b.list(&b.held, c)
	c.state, c.began = parkedUp, false
	b.unlock()
	s.rest(c)
}
