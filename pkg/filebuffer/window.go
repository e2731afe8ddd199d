package filebuffer

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// This file makes the windows of the drain: what one transaction of it stores.

// intake is where windows come from.
type intake struct {
	next  func() (journal.Record, error)
	ahead *journal.Record // read, and not in a window yet
	back  bool            // the drain has been here, and wants what has stayed behind
}

// inWindow is a partition in the window.
type inWindow struct {
	last    queue.UUID // message
	records []recordOf
	done    int  // messages that need not stay behind, the first ones
	left    bool // the others do

	waiting bool       // there is a message that must stay behind
	first   queue.UUID // the first such
	falls   bool       // ids do not say which messages follow it: those of its first record do not rise
}

// recordOf is how many messages of a partition are from one record.
type recordOf struct {
	seq uint64
	n   int
}

// waits is the record with the first message that must stay behind, and how many of the
// window's messages are before it in that.
func (w *inWindow) waits() (seq uint64, skip int) {
	skip = w.done
	for _, r := range w.records {
		if seq = r.seq; skip < r.n {
			break
		}
		skip -= r.n
	}
	return seq, skip
}

// fill fills the window with what comes next; end: that is all there is now.
func (d *drainer) fill(from *intake) (end bool) {
	d.op.Reset()
	d.last = 0
	clear(d.in)
	size := 0
	for {
		rec := from.ahead
		from.ahead = nil
		if rec == nil {
			next, err := from.next()
			if errors.Is(err, io.EOF) {
				return true
			}
			if err != nil {
				d.trouble("the file buffer cannot be read: " + err.Error())
				return false
			}
			rec = &next
		}
		before, cost := len(d.op.Items), d.op.Cost
		if d.last != 0 && size+len(rec.Payload) > windowBytesMax {
			from.ahead = rec
			return false
		}
		var err error
		if !from.back || d.wants(rec) {
			err = d.decode(rec)
		}
		switch {
		case errors.Is(err, queue.ErrKey):
			from.ahead = rec
			if d.last == 0 { // what is before it is delivered
				d.lacksKey(rec, err)
			}
			return false
		case err != nil && from.back: // it was set aside
		case err != nil:
			if !d.unreadable(rec, err) {
				d.op.Reset()
				d.last = 0
				return false // stopping
			}
		default:
			d.sift(rec.Seq, before, from.back)
			if !d.rises(before, rec.Seq) && before > 0 {
				d.op.Items, d.op.Cost = d.op.Items[:before], cost
				from.ahead = rec
				return false
			}
			for _, l := range d.left {
				d.behind.count(l, 1)
			}
		}
		d.last = rec.Seq
		size += len(rec.Payload)
		if len(d.op.Items) >= d.rows || size >= windowBytesMax {
			return false
		}
	}
}

// decode puts the messages of a record into the window.
func (d *drainer) decode(rec *journal.Record) error {
	switch rec.Kind {
	case kindPush:
		return queue.DecodeRecord(&d.op, rec.Payload, d.b.o.Sealer)
	case kindMark:
		return nil
	}
	return fmt.Errorf("a record of kind %d, which is not known here", rec.Kind)
}

// wants says whether some of a record is to be delivered by a drain that has gone back. The
// key of what is delivered may be gone.
func (d *drainer) wants(rec *journal.Record) bool {
	op := &d.peek
	op.Items = op.Items[:0]
	if rec.Kind != kindPush || queue.PeekRecord(op, rec.Payload) != nil {
		return false // it was set aside
	}
	wants := false
	for i := range d.behind.waiting(rec.Seq, op.Items) {
		wants = wants || !d.behind.of(&op.Items[i]).locked
	}
	clear(op.Items)
	return wants
}

// sift removes from a record's messages, the window's from the from-th on, those that are not
// to be delivered now: whose partitions stay behind, or when the drain has gone back, all
// others.
func (d *drainer) sift(seq uint64, from int, back bool) {
	d.left = d.left[:0]
	if !d.behind.any() {
		return
	}
	items := d.op.Items[from:]
	if back {
		items = keep(d.behind.waiting(seq, items), func(it *queue.Item) bool { return !d.behind.of(it).locked })
	} else {
		items = keep(items, func(it *queue.Item) bool {
			l := d.behind.of(it)
			if l != nil {
				d.left = append(d.left, l)
			}
			return l == nil
		})
	}
	d.op.Items = d.op.Items[:from+len(items)]
}

// rises says whether the messages from the window's from-th on have larger ids than those
// before them in their partitions. Within a transaction the ids are the order of delivery;
// when they do not rise (the clock leapt back, another loop made them), the order is kept
// by another transaction.
func (d *drainer) rises(from int, seq uint64) bool {
	rises := true
	for i := from; i < len(d.op.Items); i++ {
		it := &d.op.Items[i]
		d.key = appendKey(d.key[:0], it)
		w := d.in[string(d.key)]
		if w == nil {
			w = &inWindow{records: make([]recordOf, 0, 1)}
			d.in[string(d.key)] = w
		} else if bytes.Compare(it.ID[:], w.last[:]) <= 0 {
			rises = false
			w.falls = from == 0 // else the record is not for this window
		}
		w.last = it.ID
		if n := len(w.records); n == 0 || w.records[n-1].seq != seq {
			w.records = append(w.records, recordOf{seq: seq})
		}
		w.records[len(w.records)-1].n++
	}
	return rises
}
