package queue

import (
	"bytes"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// A lease that is extended without a word of how long gets LeaseSecondsDefault; more than
// LeaseSecondsMax counts as that.
const (
	LeaseSecondsDefault = 60
	LeaseSecondsMax     = 366 * 24 * 60 * 60
)

const (
	leaseNotFound = "Lease not found"
	leaseExpired  = "Lease already expired"
)

// DecodeExtend reads what a lease is to get into op: id is the path's, and the body may be
// empty.
func DecodeExtend(op *Op, id, body []byte, c *Config) Fault {
	var d ackDecoder
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if f := d.begin(op, body, c, Extend); f.Code != OK {
		return f
	}
	object := d.s.space() == '{'
	var seconds field
	ok := d.objectOr(func(key []byte) bool {
		if string(key) == "seconds" {
			return d.payload(&seconds)
		}
		return d.s.value()
	})
	if !ok || !d.s.end() {
		return d.notJSON(body)
	}
	if !object {
		return Fault{Invalid, "the body must be a JSON object"}
	}
	op.Lease.Seconds = LeaseSecondsDefault
	if seconds.kind != absent && seconds.text[0] != 'n' { // null
		if c := seconds.text[0]; c != '-' && c-'0' >= 10 {
			return Fault{Invalid, "seconds must be a number"}
		}
		f, _ := strconv.ParseFloat(string(seconds.text), 64) // out of range: infinite
		op.Lease.Seconds = int(max(0, min(f, LeaseSecondsMax)))
	}
	from := len(op.body)
	op.body = append(op.body, id...)
	op.Lease.ID = whole(op.body[from:])
	op.Cost = len(op.body) + ackBytes
	return Fault{}
}

// AppendExtendAnswer appends the JSON answer to an extension that is done and has no Fault.
func AppendExtendAnswer(dst []byte, op *Op) []byte {
	l := &op.Lease
	dst = append(dst, `[{"error":`...)
	dst = appendNullable(dst, l.Why)
	dst = append(dst, `,"expiresAt":`...)
	if l.Why == "" {
		dst = append(dst, '"')
		dst = time.UnixMicro(l.Expires).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
		dst = append(dst, '"')
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"index":0,"leaseId":`...)
	dst = appendJSONString(dst, l.ID)
	dst = append(dst, `,"success":`...)
	dst = strconv.AppendBool(dst, l.Why == "")
	return append(dst, "}]"...)
}

// appendNullable appends text as a JSON string, "" as null.
func appendNullable(dst []byte, text string) []byte {
	if text == "" {
		return append(dst, "null"...)
	}
	return appendJSONString(dst, text)
}

// leaseWork is the extensions or the releases of a batch at work, each lease once.
type leaseWork struct {
	order  []int32 // entries, sorted by their leases
	rows   []leaseRow
	scan   bool    // the step reads the whole table
	missed []int32 // extensions whose leases are not in the partitions that their ids speak of

	stmts  []Statement
	params [][]byte
	buf    [4][]byte
}

// leaseRow is one lease: the entries order[lo:hi] are about it.
type leaseRow struct {
	id        []byte
	low, high UUID // the partitions that it may be in
	seconds   int
	lo, hi    int

	found    bool
	live     int // so many rows live
	extended int // and so many were extended
	ends     int64
	freed    []Freed
}

func (w *leaseWork) reset() {
	clear(w.rows)
	w.order, w.rows, w.missed, w.scan = w.order[:0], w.rows[:0], w.missed[:0], false
}

// extend makes the statement for the extensions that are not done; nil: there are none.
func (w *leaseWork) extend(r *roll) []Statement {
	if !w.gather(r, Extend) {
		return nil
	}
	if w.scan {
		return w.statement("lease_extend_scan", 2, 3)
	}
	return w.statement("lease_extend", 0, 1, 2, 3)
}

// release makes the statement for the releases that are not done; nil: there are none.
func (w *leaseWork) release(r *roll) []Statement {
	if !w.gather(r, Release) {
		return nil
	}
	if w.scan {
		return w.statement("lease_release_scan", 2)
	}
	return w.statement("lease_release", 0, 1, 2)
}

// gather finds the leases that the next statement is about: first those that say where
// they are. A lease that cannot be in the table is decided at once.
func (w *leaseWork) gather(r *roll, v Verb) bool {
	clear(w.rows)
	w.order, w.rows, w.scan = w.order[:0], w.rows[:0], false
	var rest []int32
	for i := range r.entries {
		e := &r.entries[i]
		if e.decided || e.op.Verb != v {
			continue
		}
		id := e.op.Lease.ID
		_, _, known := LeaseIDPartition(id)
		switch {
		case !storable(id):
			e.op.Lease.Why = leaseNotFound
			r.decide(i, Fault{})
		case known && !slices.Contains(w.missed, int32(i)):
			w.order = append(w.order, int32(i))
		default:
			rest = append(rest, int32(i))
		}
	}
	if len(w.order) == 0 {
		w.order, w.scan = rest, len(rest) > 0
	}
	slices.SortFunc(w.order, func(a, b int32) int {
		return bytes.Compare(r.entries[a].op.Lease.ID, r.entries[b].op.Lease.ID)
	})
	for i, at := range w.order {
		l := &r.entries[at].op.Lease
		if n := len(w.rows); n == 0 || !bytes.Equal(w.rows[n-1].id, l.ID) {
			row := leaseRow{id: l.ID, lo: i}
			row.low, row.high, _ = LeaseIDPartition(l.ID)
			w.rows = append(w.rows, row)
		}
		row := &w.rows[len(w.rows)-1]
		row.hi, row.seconds = i+1, max(row.seconds, l.Seconds)
	}
	return len(w.rows) > 0
}

// storable says whether a lease's id can be in the table.
func storable(id []byte) bool {
	return len(id) > 0 && utf8.Valid(id) && utf8.RuneCount(id) <= NameCharsMax && bytes.IndexByte(id, 0) < 0
}

func (w *leaseWork) statement(name string, bufs ...int) []Statement {
	n := len(w.rows)
	low, high := array(w.buf[0][:0], oidUUID, n, false), array(w.buf[1][:0], oidUUID, n, false)
	ids, seconds := array(w.buf[2][:0], oidText, n, false), array(w.buf[3][:0], oidInt4, n, false)
	for i := range w.rows {
		row := &w.rows[i]
		low, high = uuidElement(low, &row.low), uuidElement(high, &row.high)
		ids, seconds = element(ids, row.id), int4Element(seconds, row.seconds)
	}
	w.buf = [4][]byte{low, high, ids, seconds}
	w.params = w.params[:0]
	for _, i := range bufs {
		w.params = append(w.params, w.buf[i])
	}
	w.stmts = w.stmts[:0]
	if !w.scan {
		w.stmts = append(w.stmts, Statement{Name: "pop_plan"}) // the planner thinks little of a range that it does not know
	}
	w.stmts = append(w.stmts, Statement{Name: name, Params: w.params, Unnamed: w.scan})
	return w.stmts
}

// extendRow takes (ordinality, true, new end), and (ordinality, whether it lives, null) for
// each row that has the lease.
func (w *leaseWork) extendRow(stmt int, v [][]byte) {
	if stmt != len(w.stmts)-1 {
		return
	}
	row := &w.rows[int8Column(v[0])-1]
	if v[2] != nil {
		ends := int64(int8Column(v[2])) + epochMicros
		if row.extended++; row.extended == 1 || ends < row.ends {
			row.ends = ends
		}
		return
	}
	if row.found = true; boolColumn(v[1]) {
		row.live++
	}
}

// extended: the extensions are committed. false: some row was changed meanwhile, and its
// lease is to be extended again.
func (w *leaseWork) extended(r *roll) bool {
	all := true
	for i := range w.rows {
		row := &w.rows[i]
		for _, at := range w.order[row.lo:row.hi] {
			e := &r.entries[at]
			if e.decided {
				continue
			}
			l := &e.op.Lease
			switch {
			case !row.found && !w.scan:
				w.missed = append(w.missed, at) // of another program, perhaps
				continue
			case !row.found:
				l.Why = leaseNotFound
			case row.live == 0:
				l.Why = leaseExpired
			case row.extended < row.live:
				all = false
				continue
			default:
				l.Why, l.Expires = "", row.ends
			}
			r.decide(int(at), Fault{})
		}
	}
	return all
}

// releaseRow takes (ordinality, queue, group, partition).
func (w *leaseWork) releaseRow(stmt int, v [][]byte) {
	if stmt != len(w.stmts)-1 {
		return
	}
	row := &w.rows[int8Column(v[0])-1]
	row.freed = append(row.freed, Freed{Queue: string(v[1]), Group: string(v[2]), Partition: uuidColumn(v[3])})
}

// released: the releases are committed. Whoever held no lease any more has released
// nothing.
func (w *leaseWork) released(r *roll) {
	for i := range w.rows {
		row := &w.rows[i]
		for _, at := range w.order[row.lo:row.hi] {
			e := &r.entries[at]
			if e.decided {
				continue
			}
			e.op.Freed = append(e.op.Freed, row.freed...)
			row.freed = nil
			r.decide(int(at), Fault{})
		}
	}
}
