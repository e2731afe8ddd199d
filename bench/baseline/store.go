package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/queend/queend/pkg/schema"
)

// The words for what became of an item.
const (
	queued    = "queued"
	duplicate = "duplicate"
)

// triesMax bounds how often one request is tried: each try that fails on a
// duplicate decides at least one item, and what else can fail a try passes.
const triesMax = 5

// store pushes through a pool. Any goroutine.
type store struct {
	pool *pgxpool.Pool

	mu     sync.RWMutex
	places map[name]pgtype.UUID // partition ids, for ever: a benchmark makes few
}

type name struct{ queue, partition string }

func openStore(ctx context.Context, database string, pool int) (*store, error) {
	config, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, fmt.Errorf("cannot read the connection string: %w", err)
	}
	config.MaxConns = int32(pool)
	p, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("cannot make the pool: %w", err)
	}
	return &store{pool: p, places: map[name]pgtype.UUID{}}, nil
}

func (s *store) close() { s.pool.Close() }

// push stores all items or returns an error; every item then has a status.
func (s *store) push(ctx context.Context, items []item) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("no connection: %w", err)
	}
	defer conn.Release()
	for range triesMax {
		if err := s.find(ctx, conn, items); err != nil {
			return err
		}
		rows := undecided(items)
		if len(rows) == 0 {
			return nil
		}
		err := insert(ctx, conn, rows)
		var refusal *pgconn.PgError
		switch {
		case err == nil:
			decide(items, rows)
			return nil
		case errors.Is(err, errGone):
			s.forget(rows)
			err = nil
		case errors.As(err, &refusal) && refusal.Code == "23505":
			err = winners(ctx, conn, rows)
		}
		if err != nil {
			return err
		}
	}
	return errors.New("the push was tried too often")
}

// find gives every item its partition, and makes those that are not there.
func (s *store) find(ctx context.Context, conn *pgxpool.Conn, items []item) error {
	var queues, partitions []string
	s.mu.RLock()
	for i := range items {
		it := &items[i]
		if it.at = s.places[name{it.queue, it.partition}]; !it.at.Valid {
			queues, partitions = append(queues, it.queue), append(partitions, it.partition)
		}
	}
	s.mu.RUnlock()
	if queues == nil {
		return nil
	}
	places, err := resolve(ctx, conn, queues, partitions)
	if err != nil {
		return fmt.Errorf("cannot make partitions: %w", err)
	}
	s.mu.Lock()
	for name, at := range places {
		s.places[name] = at
	}
	s.mu.Unlock()
	for i := range items {
		if it := &items[i]; !it.at.Valid {
			it.at = places[name{it.queue, it.partition}]
		}
	}
	return nil
}

func (s *store) forget(rows []*item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range rows {
		delete(s.places, name{it.queue, it.partition})
	}
}

func resolve(ctx context.Context, conn *pgxpool.Conn, queues, partitions []string) (map[name]pgtype.UUID, error) {
	b := &pgx.Batch{}
	b.Queue(schema.Statement("push_queues"), queues)
	b.Queue(schema.Statement("push_partitions"), queues, partitions)
	b.Queue(schema.Statement("push_heads"), queues, partitions)
	b.Queue(schema.Statement("push_ids"), queues, partitions)
	results := conn.SendBatch(ctx, b)
	defer results.Close()
	for range 3 {
		if _, err := results.Exec(); err != nil {
			return nil, err
		}
	}
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	places := map[name]pgtype.UUID{}
	var o int64
	var at pgtype.UUID
	var encrypted bool
	_, err = pgx.ForEachRow(rows, []any{&o, &at, &encrypted}, func() error {
		places[name{queues[o-1], partitions[o-1]}] = at
		return nil
	})
	if err != nil {
		return nil, err
	}
	return places, results.Close()
}

// undecided are the items to insert, sorted by partition and id; what repeats
// another item of the request waits for that one.
func undecided(items []item) (rows []*item) {
	type key struct {
		at          [16]byte
		transaction string
	}
	seen := map[key]bool{}
	for i := range items {
		it := &items[i]
		k := key{it.at.Bytes, it.transactionID}
		if it.status == "" && !seen[k] {
			seen[k] = true
			rows = append(rows, it)
		}
	}
	slices.SortFunc(rows, func(a, b *item) int {
		if c := bytes.Compare(a.at.Bytes[:], b.at.Bytes[:]); c != 0 {
			return c
		}
		return bytes.Compare(a.id.Bytes[:], b.id.Bytes[:])
	})
	return rows
}

//go:embed push.sql
var pushOne string

// errGone: a partition that we knew is no more.
var errGone = errors.New("a partition was deleted")

// insert stores the rows, a statement for each, in one transaction and one round trip.
func insert(ctx context.Context, conn *pgxpool.Conn, rows []*item) error {
	b := &pgx.Batch{}
	for _, it := range rows {
		b.Queue(pushOne, it.at, it.id, it.transactionID, it.trace, it.payload).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() == 0 {
				return errGone
			}
			return nil
		})
	}
	return conn.SendBatch(ctx, b).Close()
}

// winners finds who has the transactions already.
func winners(ctx context.Context, conn *pgxpool.Conn, rows []*item) error {
	parts, transactions := make([]pgtype.UUID, len(rows)), make([]string, len(rows))
	for i, it := range rows {
		parts[i], transactions[i] = it.at, it.transactionID
	}
	found, err := conn.Query(ctx, schema.Statement("push_winners"), pgx.QueryExecModeExec, parts, transactions)
	if err != nil {
		return err
	}
	var o int64
	var id pgtype.UUID
	_, err = pgx.ForEachRow(found, []any{&o, &id}, func() error {
		it := rows[o-1]
		it.status, it.winner = duplicate, id
		if id == it.id { // an earlier try of ours was committed
			it.status = queued
		}
		return nil
	})
	return err
}

// decide: the rows are stored, and with them the items that repeat them.
func decide(items []item, rows []*item) {
	for _, it := range rows {
		it.status, it.winner = queued, it.id
	}
	for i := range items {
		it := &items[i]
		if it.status != "" {
			continue
		}
		for _, first := range rows {
			if first.at == it.at && first.transactionID == it.transactionID {
				it.status, it.winner = duplicate, first.id
			}
		}
	}
}
