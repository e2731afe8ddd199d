package api

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// PopDefaults are what a pop that does not say is given. The zero value of a field takes
// its default.
type PopDefaults struct {
	Timeout time.Duration // DEFAULT_TIMEOUT: PopTimeoutDefault
	Batch   int           // DEFAULT_BATCH_SIZE: 1

	// Subscription is DEFAULT_SUBSCRIPTION_MODE, used when subscriptionMode is absent: "",
	// all history, or "new".
	Subscription string
}

// PopTimeoutDefault is how long a pop with wait=true waits.
const PopTimeoutDefault = 30 * time.Second

// popCall is a pop on its way: the op, and the exchange that waits for it.
type popCall struct {
	op       queue.Op
	router   *Router
	exchange Exchange
	store    queue.Store
	gone     func() // cancel, as a value that is made once
	half     func() // halfClosed, likewise
	body     []byte // scratch for the answer
}

// popCallsKept bounds their free list: very many may be parked, and end together.
const popCallsKept = 1024

// addPop makes the routes of pop.
func (r *Router) addPop() {
	r.addPath("GET", "/api/v1/pop/queue/:queue/partition/:partition", func(x Exchange, p Params) {
		r.pop(x, queue.OnePartition, queue.PopNames{Queue: p.Get(0), Partition: p.Get(1)})
	}).noHead = true
	r.addPath("GET", "/api/v1/pop/queue/:queue", func(x Exchange, p Params) {
		r.pop(x, queue.OneQueue, queue.PopNames{Queue: p.Get(0)})
	}).noHead = true
	r.add("GET", "/api/v1/pop", func(x Exchange) {
		var names queue.PopNames
		names.Namespace, _ = queryText(x, "namespace")
		names.Task, _ = queryText(x, "task")
		r.pop(x, queue.ManyQueues, names)
	}).noHead = true
}

func (r *Router) pop(x Exchange, scope queue.PopScope, names queue.PopNames) {
	counters := &r.Counters.Pop
	c := r.popCall()
	op := &c.op
	op.Accepted = x.Accepted()
	names.Group, _ = queryText(x, "consumerGroup")
	if fault := queue.DecodePop(op, scope, names); fault.Code != queue.OK {
		counters.Refused.Add(1)
		r.releasePop(c)
		r.fault(x, fault)
		return
	}
	r.popQuery(x, &op.Pop)
	c.exchange = x
	op.Decoded = r.Now()
	op.Deadline = op.Accepted + r.Deadline
	op.Pop.Client, op.Done = c, c
	if r.stores == nil || r.stores.Pop == nil {
		op.Fault = queue.Fault{Code: queue.Unavailable, Message: "the database is not ready yet, try again in a second"}
		c.OpDone(op)
		return
	}
	x.Expect(AnyLength) // what is claimed for a client must find room to be sent
	c.store = r.stores.Pop
	x.OnGone(c.gone)
	if op.Pop.Wait {
		x.OnHalfClosed(c.half)
	}
	c.store.Do(op)
}

// popQuery reads the parameters of a pop. What makes no sense is what is nearest to it,
// or the default, as Queen has it.
func (r *Router) popQuery(x Exchange, p *queue.PopRequest) {
	d := r.Services.Pop
	batch := d.Batch
	if batch == 0 {
		batch = 1
	}
	p.Batch = min(queryInt(x, "batch", batch), queue.PopBatchMax)
	p.Partitions = 1
	if p.Scope == queue.OnePartition {
		p.Batch = max(p.Batch, 0)
	} else {
		p.Batch = max(p.Batch, 1)
		p.Partitions = min(max(queryInt(x, "partitions", 1), 1), queue.PopPartitionsMax)
	}
	p.Wait = queryBool(x, "wait") && p.Batch > 0 // nobody waits for nothing
	p.AutoAck = queryBool(x, "autoAck")
	timeout := d.Timeout
	if timeout == 0 {
		timeout = PopTimeoutDefault
	}
	p.Timeout = time.Duration(max(queryInt(x, "timeout", int(timeout/time.Millisecond)), 0)) * time.Millisecond
	mode, given := queryText(x, "subscriptionMode")
	from, _ := queryText(x, "subscriptionFrom")
	if !given {
		mode = []byte(d.Subscription)
	}
	if len(mode)+len(from) > 0 {
		p.Subscription = queue.ParseSubscription(string(mode), string(from))
	}
}

// cancel: the client's connection has ended.
func (c *popCall) cancel() {
	if c.store != nil {
		c.store.Cancel(&c.op)
	}
}

// halfClosed: the client of a pop that waits sends no more. It is taken for gone (see Gone),
// and what it would be answered in the end it is answered now.
func (c *popCall) halfClosed() {
	c.op.Pop.Expired = true
	c.cancel()
}

// Gone says that nobody waits for the answer, as far as can be known: its connection has
// ended. One that waits and has closed its side is taken for gone, since that is what is
// seen of a process that was killed; nothing that is delivered to it would be
// acknowledged.
func (c *popCall) Gone() bool {
	return c.exchange.IsGone() || c.op.Pop.Wait && c.exchange.IsHalfClosed()
}

// OpDone implements queue.Completer: the store has answered. A pop is answered 200 with
// an object whatever happened: consumer loops in the field end on an HTTP error.
func (c *popCall) OpDone(op *queue.Op) {
	r, x := c.router, c.exchange
	r.Counters.Pop.count(op, r.Now()-op.Accepted)
	c.store = nil
	answer := queue.PopAnswer(op)
	if answer == nil {
		c.body = queue.AppendPopAnswer(c.body[:0], op)
		answer = c.body
	}
	x.Reply(200, jsonHeader, answer, false)
	r.releasePop(c)
}

func (r *Router) popCall() *popCall {
	if c := r.popCalls.take(); c != nil {
		return c
	}
	c := &popCall{router: r}
	c.gone, c.half = c.cancel, c.halfClosed
	return c
}

// releasePop takes a call back; what was big is left to the collector.
func (r *Router) releasePop(c *popCall) {
	c.exchange, c.store = nil, nil
	c.op.Reset()
	if cap(c.body) > answerBytesKept {
		c.body = nil
	}
	r.popCalls.give(c, r.Now())
}
