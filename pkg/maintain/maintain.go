// Package maintain is the work that nobody waits for: what is too old is deleted
// (retention.go, eviction in it, metrics.go), partitions that nobody uses go
// (partitions.go), messages of deleted partitions are swept away (sweep.go), rows that
// were inserted by hand get a number and move their head (reconcile.go), and rows that
// were deleted by hand no longer count (counts.go).
//
// It runs off the loops, on one goroutine with one connection of its own, whatever there
// is to do: at most half of the time of one PostgreSQL process. The work is cut into
// turns. A turn is one small transaction of one job; it begins by asking for an advisory
// lock, so that of several queends on one database one works at a time, and ends by
// saying whether there is more. Between two turns whichever job is due longest comes
// next: a large clean-up does not keep a new row from being found.
//
//	     due?                lock free?          more?
//	job ──────→ begin ─────────────────→ step ─────────→ again, after a pause
//	  ↑           │ no: another process    │ no
//	  └───────────┴────────────────────────┴─→ due again after the interval
//
// Everything holds by the transaction alone (settings, lock, times), so it works behind
// PgBouncer in transaction mode. It knows of the other rooms only the tables.
package maintain

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

// Defaults of Options.
const (
	RetentionIntervalDefault  = 300 * time.Second
	RetentionBatchRowsDefault = 1000
	PartitionIdleDefault      = 30 * 24 * time.Hour
	MetricsAgeDefault         = 90 * 24 * time.Hour
	EvictionIntervalDefault   = 60 * time.Second
	EvictionBatchRowsDefault  = 1000
	ReconcileIntervalDefault  = 5 * time.Second
)

const (
	// SlicePartitionsMax is how many partitions a turn looks at.
	SlicePartitionsMax = 1000

	// BatchRowsMax bounds what one transaction may be told to delete; a larger batch is
	// taken as this.
	BatchRowsMax = 100_000

	// idlePartitionsMax is how many partitions a cycle deletes, and idleTurnMax how many
	// a turn: each takes its cursors with it.
	idlePartitionsMax = 1000
	idleTurnMax       = 200

	// sweepSlicesMax is how many slices of partitions a cycle of the sweeper visits; the
	// next one goes on from there.
	sweepSlicesMax = 10

	// numberedRowsMax is how many messages of one partition get their number in one turn.
	// Pushes to it wait meanwhile.
	numberedRowsMax = 5000

	// countedRowsMax is about how many messages a turn counts, countedTurnsMax how many
	// turns a cycle has, countsIntervalMin the least time from one cycle to the next.
	countedRowsMax    = 100_000
	countedTurnsMax   = 10
	countsIntervalMin = time.Minute

	// countedPartitionMax is how many numbers a partition may have to be counted; a longer
	// one keeps what gaps it has.
	countedPartitionMax = 1_000_000

	// holesTurnMax is how many missing numbers a turn writes down.
	holesTurnMax = 20_000

	// turnTimeout ends a turn that hangs. The server ends its statements before.
	turnTimeout = 60 * time.Second

	// pauseMax bounds the pause between two turns of a job, which is as long as the turn
	// was.
	pauseMax = time.Second

	// yieldPause is how long a job waits when somebody was in its way.
	yieldPause = time.Second

	// backoffMin and backoffMax bound the pause before PostgreSQL is tried again.
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
)

// Options of a Maintainer. Zero batch sizes take their defaults; an interval or an age of
// zero switches its jobs off.
type Options struct {
	// Conn is how to connect. It is copied, and what a pooler may refuse at start-up is
	// left out of it: each transaction brings its own settings.
	Conn *pgconn.Config

	RetentionInterval  time.Duration // between two cycles of retention, partitions, metrics, sweep and counts
	RetentionBatchRows int           // rows that one transaction of these deletes
	PartitionIdle      time.Duration // an empty partition that nobody touched for so long is deleted
	MetricsAge         time.Duration // older rows of messages_consumed and retention_history are deleted
	EvictionInterval   time.Duration // between two cycles of eviction
	EvictionBatchRows  int           // messages that one transaction of it deletes
	ReconcileInterval  time.Duration // a row inserted by hand is found within this (up to 10,000 partitions)

	// Moved hears which heads the reconciler moved, after its commit, on the goroutine of
	// the Maintainer; it may be nil and must not block. partition is the partition's id.
	Moved func(queue string, partition [16]byte)

	// Log hears of outages and surprises; nothing per turn.
	Log zerolog.Logger

	shift time.Duration // tests: so much later than PostgreSQL's clock
}

// Maintainer is the goroutine and its jobs.
type Maintainer struct {
	options Options
	session session
	jobs    []*job
	stop    context.CancelFunc
	done    chan struct{}
	closing sync.Once

	away  time.Time // PostgreSQL is away since; zero: it is there
	tries int       // attempts to reach it since

	moved atomic.Bool // the connection leads to a server that is to be left
}

// Start begins the work. It does not wait for PostgreSQL.
func Start(o Options) (*Maintainer, error) {
	m, err := prepare(o)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m.stop, m.done = stop, make(chan struct{})
	go m.run(ctx)
	return m, nil
}

// Reconnect has the next turn begin with a new connection: another server is the primary
// now. Any goroutine.
func (m *Maintainer) Reconnect() { m.moved.Store(true) }

// prepare makes a Maintainer that does not run.
func prepare(o Options) (*Maintainer, error) {
	o.RetentionBatchRows = batch(o.RetentionBatchRows, RetentionBatchRowsDefault)
	o.EvictionBatchRows = batch(o.EvictionBatchRows, EvictionBatchRowsDefault)
	if o.Moved == nil {
		o.Moved = func(string, [16]byte) {}
	}
	config, err := connConfig(o.Conn)
	if err != nil {
		return nil, err
	}
	m := &Maintainer{options: o, session: session{config: config, shift: o.shift}}
	add := func(id JobID, key int64, every time.Duration, w work) {
		m.jobs = append(m.jobs, &job{id: id, key: key, every: every, work: w})
	}
	add(Reconcile, reconcileKey, o.ReconcileInterval*roundShare/10, &reconcile{moved: o.Moved})
	add(Expired, cleanKey, o.RetentionInterval, &retention{find: "maintain_expired", rule: "retention", rows: o.RetentionBatchRows})
	add(Completed, cleanKey, o.RetentionInterval, &retention{find: "maintain_completed", rule: "completed_retention", rows: o.RetentionBatchRows})
	add(Eviction, cleanKey, o.EvictionInterval, &retention{find: "maintain_waited", rule: "eviction", rows: o.EvictionBatchRows, holes: true})
	add(Partitions, cleanKey, off(o.RetentionInterval, o.PartitionIdle), &partitions{idle: o.PartitionIdle})
	add(Sweep, cleanKey, o.RetentionInterval, &sweep{rows: o.RetentionBatchRows})
	add(Metrics, cleanKey, off(o.RetentionInterval, o.MetricsAge), &metrics{age: o.MetricsAge, rows: o.RetentionBatchRows})
	add(Counts, cleanKey, atLeast(o.RetentionInterval, countsIntervalMin), &counts{})
	return m, nil
}

// batch is a size within its bounds.
func batch(rows, otherwise int) int {
	if rows <= 0 {
		return otherwise
	}
	return min(rows, BatchRowsMax)
}

// off is the interval, or zero when the age says that the job is off.
func off(interval, age time.Duration) time.Duration {
	if age <= 0 {
		return 0
	}
	return interval
}

// atLeast is the interval, made longer if it is too short; zero stays.
func atLeast(interval, least time.Duration) time.Duration {
	if interval <= 0 {
		return 0
	}
	return max(interval, least)
}

// Close ends the work and waits for it: a transaction that is open is given up. Any
// goroutine, also more than once.
func (m *Maintainer) Close() {
	m.closing.Do(m.stop)
	<-m.done
}

// Stats are the counters of a job. They may be read at any time, by any goroutine.
func (m *Maintainer) Stats(id JobID) *Stats {
	for _, j := range m.jobs {
		if j.id == id {
			return &j.stats
		}
	}
	panic("BUG: no such job: " + id.String())
}

// run takes turns until ctx ends. Every job is due at once.
func (m *Maintainer) run(ctx context.Context) {
	defer close(m.done)
	defer m.session.close()
	now := time.Now()
	for _, j := range m.jobs {
		j.due = now
	}
	for {
		j := m.next()
		if j == nil {
			<-ctx.Done()
			return
		}
		if !sleep(ctx, time.Until(j.due)) || !m.reach(ctx) {
			return
		}
		began := time.Now()
		outcome, err := m.turn(ctx, j)
		if ctx.Err() != nil {
			return
		}
		m.schedule(j, began, outcome, err)
	}
}

// next is the job that is due first, nil when all are off.
func (m *Maintainer) next() (first *job) {
	for _, j := range m.jobs {
		if j.every > 0 && (first == nil || j.due.Before(first.due)) {
			first = j
		}
	}
	return first
}

// reach waits until there is a connection. An outage is two lines in the log. False: ctx
// has ended.
func (m *Maintainer) reach(ctx context.Context) bool {
	if m.moved.Swap(false) {
		m.session.close()
	}
	for !m.session.connected() {
		err := m.session.connect(ctx)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			break
		}
		m.lost(err)
		pause := backoffMin << min(m.tries, 10)
		m.tries++
		if !sleep(ctx, jitter(min(pause, backoffMax), 0.5)) {
			return false
		}
	}
	return true
}

// lost begins an outage, unless it is one already.
func (m *Maintainer) lost(err error) {
	if m.away.IsZero() {
		m.away = time.Now()
		m.options.Log.Warn().Err(err).Msg("maintenance: PostgreSQL is away; retention, eviction and clean-up wait until it is back")
	}
}

// found ends an outage: a turn was answered.
func (m *Maintainer) found() {
	if !m.away.IsZero() {
		m.options.Log.Info().Dur("after", time.Since(m.away)).Msg("maintenance: PostgreSQL is back")
	}
	m.away, m.tries = time.Time{}, 0
}

// schedule says when the job is due again, after a turn that began then.
func (m *Maintainer) schedule(j *job, began time.Time, o outcome, err error) {
	took := time.Since(began)
	if j.began.IsZero() {
		j.began = began
	}
	switch {
	case err != nil && !m.session.connected():
		m.lost(err) // and the job goes on when it is back
		return
	case err != nil:
		m.found()
		m.complain(j, err)
		o = idle
	default:
		m.found()
		j.complaint = ""
	}
	switch o {
	case more:
		j.due = time.Now().Add(j.work.pause(j.every, took))
		return
	case yielded:
		j.due = time.Now().Add(jitter(min(j.every, yieldPause), 0.5))
		return
	}
	// A job that could not have the lock, or failed, begins its next cycle later, where it
	// was.
	j.due = j.began.Add(jitter(j.every, 0.9))
	if soon := time.Now().Add(min(j.every, pauseMax) / 10); j.due.Before(soon) {
		j.due = soon
	}
	j.began = time.Time{}
}

// complain logs an error of a job once, until it works again or another one comes.
func (m *Maintainer) complain(j *job, err error) {
	if text := err.Error(); text != j.complaint {
		j.complaint = text
		m.options.Log.Error().Err(err).Str("job", j.id.String()).Msg("maintenance: a job failed; it is tried again with its next turn")
	}
}

// jitter is d, or down to share of it, so that processes that were started together do
// not stay so.
func jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (share + (1-share)*rand.Float64()))
}

// sleep waits; false: ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
