package filebuffer

import (
	"strings"

	"github.com/queend/queend/pkg/queue"
)

// gate knows which partitions have messages on disk, or on their way there.
type gate struct {
	partitions map[string]int  // messages, by queue, NUL, partition
	pinned     map[string]bool // partitions that are gated whatever was counted
	all        int             // reasons to gate every partition
	overflown  bool            // one of them: there were more than GatedPartitionsMax
	messages   int             // all of them
	key        []byte          // scratch
	most       int             // GatedPartitionsMax, or less in a test
}

func newGate() gate {
	return gate{partitions: map[string]int{}, pinned: map[string]bool{}, most: GatedPartitionsMax}
}

// keyOf is valid until the next call. No name holds a NUL, so that it is unambiguous.
func (g *gate) keyOf(it *queue.Item) []byte {
	g.key = appendKey(g.key[:0], it)
	return g.key
}

func appendKey(dst []byte, it *queue.Item) []byte {
	return append(append(append(dst, it.Queue...), 0), it.Partition...)
}

func splitKey(key string) (queue, partition string) {
	queue, partition, _ = strings.Cut(key, "\x00")
	return queue, partition
}

// holds says whether one of the messages is for a gated partition.
func (g *gate) holds(items []queue.Item) bool {
	if g.all > 0 {
		return true
	}
	if len(g.partitions)+len(g.pinned) == 0 {
		return false
	}
	for i := range items {
		if i > 0 && same(&items[i], &items[i-1]) {
			continue
		}
		if key := g.keyOf(&items[i]); g.partitions[string(key)] > 0 || g.pinned[string(key)] {
			return true
		}
	}
	return false
}

// add gates the partitions of messages that are not decided.
func (g *gate) add(items []queue.Item) {
	for i := range items {
		it := &items[i]
		if it.Status != queue.Pending {
			continue
		}
		g.messages++
		key := g.keyOf(it)
		n, known := g.partitions[string(key)]
		if !known && len(g.partitions) >= g.most {
			if !g.overflown {
				g.overflown = true
				g.all++
			}
			continue
		}
		g.partitions[string(key)] = n + 1
	}
}

// remove takes messages out that are stored, or were not taken after all. Their status
// does not matter.
func (g *gate) remove(items []queue.Item) {
	for i := range items {
		g.messages--
		key := g.keyOf(&items[i])
		switch n := g.partitions[string(key)]; {
		case n > 1:
			g.partitions[string(key)] = n - 1
		case n == 1:
			delete(g.partitions, string(key))
		}
	}
	if g.messages < 0 {
		panic("BUG: more messages left the buffer than were in it")
	}
	if g.messages == 0 {
		g.forget()
	}
}

// drop takes messages of one partition out that will not be found any more.
func (g *gate) drop(key string, messages int) {
	if messages == 0 {
		return
	}
	g.messages -= messages
	if n := g.partitions[key]; n > messages {
		g.partitions[key] = n - messages
	} else {
		delete(g.partitions, key)
	}
	if g.messages <= 0 {
		g.forget()
	}
}

// pin gates a message's partition until it is unpinned. What is counted of a partition that
// stays behind is not sure: a disk may not give some of it when it is counted, and later it does.
func (g *gate) pin(it *queue.Item) { g.pinned[string(g.keyOf(it))] = true }

func (g *gate) unpin(key string) { delete(g.pinned, key) }

// restrict has only these partitions counted, and so many messages of each. What else was
// counted is not there.
func (g *gate) restrict(s *behind) {
	g.forget()
	for key, l := range s.partitions {
		g.partitions[key] = l.n
		g.messages += l.n
	}
}

// forget opens the gate for what was counted.
func (g *gate) forget() {
	g.messages = 0
	clear(g.partitions) // some were counted only in part while it was full
	if g.overflown {
		g.overflown = false
		g.all--
	}
}

// empty says that nothing is gated.
func (g *gate) empty() bool { return g.all == 0 && g.messages == 0 && len(g.pinned) == 0 }

func same(a, b *queue.Item) bool {
	return string(a.Queue) == string(b.Queue) && string(a.Partition) == string(b.Partition)
}

// removeUndecided is remove for the messages that add has counted.
func (g *gate) removeUndecided(items []queue.Item) {
	for i := range items {
		if items[i].Status == queue.Pending {
			g.remove(items[i : i+1])
		}
	}
}
