package filebuffer

import (
	"errors"
	"io"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// backlog is all that is to be delivered, in its order: the records of ours that are older
// than what Queen's server has left, then that, then those that were pushed since.
//
//	ours … │ Queen's files │ mark, mark, ours …
//
// What Queen has left is where it was when the process began: before what was written since.
// That has marks in front, which keep the place for the processes to come: else pushes that
// were buffered meanwhile would get before it when the process ends too early.
//
// Its messages get the number of the record of ours before them: letting go of that is right
// whatever of them is in the window. Marks are two, so that there is one.
type backlog struct {
	ours       reading
	queens     *queens         // nil: there is nothing of Queen's, or no more
	last       uint64          // of ours, that was given
	at         uint64          // the number of Queen's messages; 0: it is not their turn
	held       *journal.Record // ours, that comes behind them
	fromQueens bool            // the record that was given last
}

func (b *Buffer) backlog() backlog {
	return backlog{ours: reading{b: b, reader: b.journal.ReaderFrom(b.behind.through + 1)}, queens: b.queens, last: b.behind.through}
}

// next is the next record. It is like that of reading.
func (l *backlog) next() (journal.Record, error) {
	if l.queens != nil && l.at == 0 {
		rec, err := l.ours.next()
		switch {
		case err == nil && rec.Kind != kindMark:
			return l.our(rec), nil
		case err == nil:
			l.at, l.held = max(rec.Seq-1, 1), &rec
		case errors.Is(err, io.EOF):
			l.at = max(l.last, 1)
		default:
			return rec, err
		}
	}
	if l.queens != nil {
		payload, err := l.queens.next()
		if err == nil {
			l.fromQueens = true
			return journal.Record{Seq: l.at, Time: time.Now(), Kind: kindPush, Payload: payload}, nil
		}
		if !errors.Is(err, io.EOF) {
			return journal.Record{}, err
		}
		if l.queens.over() {
			l.queens = nil
		}
	}
	if l.held != nil {
		rec := *l.held
		l.held = nil
		return l.our(rec), nil
	}
	rec, err := l.ours.next()
	if err != nil {
		return rec, err
	}
	return l.our(rec), nil
}

// our gives a record of ours.
func (l *backlog) our(rec journal.Record) journal.Record {
	l.fromQueens, l.last = false, rec.Seq
	l.ours.b.foundLate(rec)
	return rec
}

// stored says that all records that were given are stored, but for the last one if it is still
// ahead.
func (l *backlog) stored(ahead bool) {
	if l.queens == nil {
		return
	}
	n := l.queens.handed
	if ahead && l.fromQueens {
		n--
	}
	l.queens.stored(n)
	if l.queens.over() {
		l.queens = nil
	}
}

// mark marks the place of what Queen has left, once, before what is pushed is written.
func (b *Buffer) mark() error {
	if b.queens == nil || !b.queens.unmarked.Load() {
		return nil
	}
	_, err := b.journal.Append(kindMark, [][]byte{nil, nil})
	if err == nil {
		b.queens.unmarked.Store(false)
	}
	return err
}
