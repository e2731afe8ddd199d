package loop

import "sync/atomic"

// counters of one loop. Only the loop adds; anybody reads. An atomic that nobody else
// writes costs little more than a plain addition.
type counters struct {
	requests       atomic.Uint64
	answers        [6]atomic.Uint64 // by the first digit of the status
	refusals       [len(refusedStatuses)]atomic.Uint64
	bytesIn        atomic.Uint64
	bytesOut       atomic.Uint64
	timeouts       [timeoutKinds]atomic.Uint64
	readersClosed  atomic.Uint64
	repliesDropped atomic.Uint64
	panics         atomic.Uint64
}

// refusedStatuses are the statuses that this package itself answers with.
var refusedStatuses = [...]int{400, 408, 413, 414, 417, 431, 501, 503, 505}

const (
	timeoutIdle = iota
	timeoutHead
	timeoutBody
	timeoutWrite
	timeoutSilent
	timeoutKinds
)

// refused counts a request that never reached the handler.
func (c *counters) refused(status int) {
	for i, s := range refusedStatuses {
		if s == status {
			c.refusals[i].Add(1)
			return
		}
	}
	panic("BUG: a status that is not counted")
}

// Stats is what was counted since the start. All but ConnsOpen only grows.
type Stats struct {
	Requests uint64         // given to the handler
	Answers  [6]uint64      // by the first digit of the status, refusals included
	Refused  map[int]uint64 // requests that did not reach the handler, by status

	ConnsAccepted uint64 // clients that were accepted, those turned away included
	ConnsTurned   uint64 // turned away at ConnsMax
	ConnsOpen     int64  // clients that are connected
	AcceptErrors  uint64

	BytesIn, BytesOut uint64 // of clients

	TimeoutsIdle, TimeoutsHead, TimeoutsBody, TimeoutsWrite uint64
	TimeoutsSilent                                          uint64 // the kernel gave the client up: it vanished, or took nothing of what the kernel held

	ReadersClosed  uint64 // connections closed at OutputBytesMax, OutboundBytesMax or StalledBytesMax
	RepliesDropped uint64 // replies to connections that were gone
	Panics         uint64 // bugs
}

// Stats adds up what the loops counted. Any goroutine.
func (s *Server) Stats() Stats {
	t := Stats{
		Refused:       map[int]uint64{},
		ConnsAccepted: s.accepted.Load(),
		ConnsTurned:   s.refusals.Load(),
		ConnsOpen:     s.conns.Load(),
		AcceptErrors:  s.acceptErrors.Load(),
	}
	for _, l := range s.loops {
		c := &l.count
		t.Requests += c.requests.Load()
		for i := range c.answers {
			t.Answers[i] += c.answers[i].Load()
		}
		for i, status := range refusedStatuses {
			t.Refused[status] += c.refusals[i].Load()
		}
		t.BytesIn += c.bytesIn.Load()
		t.BytesOut += c.bytesOut.Load()
		t.TimeoutsIdle += c.timeouts[timeoutIdle].Load()
		t.TimeoutsHead += c.timeouts[timeoutHead].Load()
		t.TimeoutsBody += c.timeouts[timeoutBody].Load()
		t.TimeoutsWrite += c.timeouts[timeoutWrite].Load()
		t.TimeoutsSilent += c.timeouts[timeoutSilent].Load()
		t.ReadersClosed += c.readersClosed.Load()
		t.RepliesDropped += c.repliesDropped.Load()
		t.Panics += c.panics.Load()
	}
	return t
}
