package load

import (
	"fmt"
	"time"
)

// consumers pop and acknowledge over some connections of an engine, each its next batch
// when it is done with the last one. They know of each message when its push was due and
// whether it has come to each group: messages are told by the numbers in their payloads.
type consumers struct {
	e      *engine
	target Target
	pop    Pop
	all    []*consumer
	groups []*group
	times  *timetable
	taken  []bool // by number: its push was answered `queued`

	halted bool  // who is done stays idle
	acking int   // acknowledgments whose answer is owed
	quota  int64 // deliveries left before they halt by themselves; 0: no bound
	resume []*consumer
	wakeAt time.Time // when those in resume ask again

	r    *Result
	end  time.Time // what comes later is not in time
	last time.Time // when the last message was received, or acknowledged

}

// consumer is one connection: idle, popping, or acknowledging.
type consumer struct {
	k      *conn
	group  *group
	pop    []byte
	ack    []byte
	acking int // messages whose acknowledgment is owed
}

// group is a consumer group, and what has come to it.
type group struct {
	name    string
	seen    []bool // by number
	missing int64  // messages taken that have not come
}

// timetable says when each request was due, by its number.
type timetable struct {
	items int // messages of each
	epoch time.Time
	due   []time.Duration
}

func (t *timetable) add(at time.Time) { t.due = append(t.due, at.Sub(t.epoch)) }

// of is when message n was due.
func (t *timetable) of(n int64) (at time.Time, ok bool) {
	if i := n / int64(t.items); n >= 0 && i < int64(len(t.due)) {
		return t.epoch.Add(t.due[i]), true
	}
	return at, false
}

// backOff is how long a consumer whose pop was refused waits.
const backOff = 10 * time.Millisecond

// begin starts a window: what is heard counts for r.
func (c *consumers) begin(r *Result, end time.Time) {
	c.r, c.end, c.halted = r, end, false
	for _, one := range c.all {
		if one.k.state == idle {
			c.again(one)
		}
	}
}

// settled: everything that was taken has come to each group, and is acknowledged.
func (c *consumers) settled() bool {
	for _, g := range c.groups {
		if g.missing > 0 {
			return false
		}
	}
	return c.acking == 0
}

// quiet: nobody is asking or acknowledging.
func (c *consumers) quiet() bool {
	for _, one := range c.all {
		if one.k.state == waiting {
			return false
		}
	}
	return true
}

// take notes that pushes first … first+n-1 were answered `queued`.
func (c *consumers) take(first int64, n int) {
	c.taken = grown(c.taken, first+int64(n))
	for i := first; i < first+int64(n); i++ {
		c.taken[i] = true
		for _, g := range c.groups {
			if g.seen = grown(g.seen, i+1); !g.seen[i] {
				g.missing++
			}
		}
	}
}

func grown(all []bool, n int64) []bool {
	if int64(len(all)) < n {
		all = append(all, make([]bool, n-int64(len(all)))...)
	}
	return all
}

func (c *consumers) heard(k *conn, a answer, now time.Time) {
	if one := k.consumer; one.acking > 0 {
		c.heardAck(one, a, now)
	} else {
		c.heardPop(one, a, now)
	}
}

func (c *consumers) heardPop(one *consumer, a answer, now time.Time) {
	if a.status/100 != 2 {
		c.r.refuse(fmt.Sprintf("pop: %d %.200s", a.status, a.body))
		c.later(one, now)
		return
	}
	n := 0
	eachNumber(a.body, func(number int64) {
		n++
		c.deliver(one.group, number, now)
	})
	switch {
	case n == 0 && now.Sub(one.k.at) < backOff: // it should have waited
		c.later(one, now)
		return
	case n == 0:
		c.again(one)
		return
	}
	c.r.Pops++
	c.r.Delivered += int64(n)
	Record(c.r.PopTime, now.Sub(one.k.at))
	if c.quota > 0 {
		if c.quota -= int64(n); c.quota <= 0 {
			c.quota, c.halted = 0, true
		}
	}
	if c.pop.AutoAck {
		c.done(n, now)
		c.again(one)
		return
	}
	one.ack, one.acking = c.target.appendAck(one.ack[:0], one.group.name, a.body)
	if one.acking != n {
		c.r.refuse(fmt.Sprintf("%d of %d messages can be acknowledged: %.300s", one.acking, n, a.body))
		one.acking = 0
		c.later(one, now)
		return
	}
	c.acking++
	one.k.at = now
	c.e.send(one.k, one.ack)
}

// deliver notes that a message has come to a group.
func (c *consumers) deliver(g *group, number int64, now time.Time) {
	at, ok := c.times.of(number)
	if !ok {
		c.r.refuse("a message came that nobody here has pushed")
		return
	}
	Record(c.r.EndToEnd, now.Sub(at))
	g.seen = grown(g.seen, number+1)
	switch {
	case g.seen[number]:
		c.r.Twice++
	case number < int64(len(c.taken)) && c.taken[number]:
		g.missing--
	}
	g.seen[number] = true
}

func (c *consumers) heardAck(one *consumer, a answer, now time.Time) {
	n := one.acking
	one.acking = 0
	c.acking--
	Record(c.r.AckTime, now.Sub(one.k.at))
	if acked := Acked(a.body); a.status/100 != 2 || acked != n {
		c.r.refuse(fmt.Sprintf("ack: %d of %d: %d %.200s", acked, n, a.status, a.body))
	}
	c.done(n, now)
	c.again(one)
}

// done: n messages need no more of a consumer.
func (c *consumers) done(n int, now time.Time) {
	c.last = now
	if c.end.IsZero() || now.Before(c.end) {
		c.r.InTime += int64(n)
	}
}

// again asks for the next batch.
func (c *consumers) again(one *consumer) {
	if c.halted {
		return
	}
	one.k.at = time.Now()
	c.e.send(one.k, one.pop)
}

// later asks again after a while.
func (c *consumers) later(one *consumer, now time.Time) {
	if len(c.resume) == 0 {
		c.wakeAt = now.Add(backOff)
	}
	c.resume = append(c.resume, one)
}

// wake is when something is to be done though nothing is heard.
func (c *consumers) wake() time.Time {
	if len(c.resume) > 0 {
		return c.wakeAt
	}
	return time.Now().Add(waitMax)
}

func (c *consumers) tend(now time.Time) {
	if len(c.resume) == 0 || now.Before(c.wakeAt) {
		return
	}
	all := c.resume
	c.resume = nil
	for _, one := range all {
		if one.k.state == idle {
			c.again(one)
		}
	}
}

func (c *consumers) broke(k *conn, _ bool, err error) {
	if k.consumer.acking > 0 {
		k.consumer.acking = 0
		c.acking--
	}
	c.r.refuse("consumer: " + err.Error())
}
