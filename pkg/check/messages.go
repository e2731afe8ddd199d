package check

import (
	"bytes"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// sequence is the messages of one partition, as far as they were read.
type sequence struct {
	partition  pgtype.UUID
	head, tail *int64

	greatest int64 // number so far
	numbered int64 // messages with a number beyond the tail
	without  int64 // messages with none
	kind     Kind  // the first thing that is wrong: one line a partition
	what     string
}

// messages reads all of them, in order, and sees whether their numbers rise.
func (c *checker) messages(ctx context.Context) error {
	var s sequence
	place, at, id := zero, pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}, zero
	for {
		var over []sequence // partitions that ended in this slice
		n, err := c.slice(ctx, "check_messages", func(rows pgx.Rows) error {
			var seq, head, tail *int64
			if err := rows.Scan(&place, &at, &id, &seq, &head, &tail); err != nil {
				return err
			}
			if place != s.partition {
				over = append(over, s)
				s = sequence{partition: place, head: head, tail: tail}
			}
			s.take(seq, id)
			return nil
		}, place, at, id, sliceMessagesMax)
		c.report.Messages += int64(n)
		if err != nil {
			return err
		}
		if n < sliceMessagesMax {
			over = append(over, s)
		}
		for i := range over {
			if err := c.ended(ctx, &over[i]); err != nil {
				return err
			}
		}
		if n < sliceMessagesMax {
			return nil
		}
	}
}

// take takes the next message.
func (s *sequence) take(seq *int64, id pgtype.UUID) {
	if seq == nil {
		s.without++
		return
	}
	before := s.greatest
	s.greatest = max(s.greatest, *seq)
	if s.tail != nil && *seq > *s.tail {
		s.numbered++
	}
	switch {
	case s.kind != "":
	case *seq == before:
		s.kind, s.what = NumberTwice, fmt.Sprintf("Message %s has number %d, as the one before it.", id, *seq)
	case *seq < before:
		s.kind, s.what = OrderViolated, fmt.Sprintf("Message %s has number %d and comes after number %d.", id, *seq, before)
	case s.head != nil && *seq > *s.head:
		s.kind, s.what = NumberBeyondHead, fmt.Sprintf("Message %s has number %d and the head says %d.", id, *seq, *s.head)
	}
}

// ended says what was wrong in a partition, or else compares the count of its messages
// with what its numbers say.
func (c *checker) ended(ctx context.Context, s *sequence) error {
	counted := s.head != nil && s.tail != nil
	if s.kind == "" && (!counted || s.without == 0 && s.numbered == *s.head-*s.tail) {
		return nil
	}
	var queue, name *string
	var holes int64
	var unnumbered bool
	_, err := c.slice(ctx, "check_counts", func(rows pgx.Rows) error { return rows.Scan(&queue, &name, &holes, &unnumbered) }, s.partition)
	if err != nil {
		return err
	}
	f := Finding{Queue: text(queue), Partition: text(name), PartitionID: s.partition.String()}
	switch {
	case s.kind != "":
		f.Kind, f.What = s.kind, s.what
		c.found(f)
	case s.without > 0:
		f.Kind, f.What = Unnumbered, fmt.Sprintf("%d messages have no number.", s.without)
		c.found(f)
	case !unnumbered && s.numbered+holes != *s.head-*s.tail:
		f.Kind, f.What = CountsDiffer, fmt.Sprintf("There are %d messages and %d known holes, and %d numbers.", s.numbered, holes, *s.head-*s.tail)
		c.found(f)
	}
	return nil
}

// later compares two places in a partition.
func later(at pgtype.Timestamptz, id pgtype.UUID, thanAt pgtype.Timestamptz, thanID pgtype.UUID) bool {
	if at.InfinityModifier != thanAt.InfinityModifier {
		return at.InfinityModifier > thanAt.InfinityModifier
	}
	if c := at.Time.Compare(thanAt.Time); at.InfinityModifier == pgtype.Finite && c != 0 {
		return c > 0
	}
	return bytes.Compare(id.Bytes[:], thanID.Bytes[:]) > 0
}
