package filebuffer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// lockedWorld is one in which a, b and c were pushed to while PostgreSQL was away, and a is
// locked when it comes back.
func lockedWorld(t *testing.T, change ...func(*Options)) *world {
	w := newWorld(t, 1, change...)
	w.drain()
	w.outage(true)
	for range 3 {
		w.push(1, 0, "a", "b")
		w.push(2, 0, "c")
	}
	w.settle()
	w.locked["a"] = true
	w.outage(false)
	w.sleep(500 * time.Millisecond)
	w.flow()
	w.sleep(500 * time.Millisecond)
	w.flow()
	return w
}

// holds says how many messages of a partition are stored.
func (w *world) holds(partition string, n int) {
	if got := len(w.pg.order[partition]); got != n {
		w.errorf("%d messages of %s are stored, and should be %d", got, partition, n)
	}
}

func (w *world) behind(messages, partitions int64) {
	if s := w.b.Stats(); s.Behind.Load() != messages || s.BehindPartitions.Load() != partitions {
		w.errorf("%d messages of %d partitions stay behind, not %d of %d", s.Behind.Load(), s.BehindPartitions.Load(), messages, partitions)
	}
}

func TestALockedPartitionHoldsUpTheDeliveryOfNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := lockedWorld(t)
		w.holds("a", 0)
		w.holds("b", 3)
		w.holds("c", 3)
		w.behind(3, 1)
		w.push(1, 0, "b")
		w.flow()
		w.pushes[len(w.pushes)-1].is(stored, "")
		w.holds("b", 4) // the direct way
		w.push(1, 0, "a")
		w.settle()
		w.pushes[len(w.pushes)-1].is(stored, "buffered") // behind the others of its partition
		w.sleep(100 * time.Millisecond)
		w.behind(4, 1)
		if p := w.b.Status().Pending; p != 4 {
			w.errorf("%d messages wait", p)
		}

		clear(w.locked)
		for range 3 {
			w.sleep(behindEvery / 2)
			w.flow()
		}
		w.holds("a", 4)
		w.behind(0, 0)
		w.push(1, 0, "a")
		w.flow()
		w.pushes[len(w.pushes)-1].is(stored, "")
		return w.ended()
	})
}

// Its messages would be stored again if they were not there any more.
func TestWhatWasDeliveredPastALockedPartitionIsNotDeliveredByTheNextProcess(t *testing.T) {
	for _, way := range []string{"kill", "close"} {
		t.Run(way, func(t *testing.T) {
			bubble(t, func(t *testing.T) *world {
				w := lockedWorld(t)
				w.holds("b", 3)
				w.sleep(noteEvery)
				if way == "kill" {
					w.kill()
				} else {
					w.close()
				}
				stores := w.pg.stores
				w.reboot(1)
				w.settle()
				w.behind(0, 0)
				if p := w.b.Status().Pending; p != 3 {
					w.errorf("%d messages wait, of 3", p)
				}
				w.push(3, 0, "b")
				w.push(3, 0, "a")
				w.flow()
				w.sleep(behindEvery)
				w.flow()
				w.holds("a", 0)
				w.holds("b", 4)
				w.behind(4, 1)
				clear(w.locked)
				w.quiet()
				w.holds("a", 4)
				if n := w.pg.stores - stores; n != 5 {
					w.errorf("%d messages were stored, of 5", n)
				}
				return w.ended()
			})
		})
	}
}

func TestPartitionsThatAreLockedOneAfterTheOtherKeepTheirOrder(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := lockedWorld(t)
		names := []string{"a", "b", "c", "d"}
		for i := range 40 {
			w.locked[names[i%4]] = i%3 == 0
			w.push(1, 0, names...)
			w.push(2, 0, names[i%4], names[(i+1)%4])
			w.settle()
			w.flow()
			w.sleep(300 * time.Millisecond)
			w.flow()
			w.consistent()
		}
		return w.ended()
	})
}

// A record has messages that PostgreSQL refuses, and such of a partition that is locked.
func TestAMessageThatIsRefusedBesideALockedPartitionIsSetAside(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.drain()
		w.outage(true)
		w.push(1, 0, "a", "!b", "b", "a")
		w.push(1, 0, "!a", "b", "a")
		w.settle()
		w.locked["a"] = true
		w.outage(false)
		for range 4 {
			w.sleep(200 * time.Millisecond)
			w.flow()
		}
		w.holds("b", 2)
		w.holds("a", 0)
		w.behind(4, 1)
		if n := len(w.aside()); n != 1 {
			w.errorf("%d messages are set aside", n)
		}
		return w.ended()
	})
}

func TestBeyondTheBoundTheDrainWaits(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1, func(o *Options) { o.behindMax = 4 })
		w.drain()
		w.outage(true)
		var names []string
		for i := range 6 {
			names = append(names, fmt.Sprint("p", i))
			w.locked[names[i]] = true
		}
		w.push(1, 0, append(names, "free")...) // one record: what is behind it waits
		w.settle()
		w.outage(false)
		for range 20 {
			w.sleep(200 * time.Millisecond)
			w.flow()
		}
		w.holds("free", 1)
		if n := w.b.Stats().BehindPartitions.Load(); n > 4 {
			w.errorf("%d partitions stay behind", n)
		}
		return w.ended()
	})
}

func TestItIsSaidNowAndThenThatPartitionsAreLocked(t *testing.T) {
	var log bytes.Buffer
	bubble(t, func(t *testing.T) *world {
		w := lockedWorld(t, func(o *Options) { o.Log = zerolog.New(zerolog.SyncWriter(&log)) })
		for i := range 40 {
			w.locked[fmt.Sprint("p", i)] = true
			w.outage(true)
			w.push(1, 0, fmt.Sprint("p", i))
			w.outage(false)
			w.sleep(time.Second)
			w.flow()
		}
		return w.ended()
	})
	if n := strings.Count(log.String(), "another session holds partitions locked"); n != 1 {
		t.Errorf("it is said %d times in 40 s", n)
	}
	if n := strings.Count(log.String(), "no partition that messages wait for"); n != 1 {
		t.Errorf("that it is over is said %d times", n)
	}
	if !strings.Contains(log.String(), `"queue":"q","partition":"a"`) {
		t.Error("no partition is named")
	}
}

func TestANoteThatDoesNotGoWithTheJournalIsNotBelieved(t *testing.T) {
	for _, text := range []string{`{"through":1000,"partitions":[]}`, `{"through":`, ``} {
		bubble(t, func(t *testing.T) *world {
			w := newWorld(t, 1)
			w.outage(true)
			w.push(1, 0, "a")
			w.settle()
			w.kill()
			path := filepath.Join(w.dir, behindFile)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w.away = false
			w.reboot(1)
			if _, err := os.Stat(path); err == nil {
				w.errorf("%q is kept, and may be believed when the numbers have reached it", text)
			}
			w.quiet()
			w.holds("a", 1)
			return w.ended()
		})
	}
}

// The drain has passed over what the disk does not give, and goes back behind it.
func TestWhatStaysBehindABadSectorIsDeliveredWhenItIsFree(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w, second, _ := punctured(t)
		w.push(2, 0, "b")
		w.settle()
		w.locked["a"] = true
		w.disk.puncture(second)
		w.outage(false)
		w.drain()
		w.run(2 * passOverAfter)
		w.holds("b", 1) // which is behind them all
		w.holds("a", 0)
		clear(w.locked)
		w.run(2*passOverAfter + 2*behindRarely)
		lost := w.excuse()
		w.holds("a", 300-lost)
		if lost == 0 || lost > 100 {
			w.errorf("%d messages are in the hole", lost)
		}
		w.behind(0, 0)
		w.push(1, 0, "a")
		w.flow()
		w.pushes[len(w.pushes)-1].is(stored, "")
		return w.ended()
	})
}

// The disk gives on the way back what it did not give before, and what was counted.
func TestAPartitionIsGatedUntilAllThatStaysBehindIsDelivered(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.outage(true)
		for range windowRowsCalm + 40 {
			w.push(1, 0, "a")
			w.settle()
		}
		w.locked["a"] = true
		w.disk.puncture(w.segments()[1])
		w.outage(false)
		w.drain()
		w.run(2 * passOverAfter)
		if n := w.b.Stats().Behind.Load(); n == 0 || n > windowRowsCalm {
			t.Fatalf("%d messages are known to stay behind", n)
		}
		w.disk.puncture("")
		clear(w.locked)
		w.sleep(behindRarely)
		for w.b.Stats().Behind.Load() > 0 {
			w.batch()
		}
		if len(w.replay.sent) != 1 {
			t.Fatal("all is delivered already")
		}
		p := w.push(1, 0, "a")
		w.settle()
		p.is(stored, "buffered")
		w.run(2 * behindRarely)
		w.holds("a", windowRowsCalm+41)
		return w.ended()
	})
}

// Nothing of it was counted: the disk does not give it.
func TestAPartitionThatIsNotedIsGatedInTheNextProcess(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.outage(true)
		for i := range 200 {
			w.push(2, 0, "b")
			w.settle()
			if i == 60 {
				w.push(1, 0, "a")
				w.settle()
			}
		}
		w.locked["a"] = true
		w.outage(false)
		w.drain()
		w.run(time.Second)
		w.behind(1, 1)
		w.kill()
		clear(w.locked)
		w.hole = w.segments()[0]
		w.reboot(1)
		w.run(passOverAfter * 3 / 2)
		if s := w.b.Status(); s.Pending != 0 {
			w.errorf("it was found: %+v", s)
		}
		p := w.push(1, 0, "a")
		w.run(100 * time.Millisecond)
		p.is(stored, "buffered")
		w.hole = ""
		w.disk.puncture("")
		w.run(2 * behindRarely)
		w.holds("a", 2)
		return w.ended()
	})
}

// A segment is read from its beginning, where the bad sector is.
func TestWhatStaysBehindInASegmentWithABadSectorIsDeliveredWhenItIsFree(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1, func(o *Options) { o.SegmentBytes = 64 << 10 })
		w.outage(true)
		for range 200 {
			w.push(2, 0, "b")
			w.settle()
		}
		w.push(1, 0, "a")
		w.push(2, 0, "b")
		w.settle()
		segments := w.segments()
		if len(segments) != 1 {
			t.Fatalf("segments: %v", segments)
		}
		w.locked["a"] = true
		w.disk.puncture(segments[0])
		w.outage(false)
		w.drain()
		w.run(2 * passOverAfter)
		w.behind(1, 1)
		clear(w.locked)
		w.run(2*passOverAfter + 2*behindRarely)
		w.holds("a", 1)
		w.behind(0, 0)
		if w.excuse() == 0 {
			w.errorf("there is no hole")
		}
		return w.ended()
	})
}

// halved is a world whose drain has offered four messages of one record, and then, since that
// took too long, the first two of them.
func halved(t *testing.T) *world {
	w := newWorld(t, 1)
	w.outage(true)
	w.push(1, 0, "a", "a", "a", "a")
	w.settle()
	w.outage(false)
	w.drain()
	w.settle()
	if len(w.replay.sent) != 1 || len(w.replay.sent[0].Items) != 4 {
		t.Fatal("the drain has not offered them")
	}
	w.replay.late(0)
	w.sleep(2 * retryPause)
	if len(w.replay.sent) != 1 || len(w.replay.sent[0].Items) != 2 {
		t.Fatal("the drain has not offered half of them")
	}
	return w
}

func TestARecordMayBeDeliveredInPart(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := halved(t)
		w.replay.happen(1)
		w.replay.answer()
		w.locked["a"] = true
		w.run(time.Second)
		w.holds("a", 2)
		w.behind(2, 1)
		for range 2 { // processes; each finds it locked, and knows where it begins
			w.run(2 * behindEvery)
			w.kill()
			w.reboot(1)
			w.settle()
			if p := w.b.Status().Pending; p != 2 {
				w.errorf("%d messages wait, of 2", p)
			}
			w.run(2 * behindEvery)
		}
		stores := w.pg.stores
		clear(w.locked)
		w.run(2 * behindRarely)
		w.holds("a", 4)
		if n := w.pg.stores - stores; n != 2 {
			w.errorf("%d messages were stored, of 2", n)
		}
		return w.ended()
	})
}

func TestWhatIsFreeInTheMiddleOfAWindowDoesNotOvertake(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := halved(t)
		w.locked["a"] = true
		w.replay.happen(1)
		w.replay.answer()
		clear(w.locked) // before the others are offered
		w.run(time.Second / 2)
		w.holds("a", 0)
		w.behind(4, 1)
		w.run(2 * behindRarely)
		w.wantOrder("a", 0, 1, 2, 3)
		return w.ended()
	})
}

// beforeAnOutage is a world whose PostgreSQL looks for duplicates before it locks, has a message
// in partition a, "tx-1-0", and has just gone away.
func beforeAnOutage(t *testing.T) *world {
	w := newWorld(t, 1)
	w.winners = true
	w.drain()
	w.push(1, 0, "a")
	w.flow()
	w.outage(true)
	return w
}

// What was found to be there before the partition was found to be locked comes before what waits,
// in the window, and is behind it on disk.
func TestADuplicateBehindAMessageThatWaitsHidesItFromNobody(t *testing.T) {
	for _, together := range []bool{false, true} {
		bubble(t, func(t *testing.T) *world {
			w := beforeAnOutage(t)
			if together {
				w.push(1, 0, "a", "=tx-1-0", "b", "a")
			} else {
				w.push(1, 0, "a", "b")
				w.settle()
				w.push(1, 0, "=tx-1-0")
				w.settle()
				w.push(1, 0, "a")
			}
			w.settle()
			w.locked["a"] = true
			w.outage(false)
			w.run(time.Second / 2)
			w.holds("a", 1)
			w.holds("b", 1)
			w.behind(3, 1)
			w.consistent()
			clear(w.locked)
			w.run(2 * behindRarely)
			w.holds("a", 3)
			w.behind(0, 0)
			w.quiet()
			return w.ended()
		})
	}
}

// No record of ours is so; what stays behind of one is all of the partition.
func TestWhatStaysBehindOfARecordWhoseIdsFallIsAllOfIt(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := beforeAnOutage(t)
		w.falling = true
		w.push(2, 0, "a", "=tx-1-0", "b", "a")
		w.settle()
		w.falling = false
		w.locked["a"] = true
		w.outage(false)
		w.run(time.Second / 2)
		w.holds("b", 1)
		w.behind(3, 1)
		clear(w.locked)
		w.run(2 * behindRarely)
		w.holds("a", 3)
		w.excused["2/a"] = true // their ids are the order
		return w.ended()
	})
}

// Maintenance mode ends the drain's going back; what it has gone back for comes first all the same.
func TestWhatQueenHasLeftWaitsAlsoWhenMaintenanceModeHasComeBetween(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := lockedWorld(t)
		for range windowRowsMax {
			w.push(1, 0, "a")
			w.settle()
		}
		w.run(2 * behindEvery)
		w.behind(3+windowRowsMax, 1)
		w.kill()
		n := len(w.byTx)
		w.queens("failover_"+queensName(0)+".buf", w.event(n))
		w.reboot(1)
		w.run(3 * time.Second)
		w.b.SetMaintenance(true)
		clear(w.locked)
		w.run(time.Second)
		w.b.SetMaintenance(false)
		w.run(2 * behindRarely)
		w.holds("a", 4+windowRowsMax)
		if order := w.order("a"); order[len(order)-1] != n {
			w.errorf("what Queen has left is not behind the others")
		}
		return w.ended()
	})
}

// What Queen has left for a partition has no place to go back to: it waits for what stays behind.
func TestWhatQueenHasLeftWaitsForWhatStaysBehind(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := lockedWorld(t)
		w.sleep(noteEvery)
		w.kill()
		n := len(w.byTx)
		w.queens("failover_"+queensName(0)+".buf", w.event(n))
		w.reboot(1)
		w.run(60 * time.Second)
		w.holds("a", 0)
		clear(w.locked)
		w.run(2 * behindRarely)
		w.holds("a", 4)
		if order := w.order("a"); len(order) == 4 && order[3] != n {
			w.errorf("what Queen has left is not behind the others: %v", order)
		}
		return w.ended()
	})
}

// batch has PostgreSQL answer what the drain has offered, and nothing else.
func (w *world) batch() {
	if len(w.replay.sent) != 1 {
		w.errorf("the drain has offered %d batches, not one", len(w.replay.sent))
		panic(errStopWorld)
	}
	w.replay.happen(1)
	w.replay.answer()
	w.settle()
}

// The drain goes back in several batches, and the first record was delivered in part.
func TestOnlyTheFirstRecordThatWaitsWasDeliveredInPart(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := halved(t)
		w.batch()
		w.locked["a"] = true
		w.run(time.Second)
		for range 3 * windowRowsCalm / 4 {
			w.push(1, 0, "a", "a", "a", "a")
			w.settle()
		}
		w.run(time.Second)
		w.behind(2+3*windowRowsCalm, 1)
		clear(w.locked)
		w.run(2 * behindRarely)
		w.holds("a", 4+3*windowRowsCalm)
		w.behind(0, 0)
		return w.ended()
	})
}

func TestMaintenanceModeStopsADrainThatHasGoneBack(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := lockedWorld(t)
		for range 4 * windowRowsMax / 10 {
			w.push(1, 0, "a", "a", "a", "a", "a", "a", "a", "a", "a", "a")
			w.settle()
		}
		w.run(time.Second)
		w.behind(3+4*windowRowsMax, 1)
		clear(w.locked)
		w.sleep(behindRarely)
		before := len(w.replay.sent[0].Items)
		w.b.SetMaintenance(true)
		w.batch()
		w.sleep(2 * behindRarely)
		if len(w.replay.sent) != 0 {
			w.errorf("%d messages are offered in maintenance mode", len(w.replay.sent[0].Items))
		}
		w.holds("a", before)
		w.b.SetMaintenance(false)
		w.run(3 * behindRarely)
		w.holds("a", 3+4*windowRowsMax)
		return w.ended()
	})
}

// Else they would be written to disk until the drain has read to the end, however far that is.
func TestAPartitionThatHasCaughtUpIsFreeAlsoIfSomeOfItCannotBeFound(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := newWorld(t, 1)
		w.outage(true)
		for range 300 {
			w.push(1, 0, "a")
			w.settle()
		}
		for range 3000 {
			w.push(2, 0, "b")
			w.settle()
		}
		w.locked["a"] = true
		w.outage(false)
		w.drain()
		w.settle()
		w.batch() // of a, in vain
		for w.b.Stats().Behind.Load() < 300 {
			w.sleep(200 * time.Millisecond)
			w.batch()
		}
		w.disk.puncture(w.segments()[1])
		clear(w.locked)
		for range 200 { // the drain goes back, reads around the hole, and goes on
			w.sleep(passOverAfter / 20)
			if len(w.replay.sent) == 1 {
				w.batch()
			}
			if w.b.Stats().BehindPartitions.Load() == 0 {
				break
			}
		}
		w.behind(0, 0)
		w.settle()
		if len(w.replay.sent) != 1 || string(w.replay.sent[0].Items[0].Partition) != "b" {
			t.Fatal("the drain is not on its way with b")
		}
		p := w.push(1, 0, "a")
		w.lanes[0].happen(len(w.lanes[0].sent))
		for len(w.lanes[0].done) > 0 {
			w.lanes[0].answer()
		}
		w.settle()
		p.is(stored, "")
		if p.messages[0].text != "" {
			w.errorf("it is %s", p.messages[0].text)
		}
		w.run(time.Minute)
		if w.excuse() == 0 {
			w.errorf("there is no hole")
		}
		return w.ended()
	})
}

// What is behind is not what the drain should catch up with.
func TestPushesToALockedPartitionAreWrittenHoweverManyWait(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := lockedWorld(t)
		ten := strings.Split(strings.Repeat("a ", 10), " ")[:10]
		for range 2 * crowdedRows / 10 {
			w.push(1, 0, ten...)
			w.settle()
		}
		w.run(time.Second)
		w.outage(true)
		for range crowdedRows / 2 / 10 {
			w.push(2, 0, "b", "b", "b", "b", "b", "b", "b", "b", "b", "b")
			w.settle()
		}
		w.outage(false)
		w.sleep(retryPause)
		for range 100 { // in a time in which the drain delivers little
			w.push(1, 0, ten...)
			w.sleep(20 * time.Millisecond)
		}
		w.batch()
		w.sleep(restMax)
		p := w.push(1, 0, ten...)
		w.settle()
		p.is(stored, "buffered")
		clear(w.locked)
		w.run(2 * behindRarely)
		w.quiet()
		return w.ended()
	})
}
