package queue

import (
	"slices"
	"strconv"
	"unsafe"

	"github.com/queend/queend/pkg/offheap"
)

// AppendPopAnswer appends the JSON answer to a pop that is done: always an object whose
// messages are an array. Keys are sorted by their bytes.
func AppendPopAnswer(dst []byte, op *Op) []byte {
	p := &op.Pop
	switch {
	case op.Fault.Code != OK:
		dst = append(dst, `{"error":`...)
		dst = appendJSONString(dst, op.Fault.Message)
		return append(dst, `,"messages":[],"success":false}`...)
	case p.Count > 0:
		return appendPopped(dst, p)
	case p.Paused:
		return append(dst, `{"messages":[],"paused":true}`...)
	case p.Expired:
		return appendPopExpired(dst, p)
	case p.Missing:
		return append(dst, `{"error":"partition_not_found","messages":[],"success":false}`...)
	case p.Held:
		return append(dst, `{"error":"lease_held","messages":[],"success":false}`...)
	case p.Scope == OnePartition:
		return appendPopped(dst, p) // there is nothing, or its window is open
	}
	return append(dst, `{"error":"no_available_partition","messages":[],"success":false}`...)
}

// PopAnswer is what AppendPopAnswer would append, without a copy of the messages, in op's
// own memory and valid until it is reset; nil: it has to be appended.
func PopAnswer(op *Op) []byte {
	p := &op.Pop
	if op.Fault.Code != OK || p.Count == 0 || !p.isFramed() {
		return nil
	}
	p.answer = appendPopTail(p.answer[:p.head+len(p.Messages)], p)
	return p.answer
}

// popTailBytes is what the answer to a pop mostly has behind its messages.
const popTailBytes = 512

// room makes room for about so many bytes more of messages. They stand where they will be
// answered: behind the head of the answer, and with room for its tail.
func (p *PopRequest) room(bytes int) {
	switch {
	case p.Count == 0:
		p.answer = appendPopHead(p.answer[:0], p)
		p.head = len(p.answer)
	case p.isFramed():
		p.answer = p.answer[:p.head+len(p.Messages)]
	default: // there were more bytes than was said
		p.Messages = slices.Grow(p.Messages, bytes)
		return
	}
	p.grow(bytes + popTailBytes)
	p.Messages = p.answer[p.head:]
}

// grow makes room for so many bytes more in the answer, a large one in a region.
func (p *PopRequest) grow(bytes int) {
	need := len(p.answer) + bytes
	if need > cap(p.answer) && need > offheap.RegionBytesMin {
		if r := offheap.New(max(need, 2*p.region.Size())); r != nil {
			p.answer = append(r.Empty(), p.answer...)
			p.region.Free()
			p.region = r
			return
		}
	}
	p.answer = slices.Grow(p.answer, bytes)
}

// isFramed says whether the messages still stand behind the head of the answer.
func (p *PopRequest) isFramed() bool {
	return p.head > 0 && cap(p.answer) > p.head && unsafe.SliceData(p.answer[p.head:p.head+1]) == unsafe.SliceData(p.Messages)
}

// appendPopped appends the shape of success.
func appendPopped(dst []byte, p *PopRequest) []byte {
	return appendPopTail(append(appendPopHead(dst, p), p.Messages...), p)
}

func appendPopHead(dst []byte, p *PopRequest) []byte {
	dst = append(dst, `{"consumerGroup":`...)
	dst = appendJSONString(dst, p.Group)
	dst = append(dst, `,"leaseId":`...)
	dst = appendJSONString(dst, p.LeaseID)
	return append(dst, `,"messages":[`...)
}

func appendPopTail(dst []byte, p *PopRequest) []byte {
	dst = append(dst, `],"partition":`...)
	if p.FirstExists {
		dst = appendJSONString(dst, p.FirstName)
		dst = append(dst, `,"partitionId":"`...)
		dst = p.First.Append(dst)
		dst = append(dst, '"')
	} else {
		dst = appendJSONString(dst, p.Partition)
		dst = append(dst, `,"partitionId":null`...)
	}
	if !p.Window {
		dst = append(dst, `,"partitionsClaimed":`...)
		dst = strconv.AppendInt(dst, int64(p.Claimed), 10)
	}
	dst = append(dst, `,"queue":`...)
	if p.FirstExists {
		dst = appendJSONString(dst, p.FirstQueue)
	} else {
		dst = appendJSONString(dst, p.Queue)
	}
	dst = append(dst, `,"success":true`...)
	if p.Window {
		dst = append(dst, `,"windowBufferActive":true`...)
	}
	return append(dst, '}')
}

func appendPopExpired(dst []byte, p *PopRequest) []byte {
	dst = append(dst, `{"consumerGroup":`...)
	dst = appendJSONString(dst, p.Group)
	dst = append(dst, `,"leaseId":null,"messages":[],"partition":`...)
	dst = appendJSONString(dst, p.Partition)
	dst = append(dst, `,"partitionId":null,"queue":`...)
	dst = appendJSONString(dst, p.Queue)
	return append(dst, `,"success":true}`...)
}

// popPieces is what all messages of one claim have in common, as JSON:
// head created_at `,"data":` payload `,"id":"` id `"` middle sub tail trace
// `,"transactionId":` transaction `}`.
type popPieces struct{ head, middle, tail []byte }

// appendPopPieces makes the pieces in dst's memory. A growing dst leaves the old memory
// to the pieces that point into it.
func appendPopPieces(dst []byte, group, lease, queue, name []byte, partition *UUID, retries int) ([]byte, popPieces) {
	var p popPieces
	from := len(dst)
	dst = append(dst, `{"consumerGroup":`...)
	dst = appendJSONString(dst, group)
	dst = append(dst, `,"createdAt":"`...)
	p.head = whole(dst[from:])
	from = len(dst)
	dst = append(dst, `","leaseId":"`...)
	dst = append(dst, lease...)
	dst = append(dst, `","partition":`...)
	dst = appendJSONString(dst, name)
	dst = append(dst, `,"partitionId":"`...)
	dst = partition.Append(dst)
	dst = append(dst, `","producerSub":`...)
	p.middle = whole(dst[from:])
	from = len(dst)
	dst = append(dst, `,"queue":`...)
	dst = appendJSONString(dst, queue)
	dst = append(dst, `,"retryCount":`...)
	dst = strconv.AppendInt(dst, int64(retries), 10)
	dst = append(dst, `,"traceId":`...)
	p.tail = whole(dst[from:])
	return dst, p
}

// appendTime appends PostgreSQL's binary timestamptz, microseconds since 2000 in UTC, as
// 2026-04-26T10:59:28.267966Z.
func appendTime(dst []byte, micros int64) []byte {
	const day = 24 * 60 * 60 * 1_000_000
	days, rest := micros/day, micros%day
	if rest < 0 {
		days, rest = days-1, rest+day
	}
	// Days since 0000-03-01 of the Gregorian calendar; a year that begins in March has its
	// leap day at its end. 400 years are 146,097 days.
	days += 730_425
	era := days / 146_097
	if days < 0 {
		era = (days - 146_096) / 146_097
	}
	inEra := days - era*146_097
	yearOfEra := (inEra - inEra/1460 + inEra/36_524 - inEra/146_096) / 365
	dayOfYear := inEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	month := (5*dayOfYear + 2) / 153
	dayOfMonth := dayOfYear - (153*month+2)/5 + 1
	year := yearOfEra + era*400
	if month += 3; month > 12 {
		month -= 12
		year++
	}
	dst = appendDigits(dst, year, 4)
	dst = append(dst, '-')
	dst = appendDigits(dst, month, 2)
	dst = append(dst, '-')
	dst = appendDigits(dst, dayOfMonth, 2)
	dst = append(dst, 'T')
	dst = appendDigits(dst, rest/3_600_000_000, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, rest/60_000_000%60, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, rest/1_000_000%60, 2)
	dst = append(dst, '.')
	dst = appendDigits(dst, rest%1_000_000, 6)
	return append(dst, 'Z')
}

// appendDigits appends n ≥ 0 with at least width digits.
func appendDigits(dst []byte, n int64, width int) []byte {
	n = max(n, 0)
	var b [20]byte
	i := len(b)
	for ; n > 0 || width > 0; width-- {
		i--
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return append(dst, b[i:]...)
}
