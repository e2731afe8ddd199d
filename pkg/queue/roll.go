package queue

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// roll is what every batch keeps of its ops, whatever their verb: who is in it, who is
// decided, and how much patience is left. Batches embed it.
type roll struct {
	entries []entry // in the order they were added
	rows    int
	bytes   int
	begun   bool // Step was called
	unknown bool // an earlier step may have been committed
	view    []*Op

	doubt  string         // what is said of an op that is given up and may be done; "": nothing need be
	jitter func() float64 // 0 ≤ … < 1
}

// entry is one op's place in the batch.
type entry struct {
	op      *Op // nil: given back
	decided bool
	maybe   bool // what it asked for was sent and the answer was lost: it may be done, also later
	partly  bool // some of what it asked for is done
}

// Retries wait about retryAfter, then retryFactor times longer each, give or take
// half.
const (
	retryAfter  = 10 * time.Millisecond
	retryFactor = 3
)

func newRoll(doubt string) roll { return roll{doubt: doubt, jitter: rand.Float64} }

func (r *roll) reset() {
	clear(r.entries)
	clear(r.view)
	r.entries, r.view = r.entries[:0], r.view[:0]
	r.rows, r.bytes, r.begun, r.unknown = 0, 0, false, false
}

func (r *roll) add(op *Op) {
	if r.begun {
		panic("BUG: an op is added to a batch under way")
	}
	r.entries = append(r.entries, entry{op: op})
	r.rows += op.Rows()
	r.bytes += op.Cost
}

// Ops returns the ops of the batch in the order they were added, without those that
// Expire or Decided have given back. Valid until the next call of any method.
func (r *roll) Ops() []*Op {
	r.view = r.view[:0]
	for i := range r.entries {
		if op := r.entries[i].op; op != nil {
			r.view = append(r.view, op)
		}
	}
	return r.view
}

// Rows is how many items were added.
func (r *roll) Rows() int { return r.rows }

// Bytes is what the ops that were added cost.
func (r *roll) Bytes() int { return r.bytes }

// Decided returns the ops that are decided and not yet given back, and the batch
// forgets them: so that a request need not wait for others when a batch was split.
// Step finds what is decided, so it is called first. Optional: what is not taken here
// is in Ops at the end. Valid until the next call of any method.
func (r *roll) Decided() []*Op {
	r.view = r.view[:0]
	for i := range r.entries {
		if e := &r.entries[i]; e.op != nil && e.decided {
			r.view = append(r.view, e.op)
			e.op = nil
		}
	}
	return r.view
}

// MayBeStored says that an answer was lost on the way (Unknown): what an undecided op
// asked for may be done. A store that gives up says so in its Fault.
func (r *roll) MayBeStored() bool { return r.unknown }

// expire decides the ops whose Deadline has passed and gives them back, also when a step
// is in flight.
func (r *roll) expire(now time.Duration, sentence string) []*Op {
	r.view = r.view[:0]
	for i := range r.entries {
		e := &r.entries[i]
		if e.op == nil || e.decided || e.op.Deadline == 0 || e.op.Deadline > now {
			continue
		}
		e.op.Fault = Fault{Unavailable, sentence}
		r.view = append(r.view, e.op)
		*e = entry{decided: true}
	}
	return r.view
}

// decide ends entry i, with a fault unless f is the zero Fault.
func (r *roll) decide(i int, f Fault) {
	if e := &r.entries[i]; !e.decided {
		e.decided = true
		if f.Code != OK {
			e.op.Fault = f
		}
	}
}

// unavailable ends entry i, which could not be done now for a reason that may pass, with an
// advice. An op that may be done all the same, or is in part, hears that in its place: whoever
// hears nothing of it takes it to be undone.
func (r *roll) unavailable(i int, why, advice string) {
	if e := &r.entries[i]; (e.maybe || e.partly) && r.doubt != "" {
		advice = r.doubt
	}
	if advice != "" {
		why += "; " + advice
	}
	r.decide(i, Fault{Unavailable, why})
}

// retry counts a failure that may pass against the undecided entries from lo to hi. It
// returns how long to wait, 0: none of them has a try or the time left.
func (r *roll) retry(lo, hi int, now time.Duration, what string, err *SQLError) time.Duration {
	tries := 1
	for i := lo; i < hi; i++ {
		if e := &r.entries[i]; !e.decided {
			e.op.tries++
			tries = max(tries, min(e.op.tries, RetriesMax))
		}
	}
	after := retryAfter
	for range tries - 1 {
		after *= retryFactor
	}
	after = after/2 + time.Duration(r.jitter()*float64(after))
	left := false
	for i := lo; i < hi; i++ {
		e := &r.entries[i]
		if e.decided {
			continue
		}
		if e.op.tries > RetriesMax || e.op.Deadline != 0 && now+after >= e.op.Deadline {
			r.unavailable(i, what+", try "+strconv.Itoa(e.op.tries)+" ended with: "+err.Message, "")
		} else {
			left = true
		}
	}
	if !left {
		return 0
	}
	return after
}
