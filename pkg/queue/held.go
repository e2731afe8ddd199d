package queue

import (
	"strconv"
	"time"
)

// This file keeps one partition whose head somebody holds locked (an operator's session, a
// transaction that was forgotten) from holding up the others: a batch that has waited for a
// lock in vain asks whose heads are locked, and by whom. Who pushes to a partition that one
// transaction holds for long hears 503 from then on; all others go on.

const (
	// heldSure is how far apart a head is found locked by one and the same transaction for it
	// to count as held. Other pushes lock it too, each for the time of a commit.
	heldSure = 100 * time.Millisecond

	// heldFor is for how long nobody looks again at a head that is held.
	heldFor = time.Second
)

// isHeld says that a push to the partition would wait in vain.
func (at *hint) isHeld(now time.Duration) bool { return now < at.heldTill }

// refuseHeld ends entry i if one of its messages is for a partition that is held.
func (b *Batch) refuseHeld(i int) bool {
	op := b.entries[i].op
	var held *hint
	for j := range op.Items {
		it := &op.Items[j]
		it.Locked = it.Status == Pending && it.at.isHeld(b.now)
		if it.Locked && held == nil {
			held = it.at
		}
	}
	if held == nil {
		return false
	}
	b.unavailable(i, "another session holds the partition "+strconv.Quote(held.partition)+" of the queue "+strconv.Quote(held.queue)+" locked in PostgreSQL", "try again in a second")
	return true
}

// suspects finds the heads of which it is to be known whether they are held: those that were,
// and when a lock was waited for in vain, all.
func (b *Batch) suspects(g *group) bool {
	b.gather.suspects = b.gather.suspects[:0]
	if g.asked {
		return false
	}
	for i := range b.gather.heads {
		if at := b.gather.heads[i].at; g.waited || at.holder != 0 {
			at.seen = 0
			b.gather.suspects = append(b.gather.suspects, at)
		}
	}
	return len(b.gather.suspects) > 0
}

// held asks whether the suspects are held.
func (b *Batch) held() []Statement {
	b.begin(1)
	parts := array(b.buf[0][:0], oidUUID, len(b.gather.suspects), false)
	for _, at := range b.gather.suspects {
		parts = uuidElement(parts, &at.id)
	}
	b.buf[0] = parts
	b.statement("push_held", 0)
	b.stmts[0].Unnamed = true // it is rare
	return b.stmts
}

// heldRow takes (ordinality, transaction).
func (b *Batch) heldRow(values [][]byte) {
	b.gather.suspects[int8Column(values[0])-1].seen = int64(int8Column(values[1]))
}

// heldFound: whose heads are held is known, or whom to look at once more after a while, which
// it returns. 0: what is held will be refused, and the others can be pushed.
func (b *Batch) heldFound(g *group, now time.Duration) (again time.Duration) {
	for _, at := range b.gather.suspects {
		switch {
		case at.seen == at.holder && at.seen != 0 && now-at.holderAt >= heldSure:
			at.heldTill = now + heldFor
		case at.seen != 0 && g.waited:
			at.holder, at.holderAt = at.seen, now
			again = heldSure
		default:
			at.holder = 0
		}
	}
	g.asked, g.waited = again == 0, false
	return again
}
