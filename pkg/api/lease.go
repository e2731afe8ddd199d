package api

import "github.com/queend/queend/pkg/queue"

// extendLease gives a lease more time.
func (r *Router) extendLease(x Exchange, p Params) {
	if c := r.ackCall(x, &r.Counters.Extend); c != nil {
		c.run(queue.DecodeExtend(&c.op, p.Get(0), x.Request().Body, r.stores.Config), r.stores.Ack)
	}
}
