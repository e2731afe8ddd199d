package longpoll

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// A group that is new may want to begin elsewhere than at the first message. That is written
// down at its first contact, whatever comes of it: before the board is looked at, before it
// is parked, and also while pops are stopped. If it were left to the first claim, what is
// pushed until then would be before the beginning.

const (
	// begunFor is how long a beginning that was seen to be written down is taken to be
	// there: somebody may delete it by SQL.
	begunFor = 5 * time.Second

	// begunMax bounds the beginnings that are remembered; beyond it all are asked for anew.
	begunMax = 10_000
)

// begun says whether it is written down where c's group begins, or need not be. If not, it
// is written, and then c is attempted.
func (s *Store) begun(c *call, now time.Duration) bool {
	p := &c.op.Pop
	if !p.Elsewhere() || c.began {
		return true
	}
	key := s.key[:0]
	for _, name := range [...][]byte{p.Group, p.Queue, p.Partition, p.Namespace, p.Task} {
		key = append(append(key, name...), 0) // no name holds a NUL
	}
	s.key = append(key, byte(p.Scope))
	b := s.board
	b.mu.Lock()
	at, known := b.begun[string(s.key)]
	forgotten := b.forgotten
	b.unlock()
	if known && now-at < begunFor {
		return true
	}
	name := string(s.key)
	s.askFor(c, func(ask *queue.Op) {
		w := &ask.Watch
		w.Kind, w.Scope, w.Subscription = queue.WatchBegin, p.Scope, p.Subscription
		w.Group, w.Part = queue.Group{Queue: string(p.Queue), Name: string(p.Group)}, string(p.Partition)
		w.Namespace, w.Task = p.Namespace, p.Task
	}, func(*queue.Op) {
		c.began = true
		b.mu.Lock()
		if b.forgotten == forgotten { // nobody has deleted it since it was asked for
			if len(b.begun) >= begunMax {
				clear(b.begun)
			}
			b.begun[name] = s.sv.Now()
		}
		b.unlock()
		s.attempt(c)
	})
	return false
}

// unbegin has beginnings asked for anew: somebody may have deleted some.
func (b *Board) unbegin() {
	b.forgotten++
	clear(b.begun)
}
