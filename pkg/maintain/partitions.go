package maintain

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// partitions deletes partitions that hold nothing and that nobody touched for idle. Their
// cursors go with them; a dead letter keeps its partition. The heads are locked first, so
// that a push either comes before, and the partition stays, or finds it gone and makes it
// anew.
type partitions struct {
	breathe
	idle time.Duration

	place   pgtype.UUID // visited up to here
	deleted int         // in this cycle
}

// candidate is a partition of a slice.
type candidate struct {
	id       pgtype.UUID
	headed   bool
	deserted bool
}

func scanCandidate(rows pgx.Rows, c *candidate) error {
	return rows.Scan(&c.id, &c.headed, &c.deserted)
}

func (p *partitions) step(ctx context.Context, t *turn) (outcome, error) {
	since := t.now.Add(-p.idle)
	place := p.place
	place.Valid = true
	slice, err := collect(ctx, t.query, "maintain_idle", scanCandidate, since, place, SlicePartitionsMax)
	if err != nil {
		return idle, err
	}
	visited, going, headed := len(slice), []pgtype.UUID(nil), []pgtype.UUID(nil)
	for i, c := range slice {
		if !c.deserted {
			continue
		}
		if len(going)+len(headed) == idleTurnMax {
			visited = i
			break
		}
		if c.headed {
			headed = append(headed, c.id)
		} else {
			going = append(going, c.id)
		}
	}
	if len(headed) > 0 {
		locked, err := collect(ctx, t.query, "maintain_idle_lock", scanID, headed)
		if err != nil {
			return idle, err
		}
		going = append(going, locked...)
	}
	if len(going) > 0 {
		sortIDs(going)
		if t.rows, err = t.exec(ctx, "maintain_idle_delete", going, since); err != nil {
			return idle, err
		}
	}
	over := visited == len(slice) && len(slice) < SlicePartitionsMax
	full := p.deleted+int(t.rows) >= idlePartitionsMax
	t.after(func() { p.move(slice[:visited], t.rows, over, full) })
	if over || full {
		return idle, nil
	}
	return more, nil
}

// move remembers how far the cycle is; one that was full goes on with the next.
func (p *partitions) move(visited []candidate, deleted int64, over, full bool) {
	p.deleted += int(deleted)
	if len(visited) > 0 {
		p.place = visited[len(visited)-1].id
	}
	if over {
		p.place = pgtype.UUID{}
	}
	if over || full {
		p.deleted = 0
	}
}
