package load

import (
	"context"
	"fmt"
	"time"
)

// producers push over some connections of an engine.
//
// Without a rate it is a closed loop. With one it is an open loop: request n is due
// at start + n/rate, whatever becomes of those before. One that is due while all
// connections wait for answers stands in a queue until one is free, and its latency
// begins when it was due: a server that stalls is charged for every request that it
// kept from being sent (no coordinated omission).
type producers struct {
	e     *engine
	items int
	next  func(k *conn, number int64) []byte                  // the next request; valid until the next call
	hear  func(r *Result, a answer, items int) (queued int64) // counts one answer's messages
	every time.Duration                                       // between two that are due; 0: a closed loop

	idle   ring  // connections that are owed nothing, the longest idle first
	owed   int   // connections that are owed an answer
	lives  int   // connections that are not broken
	number int64 // of the next message, over all windows

	// One window:
	r          *Result
	start, end time.Time
	due        int64     // requests of the open loop that were sent
	most       int64     // requests to send at most, in a closed loop; 0: no bound
	sent       int64     // requests
	part       float64   // of messages, in a closed loop: see heard
	giveUp     time.Time // what was not sent by then never is

	// Of all windows, where deliveries are matched with pushes:
	times  *timetable
	queued func(first int64, n int) // messages first … first+n-1 were taken
}

// open makes n connections.
func (p *producers) open(ctx context.Context, addr string, n int, seed uint64) error {
	conns, err := p.e.open(ctx, addr, n, seed, p)
	if err != nil {
		return err
	}
	p.idle, p.lives = newRing(len(conns)), len(conns)
	for _, k := range conns {
		p.idle.put(k)
	}
	return nil
}

// begin starts a window of d.
func (p *producers) begin(r *Result, d time.Duration) {
	p.r, p.start = r, time.Now()
	p.end, p.due, p.sent, p.part = p.start.Add(d), 0, 0, 0
	p.giveUp = p.end.Add(max(d, time.Second))
	r.Elapsed = d
	if p.every > 0 {
		r.Offered = int64(p.items) * p.dueBy(p.end)
		p.pump(p.start)
		return
	}
	for range p.idle.n {
		if p.mayBegin(p.start) {
			p.send(p.idle.take(), time.Now())
		}
	}
}

// dueBy is how many requests are due before t, in a window that is long enough.
func (p *producers) dueBy(t time.Time) int64 {
	return int64((t.Sub(p.start) + p.every - 1) / p.every)
}

// busy: answers are owed, or requests are still to be sent.
func (p *producers) busy() bool {
	return p.owed > 0 || p.every > 0 && p.lives > 0 && p.due < p.dueBy(p.end)
}

// step waits for what comes next, and handles it.
func (p *producers) step(ctx context.Context) error {
	if err := p.e.step(ctx, p.wake()); err != nil {
		return err
	}
	return p.tend(time.Now())
}

// wake is when something is to be done though nothing is heard.
func (p *producers) wake() time.Time {
	if p.every > 0 && p.idle.n > 0 && p.due < p.dueBy(p.end) {
		return p.start.Add(time.Duration(p.due) * p.every)
	}
	return time.Now().Add(waitMax)
}

// tend does what time has made due.
func (p *producers) tend(now time.Time) error {
	if p.every > 0 {
		p.pump(now)
		if now.After(p.giveUp) {
			p.abandon(now)
		}
	}
	if p.owed > 0 && now.After(p.end.Add(drainMax)) {
		return fmt.Errorf("an answer is still owed %v after the end", drainMax)
	}
	return nil
}

// pump sends what is due, as far as there are free connections.
func (p *producers) pump(now time.Time) {
	for total := p.dueBy(p.end); p.idle.n > 0 && p.due < total; {
		at := p.start.Add(time.Duration(p.due) * p.every)
		if at.After(now) {
			return
		}
		p.due++
		k := p.idle.take()
		if at.Before(k.at) { // k.at: since when it was idle
			p.r.Waited++
		} else {
			Record(p.r.Lag, time.Since(at))
		}
		p.send(k, at)
	}
}

// abandon gives up what is due and was never sent. It has waited as long as this at
// least, which is what the histogram is told.
func (p *producers) abandon(now time.Time) {
	for total := p.dueBy(p.end); p.due < total; p.due++ {
		Record(p.r.Latency, now.Sub(p.start.Add(time.Duration(p.due)*p.every)))
		p.r.Unsent += int64(p.items)
	}
}

func (p *producers) mayBegin(now time.Time) bool {
	return p.every == 0 && now.Before(p.end) && (p.most == 0 || p.sent < p.most)
}

// send sends the next request; at is when it was due.
func (p *producers) send(k *conn, at time.Time) {
	k.at, k.number = at, p.number
	p.number += int64(p.items)
	if p.times != nil {
		p.times.add(at)
	}
	p.owed++
	p.sent++
	p.e.send(k, p.next(k, k.number))
}

// heard counts an answer. In a closed loop, the requests that are in flight when the
// window ends count for the part of their time that lies in it: every connection has
// one, and it would be the slower server that loses more by not counting it.
func (p *producers) heard(k *conn, a answer, now time.Time) {
	p.owed--
	queued := p.hear(p.r, a, p.items)
	p.r.Queued += queued
	switch {
	case now.Before(p.end):
		p.r.InTime += queued
	case p.every == 0 && k.at.Before(p.end):
		p.part += float64(queued) * float64(p.end.Sub(k.at)) / float64(now.Sub(k.at))
		p.r.InTime += int64(p.part)
		p.part -= float64(int64(p.part))
	}
	if queued == int64(p.items) { // a refusal is quick, and no service
		Record(p.r.Latency, now.Sub(k.at))
	}
	if p.queued != nil && queued == int64(p.items) {
		p.queued(k.number, p.items)
	}
	if p.mayBegin(now) {
		p.send(k, now)
		return
	}
	k.at = now
	p.idle.put(k)
	if p.every > 0 {
		p.pump(now)
	}
}

// broke: a loop with fewer connections than were asked for is another measurement, so
// it counts as a refusal.
func (p *producers) broke(k *conn, owed bool, err error) {
	if owed {
		p.owed--
	} else {
		p.idle.remove(k)
	}
	p.lives--
	p.r.refuse(err.Error())
}

// hearQueued counts the messages that an answer to a push calls queued.
func hearQueued(r *Result, a answer, items int) int64 {
	had := len(r.IDs)
	if a.status == 201 {
		r.IDs = appendQueued(r.IDs, a.body)
	}
	queued := len(r.IDs) - had
	if queued != items {
		r.refuse(fmt.Sprintf("%d %.200s", a.status, a.body))
	}
	return int64(queued)
}

// hearBuffered takes `buffered` for as good as `queued`.
func hearBuffered(r *Result, a answer, items int) int64 {
	had := len(r.IDs)
	if a.status == 201 {
		r.IDs = appendQueued(r.IDs, a.body)
	}
	queued := len(r.IDs) - had + Buffered(a.body)
	if queued != items {
		r.refuse(fmt.Sprintf("%d %.200s", a.status, a.body))
	}
	return int64(queued)
}

// hearSuccess counts an answer that is a success as its messages.
func hearSuccess(r *Result, a answer, items int) int64 {
	if a.status/100 != 2 {
		r.refuse(fmt.Sprintf("%d %.200s", a.status, a.body))
		return 0
	}
	return int64(items)
}

// ring is connections, first in, first out.
type ring struct {
	all     []*conn
	head, n int
}

func newRing(size int) ring { return ring{all: make([]*conn, size)} }

func (q *ring) put(k *conn) {
	if q.n == len(q.all) {
		panic("BUG: more connections are idle than there are")
	}
	q.all[(q.head+q.n)%len(q.all)] = k
	q.n++
}

func (q *ring) take() *conn {
	k := q.all[q.head]
	q.head = (q.head + 1) % len(q.all)
	q.n--
	return k
}

// remove takes out one from anywhere.
func (q *ring) remove(k *conn) {
	for range q.n {
		if other := q.take(); other != k {
			q.put(other)
		}
	}
}
