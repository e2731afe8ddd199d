package api

import (
	"github.com/queend/queend/pkg/queue"
)

// ackCall is an acknowledgment, an extension or a transaction on its way: the op, and the
// exchange that waits for it.
type ackCall struct {
	op       queue.Op
	router   *Router
	exchange Exchange
	counters *AckCounters
	body     []byte // scratch for the answer
}

// acknowledge takes one acknowledgment.
func (r *Router) acknowledge(x Exchange) {
	if c := r.ackCall(x, &r.Counters.Ack); c != nil {
		c.run(queue.DecodeAck(&c.op, x.Request().Body, r.stores.Config), r.stores.Ack)
	}
}

// acknowledgeMany takes a batch of them. An empty one is answered at once.
func (r *Router) acknowledgeMany(x Exchange) {
	c := r.ackCall(x, &r.Counters.Ack)
	if c == nil {
		return
	}
	fault := queue.DecodeAcks(&c.op, x.Request().Body, r.stores.Config)
	if fault.Code == queue.OK && len(c.op.Acks) == 0 {
		r.releaseAck(c)
		x.Reply(200, jsonHeader, []byte("[]"), false)
		return
	}
	c.run(fault, r.stores.Ack)
}

// ackCall makes the call for a request; nil: it was answered, as there is no store yet.
func (r *Router) ackCall(x Exchange, counters *AckCounters) *ackCall {
	if r.stores == nil || r.stores.Ack == nil || r.stores.Transaction == nil {
		counters.Unavailable.Add(1)
		r.fail(x, 503, nil, "the database is not ready yet, try again in a second")
		return nil
	}
	c := r.ackCalls.take()
	if c == nil {
		c = &ackCall{router: r}
	}
	c.exchange, c.counters = x, counters
	c.op.Accepted = x.Accepted()
	return c
}

// run hands a decoded op to its store, or answers what is wrong with it.
func (c *ackCall) run(fault queue.Fault, store queue.Store) {
	r, op := c.router, &c.op
	if fault.Code != queue.OK {
		c.counters.Refused.Add(1)
		x := c.exchange
		r.releaseAck(c)
		r.fault(x, fault)
		return
	}
	if op.Rows() > 1 {
		c.exchange.Expect(AnyLength)
	}
	op.Deadline = op.Accepted + r.Deadline + queue.Allowance(op.Rows(), op.Cost)
	op.Decoded = r.Now()
	op.Done = c
	store.Do(op)
}

// OpDone implements queue.Completer: the store has answered. What was asked may have
// failed item by item; that is in the answer, and its status is 200.
func (c *ackCall) OpDone(op *queue.Op) {
	r := c.router
	c.counters.count(op, r.Now()-op.Accepted)
	if op.Fault.Code != queue.OK {
		r.fault(c.exchange, op.Fault)
		r.releaseAck(c)
		return
	}
	switch op.Verb {
	case queue.Ack:
		c.body = queue.AppendAckAnswer(c.body[:0], op)
	case queue.Extend:
		c.body = queue.AppendExtendAnswer(c.body[:0], op)
	case queue.Transaction:
		c.body = queue.AppendTransactionAnswer(c.body[:0], op, r.stores.IDs.Random())
	default:
		panic("BUG: an op of another verb came back")
	}
	c.exchange.Reply(200, jsonHeader, c.body, false)
	r.releaseAck(c)
}

// releaseAck takes a call back; what was big is left to the collector.
func (r *Router) releaseAck(c *ackCall) {
	c.exchange, c.counters = nil, nil
	c.op.Reset()
	if cap(c.body) > answerBytesKept {
		c.body = nil
	}
	r.ackCalls.give(c, r.Now())
}
