package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/world"
)

// poisons are items that no database can store, by what is wrong with them. %q-like texts
// are complete: each makes an item of queue, partition, key and payload.
var poisons = []struct {
	name string
	item func(m *history.Message) string
}{
	{"a traceId that is no UUID", func(m *history.Message) string {
		return fmt.Sprintf(`{"queue":%q,"partition":%q,"transactionId":%q,"traceId":"nonsense","payload":%s}`, m.Queue, m.Partition, m.Key, m.Payload)
	}},
	{"a transactionId of 256 characters", func(m *history.Message) string {
		return fmt.Sprintf(`{"queue":%q,"partition":%q,"transactionId":%q,"payload":%s}`, m.Queue, m.Partition, m.Key+strings.Repeat("x", 256-len(m.Key)), m.Payload)
	}},
	{"a queue of 256 characters", func(m *history.Message) string {
		return fmt.Sprintf(`{"queue":%q,"partition":%q,"transactionId":%q,"payload":%s}`, m.Queue+strings.Repeat("x", 256-len(m.Queue)), m.Partition, m.Key, m.Payload)
	}},
	{"a partition that is a number", func(m *history.Message) string {
		return fmt.Sprintf(`{"queue":%q,"partition":%s,"transactionId":%q,"payload":%s}`, m.Queue, m.Partition, m.Key, m.Payload)
	}},
	{"NUL in a name", func(m *history.Message) string {
		return fmt.Sprintf(`{"queue":"%s\u0000","partition":%q,"transactionId":%q,"payload":%s}`, m.Queue, m.Partition, m.Key, m.Payload)
	}},
	{"a payload that is no UTF-8", func(m *history.Message) string {
		return fmt.Sprintf(`{"queue":%q,"partition":%q,"transactionId":%q,"payload":{"uid":%q,"x":"`+"\xff\xc0\x80"+`"}}`, m.Queue, m.Partition, m.Key, m.UID)
	}},
	{"a payload that is nested too deep", func(m *history.Message) string {
		return fmt.Sprintf(`{"queue":%q,"partition":%q,"transactionId":%q,"payload":{"uid":%q,"x":%s%s}}`, m.Queue, m.Partition, m.Key, m.UID, strings.Repeat("[", 600), strings.Repeat("]", 600))
	}},
}

func row9() *Row {
	return &Row{
		ID: "9", Title: "poison beside good traffic",
		What: "each of 7 kinds of items that cannot be stored, alone and beside a good item of the same request, 20 times with PostgreSQL up and 20 times with PostgreSQL down; and 40 messages that are buffered and then refused by PostgreSQL (a trigger)",
		Pass: "poison hears 4xx and nothing of its request is stored; what only PostgreSQL refuses is set aside, and holds nobody up; all other pushes are stored; I1-I7",
		Run: func(ctx context.Context, t *Trial) error {
			doomed := 0
			t.atEnd = append(t.atEnd, func() {
				if poisoned := t.poisoned(); len(t.Violations) == 0 && poisoned != doomed {
					t.broken("I1", "%d messages were refused by PostgreSQL after they were buffered, and %d are set aside", doomed, poisoned)
				}
			})
			return t.storm(ctx, Storm{Damaged: true}, func(ctx context.Context) error {
				t.Faults = fmt.Sprintf("%d poisoned pushes, %d doomed", 2*2*20*len(poisons), doomedMessages)
				if err := t.poison(ctx); err != nil {
					return err
				}
				return t.outage(ctx, "a stop of PostgreSQL", 0, func() error {
					if _, err := t.conn.Exec(ctx, `CREATE TRIGGER chaos_dooms BEFORE INSERT ON queen.messages FOR EACH ROW EXECUTE FUNCTION chaos.see_doom()`); err != nil {
						return err
					}
					if err := t.world.Postgres.Stop(); err != nil {
						return err
					}
					if err := t.buffering(ctx); err != nil {
						return err
					}
					if err := t.poison(ctx); err != nil {
						return err
					}
					n, err := t.doom(ctx)
					doomed = n
					return err
				}, func() error { return t.world.Postgres.Restart(ctx) })
			})
		},
	}
}

// poison pushes each kind of it, alone and beside good items.
func (t *Trial) poison(ctx context.Context) error {
	c := t.client("poison")
	defer c.Close()
	for range 20 {
		for _, kind := range poisons {
			for _, alone := range []bool{true, false} {
				bad := c.Message(load.Work, fmt.Sprint(t.rng.IntN(t.Size.Partitions)))
				messages, items := []*history.Message{bad}, []string{kind.item(bad)}
				if !alone {
					beside := c.Message(load.Work, bad.Partition)
					messages, items = append(messages, beside), append(items, fmt.Sprintf(`{"queue":%q,"partition":%q,"payload":%s}`, beside.Queue, beside.Partition, beside.Payload))
				}
				status, text := c.PushRaw(`{"items":[`+strings.Join(items, ",")+`]}`, messages...)
				if status < 400 || status > 499 {
					t.broken("I10", "%s was answered %d %.300s", kind.name, status, text)
				}
				if !wait(ctx, 15*time.Millisecond) {
					return ctx.Err()
				}
			}
		}
	}
	return nil
}

// doomedMessages is how many of them row 9 pushes.
const doomedMessages = 40

// doom pushes messages that PostgreSQL will refuse, and returns how many were accepted.
func (t *Trial) doom(ctx context.Context) (accepted int, err error) {
	c := t.client("doom")
	defer c.Close()
	for range doomedMessages {
		if c.Push(c.Doomed(load.Work, fmt.Sprint(t.rng.IntN(t.Size.Partitions)))) {
			accepted++
		}
		if !wait(ctx, 10*time.Millisecond) {
			return accepted, ctx.Err()
		}
	}
	return accepted, nil
}

// poisoned is how many messages the queends have set aside.
func (t *Trial) poisoned() (all int) {
	for _, q := range t.queends {
		n, _ := leftIn(q.Buffer)
		all += n
	}
	return all
}

// vanishing is how many clients of row 20 vanish, of each kind.
const (
	vanishIdle   = 400 // whose request was answered and the answer never read
	vanishBegun  = 400 // in the middle of a push
	vanishParked = 200 // in a long poll
)

func row20() *Row {
	return &Row{
		ID: "20", Title: "clients vanish without a word",
		What: fmt.Sprintf("%d clients stop reading and writing and never close, as seen by queend: %d after a request, %d in the middle of a push, %d in long polls of the load's queue", vanishIdle+vanishBegun+vanishParked, vanishIdle, vanishBegun, vanishParked),
		Pass: "descriptors are back to within 10 in 90 s; I1-I7: what was given to a dead poll comes again",
		Slow: true,
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Queends: 1}, t.vanish)
		},
	}
}

func (t *Trial) vanish(ctx context.Context) error {
	t.Faults = fmt.Sprintf("%d clients", vanishIdle+vanishBegun+vanishParked)
	q := t.queends[0]
	before := world.Process(q.Pid()).Descriptors
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	send := func(n int, text func() string) error {
		for range n {
			c, err := q.Dial()
			if err != nil {
				return err
			}
			conns = append(conns, c)
			if _, err := c.Write([]byte(text())); err != nil {
				return err
			}
		}
		return nil
	}
	groups := []string{"", "&consumerGroup=" + load.Group}
	err := send(vanishParked, func() string {
		return fmt.Sprintf("GET /api/v1/pop/queue/%s?wait=true&timeout=20000&batch=5%s HTTP/1.1\r\nHost: chaos\r\n\r\n", load.Work, groups[t.rng.IntN(2)])
	})
	if err == nil {
		err = send(vanishIdle, func() string { return "GET /livez HTTP/1.1\r\nHost: chaos\r\n\r\n" })
	}
	if err == nil {
		push := "POST /api/v1/push HTTP/1.1\r\nHost: chaos\r\nContent-Length: 1000\r\n\r\n" + `{"items":[{"queue":"chaos.work",` + strings.Repeat(" ", 500)
		err = send(vanishBegun, func() string { return push[:1+t.rng.IntN(len(push)-1)] })
	}
	if err != nil {
		return err
	}
	began := time.Now()
	most := world.Process(q.Pid()).Descriptors
	for {
		now := world.Process(q.Pid()).Descriptors
		most = max(most, now)
		if now <= before+10 {
			break
		}
		if time.Since(began) > 3*time.Minute {
			t.broken("I9", "descriptors: %d before, %d at most, %d after 3 minutes", before, most, now)
			break
		}
		if err := q.Ended(); err != nil {
			t.broken("I10", "%v", err)
			return nil
		}
		if !wait(ctx, 250*time.Millisecond) {
			return ctx.Err()
		}
	}
	took := time.Since(began)
	t.remark("descriptors %d, at most %d, back after %v", before, most, took.Round(time.Second))
	if took > 90*time.Second {
		t.late("descriptors were back after %v", took)
	}
	return nil
}
