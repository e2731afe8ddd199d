package oracle

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Row is a message as it is stored.
type Row struct {
	ID, Key, Queue, Partition, PartitionID, Payload string
}

// Cursor is a change of a row of partition_consumers, as PostgreSQL's clock saw it.
type Cursor struct {
	At                     time.Time
	PartitionID, Group     string
	OldWorker, NewWorker   string // "": no lease
	OldExpires, NewExpires time.Time
	Back                   bool // the cursor went back
}

// Snapshot is what the database holds at the end.
type Snapshot struct {
	Rows    []Row // in the order of delivery of their partitions
	Cursors []Cursor
	Audited bool // Cursors is complete
}

const selectRows = `
SELECT m.id::text, m.transaction_id, q.name, p.name, m.partition_id::text, m.payload::text
FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id
ORDER BY m.partition_id, m.created_at, m.id`

const selectCursors = `
SELECT at, partition_id::text, consumer_group, coalesce(old_worker, ''), coalesce(new_worker, ''),
       coalesce(old_expires, '-infinity'::timestamptz) = '-infinity', coalesce(old_expires, now()),
       coalesce(new_expires, '-infinity'::timestamptz) = '-infinity', coalesce(new_expires, now()), back
FROM chaos.cursors ORDER BY n`

// Read takes the snapshot. Nobody may write meanwhile.
func Read(ctx context.Context, conn *pgx.Conn, audited bool) (*Snapshot, error) {
	s := &Snapshot{Audited: audited}
	rows, err := conn.Query(ctx, selectRows)
	if err != nil {
		return nil, fmt.Errorf("cannot read the messages: %w", err)
	}
	if s.Rows, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Row]); err != nil {
		return nil, fmt.Errorf("cannot read the messages: %w", err)
	}
	if !audited {
		return s, nil
	}
	if rows, err = conn.Query(ctx, selectCursors); err != nil {
		return nil, fmt.Errorf("cannot read the audit: %w", err)
	}
	s.Cursors, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (c Cursor, err error) {
		var oldNone, newNone bool
		err = r.Scan(&c.At, &c.PartitionID, &c.Group, &c.OldWorker, &c.NewWorker, &oldNone, &c.OldExpires, &newNone, &c.NewExpires, &c.Back)
		if oldNone {
			c.OldExpires = time.Time{}
		}
		if newNone {
			c.NewExpires = time.Time{}
		}
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the audit: %w", err)
	}
	return s, nil
}
