package asyncdb

import (
	"sync"
	"time"
)

// This file is how the attempts to connect of a process's lanes keep out of each other's way.
//
// A server that hangs takes connections all the same (its kernel does), and must see to each
// of them when it goes on, one after the other and those first that came first, dead as they
// are by then: hundreds cost it seconds in which nobody comes through. So there is one new
// attempt at a time, ever more seldom, and those that have reached a server are kept for long:
// they stand in front of all that come later.
const (
	// dialEvery is how soon one lane dials while the attempt of another has no answer yet;
	// dialEveryMax if they reach a server, and it says nothing.
	dialEvery    = time.Second
	dialEveryMax = 5 * time.Second

	// dialLook is how soon a lane that leaves it to others looks again: theirs may have ended.
	dialLook = 100 * time.Millisecond

	// silentMax is how long an attempt waits for the first answer of a server that it has
	// reached; see bePatient. The lanes of one loop, of which there are five at least, are
	// enough for an attempt every dialEveryMax.
	silentMax = 15 * time.Second

	// silentUnixMax is the same behind a unix socket. There is one server: its kernel ends
	// what waits when it ends, and until then nobody else could answer. It has an end for the
	// sake of what only forwards, and of a socket that is made anew beside a frozen server.
	silentUnixMax = time.Minute
)

// dials are the attempts to connect that are under way in a process.
type dials struct {
	mu      sync.Mutex
	n       int
	begun   time.Duration // the last
	reached bool          // and it has reached a server, which is silent
	every   time.Duration // how soon there may be another
	through time.Duration // when the last was begun that has come through
}

func (d *dials) begin(now time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	if d.reached {
		d.every = min(2*d.every, dialEveryMax)
	} else {
		d.every = dialEvery
	}
	d.begun, d.reached = now, false
}

// reach says that the last attempt, or one before it, has reached a server.
func (d *dials) reach() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reached = true
}

// answered says that a server lets us in, or says why not: it does not hang.
func (d *dials) answered() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reached, d.every = false, dialEvery
}

// end takes the end of an attempt. silent: nobody has answered it.
func (d *dials) end(silent bool) {
	d.mu.Lock()
	d.n--
	d.mu.Unlock()
	if !silent {
		d.answered()
	}
}

// passed says that an attempt that was begun then has come through.
func (d *dials) passed(begun time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.through = max(d.through, begun)
}

// isStuck says whether an attempt that was begun then should have come through before
// another that has: that one has found another way, or another server.
func (d *dials) isStuck(begun time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return begun < d.through
}

// wait is how long a lane that could not connect leaves it to others; 0: it may dial.
func (d *dials) wait(now time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n == 0 {
		return 0
	}
	return max(d.begun+d.every-now, 0)
}
