package maintain

import (
	"bytes"
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// retention deletes what one rule says is too old. It goes through the partitions of the
// rule's queues in the order of (queue, partition), a slice of them a turn, and deletes at
// most rows messages a turn; a cycle is over when all were visited.
//
// Messages go from the old end of a partition, and in the same transaction tail_seq
// moves to the number of the last that went: numbers before it count no more. Eviction
// may leave older messages, which everybody has consumed, before those that it takes:
// then their numbers become holes.
type retention struct {
	breathe
	find  string // the statement that finds the partitions
	rule  string // its name in retention_history
	rows  int
	holes bool // what it deletes need not be the oldest

	queue     string      // visited up to here
	partition pgtype.UUID // in this queue
}

// span is a partition and which of its messages are to go.
type span struct {
	queue           string
	partition       pgtype.UUID
	cutoff          pgtype.Timestamptz // older ones
	afterAt, upToAt pgtype.Timestamptz // behind the one place and not beyond the other
	afterID, upToID pgtype.UUID
	due             bool
}

func scanSpan(rows pgx.Rows, s *span) error {
	return rows.Scan(&s.queue, &s.partition, &s.cutoff, &s.afterAt, &s.afterID, &s.upToAt, &s.upToID, &s.due)
}

// loss is what was deleted of a partition.
type loss struct {
	partition pgtype.UUID
	n         int64
	last      *int64 // the greatest number, if any had one
	firstAt   pgtype.Timestamptz
	firstID   pgtype.UUID
	lastAt    pgtype.Timestamptz
	lastID    pgtype.UUID
	seqs      []int64
}

func scanLoss(rows pgx.Rows, l *loss) error {
	return rows.Scan(&l.partition, &l.n, &l.last, &l.firstAt, &l.firstID, &l.lastAt, &l.lastID, &l.seqs)
}

func (r *retention) step(ctx context.Context, t *turn) (outcome, error) {
	place := r.partition
	place.Valid = true // the zero id is before all others
	slice, err := collect(ctx, t.query, r.find, scanSpan, t.now, r.queue, place, SlicePartitionsMax)
	if err != nil {
		return idle, err
	}
	losses, n, err := r.delete(ctx, t, slice)
	if err != nil {
		return idle, err
	}
	if err := r.release(ctx, t, losses); err != nil {
		return idle, err
	}
	if err := r.account(ctx, t, losses); err != nil {
		return idle, err
	}
	t.rows = n
	visited := len(slice)
	if n >= int64(r.rows) {
		visited = before(slice, losses)
	}
	over := visited == len(slice) && len(slice) < SlicePartitionsMax
	t.after(func() { r.move(slice[:visited], over) })
	if over {
		return idle, nil
	}
	return more, nil
}

// move remembers how far the cycle is.
func (r *retention) move(visited []span, over bool) {
	switch {
	case over:
		r.queue, r.partition = "", pgtype.UUID{}
	case len(visited) > 0:
		last := visited[len(visited)-1]
		r.queue, r.partition = last.queue, last.partition
	}
}

// before is how many partitions of the slice are surely done with, when there was no room
// for all: those before the last one that lost messages.
func before(slice []span, losses []loss) (n int) {
	for i := range slice {
		if slices.ContainsFunc(losses, func(l loss) bool { return l.partition == slice[i].partition }) {
			n = i
		}
	}
	return n
}

// delete deletes messages of the partitions that are due.
func (r *retention) delete(ctx context.Context, t *turn, slice []span) (losses []loss, n int64, err error) {
	var parts, afterIDs, upToIDs []pgtype.UUID
	var cutoffs, afterAts, upToAts []pgtype.Timestamptz
	for i := range slice {
		if s := &slice[i]; s.due {
			parts, cutoffs = append(parts, s.partition), append(cutoffs, s.cutoff)
			afterAts, afterIDs = append(afterAts, s.afterAt), append(afterIDs, s.afterID)
			upToAts, upToIDs = append(upToAts, s.upToAt), append(upToIDs, s.upToID)
		}
	}
	if len(parts) == 0 {
		return nil, 0, nil
	}
	losses, err = collect(ctx, t.query, "maintain_delete", scanLoss, parts, cutoffs, afterAts, afterIDs, upToAts, upToIDs, r.rows)
	for i := range losses {
		n += losses[i].n
	}
	return losses, n, err
}

// release ends the leases of which nothing is left, and forgets what was counted as retries
// of what went.
func (r *retention) release(ctx context.Context, t *turn, losses []loss) error {
	if len(losses) == 0 {
		return nil
	}
	var parts, ids []pgtype.UUID
	var ats []pgtype.Timestamptz
	for i := range losses {
		parts, ats, ids = append(parts, losses[i].partition), append(ats, losses[i].lastAt), append(ids, losses[i].lastID)
	}
	_, err := t.exec(ctx, "maintain_leases", parts, ats, ids)
	return err
}

// account keeps the counts true: holes and tails, and the history. The heads are locked
// by the last statement.
func (r *retention) account(ctx context.Context, t *turn, losses []loss) error {
	if len(losses) == 0 {
		return nil
	}
	inside, err := r.older(ctx, t, losses)
	if err != nil {
		return err
	}
	if err := addHoles(ctx, t, inside); err != nil {
		return err
	}
	parts, tails := tailsOf(losses, inside)
	if len(parts) > 0 {
		if _, err := t.exec(ctx, "maintain_fill", parts, tails); err != nil {
			return err
		}
	}
	if err := r.remember(ctx, t, losses); err != nil || len(parts) == 0 {
		return err
	}
	_, err = t.exec(ctx, "maintain_tail", parts, tails)
	return err
}

// remember writes the history.
func (r *retention) remember(ctx context.Context, t *turn, losses []loss) error {
	var parts []pgtype.UUID
	var counts []int32
	for i := range losses {
		parts, counts = append(parts, losses[i].partition), append(counts, int32(losses[i].n))
	}
	_, err := t.exec(ctx, "maintain_history", parts, counts, r.rule)
	return err
}

// older takes out the partitions that have older messages still.
func (r *retention) older(ctx context.Context, t *turn, losses []loss) (inside []loss, err error) {
	if !r.holes {
		return nil, nil
	}
	var parts, ids []pgtype.UUID
	var ats []pgtype.Timestamptz
	for i := range losses {
		parts, ats, ids = append(parts, losses[i].partition), append(ats, losses[i].firstAt), append(ids, losses[i].firstID)
	}
	left, err := collect(ctx, t.query, "maintain_older", scanID, parts, ats, ids)
	for i := range losses {
		if slices.Contains(left, losses[i].partition) {
			inside = append(inside, losses[i])
		}
	}
	return inside, err
}

func scanID(rows pgx.Rows, id *pgtype.UUID) error { return rows.Scan(id) }

func addHoles(ctx context.Context, t *turn, inside []loss) error {
	var parts []pgtype.UUID
	var seqs []int64
	for i := range inside {
		for _, seq := range inside[i].seqs {
			parts, seqs = append(parts, inside[i].partition), append(seqs, seq)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	_, err := t.exec(ctx, "maintain_holes", parts, seqs)
	return err
}

// tailsOf are the tails of the partitions that lost their oldest messages.
func tailsOf(losses, inside []loss) (parts []pgtype.UUID, tails []int64) {
	for i := range losses {
		l := &losses[i]
		if l.last == nil || slices.ContainsFunc(inside, func(o loss) bool { return o.partition == l.partition }) {
			continue
		}
		parts, tails = append(parts, l.partition), append(tails, *l.last)
	}
	return parts, tails
}

// sortIDs sorts as PostgreSQL sorts uuid.
func sortIDs(ids []pgtype.UUID) {
	slices.SortFunc(ids, func(a, b pgtype.UUID) int { return bytes.Compare(a.Bytes[:], b.Bytes[:]) })
}
