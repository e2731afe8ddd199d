package journal_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// TestModel does anything in any order, with faults, kills and power cuts between.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		w.opts.SegmentBytes = rapid.SampledFrom([]int64{200, 1 << 10, 4 << 10, 64 << 10}).Draw(rt, "segment")
		w.opts.BytesMax = rapid.SampledFrom([]int64{0, 8 << 10}).Draw(rt, "most")
		w.open()
		sizes := rapid.SliceOfN(rapid.IntRange(0, 1500), 1, 5)
		seed := rapid.Uint64()
		manner := rapid.IntRange(0, len(manners)-1)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) { _ = w.append(sizes.Draw(rt, "sizes")...) },
			"read": func(rt *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(rt, "n") {
					w.next()
				}
			},
			"release": func(rt *rapid.T) { _ = w.release(rapid.Uint64Range(0, 5).Draw(rt, "keep")) },
			"close": func(rt *rapid.T) {
				_ = w.j.Close()
				w.fs.Heal()
				w.open()
			},
			"kill": func(rt *rapid.T) {
				w.fs.Heal()
				w.fs.Kill()
				w.open()
			},
			"power cut": func(rt *rapid.T) {
				w.powerCut(seed.Draw(rt, "seed"))
				w.open()
			},
			"fault": func(rt *rapid.T) {
				m := manners[manner.Draw(rt, "manner")]
				op := rapid.SampledFrom(m.ops).Draw(rt, "op")
				w.fs.Heal() // one at a time, the model repeats once
				w.fs.Fail(op, rapid.IntRange(1, 5).Draw(rt, "n"), m.how, m.err)
			},
			"drain": func(rt *rapid.T) { w.drain() },
		})
		w.fs.Heal()
		w.drain()
		if err := w.append(10); err != nil && !errors.Is(err, journal.ErrFull) {
			rt.Fatalf("the fault is over")
		}
		w.fs.Kill()
		w.open()
		w.drain()
	})
}
