package maintain

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// reconcile finds what was inserted by hand: messages beyond the head of their partition,
// and partitions without a head. Under the head's lock the messages get the numbers that
// follow, in their order, and the head moves to the newest. It never moves a head back: one
// that is beyond the newest message has lost that message.
//
// A round visits all partitions, a slice of SlicePartitionsMax a turn, each with one probe
// of an index; turns are a twentieth of the interval apart and a round begins every eight
// tenths of it. So up to 10,000 partitions a row is found within the interval, and with
// more the rounds take longer rather than more of PostgreSQL.
//
// It does not find a row whose created_at is before the head, as when a push came between
// the INSERT and the next round: that row stays without a number, and nobody who has read
// the push will see it. An INSERT by hand is safe where nobody pushes at the same time;
// queen.push_messages_v3 always is.
type reconcile struct {
	moved func(queue string, partition [16]byte)

	place pgtype.UUID // visited up to here
}

// roundShare is how many tenths of the interval are from the begin of a round to the next.
const roundShare = 8

// pause: every is the time of a round here, a sixteenth of it a twentieth of the interval.
func (*reconcile) pause(every, _ time.Duration) time.Duration { return every / 16 }

// movedHead is a head that moved, and from where.
type movedHead struct {
	queue     string
	partition pgtype.UUID
	n         int64
	oldAt     pgtype.Timestamptz
	oldID     pgtype.UUID
}

func scanMoved(rows pgx.Rows, h *movedHead) error {
	return rows.Scan(&h.queue, &h.partition, &h.n, &h.oldAt, &h.oldID)
}

func (r *reconcile) step(ctx context.Context, t *turn) (outcome, error) {
	place := r.place
	place.Valid = true
	var last pgtype.UUID
	var visited int64
	var headless, behind []pgtype.UUID
	if err := t.row(ctx, "maintain_behind", []any{place, SlicePartitionsMax}, &last, &visited, &headless, &behind); err != nil {
		return idle, err
	}
	if len(headless) > 0 {
		// What is in them is found by the next turn, from the same place.
		made, err := t.exec(ctx, "maintain_heads", headless)
		if err != nil || made > 0 {
			return more, err
		}
	}
	if len(behind) > 0 {
		full, err := r.number(ctx, t, behind)
		if err != nil {
			return idle, err
		}
		if full {
			return more, nil // there may be more of the same
		}
	}
	end := visited < SlicePartitionsMax
	t.after(func() {
		r.place = last
		if end {
			r.place = pgtype.UUID{}
		}
	})
	if end {
		return idle, nil
	}
	return more, nil
}

// number numbers what is beyond the heads of these partitions.
func (r *reconcile) number(ctx context.Context, t *turn, behind []pgtype.UUID) (full bool, err error) {
	if _, err := t.exec(ctx, "maintain_head_lock", behind); err != nil {
		return false, err
	}
	heads, err := collect(ctx, t.query, "maintain_number", scanMoved, behind, numberedRowsMax)
	if err != nil || len(heads) == 0 {
		return false, err
	}
	var parts, ids []pgtype.UUID
	var ats []pgtype.Timestamptz
	for i := range heads {
		h := &heads[i]
		parts, ats, ids = append(parts, h.partition), append(ats, h.oldAt), append(ids, h.oldID)
		t.rows += h.n
		full = full || h.n == numberedRowsMax
	}
	if _, err := t.exec(ctx, "maintain_cursors", parts, ats, ids); err != nil {
		return false, err
	}
	if _, err := t.exec(ctx, "maintain_tell", parts); err != nil {
		return false, err
	}
	t.after(func() {
		for i := range heads {
			r.moved(heads[i].queue, heads[i].partition.Bytes)
		}
	})
	return full, nil
}
