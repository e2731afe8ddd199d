package filebuffer

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queend/queend/pkg/queue"
)

// realLoop is a loop that is a goroutine.
type realLoop struct {
	posts chan func()
	ended chan struct{}
	start time.Time
}

func newRealLoop() *realLoop {
	l := &realLoop{posts: make(chan func(), 10_000), ended: make(chan struct{}), start: time.Now()}
	go func() {
		defer close(l.ended)
		for f := range l.posts {
			if f == nil {
				return
			}
			f()
		}
	}()
	return l
}

func (l *realLoop) post(f func())      { l.posts <- f }
func (l *realLoop) now() time.Duration { return time.Hour + time.Since(l.start) }
func (l *realLoop) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() { l.posts <- f })
}

// realStore is a PostgreSQL for all loops, which is away from time to time.
type realStore struct {
	l  *realLoop
	pg *realPG
}

type realPG struct {
	mu    sync.Mutex
	asked int
	order map[string][]string
	has   map[string]bool
}

func (s *realStore) Do(op *queue.Op) {
	go func() {
		pg := s.pg
		pg.mu.Lock()
		pg.asked++
		away := pg.asked/20%2 == 1
		lost := away && pg.asked%20 < 10
		if !away || lost {
			sorted := slices.Clone(op.Items)
			slices.SortStableFunc(sorted, func(a, b queue.Item) int { return bytes.Compare(a.ID[:], b.ID[:]) })
			for _, it := range sorted {
				if it.Status == queue.Pending && !pg.has[string(it.TransactionID)] {
					pg.has[string(it.TransactionID)] = true
					pg.order[string(it.Partition)] = append(pg.order[string(it.Partition)], string(it.TransactionID))
				}
			}
		}
		pg.mu.Unlock()
		s.l.post(func() {
			if away {
				op.Fault = queue.Fault{Code: queue.Outage, Message: saidMaybe}
			} else {
				for i := range op.Items {
					op.Items[i].Status = queue.Queued
				}
			}
			op.Done.OpDone(op)
		})
	}()
}

func (s *realStore) Cancel(*queue.Op) {}

type doneFunc func(op *queue.Op)

func (f doneFunc) OpDone(op *queue.Op) { f(op) }

// On real loops, a real disk and in real time, with producers that wait for their answers
// and change loops all the time: what the walks in virtual time cannot see, the race
// detector sees here.
func TestOnRealLoopsAndARealDiskEachProducerKeepsItsOrder(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	loops := []*realLoop{newRealLoop(), newRealLoop(), newRealLoop()}
	b, err := Open(Options{Dir: t.TempDir(), BytesMax: 1 << 30, SegmentBytes: 64 << 10, Now: loops[0].now})
	if err != nil {
		t.Fatal(err)
	}
	pg := &realPG{order: map[string][]string{}, has: map[string]bool{}}
	var stores []*Store
	for _, l := range loops {
		stores = append(stores, b.Store(Services{Post: l.post, After: l.after, Now: l.now}, &realStore{l, pg}))
	}
	b.Drain(Replay{Store: &realStore{loops[0], pg}, Post: loops[0].post, Now: loops[0].now})
	ids := queue.NewIDs(func() int64 { return time.Now().UnixMilli() })
	var idsMu sync.Mutex
	const producers, pushes = 6, 60
	var all sync.WaitGroup
	var good atomic.Int64
	for p := range producers {
		all.Go(func() {
			for n := range pushes {
				op := &queue.Op{Cost: 100}
				for _, partition := range []string{"shared", fmt.Sprint("own", p)} {
					idsMu.Lock()
					id := ids.Next()
					idsMu.Unlock()
					op.Items = append(op.Items, queue.Item{
						Queue: []byte("q"), Partition: []byte(partition), TransactionID: fmt.Appendf(nil, "%d %d %s", p, n, partition),
						Payload: []byte("1"), ID: id,
					})
				}
				done := make(chan queue.Fault, 1)
				op.Done = doneFunc(func(op *queue.Op) { done <- op.Fault })
				i := (p + n) % len(loops)
				loops[i].post(func() { stores[i].Do(op) })
				if f := <-done; f.Code == queue.OK {
					good.Add(2)
				} else {
					t.Logf("a push is refused: %s", f.Message) // the disk may be as slow as it likes
				}
			}
		})
	}
	all.Wait()
	for deadline := time.Now().Add(time.Minute); !b.clear.Load(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is never delivered")
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for _, l := range loops {
		l.post(nil)
		<-l.ended
	}
	for partition, order := range pg.order {
		next := map[int]int{}
		for _, tx := range order {
			var p, n int
			if _, err := fmt.Sscan(tx, &p, &n); err != nil {
				t.Fatal(err)
			}
			if n < next[p] {
				t.Errorf("partition %s has push %d of producer %d where %d or a later one should be", partition, n, p, next[p])
			}
			next[p] = n + 1
		}
	}
	if n := int64(len(pg.has)); n < good.Load() || n > 2*producers*pushes || good.Load() == 0 {
		t.Errorf("%d messages are stored, %d were answered well", n, good.Load())
	}
	if b.stats.Buffered.Load() == 0 || b.stats.Pending.Load() != 0 {
		t.Errorf("%d were buffered, %d are left", b.stats.Buffered.Load(), b.stats.Pending.Load())
	}
}
