package load

import (
	"bytes"
	"fmt"
	"net/url"
	"strconv"
)

// Pop is what a consumer asks for.
type Pop struct {
	Queue, Group string // no group: the queue's own consumers
	Batch        int
	Partitions   int // that it claims at most; 0: one
	Wait         bool
	TimeoutMs    int
	AutoAck      bool
	Mode         string // subscriptionMode; empty: not sent
}

// Request is the whole request for a server at host.
func (p Pop) Request(host string) []byte { return Target{Addr: host}.get(p.path()) }

func (p Pop) path() string {
	q := url.Values{"batch": {fmt.Sprint(p.Batch)}, "wait": {fmt.Sprint(p.Wait)}, "timeout": {fmt.Sprint(p.TimeoutMs)}, "autoAck": {fmt.Sprint(p.AutoAck)}}
	if p.Group != "" {
		q.Set("consumerGroup", p.Group)
	}
	if p.Partitions > 1 {
		q.Set("partitions", fmt.Sprint(p.Partitions))
	}
	if p.Mode != "" {
		q.Set("subscriptionMode", p.Mode)
	}
	return "/api/v1/pop/queue/" + p.Queue + "?" + q.Encode()
}

// Delivery is one message as a pop brought it.
type Delivery struct{ ID, Partition ID }

// The members of a popped message that are looked for, in the order in which they
// come: keys are sorted.
var dataMember, idMember, partitionMember, transactionMember = []byte(`"data":`), []byte(`,"id":"`), []byte(`"partitionId":"`), []byte(`"transactionId":"`)

// eachDelivery calls visit with what follows each message's id, partitionId and
// transactionId. Payloads must hold none of the three; ours are hexadecimal.
func eachDelivery(body []byte, visit func(id, partition, transaction []byte)) {
	for {
		_, id, ok := bytes.Cut(body, idMember)
		if !ok {
			return
		}
		_, partition, ok := bytes.Cut(id, partitionMember)
		if !ok {
			return
		}
		_, transaction, ok := bytes.Cut(partition, transactionMember)
		if !ok {
			return
		}
		visit(id, partition, transaction)
		body = transaction
	}
}

// AppendDeliveries appends the messages in a pop's answer.
func AppendDeliveries(all []Delivery, body []byte) []Delivery {
	eachDelivery(body, func(id, partition, _ []byte) {
		var d Delivery
		var ok [2]bool
		d.ID, ok[0] = parseID(id)
		d.Partition, ok[1] = parseID(partition)
		if !ok[0] || !ok[1] {
			d = Delivery{} // no message's: whoever compares will say so
		}
		all = append(all, d)
	})
	return all
}

// eachNumber calls visit with the number of each message in a pop's answer: the one
// with which its payload begins, wherever a server that stores jsonb puts blanks. A
// payload without one gives -1.
func eachNumber(body []byte, visit func(number int64)) {
	for {
		_, data, ok := bytes.Cut(body, dataMember)
		if !ok {
			return
		}
		visit(payloadNumber(data))
		body = data
	}
}

func payloadNumber(data []byte) int64 {
	for _, token := range []string{`{`, `"i"`, `:`, `"`} {
		var ok bool
		if data, ok = bytes.CutPrefix(bytes.TrimLeft(data, " "), []byte(token)); !ok {
			return -1
		}
	}
	if len(data) < numberDigits {
		return -1
	}
	n, err := strconv.ParseInt(string(data[:numberDigits]), 16, 64)
	if err != nil {
		return -1
	}
	return n
}

// AppendAck appends a whole request that acknowledges all messages in a pop's
// answer, as clients do: each with its lease. n is how many there are.
func AppendAck(dst []byte, host, group string, body []byte) (request []byte, n int) {
	return Target{Addr: host}.appendAck(dst, group, body)
}

func (t Target) appendAck(dst []byte, group string, body []byte) (request []byte, n int) {
	var b bytes.Buffer
	b.WriteString(`{"acknowledgments":[`)
	lease := []byte(`"leaseId":"`)
	eachDelivery(body, func(id, partition, transaction []byte) {
		if n++; n > 1 {
			b.WriteByte(',')
		}
		b.WriteString(`{"transactionId":"`)
		b.Write(untilQuote(transaction))
		b.WriteString(`","partitionId":"`)
		b.Write(untilQuote(partition))
		b.WriteString(`","status":"completed","error":null`)
		if _, after, ok := bytes.Cut(id, lease); ok {
			b.WriteString(`,"leaseId":"`)
			b.Write(untilQuote(after))
			b.WriteByte('"')
		}
		b.WriteByte('}')
	})
	b.WriteByte(']')
	if group != "" {
		fmt.Fprintf(&b, `,"consumerGroup":%q`, group)
	}
	b.WriteByte('}')
	return fmt.Appendf(dst, "POST %s/api/v1/ack/batch HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		t.Prefix, t.host(), b.Len(), b.Bytes()), n
}

// Acked is how many acknowledgments an answer calls successful.
func Acked(body []byte) int { return bytes.Count(body, []byte(`"success":true`)) }

func untilQuote(b []byte) []byte {
	if at := bytes.IndexByte(b, '"'); at >= 0 {
		return b[:at]
	}
	return b
}
