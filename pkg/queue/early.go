package queue

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"time"
)

// This file has a push stored before it is its turn.
//
// In a partition numbers and times rise in the order of the commits, so that one push has to
// be committed before the next one can move the heads. But to move the heads is a tenth of a
// large push; the rest is its rows and their entries in the indexes, and these can be stored
// while the push before is at work on another connection, if somebody knows the numbers that they
// will have. Whoever alone pushes to a partition knows: those after the ones of the push before.
// So the rows are stored with these, in a transaction that is left open; and when the push before
// is committed the heads are moved, if each is where it was expected, and the transaction is
// committed. If one is not, or anything else is not as it should be, the transaction is rolled
// back, and the push is made as if that had not been.

const (
	// EarlyRowsMin is how many messages a push has at least that is stored early: a transaction
	// of two round trips, beside another, is a waste for a few.
	EarlyRowsMin = 200

	// earlyPerHead is how many of them there are for each partition, at least: what cannot be
	// done early is to move the heads.
	earlyPerHead = 3

	// earlyPerOp is how many there are for each request, at least. With fewer the loop and its
	// clients are what takes long, and they need the core on which a second batch would be stored.
	earlyPerOp = 8
)

// IsLarge says whether so many messages of so many requests are worth to be stored early.
func IsLarge(rows, requests int) bool { return rows >= EarlyRowsMin && rows >= earlyPerOp*requests }

// Count has the next push, if it is a large one, tell the numbers of its partitions' last
// messages, if they are not known.
func (b *Batch) Count() { b.count = true }

// isLarge says whether what was collected is worth to be stored early.
func (b *Batch) isLarge() bool {
	n := len(b.gather.rows)
	return IsLarge(n, len(b.entries)) && n >= earlyPerHead*len(b.gather.heads)
}

// wantsCounts says whether the push that was collected has to tell numbers.
func (b *Batch) wantsCounts() bool {
	if !b.count || !b.isLarge() {
		return false
	}
	for i := range b.gather.heads {
		if !b.gather.heads[i].at.counted {
			return true
		}
	}
	return false
}

// countsRow takes the numbers of the heads, in their order: bigint[], with nulls perhaps.
func (b *Batch) countsRow(values [][]byte) {
	const header = 20 // dimensions, whether there are nulls, type, length, first index
	g, v := &b.gather, values[0]
	if len(v) < header || int(binary.BigEndian.Uint32(v[12:])) != len(g.heads) {
		return // one is not there: the push fails
	}
	v = v[header:]
	for i := range g.heads {
		h := &g.heads[i]
		size := int32(binary.BigEndian.Uint32(v))
		if v = v[4:]; size == 8 {
			h.told, h.seq, v = true, int64(binary.BigEndian.Uint64(v)), v[8:]
		}
	}
}

// moved: the heads are where the push that is committed has moved them.
func (b *Batch) moved() {
	for i := range b.gather.heads {
		switch h := &b.gather.heads[i]; {
		case h.told:
			h.at.counted, h.at.seq = true, h.seq
		case h.at.counted:
			h.at.seq += int64(h.n)
		}
	}
}

// uncount forgets the numbers of the heads.
func (b *Batch) uncount() {
	for i := range b.gather.heads {
		b.gather.heads[i].at.counted = false
	}
}

// Early returns the statements that store the whole batch behind before, whose last step is in
// flight: to be sent under one Sync on another connection, after a BEGIN. nil: it cannot be, or
// is not worth it; then nothing has happened. Then comes Move, or Late.
func (b *Batch) Early(before *Batch, now time.Duration) []Statement {
	if len(b.groups) != 1 || b.c.locksFirst() || b.h.lockFirst > 0 || b.h.storm > 0 || b.h.made >= b.h.analyzeAt || !before.IsLast() {
		return nil
	}
	g := &b.groups[0]
	if g.winners || g.waited {
		return nil
	}
	b.start(now)
	b.collect(g)
	if len(b.gather.unknown) > 0 || len(b.gather.dups) > 0 || !b.isLarge() || !b.expect(before) || b.collides(before) {
		return nil
	}
	for i := g.lo; i < g.hi; i++ {
		if b.entries[i].decided {
			return nil // one of them is refused: that is answered as ever
		}
	}
	b.kind = earlyStep
	b.begin(pushParams)
	b.appendHeads()
	b.appendRows()
	p := b.buf
	p[headSeq] = array(p[headSeq][:0], oidInt8, len(b.gather.heads), false)
	for i := range b.gather.heads {
		p[headSeq] = int8Element(p[headSeq], int(b.gather.heads[i].seq))
	}
	b.statement("push_early")
	b.gather.insert = len(b.stmts)
	b.statement(b.c.insertEarly(), earlyParams[:]...)
	return b.stmts
}

// Move returns the statement that makes true what Early has assumed, to be sent with a COMMIT
// behind it when before is committed. Then comes StepDone without an error, Unknown, or Late.
func (b *Batch) Move() []Statement {
	if b.kind != earlyStep {
		panic("BUG: a push that was not stored early is to be made true")
	}
	b.kind, b.gather.insert = pushStep, -1
	b.stmts, b.params = b.stmts[:0], b.params[:0]
	b.statement("push_move", headPartition, headCount, headLast, headSeq)
	return b.stmts
}

// Late says that what Early and Move have begun is rolled back, or will be: Step goes on as if
// they had not been. If numbers were not as expected they are forgotten.
func (b *Batch) Late(wrong bool) {
	if wrong {
		b.uncount()
	}
	b.kind = noStep
}

// expect finds the numbers that the heads have when before is committed.
func (b *Batch) expect(before *Batch) bool {
	first := before.gather.heads
	for i := range b.gather.heads {
		h := &b.gather.heads[i]
		if !h.at.counted {
			return false
		}
		h.seq = h.at.seq
		for len(first) > 0 && bytes.Compare(first[0].id[:], h.id[:]) < 0 {
			first = first[1:]
		}
		if len(first) > 0 && first[0].id == h.id {
			h.seq += int64(first[0].n)
		}
	}
	return true
}

// collides says whether a transaction id may be one of before's too. PostgreSQL would have one
// wait for the other to end, and that one waits for us.
func (b *Batch) collides(before *Batch) bool {
	g, given := &b.gather, false
	for i := range g.rows {
		given = given || b.itemOf(&g.rows[i]).GivenTransaction
	}
	if !given {
		return false
	}
	b.resizeSeen(len(before.gather.rows))
	mask := len(g.seen) - 1
	for i := range before.gather.rows {
		r := &before.gather.rows[i]
		it := before.itemOf(r)
		if it == nil {
			return true // it was given up, and nobody knows its ids any more
		}
		at := int(transactionHash(r, it.TransactionID)) & mask
		for g.seen[at] != 0 {
			at = (at + 1) & mask
		}
		g.seen[at] = int32(i + 1)
	}
	for i := range g.rows {
		r := &g.rows[i]
		transaction := b.itemOf(r).TransactionID
		for at := int(transactionHash(r, transaction)) & mask; g.seen[at] != 0; at = (at + 1) & mask {
			other := &before.gather.rows[g.seen[at]-1]
			if other.partition == r.partition && bytes.Equal(before.itemOf(other).TransactionID, transaction) {
				return true
			}
		}
	}
	return false
}

// transactionHash is of a row's partition and transaction id.
func transactionHash(r *row, transaction []byte) uint64 {
	return maphash.Bytes(seed, transaction) ^ binary.BigEndian.Uint64(r.partition[8:])*0x9e3779b97f4a7c15
}
