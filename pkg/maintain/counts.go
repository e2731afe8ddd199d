package maintain

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// counts mends what a DELETE by hand does to the numbers: it leaves gaps that nobody
// wrote down, and lag is counted too large. When the oldest messages went, the tail moves;
// what went from the middle becomes holes.
//
// To notice it all messages must be counted (by index), which is dear, so this is slow: a
// turn counts some countedRowsMax messages, a cycle takes some turns, and the next one
// goes on from there.
type counts struct {
	breathe

	place pgtype.UUID // visited up to here
	turns int         // in this cycle
}

// counted is a head, and whether its numbers are wrong.
type counted struct {
	partition pgtype.UUID
	wrong     bool
}

func scanCounted(rows pgx.Rows, c *counted) error { return rows.Scan(&c.partition, &c.wrong) }

// tail is where a tail belongs.
type tail struct {
	partition pgtype.UUID
	seq       int64
}

func scanTail(rows pgx.Rows, t *tail) error { return rows.Scan(&t.partition, &t.seq) }

func (c *counts) step(ctx context.Context, t *turn) (outcome, error) {
	place := c.place
	place.Valid = true
	slice, err := collect(ctx, t.query, "maintain_counted", scanCounted, place, SlicePartitionsMax, countedRowsMax, countedPartitionMax)
	if err != nil {
		return idle, err
	}
	var wrong []pgtype.UUID
	for i := range slice {
		if slice[i].wrong {
			wrong = append(wrong, slice[i].partition)
		}
	}
	full, err := c.mend(ctx, t, wrong)
	if err != nil {
		return idle, err
	}
	end := len(slice) == 0
	pause := end || !full && c.turns+1 >= countedTurnsMax
	t.after(func() {
		c.turns++
		switch {
		case end:
			c.place = pgtype.UUID{}
		case !full:
			c.place = slice[len(slice)-1].partition
		}
		if pause {
			c.turns = 0
		}
	})
	if pause {
		return idle, nil
	}
	return more, nil
}

// mend mends the numbers of these partitions. full: there may be more holes.
func (c *counts) mend(ctx context.Context, t *turn, wrong []pgtype.UUID) (full bool, err error) {
	if len(wrong) == 0 {
		return false, nil
	}
	tails, err := collect(ctx, t.query, "maintain_first", scanTail, wrong)
	if err != nil || len(tails) == 0 {
		return false, err
	}
	var parts []pgtype.UUID
	var seqs []int64
	for i := range tails {
		parts, seqs = append(parts, tails[i].partition), append(seqs, tails[i].seq)
	}
	if _, err := t.exec(ctx, "maintain_fill", parts, seqs); err != nil {
		return false, err
	}
	if t.rows, err = t.exec(ctx, "maintain_missing", parts, seqs, holesTurnMax); err != nil {
		return false, err
	}
	_, err = t.exec(ctx, "maintain_tail", parts, seqs)
	return t.rows >= holesTurnMax, err
}
