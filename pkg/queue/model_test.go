package queue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is PostgreSQL as far as a push can tell: what its statements mean, in memory.
type model struct {
	queues     map[string]*modelQueue
	heads      map[UUID]*modelHead
	rows       map[modelKey]*modelRow
	partitions uint32 // made so far
	clock      int
	held       map[UUID]int // heads that others hold locked, by which transaction; not cloned
}

type modelQueue struct {
	encrypted  bool
	partitions map[string]UUID
}

type modelHead struct{ seq, stamp int }

type modelKey struct {
	partition   UUID
	transaction string
}

type modelRow struct {
	id                   UUID
	queue, name, payload string
	sealed               bool
	seq, stamp           int
}

func newModel() *model {
	return &model{queues: map[string]*modelQueue{}, heads: map[UUID]*modelHead{}, rows: map[modelKey]*modelRow{}, held: map[UUID]int{}}
}

func (m *model) clone() *model {
	c := *m
	c.queues, c.heads, c.rows = map[string]*modelQueue{}, map[UUID]*modelHead{}, maps.Clone(m.rows)
	for name, q := range m.queues {
		c.queues[name] = &modelQueue{q.encrypted, maps.Clone(q.partitions)}
	}
	for id, h := range m.heads {
		head := *h
		c.heads[id] = &head
	}
	return &c
}

func (m *model) deleteQueue(name string) {
	q := m.queues[name]
	if q == nil {
		return
	}
	for _, id := range q.partitions {
		delete(m.heads, id)
		for k := range m.rows {
			if k.partition == id {
				delete(m.rows, k)
			}
		}
	}
	delete(m.queues, name)
}

func (m *model) nameOf(partition UUID) (queue, name string) {
	for queue, q := range m.queues {
		for name, id := range q.partitions {
			if id == partition {
				return queue, name
			}
		}
	}
	return "", ""
}

// elements decodes an array parameter and holds it to the format.
func elements(t failer, param []byte, oid uint32) [][]byte {
	next := func() uint32 {
		if len(param) < 4 {
			t.Fatalf("a parameter ends too early")
		}
		n := binary.BigEndian.Uint32(param)
		param = param[4:]
		return n
	}
	dims, nulls, got := next(), next(), next()
	if got != oid || dims > 1 || nulls > 1 {
		t.Fatalf("an array of type %d (want %d), %d dimensions, nulls %d", got, oid, dims, nulls)
	}
	if dims == 0 {
		if len(param) != 0 {
			t.Fatalf("an empty array is followed by %d bytes", len(param))
		}
		return nil
	}
	n, lower := next(), next()
	if lower != 1 || n == 0 {
		t.Fatalf("an array from %d of %d elements", lower, n)
	}
	var all [][]byte
	hadNull := false
	for range n {
		size := next()
		if size == 0xffffffff {
			all, hadNull = append(all, nil), true
			continue
		}
		if int(size) > len(param) {
			t.Fatalf("an element of %d bytes in %d", size, len(param))
		}
		all = append(all, param[:size:size])
		param = param[size:]
	}
	if len(param) != 0 || hadNull != (nulls == 1) {
		t.Fatalf("%d bytes left, nulls %d and there were some: %v", len(param), nulls, hadNull)
	}
	return all
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

type reply struct {
	rows [][][]byte
	tag  int64
}

// run executes a step on m and returns what each statement answers.
func (m *model) run(t failer, step []Statement) (replies []reply, failed *SQLError) {
	for _, st := range step {
		r, err := m.statement(t, st)
		if err != nil {
			return replies, err
		}
		replies = append(replies, r)
	}
	return replies, nil
}

func (m *model) statement(t failer, st Statement) (r reply, _ *SQLError) {
	t.Helper()
	texts := func(i int) (all []string) {
		for _, e := range elements(t, st.Params[i], oidText) {
			all = append(all, string(e))
		}
		return all
	}
	ids := func(i int) (all []UUID) {
		for _, e := range elements(t, st.Params[i], oidUUID) {
			all = append(all, uuidColumn(e))
		}
		return all
	}
	number := func(e []byte) int { return int(int32(binary.BigEndian.Uint32(e))) }
	int8 := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	if st.Unnamed != (st.Name != "push_plan" && st.Name != "push_lock" && st.Name != "push_insert" && st.Name != "push_insert_sealed") {
		t.Fatalf("%s: unnamed %v", st.Name, st.Unnamed)
	}
	switch st.Name {
	case "push_queues":
		names := texts(0)
		for i, name := range names {
			if i > 0 && names[i-1] >= name {
				t.Fatalf("queues are not sorted: %q", names)
			}
			if m.queues[name] == nil {
				m.queues[name] = &modelQueue{partitions: map[string]UUID{}}
			}
		}
	case "push_partitions":
		names, last := texts(1), ""
		for i, queue := range texts(0) {
			if key := queue + "\x00" + names[i]; key <= last {
				t.Fatalf("partitions are not sorted, or twice there: %q", names)
			} else {
				last = key
			}
			q := m.queues[queue]
			if _, ok := q.partitions[names[i]]; !ok {
				// Ids are not in the order in which partitions are made.
				m.partitions++
				var id UUID
				binary.BigEndian.PutUint32(id[:], m.partitions*2654435761)
				q.partitions[names[i]] = id
			}
		}
	case "push_heads":
		names := texts(1)
		for i, queue := range texts(0) {
			if id := m.queues[queue].partitions[names[i]]; m.heads[id] == nil {
				m.heads[id] = &modelHead{}
				r.tag++
			}
		}
	case "push_ids":
		names := texts(1)
		for i, queue := range texts(0) {
			q := m.queues[queue]
			id := q.partitions[names[i]]
			flag := []byte{0}
			if q.encrypted {
				flag[0] = 1
			}
			r.rows = append(r.rows, [][]byte{int8(i + 1), id[:], flag})
		}
		slices.Reverse(r.rows) // no order is promised
	case "push_analyze", "push_plan":
	case "push_lock":
		for _, id := range ids(0) {
			if m.held[id] != 0 {
				return r, &SQLError{Code: "55P03", Message: "canceling statement due to lock timeout"}
			}
		}
		r.rows, r.tag = [][][]byte{{int8(len(ids(0)))}}, 1
	case "push_held":
		for i, id := range ids(0) {
			if holder := m.held[id]; holder != 0 {
				r.rows = append(r.rows, [][]byte{int8(i + 1), int8(holder)})
			}
		}
		slices.Reverse(r.rows)
	case "push_winners":
		transactions := texts(1)
		for i, partition := range ids(0) {
			if row := m.rows[modelKey{partition, transactions[i]}]; row != nil {
				r.rows = append(r.rows, [][]byte{int8(i + 1), row.id[:]})
			}
		}
		slices.Reverse(r.rows)
	case "push_insert", "push_insert_sealed":
		return m.insert(t, st, ids, texts, number)
	default:
		t.Fatalf("the statement %s", st.Name)
	}
	return r, nil
}

func (m *model) insert(t failer, st Statement, ids func(int) []UUID, texts func(int) []string, number func([]byte) int) (r reply, _ *SQLError) {
	t.Helper()
	want := len(plainParams)
	if st.Name == "push_insert_sealed" {
		want = len(sealedParams)
	}
	if len(st.Params) != want {
		t.Fatalf("%d params", len(st.Params))
	}
	m.clock++
	heads, counts, lasts := ids(0), elements(t, st.Params[1], oidInt4), ids(2)
	switched := false
	if want == len(sealedParams) {
		flags := elements(t, st.Params[12], oidBool)
		for i, queue := range texts(11) {
			if q := m.queues[queue]; q != nil && q.encrypted != (flags[i][0] == 1) {
				switched = true
			}
		}
	}
	for _, id := range heads {
		if m.held[id] != 0 { // moving a head locks it
			return r, &SQLError{Code: "55P03", Message: "canceling statement due to lock timeout"}
		}
	}
	var partitions []UUID
	for _, e := range elements(t, st.Params[3], oidInt4) {
		partitions = append(partitions, heads[number(e)-1])
	}
	ranks, messages, transactions := elements(t, st.Params[4], oidInt4), ids(5), texts(6)
	traces, payloads, sealed, producers := elements(t, st.Params[7], oidUUID), texts(8), elements(t, st.Params[9], oidBool), elements(t, st.Params[10], oidText)
	n, at := len(partitions), 0
	if len(sealed) == 0 { // none is
		sealed = slices.Repeat([][]byte{{0}}, n)
	}
	if len(ranks) != n || len(messages) != n || len(transactions) != n || len(payloads) != n || len(sealed) != n || len(traces) != 0 && len(traces) != n || len(producers) != 0 && len(producers) != n {
		t.Fatalf("columns of different length")
	}
	for i, head := range heads {
		if i > 0 && bytes.Compare(heads[i-1][:], head[:]) >= 0 {
			t.Fatalf("heads are not sorted")
		}
		for k := 1; k <= number(counts[i]); k++ {
			if partitions[at] != head || number(ranks[at]) != k || k > 1 && bytes.Compare(messages[at-1][:], messages[at][:]) >= 0 {
				t.Fatalf("row %d: partition %s, rank %d, id %s", at, partitions[at], number(ranks[at]), messages[at])
			}
			at++
		}
		if messages[at-1] != lasts[i] {
			t.Fatalf("the last of %s is not the last", head)
		}
	}
	if at != n {
		t.Fatalf("%d rows, and the heads count %d", n, at)
	}
	for i := range partitions {
		head, key := m.heads[partitions[i]], modelKey{partitions[i], transactions[i]}
		switch {
		case head == nil || switched:
			return r, &SQLError{Code: "23502", Table: "messages", Message: "null value"}
		case strings.Contains(payloads[i], "poison"):
			return r, &SQLError{Code: "22P02", Message: "no such thing"}
		case m.rows[key] != nil:
			return r, &SQLError{Code: "23505", Table: "messages", Message: "duplicate key"}
		}
		queue, name := m.nameOf(partitions[i])
		if (sealed[i][0] == 1) != strings.HasPrefix(payloads[i], `{"encrypted"`) {
			t.Fatalf("sealed %v: %s", sealed[i], payloads[i])
		}
		m.rows[key] = &modelRow{id: messages[i], queue: queue, name: name, payload: payloads[i], sealed: sealed[i][0] == 1,
			seq: head.seq + number(ranks[i]), stamp: max(m.clock, head.stamp+1)}
	}
	for i, head := range heads {
		h := m.heads[head]
		h.seq, h.stamp = h.seq+number(counts[i]), max(m.clock, h.stamp+1)
	}
	r.tag = int64(n)
	return r, nil
}

// TestABatchKeepsItsPromisesWhateverHappens drives batches against the model, while
// answers get lost, errors of all classes come, queues are deleted and their encryption
// is switched, others push the same transactions, and time passes.
func TestABatchKeepsItsPromisesWhateverHappens(t *testing.T) {
	property := func(t *rapid.T) {
		config := &Config{}
		if rapid.Bool().Draw(t, "key") {
			config.Sealer = rapidSealer
		}
		m, hints, ids := newModel(), NewHints(rapid.SampledFrom([]int{2, 100}).Draw(t, "hints"), 0), NewIDs(func() int64 { return 1 })
		hints.analyzeAt = 2
		batch := NewBatch(config, hints)
		batch.jitter = func() float64 { return 0.5 }
		w := &world{t: t, m: m, config: config, hints: hints, ids: ids, batch: batch, ever: map[UUID]modelRow{}, everKey: map[UUID]modelKey{}}
		for range rapid.IntRange(1, 3).Draw(t, "batches") {
			w.runBatch()
		}
	}
	for range 10 {
		rapid.Check(t, property)
	}
}

var rapidSealer = func() *Sealer {
	s, err := NewSealer(testKey)
	if err != nil {
		panic(err)
	}
	return s
}()

// world is one run of the property.
type world struct {
	t       *rapid.T
	m       *model
	config  *Config
	hints   *Hints
	ids     *IDs
	batch   *Batch
	now     time.Duration
	ever    map[UUID]modelRow // every row that was ever committed
	everKey map[UUID]modelKey
	late    []func() // what was sent and lost, and may be committed yet
	deleted bool     // a queue was deleted, with what was stored in it
	lockers int      // transactions that have locked a partition
}

func (w *world) drawOp() *Op {
	var items []string
	for range rapid.IntRange(1, 4).Draw(w.t, "items") {
		payload := rapid.SampledFrom([]string{`1`, `1`, `1`, `1`, `1`, `{"n":2}`, `"poison"`}).Draw(w.t, "payload")
		items = append(items, fmt.Sprintf(`{"queue":"%s","partition":"%s","transactionId":"%s","payload":%s}`,
			rapid.SampledFrom([]string{"a", "b"}).Draw(w.t, "queue"), rapid.SampledFrom([]string{"1", "2"}).Draw(w.t, "partition"),
			rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(w.t, "transaction"), payload))
	}
	op := new(Op)
	if f := Decode(op, []byte(`{"items":[`+strings.Join(items, ",")+`]}`), w.config, w.ids); f.Code != OK {
		w.t.Fatalf("%v", f)
	}
	if rapid.IntRange(0, 3).Draw(w.t, "deadline") == 0 {
		op.Deadline = w.now + time.Duration(rapid.IntRange(1, 300).Draw(w.t, "ms"))*time.Millisecond
	}
	return op
}

// commit runs a step; its effect stays only if it succeeds.
func (w *world) commit(step []Statement) ([]reply, *SQLError) {
	next := w.m.clone()
	replies, err := next.run(w.t, step)
	if err != nil {
		return replies, err
	}
	for k, row := range next.rows {
		// A row can be stored twice only after its queue was deleted with it.
		if old, ok := w.everKey[row.id]; !ok || old != k {
			if ok && w.m.rows[old] != nil {
				w.t.Fatalf("message %s is stored twice", row.id)
			}
			w.ever[row.id], w.everKey[row.id] = *row, k
			if q := w.m.queues[row.queue]; w.config.Sealer != nil && q.encrypted != row.sealed {
				w.t.Fatalf("queue %s is encrypted: %v, a payload of it is: %v", row.queue, q.encrypted, row.sealed)
			}
		}
	}
	*w.m = *next
	return replies, nil
}

// outside is what others do between two steps.
func (w *world) outside() {
	switch rapid.IntRange(0, 11).Draw(w.t, "outside") {
	case 0:
		w.m.deleteQueue("a")
		w.deleted = true
	case 1:
		for _, q := range w.m.queues {
			q.encrypted = !q.encrypted
		}
	case 2: // somebody else pushes x
		for _, name := range []string{"1", "2"} {
			if q := w.m.queues["a"]; q != nil {
				if id, ok := q.partitions[name]; ok && w.m.rows[modelKey{id, "x"}] == nil {
					h := w.m.heads[id]
					h.seq, h.stamp = h.seq+1, h.stamp+1
					row := &modelRow{id: w.ids.Next(), queue: "a", name: name, payload: "0", seq: h.seq, stamp: h.stamp}
					w.m.rows[modelKey{id, "x"}] = row
					w.ever[row.id], w.everKey[row.id] = *row, modelKey{id, "x"}
				}
			}
		}
	case 3: // what was sent long ago is committed now
		for _, f := range w.late {
			f()
		}
		w.late = nil
	case 4:
		w.now += 50 * time.Millisecond
	case 5, 6: // somebody locks a partition, or another takes his place
		if q := w.m.queues["a"]; q != nil {
			if id, ok := q.partitions[rapid.SampledFrom([]string{"1", "2"}).Draw(w.t, "locked")]; ok {
				w.lockers++
				w.m.held[id] = w.lockers
			}
		}
	case 7, 8: // they end
		clear(w.m.held)
	}
}

func (w *world) runBatch() {
	t, b := w.t, w.batch
	b.Reset()
	ops := make([]*Op, rapid.IntRange(1, 5).Draw(t, "ops"))
	rows := 0
	for i := range ops {
		ops[i] = w.drawOp()
		rows += len(ops[i].Items)
		b.Add(ops[i])
	}
	if b.Rows() != rows || len(b.Ops()) != len(ops) {
		t.Fatalf("%d rows of %d, %d ops", b.Rows(), rows, len(b.Ops()))
	}
	events := 12
	given := map[*Op]string{} // given back early, and what they said then
	give := func(early []*Op) {
		for _, op := range early {
			if _, twice := given[op]; twice {
				t.Fatalf("an op is given back twice")
			}
			given[op] = statuses(op)
		}
	}
	steps := 0
	for step := b.Step(w.now); step != nil; step = b.Step(w.now) {
		if steps++; steps > 400 {
			t.Fatalf("the batch does not end")
		}
		event := 0
		if events > 0 {
			events--
			w.outside()
			event = rapid.IntRange(0, 9).Draw(t, "event")
		}
		give(b.Decided())
		switch event {
		case 1: // lost, and never executed
			b.Unknown()
			continue
		case 2: // executed, and the answer is lost
			w.commit(step)
			b.Unknown()
			continue
		case 3: // lost, and executed later
			kept := keep(step)
			w.late = append(w.late, func() { w.commit(kept) })
			b.Unknown()
			continue
		case 4: // an error that says nothing about the data
			code := rapid.SampledFrom([]string{"40P01", "57P01", "26000", "40003", "53300", "22021"}).Draw(t, "code")
			if code == "40003" && rapid.Bool().Draw(t, "committed") {
				w.commit(step)
			}
			v := b.StepDone(&SQLError{Code: code, Message: "injected"}, w.now)
			w.verdict(v, code)
			continue
		case 5: // deadlines pass while it is under way
			w.now += 100 * time.Millisecond
			give(b.Expire(w.now))
		}
		replies, err := w.commit(step)
		for i, r := range replies {
			for _, row := range r.rows {
				b.Row(i, row)
			}
			b.Tag(i, r.tag)
		}
		for i := range step { // the params were not touched meanwhile
			for _, p := range step[i].Params {
				_ = len(p)
			}
		}
		v := b.StepDone(err, w.now)
		switch {
		case err == nil && step[0].Name == "push_held" && v == (Verdict{Action: Wait, After: heldSure}):
			w.now += v.After
		case err == nil && v != (Verdict{}):
			t.Fatalf("verdict %+v", v)
		case err != nil:
			w.verdict(v, err.Code)
		}
	}
	for _, f := range w.late {
		f()
	}
	w.late = nil
	left := b.Ops()
	if len(left)+len(given) != len(ops) {
		t.Fatalf("%d ops are left and %d were given back, of %d", len(left), len(given), len(ops))
	}
	for _, op := range ops {
		w.check(op)
		if said, ok := given[op]; ok && said != statuses(op) {
			t.Fatalf("an op was touched after it was given back")
		}
	}
	w.checkModel()
}

func keep(step []Statement) []Statement {
	var kept []Statement
	for _, st := range step {
		params := make([][]byte, len(st.Params))
		for i := range params {
			params[i] = slices.Clone(st.Params[i])
		}
		kept = append(kept, Statement{st.Name, params, st.Unnamed})
	}
	return kept
}

func (w *world) verdict(v Verdict, code string) {
	want := map[string][]Action{
		"40P01": {Wait, Continue}, "40003": {Wait, Continue}, "57P01": {Away}, "53300": {Away}, "26000": {Prepare, Away}, "22021": {Continue}, "22P02": {Continue},
		"23502": {Continue}, "23505": {Continue}, "55P03": {Wait, Continue},
	}[code]
	if !slices.Contains(want, v.Action) || (v.Action == Wait) != (v.After > 0) {
		w.t.Fatalf("%s: %+v", code, v)
	}
	w.now += v.After
}

// check holds a decided op to what its answer says.
func (w *world) check(op *Op) {
	t := w.t
	poisoned, failed := false, false
	for i := range op.Items {
		poisoned = poisoned || string(op.Items[i].Payload) == `"poison"`
		failed = failed || op.Items[i].Status == Failed
	}
	if op.Fault.Code != OK {
		if op.Fault.Code != Unavailable {
			t.Fatalf("fault %v", op.Fault)
		}
		if !strings.Contains(op.Fault.Message, "messages may have been stored") {
			for i := range op.Items {
				if _, stored := w.ever[op.Items[i].ID]; stored {
					t.Fatalf("%q, and item %d is stored", op.Fault.Message, i)
				}
			}
		}
		return
	}
	for i := range op.Items {
		it := &op.Items[i]
		own, stored := w.ever[it.ID]
		switch it.Status {
		case Queued:
			if !stored || it.WinnerID != it.ID || w.everKey[it.ID] != (modelKey{it.PartitionID, string(it.TransactionID)}) ||
				own.queue != string(it.Queue) || own.name != string(it.Partition) || !own.sealed && own.payload != string(it.Payload) {
				t.Fatalf("queued, and stored is %v: %+v", stored, own)
			}
		case Duplicate:
			winner, ok := w.ever[it.WinnerID]
			if !ok || stored && !w.deleted || it.WinnerID == it.ID || w.everKey[it.WinnerID].transaction != string(it.TransactionID) ||
				winner.queue != string(it.Queue) || winner.name != string(it.Partition) {
				t.Fatalf("a duplicate of %+v, itself stored: %v", winner, stored)
			}
		case Failed:
			if stored || it.Error == "" {
				t.Fatalf("failed (%s), and stored is %v", it.Error, stored)
			}
		default:
			t.Fatalf("status %d", it.Status)
		}
	}
	if poisoned && !failed {
		for i := range op.Items { // only if somebody was there first, or nobody could see it
			if it := &op.Items[i]; string(it.Payload) == `"poison"` && it.Status != Duplicate && !w.ever[it.ID].sealed {
				t.Fatalf("poison was stored")
			}
		}
	}
}

// checkModel holds the tables to what must always be true.
func (w *world) checkModel() {
	count := map[UUID][]*modelRow{}
	for k, row := range w.m.rows {
		if w.m.heads[k.partition] != nil {
			count[k.partition] = append(count[k.partition], row)
		}
	}
	for id, rows := range count {
		slices.SortFunc(rows, func(a, b *modelRow) int {
			if a.stamp != b.stamp {
				return a.stamp - b.stamp
			}
			return bytes.Compare(a.id[:], b.id[:])
		})
		for i, row := range rows {
			if row.seq != i+1 {
				w.t.Fatalf("the message at %d of its partition has number %d", i+1, row.seq)
			}
		}
		if w.m.heads[id].seq != len(rows) {
			w.t.Fatalf("the head says %d, and there are %d", w.m.heads[id].seq, len(rows))
		}
	}
}
