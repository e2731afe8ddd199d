package filebuffer

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/queue"
)

// saidKey is what is said of a key that is missing.
const saidKey = `"level":"error","error":"the payloads cannot be opened`

// sealerOf is the sealer of a key of one digit.
func sealerOf(t *testing.T, digit string) *queue.Sealer {
	s, err := queue.NewSealer(strings.Repeat(digit, 64))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// locked is a world with 4 messages on disk that were encrypted with the key a: 0, 1 and 3 of
// partition a, and 2 of b. The next process has another key.
func locked(t *testing.T, next *queue.Sealer) (w *world, log *bytes.Buffer) {
	log = &bytes.Buffer{}
	w = newWorld(t, 1, func(o *Options) {
		o.Sealer, o.Log = sealerOf(t, "a"), zerolog.New(zerolog.SyncWriter(log))
	})
	w.outage(true)
	for _, p := range []string{"a", "a", "b", "a"} {
		w.push(1, 0, p)
		w.settle()
	}
	w.kill()
	w.away = false
	w.o.Sealer = next
	return w, log
}

// wantLocked: so many messages wait for their key, and none of them was given to anybody.
func (w *world) wantLocked(pending int64) {
	if s := w.b.Status(); s.Pending != pending || !s.KeyMissing || s.Draining || s.Rate != 0 {
		w.errorf("%d wait for their key, not %d: %+v", s.Pending, pending, s)
	}
	if lines := w.poisoned(); len(lines) > 0 {
		w.errorf("set aside: %+v", lines)
	}
	w.consistent()
}

// closes ends the process, which takes no time.
func (w *world) closes() {
	before := w.now()
	w.close()
	if took := w.now() - before; took > 50*time.Millisecond {
		w.errorf("a stop takes %v", took)
	}
	w.fs.Kill()
}

func TestWhatWasEncryptedWithAnotherKeyWaitsForIt(t *testing.T) {
	f := func(next *queue.Sealer, why string) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w, log := locked(t, next)
			w.reboot(1)
			w.run(10 * time.Second)
			w.wantLocked(4)
			gated, free := w.push(1, 0, "a"), w.push(2, 0, "c")
			w.run(140 * time.Second)
			gated.is(stored, "buffered")
			free.is(stored, "")
			if len(w.pg.has) != 1 || free.messages[0].text != "" {
				w.errorf("delivered: %v", w.pg.order)
			}
			w.wantLocked(5)
			w.wantSaid(log, saidKey, 3, 3)
			w.wantSaid(log, why, 3, 4)
			w.closes()

			// Its own key delivers them, up to what came with the other one.
			w.o.Sealer = sealerOf(t, "a")
			w.reboot(1)
			w.run(10 * time.Second)
			w.wantOrder("b", 2)
			if next != nil {
				w.wantOrder("a", 0, 1, 3)
				w.wantLocked(1)
				w.wantSaid(log, saidKey, 4, 4)
				w.closes()
				w.o.Sealer = next
				w.reboot(1)
				w.run(time.Second)
			}
			w.wantOrder("a", 0, 1, 3, 4)
			w.wantOrder("c", 5)
			if w.b.Status().KeyMissing {
				w.errorf("a key is still missing")
			}
			return w.ended()
		})
	}
	f(nil, "no key was given")
	f(sealerOf(t, "b"), "another key")
}

// A push that is held because the drain is about to catch up, or because too much comes, is
// not held for a drain that stands still.
func TestAMissingKeyHoldsNoPushes(t *testing.T) {
	f := func(hold func(b *Buffer)) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w, _ := locked(t, nil)
			w.boot(1)
			w.settle()
			w.b.stats.Rate.Store(7) // of what came before
			hold(w.b)
			p := w.push(1, 0, "a")
			w.settle()
			if p.ended != 0 {
				w.errorf("it is not held")
			}
			w.drain()
			w.settle()
			p.is(stored, "buffered")
			p = w.push(1, 0, "a")
			w.settle()
			p.is(stored, "buffered")
			if p.took > 0 {
				w.errorf("it takes %v", p.took)
			}
			w.wantLocked(6)
			w.closes()
			w.o.Sealer = sealerOf(t, "a")
			w.reboot(1)
			w.quiet()
			w.wantOrder("a", 0, 1, 3, 4, 5)
			return w.ended()
		})
	}
	f(func(b *Buffer) { b.close() })
	f(func(b *Buffer) { b.crowded.Store(true) })
}

func TestInMaintenanceModeNothingIsSaidOfAMissingKey(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, log := locked(t, nil)
		w.reboot(1)
		w.run(10 * time.Second)
		w.wantSaid(log, saidKey, 1, 1)
		w.b.SetMaintenance(true)
		p := w.push(2, 0, "c")
		w.run(150 * time.Second)
		p.is(stored, "buffered")
		w.wantSaid(log, saidKey, 1, 1)
		w.b.SetMaintenance(false)
		w.run(70 * time.Second)
		w.wantSaid(log, saidKey, 3, 3)
		w.wantLocked(5)
		w.b.SetMaintenance(true)
		w.closes()
		w.o.Sealer = sealerOf(t, "a")
		w.reboot(1)
		return w.ended()
	})
}

// What was delivered past a locked partition is read again on the way back.
func TestWhatStaysBehindNeedsNotTheKeyOfWhatWasDelivered(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.outage(true)
		w.push(1, 0, "a")
		w.settle()
		w.kill()
		w.o.Sealer = sealerOf(t, "a")
		w.reboot(1)
		w.push(2, 0, "b", "b")
		w.settle()
		w.locked["a"] = true
		w.outage(false)
		w.run(time.Second)
		w.holds("b", 2)
		w.behind(1, 1)
		w.kill()
		w.o.Sealer = nil
		w.reboot(1)
		w.outage(true)
		w.push(1, 0, "a")
		w.settle()
		w.outage(false)
		w.run(time.Second)
		clear(w.locked)
		w.run(2 * behindRarely)
		if w.b.Status().KeyMissing {
			w.errorf("the drain waits for the key of what is delivered")
		}
		w.holds("a", 2)
		return w.ended()
	})
}

// A drain that stands still costs nothing, however large the record is.
func TestAMissingKeyIsNotTriedAllTheTime(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, _ := locked(t, nil)
		var looks atomic.Int64
		w.o.Now = func() time.Duration {
			looks.Add(1)
			return w.now()
		}
		w.reboot(1)
		w.run(time.Second)
		before := looks.Load()
		w.run(10 * time.Minute)
		if n := looks.Load() - before; n > 100 {
			w.errorf("it has looked at the clock %d times in 10 minutes", n)
		}
		w.closes()
		w.o.Sealer = sealerOf(t, "a")
		w.reboot(1)
		return w.ended()
	})
}

// An envelope that Queen's server left is a payload of Queen's: it needs no key here.
func TestAnEnvelopeOfQueensWaitsForNoKey(t *testing.T) {
	envelope, err := sealerOf(t, "c").Seal(nil, []byte(`{"n":0}`))
	if err != nil {
		t.Fatal(err)
	}
	f := func(first, next *queue.Sealer) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			w := emptyWorld(t, func(o *Options) { o.Sealer = first })
			w.expect("tx-1-0", 0).payload = string(envelope)
			w.queens("failover_"+queensName(0)+".buf", `{"partition":"a","payload":`+string(envelope)+`,"queue":"q","transactionId":"tx-1-0"}`)
			w.boot(1)
			w.kill()
			w.o.Sealer = next
			w.reboot(1)
			w.quiet()
			w.wantOrder("a", 0)
			return w.ended()
		})
	}
	f(nil, nil)
	f(sealerOf(t, "a"), sealerOf(t, "b"))
	f(sealerOf(t, "a"), nil)
}

// The order is kept, so what waits is known without its key.
func TestTheGateNeedsNoKey(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, _ := locked(t, nil)
		w.reboot(1)
		w.run(time.Second)
		w.b.mu.Lock()
		gated := []int{w.b.gate.partitions["q\x00a"], w.b.gate.partitions["q\x00b"]}
		w.b.mu.Unlock()
		if !slices.Equal(gated, []int{3, 1}) {
			w.errorf("gated: %v", gated)
		}
		w.closes()
		w.o.Sealer = sealerOf(t, "a")
		w.reboot(1)
		return w.ended()
	})
}
