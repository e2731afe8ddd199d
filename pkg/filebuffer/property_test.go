package filebuffer

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/queend/queend/pkg/filebuffer/journal/faultfs"
	"github.com/queend/queend/pkg/queue"
)

// Whatever happens to PostgreSQL, the disk and the process, and in whatever order: every
// push is answered once, what was answered well is stored once, what was refused for sure
// is not, each producer's messages are in their order in each partition, behind what Queen's
// server has left, and in the end nothing is left.
func TestNothingIsLostDoubledOrOvertakenWhateverHappens(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		script := rapid.SliceOfN(rapid.Byte(), rapid.SampledFrom([]int{10, 100, 300}).Draw(r, "length"), 400).Draw(r, "script")
		var errs, did []string
		synctest.Test(t, func(t *testing.T) { errs, did = play(t, script) })
		if len(errs) > 0 {
			r.Fatalf("%s\nafter: %s", strings.Join(errs, "\n"), strings.Join(did, ", "))
		}
	})
}

// play runs a script in a world.
func play(t *testing.T, script []byte) (errs, did []string) {
	p := &player{script: script, pipelined: map[int]int{}}
	loops := 1 + p.choose(3)
	sealer, err := queue.NewSealer(strings.Repeat("0f", 32))
	if err != nil {
		t.Fatal(err)
	}
	sealed, few := p.choose(2) == 0, p.choose(4) == 0
	p.w = emptyWorld(t, func(o *Options) {
		if sealed {
			o.Sealer = sealer
		}
		if few {
			o.WaitingBytesMax = 1500
		}
	})
	defer func() {
		if e := recover(); e != nil && e != errStopWorld {
			panic(fmt.Sprintf("%v\nafter: %v", e, p.did))
		}
		errs, did = p.w.errs, p.did
	}()
	p.loops = loops
	p.w.winners = p.choose(2) == 0
	queens := p.queens()
	p.w.boot(loops)
	if p.choose(4) > 0 {
		p.w.drain()
	}
	for len(p.script) > 0 && len(p.w.errs) == 0 {
		p.step()
		if p.choose(4) == 0 {
			synctest.Wait() // the loops have something else to do
		} else {
			p.w.settle()
			p.w.consistent()
		}
	}
	p.w.quiet()
	p.w.check()
	if order := p.w.order("a"); len(order) < len(queens) || !slices.Equal(order[:len(queens)], queens) {
		p.w.errorf("partition a has %v, and %v should be first: Queen's server had left them", order, queens)
	}
	p.w.close()
	return
}

// queens leaves some files of Queen's before the first process, or none. It returns their
// messages, which are the first of partition a.
func (p *player) queens() (left []int) {
	if p.choose(2) == 0 {
		return nil
	}
	for i := range 1 + p.choose(3) {
		var events []string
		for range []int{0, 1, 3, windowRowsCalm}[p.choose(4)] {
			events, left = append(events, p.w.event(len(left))), append(left, len(left))
		}
		p.say("Queen's server has left %d messages", len(events))
		p.w.queens("failover_"+queensName(i)+".buf", events...)
	}
	return left
}

type player struct {
	w         *world
	script    []byte
	did       []string
	loops     int
	busy      [4]*push // what the waiting producers wait for
	pipelined map[int]int
}

// choose takes the next choice of the script.
func (p *player) choose(n int) int {
	if len(p.script) == 0 {
		return 0
	}
	c := p.script[0] * 167 // rapid likes small numbers; this is a permutation
	p.script = p.script[1:]
	return int(c) % n
}

func (p *player) say(format string, args ...any) {
	p.did = append(p.did, fmt.Sprintf(format, args...))
}

func (p *player) step() {
	w := p.w
	switch p.choose(34) {
	case 0, 1, 2, 3, 4, 5, 6:
		p.waiting(p.choose(len(p.busy)))
	case 7, 8, 9, 10:
		p.pipelining(p.choose(p.loops))
	case 11, 12:
		p.say("flow")
		w.flow()
	case 13, 14:
		if l := p.lane(); len(l.sent) > 0 {
			n := 1 + p.choose(len(l.sent))
			p.say("%d happen", n)
			l.happen(n)
		}
	case 15, 16:
		if l := p.lane(); len(l.done) > 0 {
			p.say("answer")
			l.answer()
		}
	case 17:
		p.say("away")
		w.outage(true)
	case 18, 19:
		p.say("back")
		w.outage(false)
	case 20:
		p.say("one lane away")
		p.lane().goAway(true)
	case 21:
		if l := p.lane(); len(l.done)+len(l.sent) > 0 {
			p.say("late")
			l.late(p.choose(len(l.done) + len(l.sent)))
		}
	case 22:
		on := p.choose(2) == 0
		p.say("maintenance %v", on)
		w.b.SetMaintenance(on)
	case 23:
		op := []faultfs.Op{faultfs.Write, faultfs.Sync, faultfs.Create, faultfs.Rename, faultfs.SyncDir, faultfs.Remove, faultfs.Read, faultfs.Allocate}[p.choose(8)]
		n, how := 1+p.choose(3), faultfs.How(p.choose(3))
		p.say("%s %d fails %d", op, n, how)
		w.fs.Fail(op, n, how, syscall.EIO)
	case 24:
		switch p.choose(3) {
		case 0:
			p.say("the disk is full")
			w.fs.Room(1)
		case 1:
			p.say("the disk hangs")
			w.disk.hang()
		default:
			p.say("no writes")
			w.fs.Break(faultfs.Write, syscall.EIO)
		}
	case 25:
		p.say("the disk is well")
		w.fs.Heal()
		w.fs.Room(0)
		w.disk.let()
	case 26:
		p.say("kill")
		w.fs.Heal()
		w.fs.Room(0)
		w.kill()
		w.reboot(p.loops)
		p.forgotten()
	case 27:
		n := 1 + p.choose(12)
		p.say("power off at call %d", n)
		w.fs.CutAt(n)
	case 28:
		if w.replay == nil {
			p.say("drain")
			w.drain()
		}
	case 32:
		partition := partitions[p.choose(len(partitions))][:1]
		if partition != "!" {
			p.say("%s is locked", partition)
			w.locked[partition] = true
		}
	case 33:
		p.say("unlocked")
		clear(w.locked)
	case 29:
		p.say("burst")
		for i := range p.busy {
			p.waiting(i)
		}
	default:
		d := []time.Duration{10, 10, 50, 120, 350, 900, 2300}[p.choose(7)] * time.Millisecond
		p.say("sleep %v", d)
		w.sleep(d)
	}
	p.forgotten()
}

// forgotten: producers whose server is gone do not wait for it.
func (p *player) forgotten() {
	for i, b := range p.busy {
		if b != nil && b.life != p.w.lives {
			p.busy[i] = nil
		}
	}
}

func (p *player) lane() *fakeLane {
	all := p.w.all()
	return all[p.choose(len(all))]
}

var partitions = []string{"a", "a", "b", "c", "!a", "d"}

// waiting has a producer push that waits for its answers, on any loop, into some
// partitions.
func (p *player) waiting(producer int) {
	if b := p.busy[producer]; b != nil && b.ended == 0 {
		return
	}
	var to []string
	for range 1 + p.choose(3) {
		to = append(to, partitions[p.choose(len(partitions))])
	}
	loop := p.choose(p.loops)
	if p.choose(3) == 0 {
		to = slices.Insert(to, p.choose(1+len(to)), p.answered(producer)...)
	}
	p.say("%d pushes %v on %d", producer, to, loop)
	b := p.w.push(producer, loop, to...)
	if p.choose(4) == 0 {
		b.then = func() { p.again(producer, (loop+1)%p.loops, slices.Clone(to)) }
		if b.ended > 0 {
			return
		}
	}
	p.busy[producer] = b
}

// answered is one of the latest messages that a producer knows to be stored, to be pushed again.
func (p *player) answered(producer int) (tx []string) {
	for i := len(p.w.pushes) - 1; i >= 0 && len(tx) == 0; i-- {
		b := p.w.pushes[i]
		if b.producer != producer || b.ended == 0 || p.choose(2) == 0 {
			continue
		}
		if m := b.messages[p.choose(len(b.messages))]; m.answer == stored && !m.again {
			tx = append(tx, "="+m.tx)
		}
	}
	return tx
}

// again pushes from inside the answer.
func (p *player) again(producer, loop int, to []string) {
	p.busy[producer] = p.w.push(producer, loop, to...)
}

// pipelining has a producer push that does not wait; it has one connection, on one loop.
func (p *player) pipelining(loop int) {
	for range 1 + p.choose(4) {
		to := partitions[p.choose(len(partitions))]
		p.say("p%d pushes %s", loop, to)
		p.w.push(10+loop, loop, to)
	}
}
