package queue

import (
	"fmt"
	"strings"
	"testing"
)

// pushBody is a push of n messages of 200 bytes over some partitions, without
// transaction ids, as most clients send it.
func pushBody(n, partitions int) []byte {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf(`{"queue":"bench","partition":"p%d","payload":"%s"}`, i%partitions, strings.Repeat("x", 198)))
	}
	return []byte(`{"items":[` + strings.Join(items, ",") + `]}`)
}

// repeat measures f from its third time on: what it keeps has grown by then, also where
// few rounds are measured.
func repeat(b *testing.B, f func()) {
	f()
	f()
	for b.Loop() {
		f()
	}
}

// BenchmarkPushDecode is the second stage of a push: a body to an op. See BenchmarkPushParse in
// package httpparse.
func BenchmarkPushDecode(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			op, ids, config, body := new(Op), NewIDs(wallMs), &Config{}, pushBody(n, n)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			repeat(b, func() {
				op.Reset()
				if f := Decode(op, body, config, ids); f.Code != OK {
					b.Fatal(f)
				}
			})
		})
	}
}

// pushOps are decoded pushes into partitions that are known.
func pushOps(b *testing.B, requests, messages, partitions int) (*Batch, []*Op) {
	c, h, ids := &Config{}, NewHints(0, 0), NewIDs(wallMs)
	for i := range partitions {
		known(h, "bench", fmt.Sprint("p", i), UUID{byte(i * 7), byte(i)}, false)
	}
	var ops []*Op
	for i := range requests {
		op, body := new(Op), pushBody(messages, partitions)
		if messages == 1 {
			body = []byte(strings.Replace(string(body), `"p0"`, fmt.Sprintf(`"p%d"`, i%partitions), 1))
		}
		if f := Decode(op, body, c, ids); f.Code != OK {
			b.Fatal(f)
		}
		ops = append(ops, op)
	}
	return NewBatch(c, h), ops
}

// BenchmarkPushMerge is the third: ops to the statements of one batch.
func BenchmarkPushMerge(b *testing.B) {
	for _, s := range []struct{ requests, messages, partitions int }{{1, 1, 1}, {64, 1, 1}, {64, 1, 100}, {1, 100, 100}} {
		b.Run(fmt.Sprintf("requests=%d/messages=%d/partitions=%d", s.requests, s.messages, s.partitions), func(b *testing.B) {
			batch, ops := pushOps(b, s.requests, s.messages, s.partitions)
			b.ReportAllocs()
			repeat(b, func() {
				batch.Reset()
				for _, op := range ops {
					batch.Add(op)
				}
				if batch.Step(0); batch.kind != pushStep {
					b.Fatal("it does not push")
				}
			})
		})
	}
}

// BenchmarkPushMergeAndDecide is the same, and what follows when the batch was stored:
// which message is whose.
func BenchmarkPushMergeAndDecide(b *testing.B) {
	batch, ops := pushOps(b, 64, 1, 100)
	b.ReportAllocs()
	repeat(b, func() { cycle(batch, ops) })
}

// BenchmarkPushAnswer is the last stage but one: an op to the body of its answer.
func BenchmarkPushAnswer(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			batch, ops := pushOps(b, 1, n, n)
			cycle(batch, ops)
			var body []byte
			b.ReportAllocs()
			repeat(b, func() { body = AppendPushAnswer(body[:0], ops[0]) })
			b.SetBytes(int64(len(body)))
		})
	}
}
