package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The statements that fill a database the way pushes would have left it: queues,
// partitions, heads and messages agree, so that `queend check` finds nothing. It is
// done in SQL because ten million pushes would take hours.

// makePartitions takes $1 a queue and $2 how many partitions it has: p00 to p99 of 100.
const (
	makeQueue = `INSERT INTO queen.queues (name, namespace, task)
		VALUES ($1::text, split_part($1::text, '.', 1), split_part($1::text, '.', 2)) ON CONFLICT DO NOTHING`
	makePartitions = `INSERT INTO queen.partitions (queue_id, name)
		SELECT q.id, 'p' || lpad(i::text, length(($2::int - 1)::text), '0') FROM queen.queues q, generate_series(0, $2::int - 1) i WHERE q.name = $1::text ON CONFLICT DO NOTHING`
	makeHeads = `INSERT INTO queen.partition_lookup (queue_name, partition_id)
		SELECT q.name, p.id FROM queen.queues q JOIN queen.partitions p ON p.queue_id = q.id WHERE q.name = $1::text ON CONFLICT DO NOTHING`
	allPartitions = `SELECT p.id FROM queen.queues q JOIN queen.partitions p ON p.queue_id = q.id WHERE q.name = $1::text ORDER BY p.id`
)

// fillMessages stores the messages $2 to $3, of which message i goes to partition
// i mod n of the n in $1, a microsecond after the one before, from $4 on. Ids and
// transactions look as queend makes them: RFC 9562 version 7. The payload is 200 bytes.
const fillMessages = `INSERT INTO queen.messages (id, transaction_id, partition_id, payload, created_at, seq)
	SELECT (m.stamp || '7' || substr(m.hash, 1, 3) || '8' || substr(m.hash, 4, 15))::uuid,
	       (m.stamp || '7' || substr(m.hash, 17, 3) || '9' || substr(m.hash, 5, 15))::uuid::text,
	       ($1::uuid[])[1 + m.i % cardinality($1::uuid[])],
	       ('{"n":"' || repeat(m.hash, 6) || '"}')::json,
	       m.at, 1 + m.i / cardinality($1::uuid[])
	  FROM (SELECT i, $4::timestamptz + i * interval '1 microsecond' AS at, md5(i::text) AS hash,
	               lpad(to_hex(floor(1000 * extract(epoch FROM $4::timestamptz + i * interval '1 microsecond'))::int8), 12, '0') AS stamp
	          FROM generate_series($2::int8, $3::int8) i) m`

// moveHeads brings every head to its partition's newest message.
const moveHeads = `UPDATE queen.partition_lookup l
	   SET seq = m.seq, last_message_id = m.id, last_message_created_at = m.created_at, updated_at = m.created_at
	  FROM queen.partition_lookup h
	 CROSS JOIN LATERAL (SELECT seq, id, created_at FROM queen.messages n
	                      WHERE n.partition_id = h.partition_id ORDER BY n.created_at DESC, n.id DESC LIMIT 1) m
	 WHERE l.partition_id = h.partition_id`

// fillChunk is how many messages one transaction stores.
const fillChunk = 50_000

// fill gives a fresh database a queue with so many partitions and so many messages in
// them. told hears how many are stored, now and then.
func fill(ctx context.Context, db *pgx.Conn, queue string, partitions, messages int, told func(n int)) error {
	for _, statement := range []struct {
		text string
		args []any
	}{{makeQueue, []any{queue}}, {makePartitions, []any{queue, partitions}}, {makeHeads, []any{queue}}} {
		if _, err := db.Exec(ctx, statement.text, statement.args...); err != nil {
			return fmt.Errorf("cannot make the partitions: %w", err)
		}
	}
	rows, err := db.Query(ctx, allPartitions, queue)
	if err != nil {
		return fmt.Errorf("cannot list the partitions: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return fmt.Errorf("cannot list the partitions: %w", err)
	}
	start := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
	for from := 0; from < messages; from += fillChunk {
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, fillMessages, ids, from, min(from+fillChunk, messages)-1, start); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, moveHeads)
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot store messages: %w", err)
		}
		told(min(from+fillChunk, messages))
	}
	// What autovacuum would have done by the time that so much is stored.
	for _, statement := range []string{"VACUUM ANALYZE queen.messages", "VACUUM ANALYZE queen.partition_lookup", "VACUUM ANALYZE queen.partitions", "CHECKPOINT"} {
		if _, err := db.Exec(ctx, statement); err != nil {
			return fmt.Errorf("cannot settle the tables: %w", err)
		}
	}
	return nil
}
