package maintain

import (
	"context"
	"time"
)

// JobID names a job in logs and metrics.
type JobID uint8

// The jobs.
const (
	Reconcile  JobID = iota // heads of rows that were inserted by hand
	Expired                 // messages older than retentionSeconds
	Completed               // consumed messages older than completedRetentionSeconds
	Eviction                // messages that waited longer than maxWaitTimeSeconds
	Partitions              // empty partitions that nobody uses
	Sweep                   // messages of partitions that are gone
	Metrics                 // old rows of messages_consumed and retention_history
	Counts                  // gaps that a DELETE by hand left in the numbers
)

var jobNames = [...]string{"reconcile", "retention", "completed_retention", "eviction", "partitions", "sweep", "metrics", "counts"}

// Jobs is how many there are: 0 to Jobs-1 are JobIDs.
const Jobs = len(jobNames)

// String is the job's name, as in metrics.
func (id JobID) String() string { return jobNames[id] }

// The advisory locks of transactions. The first one is Queen's, so that its own retention
// and ours never work at the same time. The reconciler has another: it must not wait for
// a clean-up in another process.
const (
	cleanKey     = 737001
	reconcileKey = 737002
)

// job is one kind of work and when it is done.
type job struct {
	id    JobID
	key   int64         // of its lock
	every time.Duration // from the begin of a cycle to the next; 0: off
	work  work

	due       time.Time // its next turn
	began     time.Time // the cycle at work; zero: none
	complaint string    // the last error that was logged
	stats     Stats
}

// work is what a job does in its turns. It keeps its place between them.
type work interface {
	// step does one turn's work inside t's transaction, which is committed when there is
	// no error. What step learns must be kept by t.after alone: a commit may fail.
	step(ctx context.Context, t *turn) (outcome, error)

	// pause is the time from a turn that took so long to the next one of the same cycle.
	pause(every, took time.Duration) time.Duration
}

// outcome is how a turn ended.
type outcome uint8

const (
	idle    outcome = iota // the cycle is over
	more                   // there is more to do
	busy                   // another process holds the lock
	yielded                // somebody was in the way: the same again, soon
)

// breathe is the pause of a clean-up: as long as the turn took.
type breathe struct{}

func (breathe) pause(_, took time.Duration) time.Duration { return min(took, pauseMax) }

// turn is one transaction of a job.
type turn struct {
	query
	now     time.Time // by PostgreSQL's clock, which stamps messages
	rows    int64     // deleted, or numbered
	settled []func()
}

// after has f called when the transaction is committed.
func (t *turn) after(f func()) { t.settled = append(t.settled, f) }

// turn runs one turn of a job and counts it.
func (m *Maintainer) turn(ctx context.Context, j *job) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	began := time.Now()
	var t turn
	o, err := m.session.transact(ctx, j.key, &t, j.work.step)
	switch {
	case err == nil && o == busy:
		j.stats.Busy.Add(1)
		return o, nil
	case gaveWay(err):
		// A push or a pop holds what we need, or waits for what we hold.
		j.stats.Yields.Add(1)
		return yielded, nil
	case err != nil:
		if ctx.Err() == nil || m.session.connected() {
			j.stats.Errors.Add(1)
		}
		return idle, err
	}
	for _, f := range t.settled {
		f()
	}
	j.stats.turned(began, t.rows)
	return o, nil
}
