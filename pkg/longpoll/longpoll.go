// Package longpoll knows where there is something to pop, and keeps those who wait for
// it. It is a store around the lanes: every push, ack and pop passes it, so that it sees
// which partitions get messages and which are given back, and can choose where the next
// pop looks and wake a pop that is parked.
//
// It is not the truth about any of this: a Board holds hints, PostgreSQL decides. What a
// hint promises and the claim does not find costs a round trip; what no hint knows of is
// found by a sweep (watch_sweep.sql) or was told by others (watch_check.sql).
//
// # The way of a pop
//
//	                      ┌───────── woken: the board has something ──────────┐
//	                      ▼                                                   │
//	Do ─▶ take candidates ─▶ claim ─▶ messages ─▶ answer                      │
//	        │ none           │ nothing there                                  │
//	        ▼                ▼                                                │
//	      group not swept? ─▶ sweep, then take again                          │
//	        │ swept                                                           │
//	        ├─ wait=false ─▶ ask what others told, once; take again or answer │
//	        └─ wait=true ──▶ parked ──────────────────────────────────────────┘
//	                           └─ time is over ─▶ answer
//
// A pop of one named partition needs no candidates: its claim looks for itself. While an
// administrator has stopped the pops, none looks at all: see maintenance.go.
//
// # A partition of a group, on the board
//
//	            changed, freed, found              taken by a pop
//	(absent) ───────────────────────▶ ready ──────────────────────▶ trying
//	   ▲                                ▲                              │
//	   │ nothing there                  │ its time came                │ leased, not due, locked
//	   └────────────────────────────────┼──────────────────────────────┤
//	                                    └── timed ◀────────────────────┘
//
// What happens to a partition while it is being tried or is leased is remembered (dirty):
// the attempt may have looked before it happened.
//
// The list of ready partitions is first in, first out, and a partition that is given back
// goes to its end: the one that has been claimable longest comes first, and one that is
// nacked again and again starves nobody.
package longpoll

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// Services is what a Store is given by its loop.
type Services struct {
	Post  func(func())                       // any goroutine: run on the loop
	After func(d time.Duration, fire func()) // on the loop: run on the loop in d
	Now   func() time.Duration               // any goroutine: monotonic, the same for all loops
}

// Lanes are the stores of one loop that speak to PostgreSQL. Ack takes extends and
// releases too.
type Lanes struct {
	Push, Pop, Ack, Transaction, Watch queue.Store
}

// Limits of this room.
const (
	// ParkedMaxDefault bounds the pops that are parked on one loop. At the bound a pop that
	// would be parked is answered Overloaded (503).
	ParkedMaxDefault = 100_000

	// GroupsMaxDefault bounds the (queue, group) pairs that a process remembers. At the
	// bound those that were not used for longest, and for which nobody waits, are forgotten:
	// their next pop sweeps.
	GroupsMaxDefault = 20_000

	// EntriesMaxDefault bounds the partitions on the board, over all groups. What finds no
	// place is found by the next sweep of its group.
	EntriesMaxDefault = 1_000_000

	// ToldMax bounds what waits to be told to other processes. At the bound they are told
	// that anything may have changed, and sweep.
	ToldMax = 10_000
)
