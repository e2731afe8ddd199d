package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// This file is the form in which a push waits on disk while PostgreSQL is away: a record
// holds the messages of one request, with all the ids that they were given, so that
// whatever happens to it is done to the same messages again.
//
//	record  = version, count, message × count
//	message = flags, [queue, partition], transaction, id, [trace], [producer], payload
//
// count and the lengths before texts are unsigned varints; id and trace are 16 bytes. A
// queue and partition that are those of the message before are left out.

// recordVersion is the first byte of a record.
const recordVersion = 1

// The flags of a message.
const (
	recordTrace      = 1 << iota // it has a trace id
	recordGiven                  // the client named the transaction
	recordSealed                 // its payload is an envelope (encrypt.go)
	recordProducer               // it has a producer
	recordSame                   // its queue and partition are those of the message before
	recordSealedHere             // the envelope is ours, and no client's: it must be opened
	recordFlags      = recordSealedHere<<1 - 1
)

// ErrRecord is wrapped by what is said of bytes that are no record.
var ErrRecord = errors.New("not a record of messages")

// ErrKey is wrapped by what DecodeRecord says of a record that is one, and whose payloads
// were encrypted here with a key that the sealer does not have. Another process may have it.
var ErrKey = errors.New("the payloads cannot be opened")

// AppendRecord appends the messages of a push that are not decided. With a sealer the
// payloads are encrypted, whatever their queues say: who waits on disk for an encrypted
// queue must not be readable there, and whether a queue is one cannot be asked now. It
// reads op and changes nothing of it; any goroutine that holds the op.
func AppendRecord(dst []byte, op *Op, s *Sealer) ([]byte, error) {
	n := 0
	for i := range op.Items {
		if op.Items[i].Status == Pending {
			n++
		}
	}
	dst = binary.AppendUvarint(append(dst, recordVersion), uint64(n))
	var last *Item
	for i := range op.Items {
		it := &op.Items[i]
		if it.Status != Pending {
			continue
		}
		var err error
		if dst, err = appendRecorded(dst, it, last, s); err != nil {
			return dst, err
		}
		last = it
	}
	return dst, nil
}

func appendRecorded(dst []byte, it, last *Item, s *Sealer) ([]byte, error) {
	flags := byte(0)
	set := func(flag byte, is bool) {
		if is {
			flags |= flag
		}
	}
	same := last != nil && string(it.Queue) == string(last.Queue) && string(it.Partition) == string(last.Partition)
	set(recordTrace, it.HasTrace)
	set(recordGiven, it.GivenTransaction)
	set(recordSealed, it.sealed != nil || s != nil)
	set(recordProducer, it.ProducerSub != nil)
	set(recordSame, same)
	set(recordSealedHere, it.sealedHere || it.sealed == nil && s != nil)
	dst = append(dst, flags)
	if !same {
		dst = appendText(dst, it.Queue)
		dst = appendText(dst, it.Partition)
	}
	dst = appendText(dst, it.TransactionID)
	dst = append(dst, it.ID[:]...)
	if it.HasTrace {
		dst = append(dst, it.TraceID[:]...)
	}
	if it.ProducerSub != nil {
		dst = appendText(dst, it.ProducerSub)
	}
	switch {
	case it.sealed != nil:
		return appendText(dst, it.sealed), nil
	case s != nil:
		sealed, err := s.Seal(nil, it.Payload)
		return appendText(dst, sealed), err
	}
	return appendText(dst, it.Payload), nil
}

func appendText(dst, text []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// DecodeRecord appends the messages of a record to op.Items, to be stored. What they hold
// points into record, which must stay until the op is done. A payload that is encrypted is
// used as it is if its queue is encrypted, and opened if not. One that was encrypted by
// somebody else (TakeEnvelope) is left as it is if the sealer cannot open it, or if there is
// none; one that was encrypted here is not: to those who pop it that would be garbage. An
// error wraps ErrRecord or ErrKey, and leaves op as it was.
func DecodeRecord(op *Op, record []byte, s *Sealer) error {
	from, cost, opened := len(op.Items), op.Cost, len(op.sealed)
	if err := PeekRecord(op, record); err != nil {
		return err
	}
	for i := from; i < len(op.Items); i++ {
		if it := &op.Items[i]; op.open(it, s) || !it.sealedHere {
			continue
		}
		clear(op.Items[from:])
		op.Items, op.Cost, op.sealed = op.Items[:from], cost, op.sealed[:opened]
		if s == nil {
			return fmt.Errorf("%w: they are encrypted, and no key was given", ErrKey)
		}
		return fmt.Errorf("%w: they were encrypted with another key than the one that was given", ErrKey)
	}
	return nil
}

// open opens the payload of a message from a record, if it is an envelope of this key.
func (op *Op) open(it *Item, s *Sealer) bool {
	if it.sealed == nil {
		return false
	}
	// Opened payloads are kept where made-up envelopes are: both are the op's.
	from := len(op.sealed)
	plain, ok := s.Open(op.sealed, it.sealed)
	if ok {
		op.sealed = plain
		it.Payload = whole(plain[from:])
	}
	return ok
}

// PeekRecord is DecodeRecord for those who only look: it needs no key, and leaves every
// payload as it is on disk.
func PeekRecord(op *Op, record []byte) error {
	r := recordReader{rest: record}
	if v := r.byte(); v != recordVersion && !r.bad {
		return fmt.Errorf("%w: version %d is not known here", ErrRecord, v)
	}
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		return fmt.Errorf("%w: it ends too early", ErrRecord)
	}
	from := len(op.Items)
	for range n {
		op.Items = append(op.Items, Item{})
		it := &op.Items[len(op.Items)-1]
		if len(op.Items)-1 > from {
			it.Queue, it.Partition = op.Items[len(op.Items)-2].Queue, op.Items[len(op.Items)-2].Partition
		}
		r.message(it)
		if r.bad {
			break
		}
	}
	if !r.bad && len(r.rest) == 0 {
		op.Cost += len(record) + int(n)*itemBytes
		return nil
	}
	clear(op.Items[from:])
	op.Items = op.Items[:from]
	if r.bad {
		return fmt.Errorf("%w: it ends too early", ErrRecord)
	}
	return fmt.Errorf("%w: %d bytes are left over", ErrRecord, len(r.rest))
}

// message reads one message into it.
func (r *recordReader) message(it *Item) {
	flags := r.byte()
	if flags&^recordFlags != 0 || flags&recordSame != 0 && it.Queue == nil ||
		flags&(recordSealed|recordSealedHere) == recordSealedHere {
		r.bad = true
		return
	}
	if flags&recordSame == 0 {
		it.Queue, it.Partition = r.text(), r.text()
	}
	it.TransactionID = r.text()
	it.GivenTransaction = flags&recordGiven != 0
	copy(it.ID[:], r.bytes(len(it.ID)))
	if flags&recordTrace != 0 {
		it.HasTrace = true
		copy(it.TraceID[:], r.bytes(len(it.TraceID)))
	}
	if flags&recordProducer != 0 {
		it.ProducerSub = r.text()
	}
	it.Payload = r.text()
	if flags&recordSealed != 0 {
		it.sealed, it.sealedHere = it.Payload, flags&recordSealedHere != 0
	}
}

// recordReader reads the parts of a record; bad: it was too short.
type recordReader struct {
	rest []byte
	bad  bool
}

func (r *recordReader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := whole(r.rest[:n])
	r.rest = r.rest[n:]
	return b
}

func (r *recordReader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *recordReader) text() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	return r.bytes(int(n))
}

// Waiting is the payload as it is on disk, and whether that is an envelope.
func (it *Item) Waiting() (payload []byte, sealed bool) {
	if it.sealed != nil {
		return it.sealed, true
	}
	return it.Payload, false
}

// TakeEnvelope says of a message whose payload came from Queen's own buffer that it may be
// encrypted already: then it is not encrypted again.
func (it *Item) TakeEnvelope() {
	if _, ok := readEnvelope(it.Payload); ok {
		it.sealed = it.Payload
	}
}
