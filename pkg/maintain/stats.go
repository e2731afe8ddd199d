package maintain

import (
	"sync/atomic"
	"time"
)

// Stats count what a job did. One goroutine writes them, any may read.
type Stats struct {
	Turns  atomic.Uint64 // transactions that were committed
	Rows   atomic.Uint64 // rows deleted; messages numbered by Reconcile, holes found by Counts
	Errors atomic.Uint64 // turns that failed
	Yields atomic.Uint64 // turns given up because a push or a pop was in the way
	Busy   atomic.Uint64 // turns not begun because another process held the lock
	Last   atomic.Int64  // when the last turn was committed, in Unix nanoseconds; 0: never
	Nanos  atomic.Uint64 // time of all committed turns
}

func (s *Stats) turned(began time.Time, rows int64) {
	now := time.Now()
	s.Rows.Add(uint64(rows))
	s.Nanos.Add(uint64(now.Sub(began)))
	s.Last.Store(now.UnixNano())
	s.Turns.Add(1)
}
