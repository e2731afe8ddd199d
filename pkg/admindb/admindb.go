// Package admindb is a small pool of connections for rare administrative statements:
// configure, delete, list, seek. Work that waits for PostgreSQL runs in a few
// goroutines here, so that it neither holds up a loop nor takes a connection from
// the data path. What the statements mean is api's business; their text is schema's.
//
// It is not a way to push, pop or ack.
package admindb

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Limits, and their defaults.
const (
	// ConnectionsDefault is Options.Connections: one goroutine works on each.
	ConnectionsDefault = 4

	// WaitingMaxDefault is Options.WaitingMax: calls that wait for a connection. More
	// are refused (503 with Retry-After); Stats.Refused counts them.
	WaitingMaxDefault = 64

	// StatementTimeoutDefault is Options.StatementTimeout. A statement that takes longer
	// is ended by PostgreSQL and its call fails.
	StatementTimeoutDefault = 30 * time.Second

	// LockTimeout bounds how long a statement waits for a lock; then its transaction is
	// tried again.
	LockTimeout = 5 * time.Second

	// CallTimeout bounds a call, which may be many statements; DoWithin has a bound of its own.
	CallTimeout = time.Minute

	// ResultBytesMax bounds what one statement may return. A larger result fails its call
	// with ErrTooLarge.
	ResultBytesMax = 64 << 20

	// TriesMax is how often a transaction is tried that PostgreSQL ends because of another
	// one (deadlock, lock time-out).
	TriesMax = 6
)

// Options of a Pool.
type Options struct {
	Conn             *pgconn.Config // where to connect and how; it is copied
	Connections      int
	WaitingMax       int
	StatementTimeout time.Duration
}

// Stats are what a pool counts. Any goroutine may read them.
type Stats struct {
	Calls   atomic.Uint64 // taken
	Refused atomic.Uint64 // turned away at the bound
	Retried atomic.Uint64 // transactions that were tried again
	Waiting atomic.Int64  // calls that wait now
	Working atomic.Int64  // calls that are worked on now
}

// Pool is the connections and the goroutines.
type Pool struct {
	db       *pgxpool.Pool
	timeouts [2]string // of a statement, of a lock; in milliseconds
	calls    chan func()
	stats    Stats

	mu     sync.Mutex // guards calls against being closed
	closed bool

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup
}

// Open makes a pool. It does not connect: the first call does.
func Open(o Options) (*Pool, error) {
	if o.Connections == 0 {
		o.Connections = ConnectionsDefault
	}
	if o.WaitingMax == 0 {
		o.WaitingMax = WaitingMaxDefault
	}
	if o.StatementTimeout == 0 {
		o.StatementTimeout = StatementTimeoutDefault
	}
	// pgxpool wants a configuration that it has parsed itself; where to connect is then ours.
	config, err := pgxpool.ParseConfig("host=replaced")
	if err != nil {
		return nil, fmt.Errorf("cannot configure the pool: %w", err)
	}
	conn := o.Conn.Copy()
	conn.RuntimeParams["application_name"] += "-admin"
	// These are set in each transaction (admin_begin): a pooler such as PgBouncer refuses
	// them when a connection starts, and forgets them when a transaction ends.
	for _, name := range []string{"default_transaction_isolation", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		delete(conn.RuntimeParams, name)
	}
	config.ConnConfig.Config = *conn
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.MaxConns = int32(o.Connections)
	config.MaxConnIdleTime = 5 * time.Minute
	ctx, stop := context.WithCancel(context.Background())
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		stop()
		return nil, fmt.Errorf("cannot make the pool: %w", err)
	}
	p := &Pool{db: db, timeouts: [2]string{milliseconds(o.StatementTimeout), milliseconds(LockTimeout)}, calls: make(chan func(), o.WaitingMax), ctx: ctx, stop: stop}
	for range o.Connections {
		p.done.Go(p.work)
	}
	return p, nil
}

// Do has work done in one of the pool's goroutines, with a session of its own, which is
// valid until work returns. It returns at once; false means that the bound is reached or
// the pool is closed, and work will not be called. Any goroutine.
func (p *Pool) Do(work func(*Session)) bool {
	return p.take(func() {
		ctx, cancel := context.WithTimeout(p.ctx, CallTimeout)
		defer cancel()
		p.call(ctx, work)
	})
}

// DoWithin is Do for a call whose answer somebody waits for: from d after now on, nothing
// that its session does waits for PostgreSQL, and every statement fails. A call that is not
// begun by then, because all goroutines wait for PostgreSQL themselves, is begun in one of
// its own: it finds out in the same way that its time is over, and has sent nothing.
func (p *Pool) DoWithin(d time.Duration, work func(*Session)) bool {
	ctx, cancel := context.WithTimeout(p.ctx, d)
	var once sync.Once
	// Whoever comes second waits for the first, so that Close has waited for work, too.
	call := func() { once.Do(func() { p.call(ctx, work) }) }
	if !p.take(func() { call(); cancel() }) {
		cancel()
		return false
	}
	context.AfterFunc(ctx, call)
	return true
}

// take has a goroutine of the pool make a call, or refuses it.
func (p *Pool) take(call func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	select {
	case p.calls <- call:
		p.stats.Calls.Add(1)
		p.stats.Waiting.Add(1)
		return true
	default:
		p.stats.Refused.Add(1)
		return false
	}
}

// call does work with a session of its own.
func (p *Pool) call(ctx context.Context, work func(*Session)) {
	s := &Session{pool: p, ctx: ctx}
	defer s.release()
	work(s)
}

// Reconnect has connections replaced that exist now, each when its call is done: another
// server is the primary now. Any goroutine.
func (p *Pool) Reconnect() { p.db.Reset() }

// work is one goroutine of the pool.
func (p *Pool) work() {
	for call := range p.calls {
		p.stats.Waiting.Add(-1)
		p.stats.Working.Add(1)
		call()
		p.stats.Working.Add(-1)
	}
}

// Stats are the pool's own; they must not be written to.
func (p *Pool) Stats() *Stats { return &p.stats }

// Close refuses new calls and waits for those that were taken, no longer than ctx lives:
// then they are broken off. Any goroutine.
func (p *Pool) Close(ctx context.Context) {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.calls)
	}
	p.mu.Unlock()
	breakOff := context.AfterFunc(ctx, p.stop)
	p.done.Wait()
	breakOff()
	p.stop()
	p.db.Close()
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
