package schema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Layout is what differs between a database that queend made and one that Queen
// made.
type Layout struct {
	// Payload is the type of messages.payload: "json", or "jsonb" in a database
	// that Queen made (then a payload comes back normalised and may not hold
	// \u0000). Empty: there is no such table yet.
	Payload string

	// DedupeKeys are the names of the unique constraints on (partition_id,
	// transaction_id); Queen's differ from ours.
	DedupeKeys []string

	// MessagesReferPartitions: messages has the foreign key to partitions that
	// Queen gave it.
	MessagesReferPartitions bool
}

// JSONB says whether payloads are stored as jsonb.
func (l Layout) JSONB() bool { return l.Payload == "jsonb" }

// Describe reads the layout of a database, which need not be migrated.
func Describe(ctx context.Context, config *pgconn.Config) (Layout, error) {
	m, err := open(ctx, config, nil)
	if err != nil {
		return Layout{}, err
	}
	defer m.close()
	return describe(ctx, m)
}

func describe(ctx context.Context, m *migrator) (Layout, error) {
	results, err := m.exec(ctx, Statement("schema_layout"))
	if err != nil {
		return Layout{}, fmt.Errorf("cannot read the layout of the tables: %w", err)
	}
	row := results[0].Rows[0]
	l := Layout{Payload: string(row[0]), MessagesReferPartitions: isTrue(row[2])}
	if len(row[1]) > 0 {
		l.DedupeKeys = strings.Split(string(row[1]), ",")
	}
	return l, nil
}
