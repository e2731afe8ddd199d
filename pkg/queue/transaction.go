package queue

import (
	"encoding/binary"
	"strconv"
	"strings"
	"unsafe"
)

// The refusals that Queen's clients know, word for word.
const (
	refuseOperations   = "operations array required"
	refuseNoOperations = "operations array cannot be empty"
)

const stepBytes = int(unsafe.Sizeof(TransactionStep{}))

var emptyPayload = []byte("{}")

// DecodeTransaction reads the body of a transaction into op: its operations become
// op.Steps, in order, the items of a push one step each. All that can be known before SQL
// is checked, and every message gets its id, as in Decode. No steps: the answer is that
// of success.
func DecodeTransaction(op *Op, body []byte, c *Config, ids *IDs) Fault {
	var d transactionDecoder
	if f := d.begin(op, body, c, Transaction); f.Code != OK {
		return f
	}
	d.itemsMax = (d.costMax - len(body)) / (itemBytes + stepBytes) / 2
	array := false
	ok := d.objectOr(func(key []byte) bool {
		if string(key) != "operations" {
			return d.s.value()
		}
		op.Steps, op.Acks, op.Items, d.n, d.wrong = op.Steps[:0], op.Acks[:0], op.Items[:0], 0, ""
		return d.arrayOr(&array, d.operation)
	})
	switch {
	case d.tooMany:
		return d.tooLarge()
	case !ok || !d.s.end():
		return d.notJSON(body)
	case !array:
		return Fault{Invalid, refuseOperations}
	case d.n == 0:
		return Fault{Invalid, refuseNoOperations}
	case d.wrong != "":
		return Fault{Invalid, d.wrong}
	}
	ms := ids.wallMs()
	for i := range op.Items {
		it := &op.Items[i]
		it.ID = ids.at(ms)
		if !it.GivenTransaction {
			u := ids.at(ms)
			from := len(op.made)
			op.made = u.Append(op.made)
			it.TransactionID = whole(op.made[from:])
		}
	}
	op.Cost = len(op.body) + len(op.made) + len(op.Items)*itemBytes + len(op.Acks)*ackBytes + len(op.Steps)*stepBytes
	return Fault{}
}

// Random returns a random id, a UUIDv4 (RFC 9562 §5.4): of a transaction, which nobody
// ever looks for.
func (g *IDs) Random() UUID {
	var u UUID
	binary.BigEndian.PutUint64(u[:], g.random.Uint64()&^0xf000|4<<12)
	binary.BigEndian.PutUint64(u[8:], 2<<62|g.random.Uint64()>>2)
	return u
}

// transactionDecoder is one DecodeTransaction under way.
type transactionDecoder struct {
	ackDecoder
	n     int    // operations so far
	wrong string // what is wrong with the first that is
}

// operation moves over one operation. Its type may come last, so that the items of a push
// are read when all of it was seen.
func (d *transactionDecoder) operation() bool {
	s := &d.s
	n := d.n
	d.n++
	if s.space() != '{' {
		d.refuse(n, " must be an object")
		return s.value()
	}
	if len(d.op.Steps) >= d.itemsMax {
		d.tooMany = true
		return false
	}
	var kind, items field
	var a ackFields
	from := 0
	ok := d.objectOr(func(key []byte) bool {
		switch string(key) {
		case "type":
			return d.name(&kind)
		case "items":
			s.space()
			from = s.i
			ok := s.value()
			items = field{kind: other, text: s.b[from:s.i]}
			return ok
		}
		return d.ackField(key, &a)
	})
	if !ok {
		return false
	}
	switch {
	case d.wrong != "":
	case string(kind.text) == "push":
		if items.kind == absent || items.text[0] != '[' {
			d.refuse(n, ".items must be an array")
			break
		}
		end := s.i
		s.i = from
		d.pushes(n)
		s.i = end
		return !d.tooMany
	case string(kind.text) == "ack":
		d.acknowledgment(n, &a)
	default:
		d.op.Steps = append(d.op.Steps, TransactionStep{Unknown: true, Type: whole(kind.text)})
	}
	return true
}

func (d *transactionDecoder) refuse(n int, why string) {
	if d.wrong == "" {
		d.wrong = "operations[" + strconv.Itoa(n) + "]" + why
	}
}

// pushes reads the items of operation n, which are valid JSON, until one is wrong.
func (d *transactionDecoder) pushes(n int) {
	first, array := len(d.op.Items), false
	d.arrayOr(&array, func() bool {
		at := len(d.op.Items)
		if !d.item() {
			return false
		}
		j := ".items[" + strconv.Itoa(at-first) + "]"
		switch {
		case d.wrongType != "":
			d.refuse(n, j+": "+d.wrongType)
			return false
		case d.wrongValue != "":
			d.refuse(n, j+strings.TrimPrefix(d.wrongValue, "items["+strconv.Itoa(at)+"]"))
			return false
		}
		it := &d.op.Items[at]
		if &it.Payload[0] == &nullPayload[0] { // it has none: not even a null
			it.Payload = emptyPayload
		}
		d.op.Steps = append(d.op.Steps, TransactionStep{Index: at})
		return true
	})
}

// acknowledgment takes operation n in.
func (d *transactionDecoder) acknowledgment(n int, a *ackFields) {
	group, why := groupOf(a.group)
	switch {
	case a.transaction.kind != text:
		d.refuse(n, ".transactionId must be a string")
	case a.partition.kind != text:
		d.refuse(n, ".partitionId must be a string")
	case why != "":
		d.refuse(n, ".consumerGroup "+why)
	default:
		if why = nameFault(a.transaction); why != "" {
			d.refuse(n, ".transactionId "+why)
			return
		}
		d.addAck(a)
		i := len(d.op.Acks) - 1
		d.op.Acks[i].Group = group
		d.op.Steps = append(d.op.Steps, TransactionStep{IsAck: true, Index: i})
	}
}

// TransactionFailed says whether a transaction that is done has failed.
func TransactionFailed(op *Op) bool {
	for i := range op.Steps {
		if op.Steps[i].Error != "" {
			return true
		}
	}
	return false
}

// AppendTransactionAnswer appends the JSON answer to a transaction that is done and has no
// Fault; id is what it is called. A transaction that failed has the results up to the
// operation that failed, as if those before it had been done.
func AppendTransactionAnswer(dst []byte, op *Op, id UUID) []byte {
	steps, failed := op.Steps, (*TransactionStep)(nil)
	for i := range steps {
		if st := &steps[i]; st.Error != "" {
			failed, steps = st, steps[:i+1]
			if st.Alone {
				steps = nil
			}
			break
		}
	}
	dst = append(dst, '{')
	if failed != nil {
		dst = append(dst, `"error":`...)
		dst = appendJSONString(dst, failed.Error)
		dst = append(dst, ',')
	}
	dst = append(dst, `"results":[`...)
	for i := range steps {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = steps[i].append(dst, op, i)
	}
	dst = append(dst, `],"success":`...)
	dst = strconv.AppendBool(dst, failed == nil)
	dst = append(dst, `,"transactionId":"`...)
	dst = id.Append(dst)
	return append(dst, `"}`...)
}

// append appends what became of one operation.
func (st *TransactionStep) append(dst []byte, op *Op, index int) []byte {
	switch {
	case st.Unknown:
		dst = append(dst, `{"error":`...)
		dst = appendJSONString(dst, st.Error)
		dst = append(dst, `,"index":`...)
		dst = strconv.AppendInt(dst, int64(index), 10)
		dst = append(dst, `,"success":false,"type":`...)
		dst = appendJSONString(dst, st.Type)
		return append(dst, '}')
	case st.IsAck:
		a := &op.Acks[st.Index]
		dst = append(dst, `{"dlq":`...)
		dst = strconv.AppendBool(dst, a.Dead)
		dst = append(dst, `,"error":`...)
		dst = appendNullable(dst, a.Why)
		dst = append(dst, `,"index":`...)
		dst = strconv.AppendInt(dst, int64(index), 10)
		dst = append(dst, `,"success":`...)
		dst = strconv.AppendBool(dst, a.Success)
		dst = append(dst, `,"transactionId":`...)
		dst = appendJSONString(dst, a.TransactionID)
		return append(dst, `,"type":"ack"}`...)
	}
	it := &op.Items[st.Index]
	dst = append(dst, `{"index":`...)
	dst = strconv.AppendInt(dst, int64(index), 10)
	dst = append(dst, `,"messageId":"`...)
	dst = it.ID.Append(dst)
	dst = append(dst, `","partitionId":`...)
	if it.PartitionID == (UUID{}) {
		dst = append(dst, "null"...) // the transaction failed before it was looked for
	} else {
		dst = append(dst, '"')
		dst = it.PartitionID.Append(dst)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"queueName":`...)
	dst = appendJSONString(dst, it.Queue)
	dst = append(dst, `,"success":true,"transactionId":`...)
	dst = appendJSONString(dst, it.TransactionID)
	return append(dst, `,"type":"push"}`...)
}
