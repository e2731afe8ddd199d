package maintain

import (
	"context"

	"github.com/jackc/pgx/v5/pgtype"
)

// sweep deletes messages whose partition is gone: on tables that queend made no foreign
// key takes them away with their queue (that would keep a DELETE of a large queue waiting
// for hours, and pushes cost more). They are out of reach at once, and go here.
type sweep struct {
	breathe
	rows int

	place  pgtype.UUID // visited up to here
	slices int         // in this cycle
}

func (s *sweep) step(ctx context.Context, t *turn) (outcome, error) {
	place := s.place
	place.Valid = true
	var last pgtype.UUID
	var visited int64
	var orphans []pgtype.UUID
	if err := t.row(ctx, "maintain_orphans", []any{place, SlicePartitionsMax}, &last, &visited, &orphans); err != nil {
		return idle, err
	}
	if len(orphans) > 0 {
		var err error
		if t.rows, err = t.exec(ctx, "maintain_sweep", orphans, s.rows); err != nil {
			return idle, err
		}
		if t.rows >= int64(s.rows) {
			return more, nil // from the same place
		}
	}
	end := visited < SlicePartitionsMax
	pause := end || s.slices+1 >= sweepSlicesMax
	t.after(func() {
		s.slices++
		s.place = last
		if end {
			s.place = pgtype.UUID{}
		}
		if pause {
			s.slices = 0
		}
	})
	if pause {
		return idle, nil
	}
	return more, nil
}
