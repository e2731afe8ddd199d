package api

import (
	"slices"
	"time"
)

// freeList is a loop's calls that wait for their next request: the one that was used last is
// taken first. What was not needed for a while is let go: a burst would else leave its
// largest moment behind for as long as the process lives.
type freeList[T any] struct {
	most   int // so many at most; 0: no bound but the next line
	calls  []*T
	spare  int           // so many have not been needed since they were trimmed
	trimAt time.Duration // and when they are again
}

// freeRest is how often a list is trimmed.
const freeRest = 10 * time.Second

// take returns a free call, or nil if there is none.
func (f *freeList[T]) take() *T {
	n := len(f.calls)
	if n == 0 {
		return nil
	}
	c := f.calls[n-1]
	f.calls[n-1] = nil
	f.calls = f.calls[:n-1]
	f.spare = min(f.spare, n-1)
	return c
}

// give takes a call back. now is the loop's clock.
func (f *freeList[T]) give(c *T, now time.Duration) {
	if now >= f.trimAt {
		f.calls = slices.Delete(f.calls, 0, f.spare) // those that are used are at the end
		f.spare, f.trimAt = len(f.calls), now+freeRest
	}
	if f.most == 0 || len(f.calls) < f.most {
		f.calls = append(f.calls, c)
	}
}

// drop forgets those that are free.
func (f *freeList[T]) drop() { f.calls, f.spare = nil, 0 }
