package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/admindb"
	"github.com/queend/queend/pkg/api"
	"github.com/queend/queend/pkg/asyncdb"
	"github.com/queend/queend/pkg/loop"
	"github.com/queend/queend/pkg/metrics"
)

// openAdmin makes the pool of the administrative routes. It connects by the settings of
// the loops, when it is first used.
func (s *server) openAdmin(db *asyncdb.Database) error {
	pool, err := admindb.Open(admindb.Options{Conn: db.Connection()})
	if err != nil {
		return err
	}
	s.admin.Store(pool)
	return nil
}

// adminOf is the pool as the router of one loop sees it.
func (s *server) adminOf(l *loop.Loop) func(within time.Duration, work func(api.Session), done func()) bool {
	pool := s.admin.Load()
	return func(within time.Duration, work func(api.Session), done func()) bool {
		call := func(session *admindb.Session) {
			work(session)
			l.Post(done)
		}
		if within > 0 {
			return pool.DoWithin(within, call)
		}
		return pool.Do(call)
	}
}

func (s *server) closeAdmin(ctx context.Context) {
	if pool := s.admin.Load(); pool != nil {
		pool.Close(ctx)
	}
}

// exportAdmin names what the pool counts. There is none until the schema is known.
func exportAdmin(set *metrics.Set, admin *atomic.Pointer[admindb.Pool]) {
	value := func(of func(*admindb.Stats) float64) func() float64 {
		return func() float64 {
			pool := admin.Load()
			if pool == nil {
				return 0
			}
			return of(pool.Stats())
		}
	}
	set.Counter("queend_admin_calls_refused_total", "Administrative calls turned away because too many waited.",
		value(func(s *admindb.Stats) float64 { return float64(s.Refused.Load()) }))
	set.Counter("queend_admin_transactions_retried_total", "Administrative transactions that PostgreSQL ended because of another one.",
		value(func(s *admindb.Stats) float64 { return float64(s.Retried.Load()) }))
	set.Gauge("queend_admin_calls_waiting", "Administrative calls that wait for a connection.",
		value(func(s *admindb.Stats) float64 { return float64(s.Waiting.Load()) }))
	set.Gauge("queend_admin_calls_working", "Administrative calls that are worked on.",
		value(func(s *admindb.Stats) float64 { return float64(s.Working.Load()) }))
}
