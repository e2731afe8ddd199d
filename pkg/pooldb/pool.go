// Package pooldb is the legacy store: the same operations as asyncdb, done the
// way most servers do them. Ops go through a channel to a pool of goroutines, each
// runs one blocking statement after another on a connection of pgxpool, one
// transaction a request, and posts the answer back to the loop that asked.
//
// It exists to be measured against: it shares every line with the loop's way but
// the store itself. It is not an event loop, merges nothing, and goes away with
// `rm -r`.
package pooldb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/queend/queend/pkg/queue"
	"github.com/queend/queend/pkg/schema"
)

// Defaults of Options.
const (
	WorkersDefault         = 32
	WaitingOpsMaxDefault   = 20_000
	WaitingBytesMaxDefault = 64 << 20
)

// retryEvery is the pause before the next attempt when PostgreSQL is away.
const retryEvery = 100 * time.Millisecond

// idleTime is how long a connection that is not used is kept: after a burst the pool has as
// many as it has goroutines.
const idleTime = 30 * time.Second

// Options of a Pool.
type Options struct {
	Conn            *pgconn.Config // from pgconn.ParseConfig; it is copied
	Workers         int            // goroutines, each with at most one connection at a time
	WaitingOpsMax   int            // ops that wait for a goroutine; more are refused as Overloaded
	WaitingBytesMax int            // the same in bytes; one larger op is taken when no other waits
	NewBatch        func() *queue.Batch
	Now             func() time.Duration // the loops' clock
}

// Pool is the goroutines and the connections; loops share it through a Store
// each.
type Pool struct {
	options Options
	db      *pgxpool.Pool
	ops     chan job
	bytes   atomic.Int64 // waiting
	done    sync.WaitGroup
	closed  atomic.Bool
	stop    context.CancelFunc
}

type job struct {
	op   *queue.Op
	post func(func())
}

// Open makes the pool. It does not connect: connections are made by the first
// ops.
func Open(o Options) (*Pool, error) {
	if o.Workers == 0 {
		o.Workers = WorkersDefault
	}
	if o.WaitingOpsMax == 0 {
		o.WaitingOpsMax = WaitingOpsMaxDefault
	}
	if o.WaitingBytesMax == 0 {
		o.WaitingBytesMax = WaitingBytesMaxDefault
	}
	// pgxpool wants a configuration that it has parsed itself; where to connect is
	// then ours.
	config, err := pgxpool.ParseConfig("host=replaced")
	if err != nil {
		return nil, fmt.Errorf("cannot configure the pool: %w", err)
	}
	config.ConnConfig.Config = *o.Conn.Copy()
	config.MaxConns = int32(o.Workers)
	config.MaxConnIdleTime, config.HealthCheckPeriod = idleTime, idleTime/3
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.AfterConnect = beDurable
	ctx, stop := context.WithCancel(context.Background())
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		stop()
		return nil, fmt.Errorf("cannot make the pool: %w", err)
	}
	p := &Pool{options: o, db: db, ops: make(chan job, o.WaitingOpsMax), stop: stop}
	for range o.Workers {
		p.done.Add(1)
		go p.work(ctx)
	}
	return p, nil
}

// beDurable switches synchronous_commit on where the server or the role says off: an
// answered push has to be on disk. Stricter settings than on stay as they are. What is said
// is pinned in any case, so that it does not change with a reload. A pooler may give us
// another of its connections for each transaction: where it is off, each step says it again.
func beDurable(ctx context.Context, conn *pgx.Conn) error {
	var was, is string
	err := conn.QueryRow(ctx, `WITH server AS MATERIALIZED (SELECT current_setting('synchronous_commit') AS was)
		SELECT was, set_config('synchronous_commit', coalesce(nullif(was, 'off'), 'on'), false) FROM server`).Scan(&was, &is)
	if was == "off" {
		conn.PgConn().CustomData()[lax] = true
	}
	return err
}

// lax is in the custom data of a connection where synchronous_commit was off.
const lax = "lax"

// durable is for one transaction.
const durable = `SELECT set_config('synchronous_commit', 'on', true)`

// Close refuses new ops, lets the goroutines finish those that were taken, and
// closes the connections. Any goroutine, once.
func (p *Pool) Close() {
	if p.closed.Swap(true) {
		return
	}
	close(p.ops)
	p.done.Wait()
	p.stop()
	p.db.Close()
}

// Reconnect has connections replaced that exist now, each when its op is done: another
// server is the primary now. Any goroutine.
func (p *Pool) Reconnect() { p.db.Reset() }

// Store is the pool as one loop sees it.
type Store struct {
	pool *Pool
	post func(func())
}

// Store makes the store of one loop; post runs a function on that loop.
func (p *Pool) Store(post func(func())) *Store { return &Store{pool: p, post: post} }

// Do implements queue.Store. It runs on the loop and never blocks: an op that
// finds no room is refused at once.
func (s *Store) Do(op *queue.Op) {
	p := s.pool
	if p.closed.Load() {
		refuse(op, queue.Unavailable, "the server is stopping, try again on the next one")
		return
	}
	// An op that is larger than the bound waits when it is alone.
	if n := p.bytes.Add(int64(op.Cost)); n > int64(p.options.WaitingBytesMax) && n != int64(op.Cost) {
		p.bytes.Add(-int64(op.Cost))
		refuse(op, queue.Overloaded, "too many bytes wait for the pool, try again in a second")
		return
	}
	select {
	case p.ops <- job{op, s.post}:
	default:
		p.bytes.Add(-int64(op.Cost))
		refuse(op, queue.Overloaded, "too many requests wait for the pool, try again in a second")
	}
}

// Cancel implements queue.Store. A push that was accepted is stored whether or
// not its client still waits.
func (s *Store) Cancel(*queue.Op) {}

func refuse(op *queue.Op, code queue.Code, sentence string) {
	op.Fault = queue.Fault{Code: code, Message: sentence}
	op.Done.OpDone(op)
}

// work is one goroutine of the pool.
func (p *Pool) work(ctx context.Context) {
	defer p.done.Done()
	batch := p.options.NewBatch()
	for j := range p.ops {
		p.bytes.Add(-int64(j.op.Cost))
		p.run(ctx, batch, j.op)
		j.post(func() { j.op.Done.OpDone(j.op) })
	}
}

// run takes one op to its end, or to its deadline.
func (p *Pool) run(ctx context.Context, batch *queue.Batch, op *queue.Op) {
	ctx, cancel := context.WithTimeout(ctx, op.Deadline-p.options.Now())
	defer cancel()
	op.Sent = p.options.Now()
	batch.Reset()
	batch.Add(op)
	away := false
	for {
		statements := batch.Step(p.options.Now())
		if statements == nil {
			break // decided, also if its time is over by now
		}
		if ctx.Err() != nil {
			batch.Fail(late(batch.MayBeStored(), away))
			break
		}
		var wait time.Duration
		if wait, away = p.step(ctx, batch, statements); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
	}
	op.Answered = p.options.Now()
}

// late is the fault of an op whose time is over before it is decided.
func late(mayBeStored, away bool) queue.Fault {
	f := queue.Fault{Code: queue.Unavailable, Message: "PostgreSQL did not answer in time, try again in a second"}
	if mayBeStored {
		f.Message = "PostgreSQL did not answer in time; the messages may have been stored: push them again with the same transactionId"
	}
	if away {
		f.Code = queue.Outage
	}
	return f
}

// step sends one list of statements under one Sync and hands the batch what
// comes back. It returns how long to wait before the next one, and whether PostgreSQL
// was away.
func (p *Pool) step(ctx context.Context, batch *queue.Batch, statements []queue.Statement) (wait time.Duration, away bool) {
	conn, err := p.db.Acquire(ctx)
	if err != nil {
		// Nothing was sent. pgxpool has tried every host; try again until the
		// deadline, gently.
		return retryEvery, true
	}
	defer conn.Release()
	err = send(ctx, conn.Conn().PgConn(), batch, statements)
	var refusal *pgconn.PgError
	switch {
	case err == nil:
		return p.obey(ctx, conn, batch.StepDone(nil, p.options.Now()))
	case errors.As(err, &refusal) && !fatal(refusal):
		return p.obey(ctx, conn, batch.StepDone(&queue.SQLError{
			Severity: refusal.Severity, Code: refusal.Code, Message: refusal.Message, Detail: refusal.Detail,
			Schema: refusal.SchemaName, Table: refusal.TableName, Constraint: refusal.ConstraintName,
		}, p.options.Now()))
	default:
		// The connection is gone, with a last word or without, and may have taken a committed
		// answer with it; the batch's ids settle that when it is run again.
		batch.Unknown()
		return retryEvery, true
	}
}

// fatal says that the connection ends with an error, in whatever was done then.
func fatal(e *pgconn.PgError) bool {
	severity := cmp.Or(e.SeverityUnlocalized, e.Severity)
	return severity == "FATAL" || severity == "PANIC"
}

// obey does what the batch's verdict asks of a store, and returns the pause, and whether
// PostgreSQL is away.
func (p *Pool) obey(ctx context.Context, conn *pgxpool.Conn, v queue.Verdict) (time.Duration, bool) {
	switch v.Action {
	case queue.Wait:
		return v.After, false
	case queue.Prepare:
		// A new connection prepares everything anew.
		_ = conn.Conn().Close(ctx)
	case queue.Away:
		// Perhaps another host has become the primary: look for it anew.
		_ = conn.Conn().Close(ctx)
		return retryEvery, true
	}
	return 0, false
}

// send writes the statements, reads the rows, and returns PostgreSQL's error, or
// the connection's.
func send(ctx context.Context, conn *pgconn.PgConn, batch *queue.Batch, statements []queue.Statement) error {
	var pipeline pgconn.Batch
	lead := 0
	if conn.CustomData()[lax] != nil {
		lead++
		pipeline.ExecParams(durable, nil, nil, nil, nil)
	}
	if allowance := queue.Allowance(batch.Rows(), batch.Bytes()); allowance > 0 {
		// A large request may take longer than others, as on the loop.
		lead++
		pipeline.ExecParams(patient, [][]byte{[]byte(strconv.FormatInt(allowance.Milliseconds(), 10))}, nil, nil, nil)
	}
	for _, s := range statements {
		if err := prepare(ctx, conn, s); err != nil {
			return err
		}
		formats := binary[:len(s.Params)]
		if s.Unnamed {
			pipeline.ExecParams(schema.Statement(s.Name), s.Params, nil, formats, binary[:1])
		} else {
			pipeline.ExecPrepared(s.Name, s.Params, formats, binary[:1])
		}
	}
	results := conn.ExecBatch(ctx, &pipeline)
	for i := -lead; results.NextResult(); i++ {
		reader := results.ResultReader()
		for reader.NextRow() {
			if i >= 0 {
				batch.Row(i, reader.Values())
			}
		}
		tag, err := reader.Close()
		if err == nil && i >= 0 {
			batch.Tag(i, tag.RowsAffected())
		}
	}
	return results.Close()
}

// patient gives one transaction $1 ms more than the session's statement time-out.
const patient = `SELECT set_config('statement_timeout', (setting::int + $1::text::int)::text, true) FROM pg_settings WHERE name = 'statement_timeout' AND setting <> '0'`

// prepare makes a statement known to a connection, the first time that it is used
// there.
func prepare(ctx context.Context, conn *pgconn.PgConn, s queue.Statement) error {
	known := conn.CustomData()
	if s.Unnamed || known[s.Name] != nil {
		return nil
	}
	if _, err := conn.Prepare(ctx, s.Name, schema.Statement(s.Name), nil); err != nil {
		return err
	}
	known[s.Name] = true
	return nil
}

// binary is enough format codes for any statement of ours.
var binary = []int16{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
