// Package floor puts the rows of pushes into the tables and indexes of queend, by
// pgconn alone: what PostgreSQL takes on this machine, with this durability, when
// nothing else is asked of it. It is no server and keeps no promise but durability:
// there is no HTTP, no parsing, no order between connections, no lock on a
// partition's head, and no head is moved; nothing is deduplicated, since all
// transactions are new. A server that promises more cannot be faster.
//
// Each of its connections sends a batch as one statement, waits for the commit, and
// sends the next. Rows of a batch are sorted by partition, which is how the indexes
// like them.
package floor

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/bench/load"
)

// The ways to put rows.
const (
	Unnest = "unnest" // INSERT … SELECT FROM unnest of binary arrays, prepared
	Copy   = "copy"   // COPY … FROM STDIN (FORMAT binary)
)

//go:embed insert.sql
var insertStatement string

//go:embed copy.sql
var copyStatement string

// Options say what is put, and how.
type Options struct {
	Way          string
	Batch        int        // rows in a statement
	Conns        int        // connections
	Partitions   []load.ID  // that rows are put into
	Draw         func() int // an index of Partitions; nil: drawn uniformly. One caller at a time
	PayloadBytes int
	Seed         uint64
}

// Floor is connections that put rows.
type Floor struct {
	o     Options
	mu    sync.Mutex // guards o.Draw
	conns []*conn
}

// Open connects.
func Open(ctx context.Context, config *pgconn.Config, o Options) (*Floor, error) {
	if o.Batch < 1 || o.Conns < 1 || len(o.Partitions) == 0 || o.Way != Unnest && o.Way != Copy {
		return nil, fmt.Errorf("nothing can be put with %+v", o)
	}
	o.Partitions = slices.Clone(o.Partitions)
	f := &Floor{o: o}
	slices.SortFunc(f.o.Partitions, func(a, b load.ID) int { return bytes.Compare(a[:], b[:]) })
	for i := range o.Conns {
		pg, err := pgconn.ConnectConfig(ctx, config)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot connect: %w", err)
		}
		c := &conn{floor: f, pg: pg, random: rand.New(rand.NewPCG(o.Seed, uint64(i)+1)), seq: make([]int64, len(o.Partitions))}
		c.payloads = makePayloads(c.random, o.PayloadBytes)
		f.conns = append(f.conns, c)
		if o.Way == Unnest {
			if _, err := pg.Prepare(ctx, "floor", insertStatement, nil); err != nil {
				f.Close()
				return nil, fmt.Errorf("cannot prepare: %w", err)
			}
		}
	}
	return f, nil
}

// Close ends the connections.
func (f *Floor) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, c := range f.conns {
		_ = c.pg.Close(ctx)
	}
}

// Run puts rows for d. It may be called again. Latency is of batches; every id whose
// commit was answered is in the result. What fails ends the run.
func (f *Floor) Run(ctx context.Context, d time.Duration) (*load.Result, error) {
	cpu := load.ProcessCPU()
	end := time.Now().Add(d)
	errs := make([]error, len(f.conns))
	var wg sync.WaitGroup
	for i, c := range f.conns {
		wg.Go(func() { errs[i] = c.run(ctx, end) })
	}
	wg.Wait()
	r := load.NewResult()
	r.Elapsed, r.CPU = d, load.ProcessCPU()-cpu
	inTime := 0.0
	for i, c := range f.conns {
		if errs[i] != nil {
			return r, fmt.Errorf("cannot put rows: %w", errs[i])
		}
		r.IDs = append(r.IDs, c.ids...)
		inTime += c.inTime
		r.Latency.Merge(c.latency)
	}
	r.Queued = int64(len(r.IDs))
	r.Count, r.InTime = r.Queued, int64(inTime)
	return r, nil
}

// conn is one connection, used by one goroutine at a time.
type conn struct {
	floor    *Floor
	pg       *pgconn.PgConn
	random   *rand.Rand
	payloads [][]byte
	seq      []int64 // of each partition, the last number that this connection gave

	places  []int
	columns [5][]byte // binary arrays
	stream  []byte    // of COPY
	ids     []load.ID
	inTime  float64
	latency *hdrhistogram.Histogram
}

func (c *conn) run(ctx context.Context, end time.Time) error {
	c.ids, c.inTime, c.latency = nil, 0, load.NewHistogram()
	for {
		began := time.Now()
		if !began.Before(end) {
			return nil
		}
		had := len(c.ids)
		if err := c.put(ctx); err != nil {
			c.ids = c.ids[:had]
			return err
		}
		now := time.Now()
		load.Record(c.latency, now.Sub(began))
		part := 1.0 // what is in flight at the end counts for its part, as in package load
		if now.After(end) {
			part = float64(end.Sub(began)) / float64(now.Sub(began))
		}
		c.inTime += part * float64(c.floor.o.Batch)
	}
}

// put stores one batch. Its ids are appended to those that are stored.
func (c *conn) put(ctx context.Context) error {
	c.draw()
	var tag pgconn.CommandTag
	var err error
	if c.floor.o.Way == Copy {
		c.fillStream()
		tag, err = c.pg.CopyFrom(ctx, bytes.NewReader(c.stream), copyStatement)
	} else {
		c.fillColumns()
		result := c.pg.ExecPrepared(ctx, "floor", c.columns[:], []int16{1}, nil).Read()
		tag, err = result.CommandTag, result.Err
	}
	if err == nil && tag.RowsAffected() != int64(c.floor.o.Batch) {
		err = fmt.Errorf("%d of %d rows were stored", tag.RowsAffected(), c.floor.o.Batch)
	}
	return err
}

// draw chooses the partitions of a batch, sorted.
func (c *conn) draw() {
	c.places = c.places[:0]
	if o := c.floor.o; o.Draw != nil {
		c.floor.mu.Lock()
		for range o.Batch {
			c.places = append(c.places, o.Draw())
		}
		c.floor.mu.Unlock()
	} else {
		for range o.Batch {
			c.places = append(c.places, c.random.IntN(len(o.Partitions)))
		}
	}
	slices.Sort(c.places)
}

// row is what differs from one row to the next.
func (c *conn) row(place int) (id load.ID, transaction [36]byte, payload []byte, seq int64) {
	now := time.Now().UnixMilli()
	id, transactionID := c.id(now), c.id(now)
	c.ids = append(c.ids, id)
	c.seq[place]++
	return id, text(transactionID), c.payloads[c.random.IntN(len(c.payloads))], c.seq[place]
}

// id makes a UUID of version 7 (RFC 9562 §5.7).
func (c *conn) id(ms int64) (id load.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(ms)<<16|7<<12|c.random.Uint64()>>52)
	binary.BigEndian.PutUint64(id[8:], 2<<62|c.random.Uint64()>>2)
	return id
}

// text writes a UUID with its hyphens.
func text(id load.ID) (t [36]byte) {
	var digits [32]byte
	hex.Encode(digits[:], id[:])
	n := 0
	for i, group := range []int{8, 4, 4, 4, 12} {
		if i > 0 {
			t[n+i-1] = '-'
		}
		copy(t[n+i:], digits[n:n+group])
		n += group
	}
	return t
}

// The types of the arrays' elements (pg_type.dat).
const (
	oidUUID = 2950
	oidText = 25
	oidJSON = 114
	oidInt8 = 20
)

// fillColumns makes the binary arrays of a batch.
func (c *conn) fillColumns() {
	for i, oid := range [5]uint32{oidUUID, oidText, oidUUID, oidJSON, oidInt8} {
		c.columns[i] = appendArrayHead(c.columns[i][:0], oid, len(c.places))
	}
	for _, place := range c.places {
		id, transaction, payload, seq := c.row(place)
		part := c.floor.o.Partitions[place]
		c.columns[0] = appendField(c.columns[0], id[:])
		c.columns[1] = appendField(c.columns[1], transaction[:])
		c.columns[2] = appendField(c.columns[2], part[:])
		c.columns[3] = appendField(c.columns[3], payload)
		c.columns[4] = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(c.columns[4], 8), uint64(seq))
	}
}

// appendArrayHead: one dimension, no nulls, from 1 on (array_recv).
func appendArrayHead(b []byte, oid uint32, n int) []byte {
	for _, word := range []uint32{1, 0, oid, uint32(n), 1} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return b
}

func appendField(b, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(value))), value...)
}

// fillStream makes the stream of a batch (manual, COPY, "Binary Format").
func (c *conn) fillStream() {
	const null, fields = 0xffffffff, 8
	b := append(c.stream[:0], "PGCOPY\n\xff\r\n\x00"...)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, place := range c.places {
		id, transaction, payload, seq := c.row(place)
		part := c.floor.o.Partitions[place]
		b = binary.BigEndian.AppendUint16(b, fields)
		b = appendField(b, id[:])
		b = appendField(b, transaction[:])
		b = binary.BigEndian.AppendUint32(b, null)
		b = appendField(b, part[:])
		b = appendField(b, payload)
		b = appendField(b, []byte{0})
		b = binary.BigEndian.AppendUint32(b, null)
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), uint64(seq))
	}
	c.stream = binary.BigEndian.AppendUint16(b, 0xffff)
}

// payloadsPrebuilt is how many payloads differ.
const payloadsPrebuilt = 64

// makePayloads makes payloads like those of package load: {"n":"…"}.
func makePayloads(r *rand.Rand, size int) [][]byte {
	all := make([][]byte, payloadsPrebuilt)
	for i := range all {
		p := append([]byte(nil), `{"n":"`...)
		for range max(size-8, 0) {
			p = append(p, "0123456789abcdef"[r.IntN(16)])
		}
		all[i] = append(p, `"}`...)
	}
	return all
}
