package asyncdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/queue"
	"github.com/queend/queend/pkg/schema"
)

// rig is a store on a loop that the test runs by hand, with a clock that the test
// moves and no socket: bytes out of the lane are in sent, bytes in are given to
// answer. dials counts the attempts to connect that wait for open or refuse.
type rig struct {
	t     testing.TB
	now   time.Duration
	posts []func()
	ends  []func() // deferred
	waits []wait

	db    *Database
	store *Store
	dials int
	conn  *conn
	sent  bytes.Buffer
	shut  int   // times that the lane closed its socket
	fails error // the next write fails with it

	inline bool     // the next connection cannot prepare statements
	lax    bool     // the next connection does not wait for the disk
	at     instance // the next connection leads to it
	log    bytes.Buffer
	ids    *queue.IDs
	queue  queue.Config
	hints  *queue.Hints // of the store's batches
	pg     *server
}

type wait struct {
	at   time.Duration
	fire func()
}

func newRig(t testing.TB, change ...func(*Config)) *rig {
	r := &rig{t: t, now: time.Hour, pg: newServer(), ids: queue.NewIDs(func() int64 { return 1_700_000_000_000 })}
	c := Config{ConnString: "host=127.0.0.1 user=u dbname=d sslmode=disable", Log: zerolog.New(&r.log)}
	for _, f := range change {
		f(&c)
	}
	db, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return r.on(db)
}

// beside returns a rig with another store of the same database, at the same time; its server
// is the same too.
func (r *rig) beside() *rig {
	other := &rig{t: r.t, now: r.now, pg: r.pg, ids: r.ids}
	return other.on(r.db)
}

func (r *rig) on(db *Database) *rig {
	r.db = db
	hints := queue.NewHints(0, 0)
	r.hints = hints
	r.store = db.newStore(Services{
		Post:  func(f func()) { r.posts = append(r.posts, f) },
		Defer: func(f func()) { r.ends = append(r.ends, f) },
		After: func(d time.Duration, f func()) { r.waits = append(r.waits, wait{r.now + d, f}) },
		Now:   func() time.Duration { return r.now },
	}, Work{NewBatch: func() Batch { return queue.NewBatch(&r.queue, hints) }, Prepare: r.queue.Prepared(), Follow: true})
	r.store.dialFn = func(context.Context) { r.dials++ }
	r.store.dial(r.now)
	return r
}

// up returns a rig that is connected.
func up(t testing.TB, change ...func(*Config)) *rig {
	r := newRig(t, change...)
	r.open()
	return r
}

// pass ends a pass of the loop: what was deferred and posted runs.
func (r *rig) pass() {
	for len(r.ends)+len(r.posts) > 0 {
		all := append(r.ends, r.posts...)
		r.ends, r.posts = nil, nil
		for _, f := range all {
			f()
		}
	}
}

// sleep moves the clock, and fires the timers on the way.
func (r *rig) sleep(d time.Duration) {
	until := r.now + d
	for {
		next := -1
		for i, w := range r.waits {
			if w.at <= until && (next < 0 || w.at < r.waits[next].at) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		w := r.waits[next]
		r.waits = slices.Delete(r.waits, next, next+1)
		r.now = max(r.now, w.at)
		w.fire()
		r.pass()
	}
	r.now = until
}

// awaitDial lets time pass until the store tries to connect.
func (r *rig) awaitDial() {
	r.t.Helper()
	for range 300 {
		if r.dials > 0 {
			r.dials--
			return
		}
		r.sleep(10 * time.Millisecond)
	}
	r.t.Fatal("nobody is connecting")
}

// open lets the attempt to connect succeed.
func (r *rig) open() {
	r.t.Helper()
	r.awaitDial()
	r.sent.Reset()
	r.pg.session = session{} // another one
	at := r.at
	c := &conn{store: r.store, link: link{about: "the test's server", inline: r.inline, lax: r.lax, instance: &at}}
	r.conn = c
	c.opened(func(b []byte) error {
		if err := r.fails; err != nil {
			r.fails = nil
			c.closedBy(err) // as a loop does: inside the write
			return err
		}
		r.sent.Write(b)
		return nil
	}, func() {
		r.shut++
		c.closedBy(nil)
	})
	r.pass()
}

// refuse lets the attempt to connect fail.
func (r *rig) refuse(err error) {
	r.t.Helper()
	r.awaitDial()
	r.store.dialFailed(err)
	r.pass()
}

// answer gives bytes of the server to the lane.
func (r *rig) answer(b []byte) {
	r.conn.data(b)
	r.pass()
}

// serve lets the server answer everything that was sent, again and again until nothing
// more is sent.
func (r *rig) serve() {
	r.t.Helper()
	for range 1000 {
		reply := r.pg.read(r.t, &r.sent)
		if len(reply) == 0 {
			return
		}
		r.answer(reply)
	}
	r.t.Fatal("the lane never comes to rest")
}

// push gives a push of some items to the store; each is "queue/partition/transaction".
func (r *rig) push(items ...string) *call { return r.pushWithin(2*time.Second, items...) }

func (r *rig) pushWithin(d time.Duration, items ...string) *call {
	r.t.Helper()
	c := newCall(r.t, &r.queue, r.ids, items...)
	c.op.Accepted, c.op.Deadline = r.now, r.now+d
	r.store.Do(&c.op)
	return c
}

// call is one push and what became of it.
type call struct {
	t    testing.TB
	op   queue.Op
	done int
	told func()
}

func newCall(t testing.TB, config *queue.Config, ids *queue.IDs, items ...string) *call {
	t.Helper()
	c := &call{t: t}
	var body bytes.Buffer
	body.WriteString(`{"items":[`)
	for i, item := range items {
		parts := bytes.SplitN([]byte(item), []byte("/"), 3)
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"queue":%q,"partition":%q,"transactionId":%q,"payload":{"n":%d}}`, parts[0], parts[1], parts[2], i)
	}
	body.WriteString(`]}`)
	if f := queue.Decode(&c.op, body.Bytes(), config, ids); f.Code != queue.OK {
		t.Fatalf("the test's push is refused: %s", f.Message)
	}
	c.op.Done = c
	return c
}

// OpDone implements queue.Completer.
func (c *call) OpDone(op *queue.Op) {
	if op != &c.op {
		panic("BUG: an op of somebody else is done")
	}
	if c.done++; c.done > 1 {
		c.t.Errorf("the op was completed %d times", c.done)
	}
	if c.told != nil {
		c.told()
	}
}

// is checks what became of a push: "waits", a fault's name, or the items' states.
func (c *call) is(want string) {
	c.t.Helper()
	if got := c.outcome(); got != want {
		c.t.Errorf("the push is %q and not %q", got, want)
	}
}

func (c *call) outcome() string {
	if c.done == 0 {
		return "waits"
	}
	if f := c.op.Fault; f.Code != queue.OK {
		return [...]string{"", "invalid", "too large", "unavailable", "outage", "overloaded", "internal"}[f.Code]
	}
	states := ""
	for i := range c.op.Items {
		if i > 0 {
			states += " "
		}
		states += [...]string{"pending", "queued", "duplicate", "failed"}[c.op.Items[i].Status]
	}
	return states
}

// server is PostgreSQL as far as a push can tell: a script, not a database. It reads
// what the lane sends, keeps queen's partitions and messages in maps, and answers.
type server struct {
	session // of the lane's own connection

	partitions map[[2]string]queue.UUID
	messages   map[message]queue.UUID
	stored     []message // in the order of their commits
	heads      map[queue.UUID]place
	began      int  // transactions
	believes   bool // in any mark
	next       byte
	steps      int // Syncs answered

	// fail is asked at each statement of each step; an answer that is not nil fails it.
	fail func(step, statement int, name string) *pgproto3.ErrorResponse
	// before is sent before the reply to each statement: notices and the like.
	before []byte

	patience []string // the statement time-outs that were asked for

	locked map[[2]string]int // partitions that others hold locked, by which transaction
	poison map[string]string // a push of this transaction id fails with this SQLSTATE

	idles  bool          // it does nothing behind a Flush until it is asked once more
	second *session      // of the helper's connection
	undone func() bool   // the lane is about to roll back what it has done there
	behind func() []byte // reads what was sent on that
	late   *bytes.Buffer // and what it has answered when nobody had asked
}

// session is one connection of the server.
type session struct {
	mark  string // of its last step
	ended bool   // what is sent in it is read by nobody

	open     *transaction
	explicit bool // by a BEGIN
	failed   bool // what comes is skipped
	skips    bool // until the Sync

	statement int // of the step
	sql       string
	whole     bool
	bound     *bound
	parsed    bool
	reply     []byte // that was not sent yet
}

type bound struct {
	name   string
	params [][]byte
}

// place is where a partition's head is: the number of its last message, and its time.
type place struct{ seq, at int }

// transaction is what one has done that is not committed.
type transaction struct {
	began int
	mark  string // before
	added []message
	ids   []queue.UUID
	heads map[queue.UUID]place
}

type message struct {
	partition   queue.UUID
	transaction string
}

func newServer() *server {
	return &server{partitions: make(map[[2]string]queue.UUID), messages: make(map[message]queue.UUID), heads: make(map[queue.UUID]place)}
}

// refusal is an ErrorResponse.
func refusalOf(severity, code string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: severity, SeverityUnlocalized: severity, Code: code, Message: "as the test wants", TableName: "messages"}
}

func encode(messages ...pgproto3.BackendMessage) (b []byte) {
	for _, m := range messages {
		var err error
		if b, err = m.Encode(b); err != nil {
			panic(err)
		}
	}
	return b
}

// read takes the steps that were sent, and returns the answers.
func (p *server) read(t testing.TB, sent *bytes.Buffer) (reply []byte) {
	t.Helper()
	return p.readOn(t, &p.session, sent)
}

func (p *server) readOn(t testing.TB, c *session, sent *bytes.Buffer) []byte {
	t.Helper()
	say := func() []byte {
		all := c.reply
		c.reply = nil
		return all
	}
	for !c.ended && sent.Len() >= headerBytes {
		head := sent.Bytes()
		size := int(binary.BigEndian.Uint32(head[1:])) + 1
		if sent.Len() < size {
			break
		}
		body := bytes.Clone(sent.Next(size)[headerBytes:])
		switch head[0] {
		case 'P':
			var m pgproto3.Parse
			if err := m.Decode(body); err != nil || m.Name != "" {
				t.Fatalf("a Parse of %q: %v", m.Name, err)
			}
			c.sql, c.whole = m.Query, true
		case 'B':
			var m pgproto3.Bind
			if err := m.Decode(body); err != nil {
				t.Fatal(err)
			}
			if (m.PreparedStatement == "") != c.whole {
				t.Fatalf("a Bind to %q after a Parse: %v", m.PreparedStatement, c.whole)
			}
			name := m.PreparedStatement
			if c.whole {
				name = c.sql // the store's own, unless schema knows it
				for _, n := range schema.Names() {
					if schema.Statement(n) == c.sql {
						name = n
					}
				}
			}
			c.bound, c.parsed, c.whole = &bound{name, m.Parameters}, c.whole, false
		case 'E':
			p.execute(t, c)
			c.statement++
		case 'H':
			if p.idles && len(c.reply) > 0 {
				return say()
			}
		case 'S':
			c.reply = append(c.reply, encode(&pgproto3.ReadyForQuery{TxStatus: p.sync(c)})...)
			c.statement, c.skips = 0, false
			p.steps++
		case 'X':
		default:
			t.Fatalf("the lane sent %q", head[0])
		}
	}
	if c.ended {
		sent.Reset()
	}
	return say()
}

// sync ends a step, and says how its transaction is.
func (p *server) sync(c *session) byte {
	switch {
	case c.explicit && c.failed:
		return 'E'
	case c.explicit:
		return 'T'
	}
	p.end(c)
	return 'I'
}

// end commits a session's transaction, or rolls it back if it has failed.
func (p *server) end(c *session) {
	if tx := c.open; tx != nil && c.failed {
		c.mark = tx.mark
	} else if tx != nil {
		for i, m := range tx.added {
			p.messages[m] = tx.ids[i]
		}
		p.stored = append(p.stored, tx.added...)
		for id, at := range tx.heads {
			p.heads[id] = at
		}
	}
	c.open, c.explicit, c.failed = nil, false, false
}

// execute runs the statement that was bound.
func (p *server) execute(t testing.TB, c *session) {
	t.Helper()
	name := c.bound.name
	if c.skips {
		return
	}
	if c.parsed {
		c.reply = append(c.reply, encode(&pgproto3.ParseComplete{})...)
	}
	c.reply = append(c.reply, p.before...)
	var refused *pgproto3.ErrorResponse
	if p.fail != nil {
		refused = p.fail(p.steps, c.statement, name)
	}
	if refused == nil {
		if c.open == nil {
			p.began++
			c.open = &transaction{began: p.began, mark: c.mark, heads: make(map[queue.UUID]place)}
		}
		c.reply = append(c.reply, encode(&pgproto3.BindComplete{})...)
		r := step{server: p, session: c, transaction: c.open, t: t}
		var answer []byte
		switch {
		case c.failed && name != rollback:
			refused = refusalOf("ERROR", "25P02")
		default:
			answer, refused = r.run(name, c.bound.params)
		}
		if c.reply = append(c.reply, answer...); refused == nil {
			return
		}
	}
	c.reply = append(c.reply, encode(refused)...)
	if c.failed, c.skips = true, true; refused.SeverityUnlocalized == "FATAL" {
		p.end(c)
		c.ended = true
	}
}

// step is a statement at work.
type step struct {
	*server
	*session
	*transaction
	t testing.TB
}

// head is where a partition's head is, as this transaction sees it.
func (s *step) head(id queue.UUID) place {
	if at, ok := s.transaction.heads[id]; ok {
		return at
	}
	return s.server.heads[id]
}

// insert stores messages, unless one is there or is not to be.
func (s *step) insert(heads, parts, ids, transactions [][]byte) *pgproto3.ErrorResponse {
	for i := range parts {
		m := message{queue.UUID(heads[binary.BigEndian.Uint32(parts[i])-1]), string(transactions[i])}
		if code := s.poison[m.transaction]; code != "" {
			return refusalOf("ERROR", code)
		}
		s.wait(m)
		if _, ok := s.messages[m]; ok || slices.Contains(s.added, m) {
			return refusalOf("ERROR", "23505")
		}
		s.added, s.ids = append(s.added, m), append(s.ids, queue.UUID(ids[i]))
	}
	return nil
}

// wait is for another session's transaction that has stored the same message. It ends by what
// that session was sent already; what is sent there only when this one has answered will never be.
func (s *step) wait(m message) {
	isThere := func() bool { return s.second.open != nil && slices.Contains(s.second.open.added, m) }
	if s.second == nil || s.session == s.second || !isThere() {
		return
	}
	s.late.Write(s.server.behind())
	if isThere() && s.undone() { // as soon as the lane reads that answer
		s.second.failed = true
		s.end(s.second)
	}
	if isThere() {
		s.t.Fatalf("the lane waits for its helper's transaction, which waits for the lane: %v", m)
	}
}

func (s *step) run(name string, params [][]byte) ([]byte, *pgproto3.ErrorResponse) {
	done := func(tag string, rows ...[][]byte) ([]byte, *pgproto3.ErrorResponse) {
		var b []byte
		for _, row := range rows {
			b = append(b, encode(&pgproto3.DataRow{Values: row})...)
		}
		return append(b, encode(&pgproto3.CommandComplete{CommandTag: []byte(tag)})...), nil
	}
	int8 := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	switch name {
	case durable:
		return done("SELECT 1", [][]byte{[]byte("on")})
	case patient:
		s.patience = append(s.patience, string(params[0]))
		return done("SELECT 1", [][]byte{params[0]})
	case begin:
		s.explicit = true
		return done("BEGIN")
	case commit, rollback:
		s.failed = name == rollback
		s.end(s.session)
		return done(name)
	case pushMark:
		s.session.mark = string(params[0])
		return done("SELECT 1", [][]byte{params[0]})
	case pushAfter:
		if s.session.mark != string(params[0]) && !s.believes {
			return nil, refusalOf("ERROR", "22P02")
		}
		s.session.mark = string(params[1])
		return done("SELECT 1", [][]byte{int8(1), params[1]})
	case "push_queues", "push_heads":
		return done("INSERT 0 1")
	case "push_partitions":
		queues, partitions := elements(params[0]), elements(params[1])
		for i := range queues {
			key := [2]string{string(queues[i]), string(partitions[i])}
			if _, ok := s.partitions[key]; !ok {
				s.next++
				s.partitions[key] = queue.UUID{15: s.next}
			}
		}
		return done("INSERT 0 1")
	case "push_ids":
		queues, partitions := elements(params[0]), elements(params[1])
		var rows [][][]byte
		for i := range queues {
			id := s.partitions[[2]string{string(queues[i]), string(partitions[i])}]
			rows = append(rows, [][]byte{int8(i + 1), id[:], {0}})
		}
		return done(fmt.Sprintf("SELECT %d", len(rows)), rows...)
	case "push_lock":
		for _, id := range elements(params[0]) {
			if s.locks(id) != 0 {
				return nil, refusalOf("ERROR", "55P03")
			}
		}
		return done("SELECT 1", [][]byte{int8(len(elements(params[0])))})
	case "push_plan", "push_early":
		return done("SELECT 1", [][]byte{[]byte("off"), []byte("off"), []byte("off")})
	case "push_insert":
		heads, counts := elements(params[0]), elements(params[1])
		for _, id := range heads {
			if s.locks(id) != 0 {
				return nil, refusalOf("ERROR", "55P03")
			}
		}
		parts := elements(params[3])
		if refused := s.insert(heads, parts, elements(params[5]), elements(params[6])); refused != nil {
			return nil, refused
		}
		for i, id := range heads {
			at := s.head(queue.UUID(id))
			s.transaction.heads[queue.UUID(id)] = place{at.seq + int(binary.BigEndian.Uint32(counts[i])), max(s.transaction.began, at.at+1)}
		}
		return done(fmt.Sprintf("INSERT 0 %d", len(parts)))
	case "push_count":
		heads := elements(params[0])
		b := binary.BigEndian.AppendUint32(nil, 1)
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 20)
		b = binary.BigEndian.AppendUint32(b, uint32(len(heads)))
		b = append(b, 0, 0, 0, 1)
		for _, id := range heads {
			b = append(append(b, 0, 0, 0, 8), int8(s.head(queue.UUID(id)).seq)...)
		}
		return done("SELECT 1", [][]byte{b})
	case "push_early_insert":
		parts := elements(params[2])
		if refused := s.insert(elements(params[0]), parts, elements(params[4]), elements(params[5])); refused != nil {
			return nil, refused
		}
		return done(fmt.Sprintf("INSERT 0 %d", len(parts)))
	case "push_move":
		counts, expected := elements(params[1]), elements(params[3])
		for i, id := range elements(params[0]) {
			at := s.head(queue.UUID(id))
			if s.locks(id) != 0 {
				return nil, refusalOf("ERROR", "55P03")
			}
			if at.seq != int(binary.BigEndian.Uint64(expected[i])) || at.at >= s.transaction.began {
				return nil, refusalOf("ERROR", notExpected)
			}
			s.transaction.heads[queue.UUID(id)] = place{at.seq + int(binary.BigEndian.Uint32(counts[i])), s.transaction.began}
		}
		return done("SELECT 1", [][]byte{{0, 0, 0, 1}})
	case "push_held":
		var rows [][][]byte
		for i, id := range elements(params[0]) {
			if holder := s.locks(id); holder != 0 {
				rows = append(rows, [][]byte{int8(i + 1), int8(holder)})
			}
		}
		return done(fmt.Sprintf("SELECT %d", len(rows)), rows...)
	case "push_winners":
		parts, transactions := elements(params[0]), elements(params[1])
		var rows [][][]byte
		for i := range parts {
			if id, ok := s.messages[message{queue.UUID(parts[i]), string(transactions[i])}]; ok {
				rows = append(rows, [][]byte{int8(i + 1), id[:]})
			}
		}
		return done(fmt.Sprintf("SELECT %d", len(rows)), rows...)
	}
	s.t.Fatalf("the server knows no statement %q", name)
	return nil, nil
}

// locks is the transaction that holds a partition locked; 0: none does.
func (s *server) locks(id []byte) int {
	for name, holder := range s.locked {
		if at, ok := s.partitions[name]; ok && at == queue.UUID(id) {
			return holder
		}
	}
	return 0
}

// elements reads an array in binary format.
func elements(b []byte) (all [][]byte) {
	if binary.BigEndian.Uint32(b) == 0 {
		return nil
	}
	n := int(binary.BigEndian.Uint32(b[12:]))
	b = b[20:]
	for range n {
		size := int(int32(binary.BigEndian.Uint32(b)))
		b = b[4:]
		if size < 0 {
			all = append(all, nil)
			continue
		}
		all = append(all, b[:size])
		b = b[size:]
	}
	return all
}

var errTest = errors.New("the test's fault")
