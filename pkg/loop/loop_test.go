package loop

import (
	"strings"
	"sync"
	"testing"
)

func TestPostedFunctionsRunAllAndInTheirOrder(t *testing.T) {
	b := newBench(t, Options{Loops: 2})
	l := b.Loops()[1]
	const goroutines, each = 8, 5_000
	got := make([]int, goroutines)
	var done sync.WaitGroup
	done.Add(goroutines * each)
	for g := range goroutines {
		go func() {
			for i := range each {
				l.Post(func() {
					if got[g] != i {
						t.Errorf("goroutine %d: %d ran as number %d", g, i, got[g])
					}
					got[g]++
					done.Done()
				})
			}
		}()
	}
	finished := make(chan struct{})
	go func() { done.Wait(); close(finished) }()
	receive(t, finished)
}

func TestDeferRunsAtTheEndOfThePassAndCannotStarveTheSockets(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	var order []string
	note := func(s string) func() { return func() { order = append(order, s) } }
	on(t, l, func() {
		l.Defer(note("deferred"))
		l.Post(note("posted")) // the next pass
		note("now")()
	})
	on(t, l, func() {})
	on(t, l, func() {
		if s := strings.Join(order, " "); s != "now deferred posted" {
			t.Error(s)
		}
	})

	// A chain of deferred functions, and a client beside it.
	stop, links := false, 0
	var link func()
	link = func() {
		links++
		if !stop {
			l.Defer(link)
		}
	}
	on(t, l, func() { l.Defer(link) })
	c := b.dial()
	for range 10 {
		c.send(get("/a"))
		c.hears(200, "/a")
	}
	on(t, l, func() {
		stop = true
		if links == 0 {
			t.Error("it never ran")
		}
	})
}

func TestDeferFromAHandlerRunsThoughNothingElseHappens(t *testing.T) {
	b := newBench(t, Options{Handler: func(x *Exchange) {
		x.Loop().Defer(func() { x.Reply(200, nil, []byte("deferred"), false) })
	}})
	c := b.dial()
	for range 10 {
		c.send(get("/a"))
		c.hears(200, "deferred")
	}
}

// What a pass finds ready is served before what it deferred.
func TestDeferComesAfterTheRequestsThatAreReady(t *testing.T) {
	var batch []*Exchange
	var sizes []int
	b := newBench(t, Options{Handler: func(x *Exchange) {
		if batch = append(batch, x); len(batch) > 1 {
			return
		}
		x.Loop().Defer(func() {
			sizes = append(sizes, len(batch))
			for _, x := range batch {
				x.Reply(200, nil, nil, false)
			}
			batch = batch[:0]
		})
	}})
	const clients = 20
	var cs []*client
	for range clients {
		cs = append(cs, b.dial())
	}
	l := b.Loops()[0]
	eventually(t, "all are enrolled", func() (all bool) {
		on(t, l, func() { all = len(l.conns) == clients })
		return all
	})
	on(t, l, func() {
		for _, c := range cs { // all become ready while the loop is busy here
			c.send(get("/a"))
		}
		eventually(t, "all are ready", func() bool {
			ready := 0
			for _, c := range l.conns {
				if c.hasInput() {
					ready++
				}
			}
			return ready == clients
		})
	})
	for _, c := range cs {
		c.hears(200, "")
	}
	on(t, l, func() {
		if len(sizes) != 1 {
			t.Error("batches:", sizes)
		}
	})
}

func TestAPanicInAPostedFunctionIsCountedAndTheLoopGoesOn(t *testing.T) {
	b := newBench(t, Options{})
	l := b.Loops()[0]
	l.Post(func() { panic("planted") })
	on(t, l, func() { l.Defer(func() { panic("planted") }) })
	on(t, l, func() { l.After(0, func() { panic("planted") }) })
	eventually(t, "all are counted", func() bool { return b.Stats().Panics == 3 })
	c := b.dial()
	c.send(get("/a"))
	c.hears(200, "/a")
}

func TestNowIsOneClockForAllLoops(t *testing.T) {
	b := newBench(t, Options{Loops: 2})
	x, y := b.Loops()[0], b.Loops()[1]
	a := x.Now()
	c := y.Now()
	d := x.Now()
	if a > c || c > d || d-a > patience {
		t.Fatal(a, c, d)
	}
}
