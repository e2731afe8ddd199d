package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/oracle"
	"github.com/queend/queend/chaos/proxy"
	"github.com/queend/queend/chaos/world"
	"github.com/queend/queend/pkg/check"
)

// Trial is one run of a row. Its database is its own; PostgreSQL is the run's.
type Trial struct {
	Seed  uint64
	Size  load.Size
	Dir   string // logs
	Timed bool   // what took too long is a violation; otherwise it is only told
	Long  bool   // the long form of a row, where it has one

	// Budget is how long a row may take that fills the time it is given.
	Budget time.Duration
	Say    func(format string, args ...any)

	world    *world.World
	rng      *rand.Rand // of the fault alone: what the load draws does not move it
	clock    *history.Clock
	database string
	conn     *pgx.Conn // direct
	queends  []*world.Queend
	proxy    *proxy.Proxy // between queend and PostgreSQL; nil: none
	pair     *world.Pair  // nil: one PostgreSQL
	wire     *world.Wire  // on the way to PostgreSQL; nil: none
	load     *load.Load
	clients  int                    // made by client so far
	excused  []span                 // calls that were under way then may take longer
	outages  []*outage              // what was measured in them
	after    func(*history.History) // what the row itself looks at; may be nil
	atEnd    []func()               // when the queends are gone

	// What came of it.
	Messages   int
	Deliveries int
	Kills      int      // faults that count each for itself; 0: the trial is one
	Faults     string   // what was done
	Remarks    []string // figures
	Violations []oracle.Violation
}

type span struct{ from, to time.Duration }

// Storm is what a load runs on while a fault happens.
type Storm struct {
	Queends int           // 0: one or two, drawn
	Lease   time.Duration // leaseTime of the queues
	Poll    time.Duration // time-out of long polls
	Proxy   bool          // queend reaches PostgreSQL through t.proxy
	Env     []string      // settings of queend
	CallMax time.Duration // 0: 5 s
	Client  time.Duration // how long clients wait; 0: 15 s

	Limit int        // descriptors that queend may have; 0: as many as we may
	Size  *load.Size // nil: the trial's

	// PushOnly: nobody pops.
	PushOnly bool

	Binary  string   // of queend; "": the world's
	Buffers []string // the buffer directory of each queend; nil: new ones
	Pair    bool     // a PostgreSQL with a standby, of the trial's own
	Wire    bool     // with Proxy: by a network that can be cut, if this machine has one

	// LostMax is how many buffered messages the row damages on the disk. Damaged: whatever
	// they are, something is found to be damaged.
	LostMax int
	Damaged bool

	// Recovery is how soon after the fault a push must be stored; 0: 2 s.
	Recovery time.Duration
}

func newTrial(w *world.World, seed uint64, size load.Size, dir string) *Trial {
	return &Trial{
		Seed: seed, Size: size, Dir: dir, Timed: true, Say: func(string, ...any) {},
		world: w, rng: rand.New(rand.NewPCG(seed, 0xfa017)), clock: history.NewClock(),
	}
}

func (t *Trial) remark(format string, args ...any) {
	t.Remarks = append(t.Remarks, fmt.Sprintf(format, args...))
}

func (t *Trial) broken(promise, format string, args ...any) {
	t.Violations = append(t.Violations, oracle.Violation{Promise: promise, What: fmt.Sprintf(format, args...)})
}

// late is broken where time counts.
func (t *Trial) late(format string, args ...any) {
	if t.Timed {
		t.broken("I8", format, args...)
	} else {
		t.remark("late: "+format, args...)
	}
}

// storm runs a load, the fault in the middle of it, drains, and judges. An error means
// that the trial could not be run: it says nothing about queend.
func (t *Trial) storm(ctx context.Context, s Storm, fault func(context.Context) error) (err error) {
	defer func() { err = errors.Join(err, t.end()) }()
	if err := t.begin(ctx, &s); err != nil {
		return err
	}
	if err := t.until(ctx, "the load has begun", func() (bool, error) { n, _ := t.load.Stored(); return n > 30, nil }); err != nil {
		return err
	}
	t.Say("%v: fault", t.clock.Now().Round(time.Millisecond))
	if err := fault(ctx); err != nil {
		return err
	}
	healed := t.clock.Now()
	t.Say("%v: healed", healed.Round(time.Millisecond))
	if err := t.until(ctx, "a push is stored after the fault", func() (bool, error) { _, last := t.load.Stored(); return last > healed, nil }); err != nil {
		t.broken("I8", "%v", err)
	} else {
		_, last := t.load.Stored()
		recovery := t.clock.Now() - healed
		if last-healed < recovery {
			recovery = last - healed
		}
		t.remark("first stored %v after heal", recovery.Round(10*time.Millisecond))
		if limit := max(s.Recovery, 2*time.Second); recovery > limit {
			t.late("the first push was stored %v after the fault had ended", recovery)
		}
	}
	time.Sleep(500 * time.Millisecond)
	t.load.StopSending()
	drained := t.drain(ctx, s.PushOnly)
	h := t.load.Stop()
	t.load = nil
	for _, q := range t.queends {
		if err := q.Stop(); err != nil {
			t.broken("I10", "%v", err)
		}
		t.leftovers(q, s.Damaged)
	}
	return t.judge(ctx, h, s, drained)
}

// begin makes the database, the queends and the load.
func (t *Trial) begin(ctx context.Context, s *Storm) error {
	size := t.Size
	if s.Size != nil {
		size = *s.Size
	}
	if size.Bulk > 0 { // a second queend, and a second loop, come between
		s.PushOnly, s.Queends, s.Env = true, max(s.Queends, 1), append(s.Env, "NUM_WORKERS=1")
	}
	if s.Queends == 0 {
		s.Queends = 1 + t.rng.IntN(2)
	}
	if s.Lease == 0 {
		s.Lease = 3 * time.Second
	}
	if s.Poll == 0 {
		s.Poll = 2 * time.Second
	}
	if s.CallMax == 0 {
		s.CallMax = 5 * time.Second
	}
	if s.Client == 0 {
		s.Client = 15 * time.Second
	}
	if err := t.open(ctx, s); err != nil {
		return err
	}
	if err := world.Audit(ctx, t.conn); err != nil {
		return err
	}
	var dials []func() (net.Conn, error)
	for _, q := range t.queends {
		dials = append(dials, q.Dial)
	}
	t.load = load.Start(load.Config{Size: size, Seed: t.Seed, Clock: t.clock, Dials: dials, Poll: s.Poll, Lease: s.Lease, CallTimeout: s.Client})
	return nil
}

// open makes the database and the queends, and configures the queues.
func (t *Trial) open(ctx context.Context, s *Storm) (err error) {
	if s.Pair {
		if t.pair, err = t.world.Pair(ctx); err != nil {
			return err
		}
		own := *t.world
		own.Postgres = t.pair.Primary
		t.world = &own
	}
	if t.database, err = t.world.Database(ctx); err != nil {
		return err
	}
	if t.conn, err = t.world.Connect(ctx, t.database); err != nil {
		return err
	}
	url := t.world.Postgres.ConnString(t.database)
	if s.Pair {
		url = t.pair.URL(t.database)
	}
	if s.Proxy {
		if err := t.openProxy(s.Wire); err != nil {
			return err
		}
		url = fmt.Sprintf("postgres://postgres:%s@%s/%s?sslmode=disable", t.world.Postgres.Password(), t.proxy.Address(), t.database)
	}
	for i := range s.Queends {
		q, err := t.world.Queend(fmt.Sprintf("queend-%d", i+1), t.Dir, append([]string{"DATABASE_URL=" + url}, s.Env...)...)
		if err != nil {
			return err
		}
		q.Limit = s.Limit
		if s.Binary != "" {
			q.Binary = s.Binary
		}
		if i < len(s.Buffers) {
			q.Buffer = s.Buffers[i]
		}
		t.queends = append(t.queends, q)
		if err := q.Launch(); err != nil {
			return err
		}
	}
	ready, cancel := context.WithTimeout(ctx, world.Hang)
	defer cancel()
	for _, q := range t.queends {
		if err := q.Ready(ready); err != nil {
			return err
		}
		if err := t.healthy(ready, q); err != nil {
			return err
		}
	}
	for _, name := range []string{load.Work, load.Out} {
		namespace, task, _ := strings.Cut(name, ".")
		body := fmt.Sprintf(`{"queue":%q,"namespace":%q,"task":%q,"options":{"leaseTime":%d,"retryLimit":1000000}}`, name, namespace, task, int(s.Lease/time.Second))
		if status, text := request(t.queends[0], "POST", "/api/v1/configure", body); status != 200 {
			return fmt.Errorf("cannot configure %s: %d %s", name, status, text)
		}
	}
	return nil
}

// openProxy puts the proxy between queend and PostgreSQL; wire by a network of its own, if
// this machine has one.
func (t *Trial) openProxy(wire bool) (err error) {
	address := fmt.Sprintf("127.0.0.1:%d", t.world.Postgres.Port())
	dial := func() (net.Conn, error) { return net.Dial("tcp", address) }
	if wire {
		if t.wire, err = world.MakeWire(); err == nil {
			t.proxy = proxy.On(t.wire.Listener, dial)
			return nil
		}
		t.wire = nil
		t.remark("no network namespace here (%v): the proxy is silent instead", err)
	}
	t.proxy, err = proxy.New(dial)
	return err
}

// client is a connection for the trial's own calls.
func (t *Trial) client(name string) *load.Client {
	t.clients++
	return t.load.Client(fmt.Sprintf("%s%d-", name, t.clients))
}

// until polls until something is so, within world.Hang.
func (t *Trial) until(ctx context.Context, what string, is func() (bool, error)) error {
	for limit := time.Now().Add(world.Hang); ; {
		ok, err := is()
		if ok || err != nil {
			return err
		}
		for _, q := range t.queends {
			if err := q.Ended(); err != nil {
				t.broken("I10", "%v", err)
				return err
			}
		}
		if time.Now().After(limit) {
			return fmt.Errorf("it took too long until %s", what)
		}
		if !wait(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// wait waits and says whether ctx still lives.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

const selectUndrained = `
SELECT count(*) FROM unnest($1::text[], $2::text[]) AS x(queue_name, consumer_group)
JOIN queen.partition_lookup l ON l.queue_name = x.queue_name
LEFT JOIN queen.partition_consumers c ON c.partition_id = l.partition_id AND c.consumer_group = x.consumer_group
WHERE l.last_message_created_at > '-infinity'
  AND (c.last_consumed_created_at IS NULL OR (c.last_consumed_created_at, c.last_consumed_id) < (l.last_message_created_at, l.last_message_id))`

// drainMax is how long a load may take to read all that is there, and a second more for
// each drainRate messages.
const (
	drainMax  = 90 * time.Second
	drainRate = 100
)

// drain waits until all buffers are delivered, and until all groups have read everything,
// twice in a row: a commit may come late.
func (t *Trial) drain(ctx context.Context, pushOnly bool) bool {
	var queues, groups []string
	for queue, all := range load.MustGet {
		for _, group := range all {
			if group == load.QueueMode {
				group = oracle.QueueMode
			}
			queues, groups = append(queues, queue), append(groups, group)
		}
	}
	if err := t.buffersEmpty(ctx); err != nil {
		t.broken("I8", "the buffers are not delivered: %v", err)
		return false
	}
	if pushOnly {
		return true
	}
	began, seen, left := time.Now(), 0, -1
	stored, _ := t.load.Stored()
	limit := drainMax + time.Duration(stored/drainRate)*time.Second
	for time.Since(began) < limit {
		if err := t.conn.QueryRow(ctx, selectUndrained, queues, groups).Scan(&left); err != nil {
			t.Say("draining: %v", err)
			_ = t.conn.Close(ctx)
			if t.conn, err = t.world.Connect(ctx, t.database); err != nil {
				return false
			}
			continue
		}
		if left > 0 {
			seen = 0
		} else if seen++; seen == 2 {
			t.Say("drained in %v", time.Since(began).Round(time.Millisecond))
			return true
		}
		if !wait(ctx, 300*time.Millisecond) {
			return false
		}
	}
	t.Say("not drained: %d partitions of groups", left)
	return false
}

// judge compares what was seen with what is there.
func (t *Trial) judge(ctx context.Context, h *history.History, s Storm, drained bool) error {
	conn, err := t.world.Connect(ctx, t.database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	snapshot, err := oracle.Read(ctx, conn, true)
	if err != nil {
		return err
	}
	rules := oracle.Rules{
		Groups: load.MustGet, TransactionQueue: load.Work, TransactionGroup: load.Mover, Drained: drained, LostMax: s.LostMax, LateSlack: 50 * time.Millisecond,
		Excused: func(start, end time.Duration) bool {
			for _, x := range t.excused {
				if start <= x.to && end >= x.from {
					return true
				}
			}
			return false
		},
	}
	if s.PushOnly {
		rules.Groups, rules.TransactionQueue = nil, ""
	}
	if t.Timed {
		rules.CallMax, rules.PollSlack = s.CallMax, time.Second
	}
	t.Violations = append(t.Violations, oracle.Check(h, snapshot, rules)...)
	for _, o := range t.outages {
		t.judgeOutage(h, o)
	}
	if t.after != nil {
		t.after(h)
	}
	report, err := check.Run(ctx, conn, check.Options{})
	if err != nil {
		return err
	}
	for i := range report.Findings {
		t.broken("check", "%s", report.Findings[i].String())
	}
	t.Messages, t.Deliveries = len(h.Messages), len(h.Deliveries)
	t.count(h)
	if len(t.Violations) > 0 {
		return t.keep(h, snapshot)
	}
	return nil
}

// count remarks what the load met.
func (t *Trial) count(h *history.History) {
	var pushes, acks [3]int
	refused, late := 0, 0
	for _, m := range h.Messages {
		pushes[m.Outcome()]++
	}
	for i := range h.Acks {
		acks[h.Acks[i].Outcome]++
		if h.Acks[i].Refused {
			refused++
			if strings.Contains(h.Acks[i].Why, "xpired lease") {
				late++
			}
		}
	}
	var longest time.Duration
	for i := range h.Calls {
		if x := &h.Calls[i]; x.Wait == 0 {
			longest = max(longest, x.End-x.Start)
		}
	}
	buffered := 0
	for _, m := range h.Messages {
		if m.Outcome() == history.OK && !m.Stored() {
			buffered++
		}
	}
	t.remark("pushes ok %d (%d buffered), unknown %d, fail %d; deliveries %d; acks ok %d, unknown %d, refused %d (%d for their lease); longest call %v",
		pushes[history.OK], buffered, pushes[history.Unknown], pushes[history.Fail], len(h.Deliveries), acks[history.OK], acks[history.Unknown], refused, late,
		longest.Round(10*time.Millisecond))
}

// keep writes down what a failed trial saw.
func (t *Trial) keep(h *history.History, s *oracle.Snapshot) error {
	file, err := os.Create(filepath.Join(t.Dir, "history.txt"))
	if err != nil {
		return err
	}
	defer file.Close()
	fmt.Fprintf(file, "clock 0 = %s\n", h.Clock.Wall(0).Format(time.RFC3339Nano))
	for _, m := range h.Messages {
		fmt.Fprintf(file, "message %s %s/%s key=%q parent=%q\n", m.UID, m.Queue, m.Partition, m.Key, m.Parent)
		for _, a := range m.Attempts {
			fmt.Fprintf(file, "  %v-%v queend-%d %v %d id=%s key=%s duplicate=%v buffered=%v %s\n", a.Start, a.End, a.Server+1, a.Outcome, a.Status, a.ID, a.Key, a.Duplicate, a.Buffered, a.Why)
		}
	}
	for _, d := range h.Deliveries {
		fmt.Fprintf(file, "delivery %v-%v #%d %s group=%q %s/%s %s lease=%s %s %s\n", d.Start, d.End, d.At, d.Consumer, d.Group, d.Queue, d.Partition, d.PartitionID, d.Lease, d.MessageID, oracle.UID(d.Payload))
	}
	for _, a := range h.Acks {
		fmt.Fprintf(file, "ack %v-%v %s group=%q %s %s lease=%s %s %v refused=%v tx=%v %s\n", a.Start, a.End, a.Consumer, a.Group, a.PartitionID, a.MessageID, a.Lease, a.Status, a.Outcome, a.Refused, a.Transaction, a.Why)
	}
	for _, c := range h.Calls {
		if c.Status != 200 && c.Status != 201 || c.End-c.Start > time.Second+c.Wait {
			fmt.Fprintf(file, "call %v-%v queend-%d %s %d %s\n", c.Start, c.End, c.Server+1, c.Route, c.Status, c.Why)
		}
	}
	for _, r := range s.Rows {
		fmt.Fprintf(file, "row %s %s %s/%s key=%s %s\n", r.PartitionID, r.ID, r.Queue, r.Partition, r.Key, oracle.UID(r.Payload))
	}
	for _, c := range s.Cursors {
		fmt.Fprintf(file, "cursor %s %s group=%q worker %q -> %q expires %s -> %s back=%v\n", c.At.Format(time.RFC3339Nano), c.PartitionID, c.Group,
			c.OldWorker, c.NewWorker, c.OldExpires.Format(time.RFC3339Nano), c.NewExpires.Format(time.RFC3339Nano), c.Back)
	}
	return nil
}

// end leaves nothing behind but logs.
func (t *Trial) end() error {
	if t.load != nil {
		t.load.Stop()
	}
	for _, q := range t.queends {
		_ = q.Signal(syscall.SIGCONT)
		q.Kill()
	}
	if t.proxy != nil {
		t.proxy.Close()
	}
	if t.wire != nil {
		t.wire.Remove()
	}
	for _, f := range t.atEnd {
		f()
	}
	for _, q := range t.queends {
		t.keepBuffer(q)
	}
	ctx, cancel := context.WithTimeout(context.Background(), world.Hang)
	defer cancel()
	if t.conn != nil {
		_ = t.conn.Close(ctx)
	}
	if t.pair != nil {
		t.pair.Stop()
		return nil
	}
	if t.database == "" {
		return nil
	}
	return t.world.Drop(ctx, t.database)
}

// keepBuffer removes a buffer directory, or keeps it with the logs of a trial that failed.
func (t *Trial) keepBuffer(q *world.Queend) {
	if len(t.Violations) > 0 && t.result() == failed {
		if entries, err := os.ReadDir(q.Buffer); err == nil && len(entries) > 0 {
			if os.Rename(q.Buffer, filepath.Join(t.Dir, q.Name+".buffer")) == nil {
				return
			}
		}
	}
	_ = os.RemoveAll(q.Buffer)
}
