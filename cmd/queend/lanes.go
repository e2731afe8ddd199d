package main

import (
	"crypto/rand"
	"time"

	"github.com/queend/queend/pkg/asyncdb"
	"github.com/queend/queend/pkg/longpoll"
	"github.com/queend/queend/pkg/loop"
	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// lanes are the connections of one loop to PostgreSQL, one for each kind of work: a pop
// does not wait for the commit of a push, nor an ack for either.
//
// One loop has one more, by which what the file buffer holds is delivered.
type lanes struct {
	push, pop, ack, transaction, watch *asyncdb.Store
	replay                             *asyncdb.Store // nil on all loops but one
}

// laneNames are the lanes as metrics name them.
var laneNames = [...]string{"push", "pop", "ack", "transaction", "watch", "replay"}

func (l *lanes) all() [len(laneNames)]*asyncdb.Store {
	return [...]*asyncdb.Store{l.push, l.pop, l.ack, l.transaction, l.watch, l.replay}
}

// trim lets go of the lanes' memory; on their loop.
func (l *lanes) trim() {
	for _, store := range l.all() {
		if store != nil {
			store.Trim()
		}
	}
}

// openLanes makes the lanes of one loop. What they learn of partitions they share.
func openLanes(db *asyncdb.Database, l *loop.Loop, domain *queue.Config, buffer, replay bool) *lanes {
	services := asyncdb.Services{
		Attach: l.Attach, Post: l.Post, Defer: l.Defer, Now: l.Now,
		After: func(d time.Duration, f func()) { l.After(d, f) },
	}
	hints, ids := queue.NewHints(0, 0), newIDs()
	pushes := asyncdb.Work{
		NewBatch: func() asyncdb.Batch { return queue.NewBatch(domain, hints) }, Prepare: domain.Prepared(), GiveBack: buffer, Follow: true, Turns: true, Early: domain.PreparedEarly(),
	}
	made := &lanes{
		push: db.Store(services, pushes),
		pop: db.Store(services, asyncdb.Work{
			NewBatch: func() asyncdb.Batch { return queue.NewPopBatch(domain, ids) }, Prepare: domain.PreparedPop(),
			FrameBytesMax: queue.PopFrameBytesMax,
		}),
		ack: db.Store(services, asyncdb.Work{
			NewBatch: func() asyncdb.Batch { return queue.NewAckBatch() }, Prepare: domain.PreparedAck(),
		}),
		transaction: db.Store(services, asyncdb.Work{
			NewBatch: func() asyncdb.Batch { return queue.NewTransactionBatch(domain, hints) }, Prepare: domain.PreparedTransaction(),
		}),
		watch: db.Store(services, asyncdb.Work{
			NewBatch: func() asyncdb.Batch { return queue.NewWatchBatch() }, Prepare: queue.PreparedWatch(),
		}),
	}
	if replay {
		pushes.GiveBack, pushes.Follow, pushes.Turns, pushes.Early = true, false, false, nil
		made.replay = db.Store(services, pushes)
	}
	return made
}

func newIDs() *queue.IDs { return queue.NewIDs(wallClockMs) }

// longPoll makes the long poll of one loop around its lanes.
func (s *server) longPoll(l *loop.Loop, lanes *lateLanes) *longpoll.Store {
	return s.board.New(longpoll.Services{
		Post: l.Post, Now: l.Now,
		After: func(d time.Duration, f func()) { l.After(d, f) },
	}, longpoll.Lanes{Push: s.buffered(l, &lanes.push), Pop: &lanes.pop, Ack: &lanes.ack, Transaction: &lanes.transaction, Watch: &lanes.watch},
		s.config.Statements.Failover.Duration())
}

// newBoard makes the board of this process, which others know by a name that is drawn.
func newBoard(c *ServeCommand) *longpoll.Board {
	var self queue.UUID
	_, _ = rand.Read(self[:]) // it never fails
	return longpoll.NewBoard(self, clip(c.Listener.WorkerID), longpoll.Limits{ParkedMax: int(c.Pops.Parked)})
}

// exportLongPoll names what the long poll counts.
func exportLongPoll(set *metrics.Set, board *longpoll.Board) {
	s := board.Stats()
	set.Gauge("queend_pops_parked", "Pops that wait for messages.", func() float64 { return float64(s.Parked.Load()) })
	set.Gauge("queend_pops_paused", "Of these, those that wait for the end of pop maintenance.", func() float64 { return float64(s.Paused.Load()) })
	set.Gauge("queend_board_groups", "Consumer groups of queues that this process remembers.", func() float64 { return float64(s.Groups.Load()) })
	set.Gauge("queend_board_partitions", "Partitions of groups that may have messages, or are leased.", func() float64 { return float64(s.Entries.Load()) })
	counter := func(name, help string, of func() uint64, labels ...string) {
		set.Counter(name, help, func() float64 { return float64(of()) }, labels...)
	}
	counter("queend_pop_attempts_total", "Times that pops looked for messages.", s.Attempts.Load)
	counter("queend_pop_attempts_in_vain_total", "Of these, those whose claim found nothing.", s.Vain.Load)
	counter("queend_pop_wakes_total", "Pops that waited and were woken.", s.Wakes.Load)
	counter("queend_pop_expired_total", "Pops whose time was over.", s.Expired.Load)
	counter("queend_pop_refused_total", "Pops for which there was no room to wait.", s.Refused.Load)
	counter("queend_leases_given_back_total", "Leases that were released because their client had gone.", s.Released.Load)
	counter("queend_sweeps_total", "Sweeps of a group's partitions for messages.", s.Sweeps.Load)
	counter("queend_sweep_slices_total", "Slices of partitions looked at by sweeps.", s.Slices.Load)
	counter("queend_others_checked_total", "Times that a pop that found nothing asked what others did.", s.Checks.Load)
	counter("queend_changes_total", "Changes heard from and told to other processes.", s.Heard.Load, "direction", "heard")
	counter("queend_changes_total", "Changes heard from and told to other processes.", s.Told.Load, "direction", "told")
	counter("queend_board_forgotten_total", "Groups that were forgotten to make room.", s.Forgotten.Load)
}
