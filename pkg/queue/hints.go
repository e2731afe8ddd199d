package queue

import "time"

// Hints remembers where partitions are: (queue, partition) → partition id, and whether
// the queue is encrypted. It is a cache and may be wrong: a push is checked against the
// locked rows in PostgreSQL, and what was wrong is asked for again. It also remembers
// whether duplicates are frequent just now.
//
// One per loop (or per pool worker), shared by the batches of that loop; not for
// several goroutines at once.
type Hints struct {
	young, old map[string]*hint // what was used lately, and what was used before that
	bytes      int              // of the names in young
	entriesMax int              // of each
	bytesMax   int
	marks      uint64 // the last mark given
	storm      int    // so many batches more ask for winners first
	lockFirst  int    // so many batches more lock the heads before they move them
	made       int64  // partitions that we made since the last analyze
	analyzeAt  int64  // and at so many it is time for another one
	scratch    []byte
}

// hint is one partition. Items hold pointers to hints while their batch runs, so it may
// be used after it was forgotten here.
type hint struct {
	queue, partition string
	known            bool // id and encrypted are what PostgreSQL said last
	id               UUID
	encrypted        bool

	// seq is the number of its last message, as far as our own pushes say, if counted (early.go).
	seq     int64
	counted bool

	// holder is the transaction that was found to hold the head locked when that was waited for
	// in vain (held.go), since holderAt as far as is known; 0: nobody. Until heldTill it counts
	// as held. seen is what the step in flight has said.
	holder, seen       int64
	holderAt, heldTill time.Duration

	mark   uint64 // of the gathering that has it in its list of unknown ones
	staged bool   // stagedID… are what the step in flight has said
	// They count when the step is committed.
	stagedID        UUID
	stagedEncrypted bool
}

// Bounds of NewHints.
const (
	HintsEntriesMaxDefault = 100_000
	HintsBytesMaxDefault   = 16 << 20
)

// stormBatches is how many batches ask for the winners first after one has met a
// duplicate: else each of them would be rolled back once before it asks.
const stormBatches = 64

// lockFirstBatches is about how many batches lock the heads before they move them after a push
// was blocked.
const lockFirstBatches = 1000

// analyzeFirst is how many partitions are made before their table is analyzed, which is
// done again whenever as many were made as there were.
const analyzeFirst = 32

// NewHints returns an empty cache of at most entriesMax partitions and about bytesMax
// bytes of names (0: HintsEntriesMaxDefault, HintsBytesMaxDefault). At the bound what
// was not used for longest is forgotten, half of it at once.
func NewHints(entriesMax, bytesMax int) *Hints {
	if entriesMax <= 0 {
		entriesMax = HintsEntriesMaxDefault
	}
	if bytesMax <= 0 {
		bytesMax = HintsBytesMaxDefault
	}
	return &Hints{young: make(map[string]*hint), analyzeAt: analyzeFirst, entriesMax: max(1, entriesMax/2), bytesMax: max(1, bytesMax/2)}
}

// Len is how many partitions are remembered.
func (h *Hints) Len() int { return len(h.young) + len(h.old) }

// get returns the hint for a partition; a new one is not known yet.
func (h *Hints) get(queue, partition []byte) *hint {
	// No name holds a NUL, so that the key is unambiguous.
	key := append(append(append(h.scratch[:0], queue...), 0), partition...)
	h.scratch = key
	if e := h.young[string(key)]; e != nil {
		return e
	}
	e := h.old[string(key)]
	name := string(key)
	if e == nil {
		e = &hint{queue: name[:len(queue)], partition: name[len(queue)+1:]}
	} else {
		delete(h.old, name)
	}
	h.young[name] = e
	h.bytes += len(name)
	return e
}

// trim keeps the bounds. It is called when a batch begins and not while it runs, so that
// all items of a batch that go to one partition have the same hint: what is learnt
// about it is learnt for all of them. So a batch may go beyond the bounds by what it
// holds itself.
func (h *Hints) trim() {
	if len(h.young) >= h.entriesMax || h.bytes >= h.bytesMax {
		h.old, h.young, h.bytes = h.young, make(map[string]*hint), 0
	}
}

// blocked hears that a push has ended so. It may have been a deadlock, which shows as a lock
// time-out where that is shorter than deadlock_timeout; then heads were not moved in their
// order, by whatever plan.
func (h *Hints) blocked(state string) {
	if state == lockNotAvailable || state == deadlockDetected {
		h.lockFirst = lockFirstBatches
	}
}

// nextMark returns a number that was not given before.
func (h *Hints) nextMark() uint64 {
	h.marks++
	return h.marks
}
