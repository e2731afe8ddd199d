package check

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// keys: a transactionId is unique because an index says so. Where there is none, the rows
// themselves are asked.
func (c *checker) keys(ctx context.Context) error {
	var payload, keys *string
	var refer bool
	_, err := c.slice(ctx, "schema_layout", func(rows pgx.Rows) error { return rows.Scan(&payload, &keys, &refer) })
	if err != nil {
		return err
	}
	if text(payload) == "" {
		return fmt.Errorf("there is no table queen.messages in this database; run queend migrate apply, or look at another database")
	}
	if text(keys) != "" {
		return nil
	}
	c.found(Finding{Kind: NoDedupeKey, What: "No valid unique index is on messages (partition_id, transaction_id): a push may be stored twice."})
	return c.duplicates(ctx)
}

func (c *checker) duplicates(ctx context.Context) error {
	place := zero
	for {
		var parts []pgtype.UUID
		names := map[pgtype.UUID]partition{}
		n, err := c.slice(ctx, "check_partitions", func(rows pgx.Rows) error {
			p, err := scanPartition(rows)
			parts, names[p.id] = append(parts, p.id), p
			return err
		}, place, duplicatesSliceMax)
		if err != nil || n == 0 {
			return err
		}
		place = parts[n-1]
		_, err = c.slice(ctx, "check_duplicates", func(rows pgx.Rows) error {
			var id pgtype.UUID
			var transaction string
			var k int64
			err := rows.Scan(&id, &transaction, &k)
			p := names[id]
			c.found(p.finding(Duplicate, "Transaction %q has %d messages.", transaction, k))
			return err
		}, parts, c.options.FindingsMax)
		if err != nil {
			return err
		}
	}
}

// partition is a partition, its head and its newest message.
type partition struct {
	id        pgtype.UUID
	queue     *string
	name      string
	headQueue *string // nil: there is no head
	headAt    pgtype.Timestamptz
	headID    pgtype.UUID
	seq, tail *int64
	newestAt  pgtype.Timestamptz
	newestID  pgtype.UUID
	byHand    bool // the newest was inserted a moment ago
}

func scanPartition(rows pgx.Rows) (p partition, err error) {
	err = rows.Scan(&p.id, &p.queue, &p.name, &p.headQueue, &p.headAt, &p.headID, &p.seq, &p.tail, &p.newestAt, &p.newestID, &p.byHand)
	return p, err
}

func (p *partition) finding(kind Kind, what string, args ...any) Finding {
	return Finding{Kind: kind, Queue: text(p.queue), Partition: p.name, PartitionID: p.id.String(), What: fmt.Sprintf(what, args...)}
}

func (c *checker) partitions(ctx context.Context) error {
	place := zero
	for {
		n, err := c.slice(ctx, "check_partitions", func(rows pgx.Rows) error {
			p, err := scanPartition(rows)
			if err == nil {
				place = p.id
				c.partition(&p)
			}
			return err
		}, place, sliceRowsMax)
		c.report.Partitions += int64(n)
		if err != nil || n < sliceRowsMax {
			return err
		}
	}
}

func (c *checker) partition(p *partition) {
	if p.queue == nil {
		c.found(p.finding(PartitionWithoutQueue, "It has no queue."))
	}
	if p.headQueue == nil {
		c.found(p.finding(PartitionWithoutHead, "It has no row in queen.partition_lookup: wildcard pops do not see it."))
		return
	}
	if p.queue != nil && *p.queue != *p.headQueue {
		c.found(p.finding(HeadOfOtherQueue, "Its head is filed under queue %q.", *p.headQueue))
	}
	if p.newestAt.Valid && !p.byHand && later(p.newestAt, p.newestID, p.headAt, p.headID) {
		c.found(p.finding(HeadBehindMessage, "Message %s is newer than the head, %s: a push may be stamped before it, and waiting pops do not see it.", p.newestID, p.headID))
	}
	if p.seq != nil && p.tail != nil && *p.tail > *p.seq {
		c.found(p.finding(TailBeyondHead, "Its tail is %d and its head %d.", *p.tail, *p.seq))
	}
}

// heads: each has its partition.
func (c *checker) heads(ctx context.Context) error {
	place := zero
	for {
		n, err := c.slice(ctx, "check_heads", func(rows pgx.Rows) error {
			var queue string
			var there bool
			if err := rows.Scan(&place, &queue, &there); err != nil {
				return err
			}
			if !there {
				c.found(Finding{Kind: HeadWithoutPartition, Queue: queue, PartitionID: place.String(), What: "There is a head and no such partition."})
			}
			return nil
		}, place, sliceRowsMax)
		if err != nil || n < sliceRowsMax {
			return err
		}
	}
}

// cursor is a row of partition_consumers.
type cursor struct {
	partition       pgtype.UUID
	group           string
	queue, name     *string
	there           bool // its partition
	lastSeq         int64
	headSeq         *int64
	beyond          bool // the head
	expires, leased bool
	batch, acked    int64
	before, after   *int64 // numbers of the messages around it
	live            *bool  // there is a lease that has not run out; nil: there is none
	ends, endBeyond bool   // it says which message is its last, and that is beyond the head
	left            int64  // messages that it may still have: with ends 1 for some, else counted up to batch
}

func (k *cursor) finding(kind Kind, what string, args ...any) Finding {
	return Finding{Kind: kind, Queue: text(k.queue), Partition: text(k.name), PartitionID: k.partition.String(), Group: k.group, What: fmt.Sprintf(what, args...)}
}

func (c *checker) cursors(ctx context.Context) error {
	place, group := zero, ""
	for {
		n, err := c.slice(ctx, "check_cursors", func(rows pgx.Rows) error {
			var k cursor
			err := rows.Scan(&k.partition, &k.group, &k.queue, &k.name, &k.there, &k.lastSeq, &k.headSeq, &k.beyond,
				&k.expires, &k.leased, &k.batch, &k.acked, &k.before, &k.after, &k.live, &k.ends, &k.endBeyond, &k.left)
			if err == nil {
				place, group = k.partition, k.group
				c.cursor(&k)
			}
			return err
		}, place, group, sliceRowsMax)
		c.report.Cursors += int64(n)
		if err != nil || n < sliceRowsMax {
			return err
		}
	}
}

func (c *checker) cursor(k *cursor) {
	switch {
	case !k.there:
		c.found(k.finding(CursorOfNoPartition, "There is a cursor and no such partition."))
		return
	case k.beyond:
		c.found(k.finding(CursorBeyondHead, "Its cursor is beyond the newest message."))
	case k.headSeq != nil && k.lastSeq > *k.headSeq:
		c.found(k.finding(CursorBeyondHead, "It has read up to number %d and the newest message has %d.", k.lastSeq, *k.headSeq))
	case k.before != nil && *k.before > k.lastSeq:
		c.found(k.finding(CursorNumber, "The last message that it has read has number %d and its cursor says %d.", *k.before, k.lastSeq))
	case k.after != nil && *k.after <= k.lastSeq:
		c.found(k.finding(CursorNumber, "The next message that it will read has number %d and its cursor says that it has read up to %d.", *k.after, k.lastSeq))
	}
	if k.leased && !k.expires {
		c.found(k.finding(LeaseWithoutExpiry, "There is a lease and no time at which it ends."))
	}
	if k.expires && !k.leased {
		c.found(k.finding(ExpiryWithoutLease, "There is a time at which a lease ends and no lease."))
	}
	if k.batch < 0 || k.acked < 0 || k.acked > k.batch {
		c.found(k.finding(LeaseCounts, "Of %d delivered messages %d are acknowledged.", k.batch, k.acked))
	}
	switch {
	case k.live == nil || !*k.live:
	case k.endBeyond:
		c.found(k.finding(LeaseBeyondHead, "The last message of its lease is beyond the newest message."))
	case k.left == 0:
		c.found(k.finding(LeaseWithoutMessages, "It has a lease of which no message is left that it has not read."))
	case !k.ends && k.left < k.batch-k.acked:
		c.found(k.finding(LeaseWithoutMessages, "Of its lease's %d messages %d are acknowledged, and only %d more are there.", k.batch, k.acked, k.left))
	}
}

// letters: the message of each can still be read.
func (c *checker) letters(ctx context.Context) error {
	place, id := zero, zero
	for {
		n, err := c.slice(ctx, "check_letters", func(rows pgx.Rows) error {
			var message pgtype.UUID
			var queue, name *string
			var group string
			var readable bool
			if err := rows.Scan(&place, &id, &queue, &name, &group, &message, &readable); err != nil {
				return err
			}
			if !readable {
				c.found(Finding{Kind: LetterWithoutMessage, Queue: text(queue), Partition: text(name), PartitionID: place.String(), Group: group,
					What: fmt.Sprintf("Dead letter %s has no payload and its message %s is gone.", id, message)})
			}
			return nil
		}, place, id, sliceRowsMax)
		c.report.Letters += int64(n)
		if err != nil || n < sliceRowsMax {
			return err
		}
	}
}

// holes lie between tail and head.
func (c *checker) holes(ctx context.Context) error {
	place, seq := zero, int64(-1<<63)
	for {
		n, err := c.slice(ctx, "check_holes", func(rows pgx.Rows) error {
			var queue, name *string
			var head, tail *int64
			if err := rows.Scan(&place, &seq, &queue, &name, &head, &tail); err != nil {
				return err
			}
			f := Finding{Queue: text(queue), Partition: text(name), PartitionID: place.String()}
			switch {
			case head != nil && seq > *head:
				f.Kind, f.What = HoleBeyondHead, fmt.Sprintf("Number %d is marked as deleted and the newest message has %d.", seq, *head)
				c.found(f)
			case tail != nil && seq <= *tail:
				f.Kind, f.What = HoleBehindTail, fmt.Sprintf("Number %d is marked as deleted and so is all up to %d.", seq, *tail)
				c.found(f)
			}
			return nil
		}, place, seq, sliceRowsMax)
		if err != nil || n < sliceRowsMax {
			return err
		}
	}
}

// orphans are messages whose partition is gone, by jumps through the index.
func (c *checker) orphans(ctx context.Context) error {
	place := zero
	for {
		var last pgtype.UUID
		var visited int64
		var orphans []pgtype.UUID
		_, err := c.slice(ctx, "maintain_orphans", func(rows pgx.Rows) error { return rows.Scan(&last, &visited, &orphans) }, place, sliceRowsMax)
		if err != nil {
			return err
		}
		for _, id := range orphans {
			c.found(Finding{Kind: MessagesOfNoPartition, PartitionID: id.String(), What: "There are messages and no such partition."})
		}
		if visited < sliceRowsMax {
			return nil
		}
		place = last
	}
}
