package main

import (
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/maintain"
	"github.com/queend/queend/pkg/metrics"
)

// startMaintenance starts what is done off the loops. moved hears, on a goroutine of its
// own, which partitions have messages that nobody pushed; it may be nil.
func (s *server) startMaintenance(conn *pgconn.Config, moved func(queue string, partition [16]byte)) error {
	c := &s.config.Maintenance
	m, err := maintain.Start(maintain.Options{
		Conn:              conn,
		RetentionInterval: c.RetentionInterval.Duration(), RetentionBatchRows: int(c.RetentionRows),
		PartitionIdle: days(c.PartitionDays), MetricsAge: days(c.MetricsDays),
		EvictionInterval: c.EvictionInterval.Duration(), EvictionBatchRows: int(c.EvictionRows),
		ReconcileInterval: c.ReconcileInterval.Duration(),
		Moved:             moved, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.maintainer.Store(m)
	return nil
}

// stopMaintenance ends it; an open transaction is given up.
func (s *server) stopMaintenance() {
	if m := s.maintainer.Load(); m != nil {
		m.Close()
	}
}

// daysMost keeps a number of days within what a time can be.
const daysMost = 100 * 365

func days(n Int) time.Duration { return time.Duration(min(n, daysMost)) * 24 * time.Hour }

// exportMaintenance names what the jobs count. There are none until the schema is known.
func exportMaintenance(set *metrics.Set, maintainer *atomic.Pointer[maintain.Maintainer]) {
	for id := range maintain.JobID(maintain.Jobs) {
		read := func(of func(*maintain.Stats) float64) func() float64 {
			return func() float64 {
				if m := maintainer.Load(); m != nil {
					return of(m.Stats(id))
				}
				return 0
			}
		}
		counter := func(name, help string, of func(*maintain.Stats) float64) {
			set.Counter(name, help, read(of), "job", id.String())
		}
		counter("queend_maintenance_turns_total", "Transactions of maintenance that were committed.", func(s *maintain.Stats) float64 { return float64(s.Turns.Load()) })
		counter("queend_maintenance_rows_total", "Rows that maintenance deleted; of job reconcile: messages inserted by hand that it found.", func(s *maintain.Stats) float64 { return float64(s.Rows.Load()) })
		counter("queend_maintenance_errors_total", "Transactions of maintenance that failed.", func(s *maintain.Stats) float64 { return float64(s.Errors.Load()) })
		counter("queend_maintenance_yields_total", "Transactions of maintenance given up because a push or a pop was in the way.", func(s *maintain.Stats) float64 { return float64(s.Yields.Load()) })
		counter("queend_maintenance_busy_total", "Times that another process was at it.", func(s *maintain.Stats) float64 { return float64(s.Busy.Load()) })
		counter("queend_maintenance_seconds_total", "Time of the committed transactions of maintenance.", func(s *maintain.Stats) float64 { return time.Duration(s.Nanos.Load()).Seconds() })
		set.Gauge("queend_maintenance_last_timestamp_seconds", "When maintenance last committed something, in Unix time; 0: never.",
			read(func(s *maintain.Stats) float64 { return time.Unix(0, s.Last.Load()).Sub(time.Unix(0, 0)).Seconds() }), "job", id.String())
	}
}
