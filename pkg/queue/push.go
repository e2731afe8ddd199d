package queue

import (
	"strconv"
	"unicode/utf8"
	"unsafe"
)

// The 400s that Queen's clients know, word for word.
const (
	refuseEmpty       = "Empty request body"
	refuseJSON        = "Invalid JSON: "
	refuseItems       = "items array is required"
	refusePartition   = "Partition must be a string"
	refuseQueue       = "Queue must be a string"
	refuseTransaction = "TransactionId must be a string"
	refuseTrace       = "TraceId must be a string"
)

const itemBytes = int(unsafe.Sizeof(Item{}))

var (
	defaultPartition = []byte("Default")
	nullPayload      = []byte("null")
)

// Decode reads the body of a push into op: it copies body once into the op's own
// memory, checks everything that can be known before SQL, and gives every message
// its id. The zero Fault means that op.Items is ready for a store (no items: the
// answer is `[]`, nothing is to be stored); otherwise the request is refused whole,
// with the fault's code and sentence. Decode does not touch op's times and Done.
//
// What is wrong is found in this order: text that is not JSON; an envelope without
// items; the first item with a field of the wrong type; the first item with a value
// that PostgreSQL could not store. A key that is given twice counts as it was given
// last.
func Decode(op *Op, body []byte, c *Config, ids *IDs) Fault {
	op.clear()
	if len(body) == 0 {
		return Fault{Invalid, refuseEmpty}
	}
	costMax := c.OpBytesMax
	if costMax == 0 {
		costMax = OpBytesMaxDefault
	}
	op.body = append(op.body, body...)
	d := decoder{op: op, jsonb: c.PayloadJSONB, itemsMax: (costMax - len(body)) / itemBytes}
	d.s.reset(op.body)
	if !d.document() {
		if d.tooMany {
			return Fault{TooLarge, "the request's items need more memory than one request may use (" + strconv.Itoa(costMax) + " bytes)"}
		}
		return Fault{Invalid, refuseJSON + d.s.sentence(body)}
	}
	switch {
	case !d.items:
		return Fault{Invalid, refuseItems}
	case d.wrongType != "":
		return Fault{Invalid, d.wrongType}
	case d.wrongValue != "":
		return Fault{Invalid, d.wrongValue}
	}

	ms := ids.wallMs()
	for i := range op.Items {
		it := &op.Items[i]
		it.ID = ids.at(ms)
		if !it.GivenTransaction {
			u := ids.at(ms)
			from := len(op.made)
			op.made = u.Append(op.made)
			it.TransactionID = op.made[from:len(op.made):len(op.made)]
		}
	}
	op.Cost = len(op.body) + len(op.made) + len(op.Items)*itemBytes
	return Fault{}
}

// decoder is one Decode under way. It lives on the stack.
type decoder struct {
	s        scanner
	op       *Op
	jsonb    bool
	itemsMax int

	items      bool   // there is an array of items
	wrongType  string // the first item's fault of that kind
	wrongValue string
	tooMany    bool
}

// document moves over the whole text. false: it is not JSON, or tooMany.
func (d *decoder) document() bool {
	s := &d.s
	if s.space() != '{' {
		return s.value() && s.end()
	}
	s.open(true)
	if s.space() == '}' {
		s.close()
		return s.end()
	}
	for bad := badFirstKey; ; bad = badKey {
		key, ok := d.key(bad)
		if !ok {
			return false
		}
		if string(key) == "items" {
			ok = d.array()
		} else {
			ok = s.value()
		}
		if !ok {
			return false
		}
		switch s.space() {
		case ',':
			s.i++
		case '}':
			s.close()
			return s.end()
		default:
			return s.fail(s.i, badObject)
		}
	}
}

// key moves over a key and returns its text.
func (d *decoder) key(bad string) ([]byte, bool) {
	d.s.flags = 0
	from, to, ok := d.s.key(bad)
	if !ok {
		return nil, false
	}
	key := d.s.b[from:to]
	if d.s.flags&hasEscape != 0 {
		key = unescape(key)
	}
	return key, true
}

// array moves over the value of "items".
func (d *decoder) array() bool {
	s := &d.s
	d.items, d.wrongType, d.wrongValue = false, "", ""
	d.op.Items = d.op.Items[:0]
	if s.space() != '[' {
		return s.value()
	}
	d.items = true
	s.open(false)
	if s.space() == ']' {
		s.close()
		return true
	}
	for {
		if !d.item() {
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

// field is where a field's text is, and what it is like.
type field struct {
	text  []byte // unescaped
	kind  fieldKind
	flags textFlags
}

type fieldKind uint8

const (
	absent fieldKind = iota
	text
	other // any other JSON type, null included
)

// item moves over one element of the array.
func (d *decoder) item() bool {
	s := &d.s
	var queue, partition, transaction, trace, payload field
	if s.space() != '{' {
		if !s.value() {
			return false
		}
		return d.add(queue, partition, transaction, trace, payload)
	}
	s.open(true)
	if s.space() == '}' {
		s.close()
		return d.add(queue, partition, transaction, trace, payload)
	}
	for bad := badFirstKey; ; bad = badKey {
		key, ok := d.key(bad)
		if !ok {
			return false
		}
		switch string(key) {
		case "queue":
			ok = d.name(&queue)
		case "partition":
			ok = d.name(&partition)
		case "transactionId":
			ok = d.name(&transaction)
		case "traceId":
			ok = d.name(&trace)
		case "payload":
			ok = d.payload(&payload)
		default:
			ok = s.value()
		}
		if !ok {
			return false
		}
		switch s.space() {
		case ',':
			s.i++
		case '}':
			s.close()
			return d.add(queue, partition, transaction, trace, payload)
		default:
			return s.fail(s.i, badObject)
		}
	}
}

// name moves over a value that should be a string.
func (d *decoder) name(f *field) bool {
	s := &d.s
	*f = field{kind: other}
	if s.space() != '"' {
		return s.value()
	}
	s.flags = 0
	from := s.i + 1
	if !s.str() {
		return false
	}
	*f = field{kind: text, text: s.b[from : s.i-1], flags: s.flags}
	if f.flags&hasEscape != 0 {
		f.text = unescape(f.text)
	}
	return true
}

// payload moves over a value and keeps its bytes.
func (d *decoder) payload(f *field) bool {
	s := &d.s
	s.space()
	s.flags, s.numbers = 0, d.jsonb
	from := s.i
	ok := s.value()
	s.numbers = false
	*f = field{kind: other, text: s.b[from:s.i], flags: s.flags}
	return ok
}

// add checks an item and takes it in. Once something is wrong with the request the
// items no longer matter, and only a worse kind of fault is looked for.
func (d *decoder) add(queue, partition, transaction, trace, payload field) bool {
	n := len(d.op.Items)
	if n >= d.itemsMax {
		d.tooMany = true
		return false
	}
	if n < cap(d.op.Items) {
		d.op.Items = d.op.Items[:n+1]
	} else {
		d.op.Items = append(d.op.Items, Item{})
	}
	if d.wrongType != "" {
		return true
	}
	switch {
	case partition.kind == other:
		d.wrongType = refusePartition
	case queue.kind != text:
		d.wrongType = refuseQueue
	case transaction.kind == other:
		d.wrongType = refuseTransaction
	case trace.kind == other:
		d.wrongType = refuseTrace
	}
	if d.wrongType != "" || d.wrongValue != "" {
		return true
	}
	it := &d.op.Items[n]
	*it = Item{
		Queue: whole(queue.text), Partition: defaultPartition, Payload: nullPayload,
		TransactionID: whole(transaction.text), GivenTransaction: len(transaction.text) > 0,
	}
	if partition.kind == text {
		it.Partition = whole(partition.text)
	}
	if payload.kind != absent {
		it.Payload = whole(payload.text)
	}
	ok := d.checkName(n, "queue", queue) && d.checkName(n, "partition", partition) && d.checkName(n, "transactionId", transaction)
	if ok && len(trace.text) > 0 {
		if it.TraceID, it.HasTrace = parseUUID(trace.text); !it.HasTrace {
			ok = d.refuse(n, "traceId", "is not a UUID")
		}
	}
	if ok && d.jsonb {
		d.checkPayload(n, payload.flags)
	}
	return true
}

// whole is b without room behind it: nobody can append into its neighbour.
func whole(b []byte) []byte { return b[:len(b):len(b)] }

func (d *decoder) checkName(n int, name string, f field) bool {
	switch {
	case f.flags&hasNUL != 0:
		return d.refuse(n, name, `holds the character \u0000, which cannot be stored`)
	case f.flags&hasSurrogate != 0:
		return d.refuse(n, name, `holds half of a surrogate pair (\ud800 to \udfff alone), which is no character`)
	case len(f.text) > NameCharsMax && utf8.RuneCount(f.text) > NameCharsMax:
		return d.refuse(n, name, "is "+strconv.Itoa(utf8.RuneCount(f.text))+" characters long, more than "+strconv.Itoa(NameCharsMax))
	}
	return true
}

func (d *decoder) checkPayload(n int, flags textFlags) {
	switch {
	case flags&hasNUL != 0:
		d.refuse(n, "payload", `holds the character \u0000, which a jsonb column cannot store`)
	case flags&hasSurrogate != 0:
		d.refuse(n, "payload", `holds half of a surrogate pair (\ud800 to \udfff alone), which a jsonb column cannot store`)
	case flags&hasNumber != 0:
		d.refuse(n, "payload", "holds a number of more than "+strconv.Itoa(NumberDigitsMax)+" digits or with an exponent beyond ±"+
			strconv.Itoa(NumberExponentMax)+", which a jsonb column would write out in full")
	}
}

func (d *decoder) refuse(n int, field, why string) bool {
	d.wrongValue = "items[" + strconv.Itoa(n) + "]." + field + " " + why
	return false
}
