package asyncdb

import (
	"testing"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// opOf makes an op of so many items and bytes.
func opOf(rows, cost int, deadline time.Duration) *queue.Op {
	return &queue.Op{Items: make([]queue.Item, rows), Cost: cost, Deadline: deadline}
}

// bag is a Batch that only holds ops.
type bag struct {
	*queue.Batch
	ops         []*queue.Op
	rows, bytes int
}

func (b *bag) Reset() { *b = bag{} }
func (b *bag) Add(op *queue.Op) {
	b.ops = append(b.ops, op)
	b.rows += len(op.Items)
	b.bytes += op.Cost
}
func (b *bag) Rows() int  { return b.rows }
func (b *bag) Bytes() int { return b.bytes }

func TestABatchTakesWhatFits(t *testing.T) {
	f := func(costs []int, rows []int, want ...int) {
		t.Helper()
		g := newGather(Limits{BacklogBytesMax: 1 << 30, BatchRowsMax: 10, BatchBytesMax: 100})
		for i := range costs {
			g.push(opOf(rows[i], costs[i], 0))
		}
		var got []int
		for g.waiting() > 0 {
			var b bag
			g.fill(&b, 7)
			got = append(got, len(b.ops))
			for _, op := range b.ops {
				if op.Sent != 7 {
					t.Error("the op does not know when it was sent")
				}
				g.done(op)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("batches of %v", got)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("batches of %v", got)
			}
		}
		if g.rows != 0 || g.bytes != 0 || g.held != 0 || g.heldBytes != 0 {
			t.Errorf("what is left: %+v", g)
		}
	}
	f([]int{1, 1, 1}, []int{1, 1, 1}, 3)
	f([]int{1, 1, 1}, []int{5, 5, 1}, 2, 1)      // rows
	f([]int{50, 50, 1}, []int{1, 1, 1}, 2, 1)    // bytes
	f([]int{1, 500, 1}, []int{1, 1, 1}, 1, 1, 1) // larger than a batch: alone
	f([]int{500, 1}, []int{1, 1}, 1, 1)
	f([]int{1, 1}, []int{50, 1}, 1, 1)
}

func TestOpsKeepTheirOrder(t *testing.T) {
	f := func(name string, deadline func(i int) time.Duration) {
		t.Helper()
		g := newGather(Limits{BacklogBytesMax: 1 << 30, BatchRowsMax: 3, BatchBytesMax: 1 << 20})
		var all, out []*queue.Op
		for i := range 300 {
			op := opOf(1, i, deadline(i))
			all = append(all, op)
			g.push(op)
			if i%2 == 0 {
				var b bag
				g.fill(&b, 1)
				out = append(out, b.ops...)
			}
			if i%7 == 0 {
				if late := g.expire(1, nil); len(late) != 0 {
					t.Errorf("%s: %d are late", name, len(late))
				}
			}
		}
		for g.waiting() > 0 {
			out = append(out, g.pop())
		}
		for i, op := range out {
			g.done(op)
			if op != all[i] {
				t.Fatalf("%s: op %d is not where it was", name, i)
			}
		}
		if len(out) != len(all) || g.held != 0 || g.heldBytes != 0 || g.rows != 0 || g.bytes != 0 {
			t.Errorf("%s: what is left: %+v", name, g)
		}
	}
	f("no deadlines", func(int) time.Duration { return 0 })
	f("rising deadlines", func(i int) time.Duration { return time.Duration(10 + i) })
	f("falling deadlines", func(i int) time.Duration { return time.Duration(1000 - i) })
	f("all sorts", func(i int) time.Duration { return time.Duration(i*7919%100) + 2 })
}

func TestAdmission(t *testing.T) {
	const second = time.Second
	f := func(name string, g gather, op *queue.Op, busy time.Duration, want refusal) {
		t.Helper()
		if got := g.admit(op, 0, busy, 0); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	l := Limits{BacklogBytesMax: 1000, BatchRowsMax: 10, BatchBytesMax: 100}
	op := opOf(1, 10, 2*second)
	f("an empty lane", gather{limits: l, rowsCap: 10}, op, -1, accepted)
	f("bytes at the bound", gather{limits: l, rowsCap: 10, held: 1, heldBytes: 990}, op, -1, accepted)
	f("bytes over the bound", gather{limits: l, rowsCap: 10, held: 1, heldBytes: 991}, op, -1, refusedBytes)
	f("one that is larger than the bound, alone", gather{limits: l, rowsCap: 10}, opOf(1, 5000, second), -1, accepted)
	f("one that is larger than the bound, not alone", gather{limits: l, rowsCap: 10, held: 1, heldBytes: 1}, opOf(1, 5000, second), -1, refusedBytes)

	slow := gather{limits: l, rowsCap: 10, batchTime: second, held: 1, heldBytes: 1}
	f("a slow lane that is free", slow, opOf(1, 10, second/10), -1, accepted)
	f("0.5 + 1 s", slow, op, second/2, accepted)
	f("0.5 + 1 s with 1 s left", slow, opOf(1, 10, second), second/2, refusedWait)
	f("overdue by a second: as long again, and its own", slow, op, second, accepted)
	f("overdue by more", slow, op, second+1, refusedWait)
	if got := slow.admit(op, 0, second/2, 1); got != refusedWait {
		t.Errorf("0.5 + 1 + 1 s: one more is in flight behind: %q", got)
	}
	slow.ops, slow.rows = make([]*queue.Op, 10), 10
	f("0.5 + 2 s: a batch waits already", slow, op, second/2, refusedWait)
	f("0.1 + 2 s, and a little", slow, opOf(1, 10, 2*second+second/10), 9*second/10, accepted)
	f("two batches on a free lane", slow, opOf(1, 10, 2*second), -1, accepted)
	f("two batches on a free lane, too slow", slow, opOf(1, 10, 2*second-1), -1, refusedWait)
	slow.rows, slow.bytes = 1, 195
	f("bytes count as rows do", slow, op, -1, refusedWait)
	f("no deadline", slow, opOf(1, 10, 0), second, accepted)
}

func TestDeadlines(t *testing.T) {
	g := newGather(Limits{BacklogBytesMax: 1 << 30, BatchRowsMax: 10, BatchBytesMax: 1 << 20})
	a, b, c, d := opOf(1, 1, 30), opOf(1, 1, 10), opOf(1, 1, 0), opOf(1, 1, 20)
	for _, op := range []*queue.Op{a, b, c, d} {
		g.push(op)
	}
	if got := g.soonest(); got != 10 {
		t.Error(got)
	}
	if got := earlier(g.soonest(), []*queue.Op{opOf(1, 1, 5)}); got != 5 {
		t.Error(got)
	}
	if late := g.expire(9, nil); len(late) != 0 {
		t.Error(late)
	}
	if late := g.expire(20, nil); len(late) != 2 || late[0] != b || late[1] != d {
		t.Error(late)
	}
	if got := g.soonest(); got != 30 || g.waiting() != 2 {
		t.Error(got, g.waiting())
	}
	if late := g.expire(1<<60, nil); len(late) != 1 || late[0] != a {
		t.Error(late)
	}
	if got := g.soonest(); got != 0 {
		t.Error(got)
	}
	if got := g.pop(); got != c {
		t.Error("the op without a deadline is gone")
	}
	// One that waits behind it does not wait for it.
	g.push(c)
	g.push(b)
	if got := g.soonest(); got != 10 {
		t.Error(got)
	}
	if late := g.expire(10, nil); len(late) != 1 || late[0] != b || g.waiting() != 1 {
		t.Error(late)
	}
}

func TestTheBatchSizeFollowsTheServersTimeouts(t *testing.T) {
	g := newGather(Limits{BacklogBytesMax: 1 << 30, BatchRowsMax: 1000, BatchBytesMax: 1 << 20})
	f := func(want int) {
		t.Helper()
		if g.rowsCap != want {
			t.Errorf("a batch may have %d rows and not %d", g.rowsCap, want)
		}
	}
	g.learn(time.Minute, 1000) // slow alone does not matter
	f(1000)
	g.cut(600)
	f(300)
	g.cut(300)
	f(150)
	g.learn(1, 20) // not full: says nothing
	f(150)
	g.learn(1, 150)
	f(187)
	for range 20 {
		g.cut(g.rowsCap)
	}
	f(rowsCapMin)
	for range 40 {
		g.learn(1, g.rowsCap)
	}
	f(1000)

	small := newGather(Limits{BacklogBytesMax: 1, BatchRowsMax: 4, BatchBytesMax: 1})
	small.cut(4)
	if small.rowsCap != 4 {
		t.Errorf("a batch may have %d rows", small.rowsCap)
	}
}

func TestTheMeanBatchTimeFollows(t *testing.T) {
	g := newGather(Limits{BatchRowsMax: 10})
	g.learn(100, 1)
	if g.batchTime != 100 {
		t.Error(g.batchTime)
	}
	g.learn(500, 1)
	if g.batchTime != 200 {
		t.Error(g.batchTime)
	}
	for range 100 {
		g.learn(4, 1)
	}
	if g.batchTime > 10 {
		t.Error(g.batchTime)
	}
}

func TestTheListOfWaitingOpsDoesNotGrowWithoutEnd(t *testing.T) {
	g := newGather(Limits{BacklogBytesMax: 1 << 30, BatchRowsMax: 10, BatchBytesMax: 1 << 20})
	ops := make([]*queue.Op, 15)
	for i := range ops {
		ops[i] = opOf(1, 1, 0)
		g.push(ops[i])
	}
	for range 10000 { // ten leave and ten come, fifteen wait
		var b bag
		g.fill(&b, 0)
		for _, op := range b.ops {
			g.done(op)
			g.push(op)
		}
	}
	if cap(g.ops) > 100 {
		t.Errorf("the list has grown to %d", cap(g.ops))
	}
}
