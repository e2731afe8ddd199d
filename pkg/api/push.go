package api

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// PushTiming says where the time of one push went. It is made only when somebody
// asked for it (log level debug).
type PushTiming struct {
	RequestID []byte // valid only during the call
	Items     int
	Status    int
	Parse     time.Duration // from the last byte to the decoded op
	Wait      time.Duration // in the store, before its first statement was sent
	Database  time.Duration // from there to PostgreSQL's last word
	Total     time.Duration
}

// pushCall is a push on its way: the op, and the exchange that waits for it.
type pushCall struct {
	op       queue.Op
	router   *Router
	exchange Exchange
	counters *PushCounters
	body     []byte // scratch for the answer
}

// answerBytesKept is the largest scratch buffer that goes back to the free list.
const answerBytesKept = 64 << 10

func (r *Router) push(x Exchange, counters *PushCounters, store func(*Stores) queue.Store) {
	if r.stores == nil {
		counters.Unavailable.Add(1)
		r.fail(x, 503, nil, "the database is not ready yet, try again in a second")
		return
	}
	c := r.call()
	c.exchange, c.counters = x, counters
	op := &c.op
	op.Accepted = x.Accepted()
	if fault := queue.Decode(op, x.Request().Body, r.stores.Config, r.stores.IDs); fault.Code != queue.OK {
		counters.Refused.Add(1)
		r.release(c, op.Accepted)
		r.fault(x, fault)
		return
	}
	op.Deadline = op.Accepted + r.Deadline + queue.Allowance(len(op.Items), op.Cost)
	if r.Timing != nil {
		op.Decoded = r.Now()
	}
	if len(op.Items) == 0 {
		r.release(c, op.Accepted)
		x.Reply(201, jsonHeader, []byte("[]"), false)
		return
	}
	if len(op.Items) > 1 {
		x.Expect(queue.PushAnswerBytes(op))
	}
	op.Done = c
	store(r.stores).Do(op)
}

// OpDone implements queue.Completer: the store has answered.
func (c *pushCall) OpDone(op *queue.Op) {
	r, x := c.router, c.exchange
	status, now := statusOf[op.Fault.Code], r.Now()
	c.counters.count(op, status, now-op.Accepted)
	if r.Timing != nil {
		r.Timing(c.timing(status))
	}
	if op.Fault.Code != queue.OK {
		r.fault(x, op.Fault)
	} else {
		c.body = queue.AppendPushAnswer(c.body[:0], op)
		x.Reply(status, jsonHeader, c.body, false)
	}
	r.release(c, now)
}

func (c *pushCall) timing(status int) PushTiming {
	op := &c.op
	t := PushTiming{
		RequestID: c.exchange.RequestID(), Items: len(op.Items), Status: status,
		Parse: op.Decoded - op.Accepted, Total: c.router.Now() - op.Accepted,
	}
	if op.Sent > 0 {
		t.Wait, t.Database = op.Sent-op.Decoded, op.Answered-op.Sent
	}
	return t
}

func (r *Router) call() *pushCall {
	if c := r.calls.take(); c != nil {
		return c
	}
	return &pushCall{router: r}
}

// Trim lets go of what is kept for calls to come; on the router's loop. Calls under way are
// not touched.
func (r *Router) Trim() {
	r.calls.drop()
	r.popCalls.drop()
	r.ackCalls.drop()
}

// release takes a call back; what was big is left to the collector. now is the loop's clock,
// or was a moment ago.
func (r *Router) release(c *pushCall, now time.Duration) {
	c.exchange, c.counters = nil, nil
	if c.op.Reset() || cap(c.body) > answerBytesKept {
		c.body = nil
	}
	r.calls.give(c, now)
}
