package api

import "github.com/queend/queend/pkg/queue"

// transaction does pushes and acknowledgments, all or nothing.
func (r *Router) transaction(x Exchange) {
	if c := r.ackCall(x, &r.Counters.Transaction); c != nil {
		c.run(queue.DecodeTransaction(&c.op, x.Request().Body, r.stores.Config, r.stores.IDs), r.stores.Transaction)
	}
}
