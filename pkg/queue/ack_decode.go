package queue

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// The refusals that Queen's clients know, word for word.
const (
	refuseAckTransaction  = "transactionId is required"
	refuseAckPartition    = "partitionId is required to ensure message uniqueness"
	refuseAcks            = "acknowledgments array is required"
	refuseAcksTransaction = "Each acknowledgment must have a valid transactionId string"
	refuseAcksPartition   = "Each acknowledgment must have a valid partitionId string to ensure message uniqueness"
)

const notUUID = "partitionId is not a UUID"

const ackBytes = int(unsafe.Sizeof(AckItem{}))

var (
	queueMode = []byte(QueueMode)
	completed = []byte("completed")
)

// DecodeAck reads the body of a single acknowledgment into op, as Decode does that of a
// push: one copy, and all that can be known before SQL is checked.
func DecodeAck(op *Op, body []byte, c *Config) Fault {
	var d ackDecoder
	if f := d.begin(op, body, c, Ack); f.Code != OK {
		return f
	}
	var a ackFields
	if !d.objectOr(func(key []byte) bool { return d.ackField(key, &a) }) || !d.s.end() {
		return d.notJSON(body)
	}
	switch {
	case a.transaction.kind != text:
		return Fault{Invalid, refuseAckTransaction}
	case a.partition.kind != text:
		return Fault{Invalid, refuseAckPartition}
	}
	if d.addAck(&a); !op.Acks[0].IsPartition {
		return Fault{Invalid, notUUID}
	}
	return d.finish(a.group)
}

// DecodeAcks reads the body of a batch of acknowledgments into op. No acknowledgments: the
// answer is `[]`, nothing is to be done. The group is the request's; what an element says
// of it is ignored.
func DecodeAcks(op *Op, body []byte, c *Config) Fault {
	var d ackDecoder
	if f := d.begin(op, body, c, Ack); f.Code != OK {
		return f
	}
	var group field
	ok := d.objectOr(func(key []byte) bool {
		switch string(key) {
		case "consumerGroup":
			return d.name(&group)
		case "acknowledgments":
			op.Acks, d.wrongType = op.Acks[:0], ""
			return d.arrayOr(&d.items, d.ack)
		}
		return d.s.value()
	})
	switch {
	case d.tooMany:
		return d.tooLarge()
	case !ok || !d.s.end():
		return d.notJSON(body)
	case !d.items:
		return Fault{Invalid, refuseAcks}
	case d.wrongType != "":
		return Fault{Invalid, d.wrongType}
	}
	return d.finish(group)
}

// ackDecoder is the decoding of acks, of a lease or of a transaction under way. It lives
// on the stack.
type ackDecoder struct {
	decoder
	costMax int
}

// ackFields are the fields of one acknowledgment.
type ackFields struct{ transaction, partition, group, status, lease, reason field }

// begin copies the body. An empty one is refused.
func (d *ackDecoder) begin(op *Op, body []byte, c *Config, v Verb) Fault {
	op.clear()
	op.Verb = v
	if len(body) == 0 {
		return Fault{Invalid, refuseEmpty}
	}
	d.costMax = c.OpBytesMax
	if d.costMax == 0 {
		d.costMax = OpBytesMaxDefault
	}
	op.body = append(op.body, body...)
	d.op, d.jsonb, d.itemsMax = op, c.PayloadJSONB, (d.costMax-len(body))/ackBytes
	d.s.reset(op.body)
	return Fault{}
}

func (d *ackDecoder) notJSON(body []byte) Fault {
	return Fault{Invalid, refuseJSON + d.s.sentence(body)}
}

func (d *ackDecoder) tooLarge() Fault {
	return Fault{TooLarge, "the request's elements need more memory than one request may use (" + strconv.Itoa(d.costMax) + " bytes)"}
}

// objectOr moves over a value and gives each the keys of an object; each moves over what
// the key has. Another value has no keys.
func (d *ackDecoder) objectOr(each func(key []byte) bool) bool {
	s := &d.s
	if s.space() != '{' {
		return s.value()
	}
	s.open(true)
	if s.space() == '}' {
		s.close()
		return true
	}
	for bad := badFirstKey; ; bad = badKey {
		key, ok := d.key(bad)
		if !ok || !each(key) {
			return false
		}
		switch s.space() {
		case ',':
			s.i++
		case '}':
			s.close()
			return true
		default:
			return s.fail(s.i, badObject)
		}
	}
}

// arrayOr moves over a value; each moves over one element of an array. is says whether it
// was one.
func (d *ackDecoder) arrayOr(is *bool, each func() bool) bool {
	s := &d.s
	if *is = s.space() == '['; !*is {
		return s.value()
	}
	s.open(false)
	if s.space() == ']' {
		s.close()
		return true
	}
	for {
		if !each() {
			return false
		}
		switch s.space() {
		case ',':
			s.i++
		case ']':
			s.close()
			return true
		default:
			return s.fail(s.i, badArray)
		}
	}
}

// ackField moves over a value of an acknowledgment.
func (d *ackDecoder) ackField(key []byte, a *ackFields) bool {
	switch string(key) {
	case "transactionId":
		return d.name(&a.transaction)
	case "partitionId":
		return d.name(&a.partition)
	case "consumerGroup":
		return d.name(&a.group)
	case "status":
		return d.name(&a.status)
	case "leaseId":
		return d.name(&a.lease)
	case "error":
		return d.name(&a.reason)
	}
	return d.s.value()
}

// ack moves over one element of a batch. Once one is wrong the others no longer matter.
func (d *ackDecoder) ack() bool {
	if len(d.op.Acks) >= d.itemsMax {
		d.tooMany = true
		return false
	}
	var a ackFields
	if !d.objectOr(func(key []byte) bool { return d.ackField(key, &a) }) {
		return false
	}
	switch {
	case d.wrongType != "":
	case a.transaction.kind != text:
		d.wrongType = refuseAcksTransaction
	case a.partition.kind != text:
		d.wrongType = refuseAcksPartition
	default:
		d.addAck(&a)
	}
	return true
}

// addAck takes an acknowledgment in.
func (d *ackDecoder) addAck(a *ackFields) {
	it := AckItem{
		TransactionID: whole(a.transaction.text), PartitionText: whole(a.partition.text), Group: queueMode,
		Status: completed, LeaseID: whole(a.lease.text), Error: a.reason.text, HasError: len(a.reason.text) > 0,
	}
	it.Partition, it.IsPartition = parseUUID(it.PartitionText)
	if a.status.kind == text {
		it.Status = whole(a.status.text)
	}
	if a.reason.flags&hasNUL != 0 { // a text column holds no NUL
		it.Error = bytes.ReplaceAll(it.Error, []byte{0}, []byte("\ufffd"))
	}
	// Such an id is in no message, and PostgreSQL need not be asked for it.
	it.nowhere = nameFault(a.transaction) != ""
	d.op.Acks = append(d.op.Acks, it)
}

// finish gives all acks their group and counts what the op costs.
func (d *ackDecoder) finish(group field) Fault {
	name, why := groupOf(group)
	if why != "" {
		return Fault{Invalid, "consumerGroup " + why}
	}
	for i := range d.op.Acks {
		d.op.Acks[i].Group = name
	}
	d.op.Cost = len(d.op.body) + len(d.op.Acks)*ackBytes
	return Fault{}
}

// groupOf is the group that a field names: none and an empty one are the group of those
// who name none. why says what is wrong with the name.
func groupOf(f field) (name []byte, why string) {
	if f.kind != text || len(f.text) == 0 {
		return queueMode, ""
	}
	return whole(f.text), nameFault(f)
}

// nameFault says why a name cannot be stored, in the words that Decode uses.
func nameFault(f field) string {
	if f.flags&(hasNUL|hasSurrogate) == 0 && (len(f.text) <= NameCharsMax || utf8.RuneCount(f.text) <= NameCharsMax) {
		return ""
	}
	var d decoder
	d.checkName(0, "", f)
	return strings.TrimPrefix(d.wrongValue, "items[0]. ")
}
