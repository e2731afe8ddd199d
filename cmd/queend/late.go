package main

import "github.com/queend/queend/pkg/queue"

// lateStore stands in for a store that is made once the database's schema is known: until
// then PostgreSQL counts as away. All of it runs on the loop.
type lateStore struct {
	inner queue.Store
	code  queue.Code // what ops hear until then
}

func (s *lateStore) Do(op *queue.Op) {
	if s.inner == nil {
		op.Fault = queue.Fault{Code: s.code, Message: "the database is not ready yet, try again in a second"}
		op.Done.OpDone(op)
		return
	}
	s.inner.Do(op)
}

func (s *lateStore) Cancel(op *queue.Op) {
	if s.inner != nil {
		s.inner.Cancel(op)
	}
}

// lateLanes stand in for the lanes of one loop, and for its way into the pool.
type lateLanes struct {
	push, pop, ack, transaction, watch, legacy lateStore
}

func newLateLanes() *lateLanes {
	l := &lateLanes{}
	for _, s := range []*lateStore{&l.pop, &l.ack, &l.transaction, &l.watch} {
		s.code = queue.Unavailable
	}
	l.push.code, l.legacy.code = queue.Outage, queue.Outage
	return l
}

// come puts the lanes in their places.
func (l *lateLanes) come(lanes *lanes, legacy queue.Store) {
	l.push.inner, l.pop.inner, l.ack.inner = lanes.push, lanes.pop, lanes.ack
	l.transaction.inner, l.watch.inner = lanes.transaction, lanes.watch
	l.legacy.inner = &unlessAway{lanes.push.Away, legacy}
}

// unlessAway is the pool, which would wait for PostgreSQL, behind the loop's knowledge that
// it is away.
type unlessAway struct {
	away func() bool
	queue.Store
}

func (s *unlessAway) Do(op *queue.Op) {
	if s.away() {
		op.Fault = queue.Fault{Code: queue.Outage, Message: "PostgreSQL is away, try again in a second"}
		op.Done.OpDone(op)
		return
	}
	s.Store.Do(op)
}
