package main

import (
	"sync/atomic"

	"github.com/queend/queend/pkg/asyncdb"
	"github.com/queend/queend/pkg/loop"
	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// exportLoops names what the loops count.
func exportLoops(set *metrics.Set, server *loop.Server) {
	counter := func(name, help string, of func(loop.Stats) uint64, labels ...string) {
		set.Counter(name, help, func() float64 { return float64(of(server.Stats())) }, labels...)
	}
	counter("queend_http_requests_total", "Requests that reached a route.", func(s loop.Stats) uint64 { return s.Requests })
	for class, label := range []string{1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"} {
		if class > 0 {
			counter("queend_http_answers_total", "Answers by class of status, refusals included.",
				func(s loop.Stats) uint64 { return s.Answers[class] }, "status", label)
		}
	}
	counter("queend_http_refused_total", "Requests refused before they reached a route: malformed, too large, too slow.", func(s loop.Stats) (n uint64) {
		for _, of := range s.Refused {
			n += of
		}
		return n
	})
	counter("queend_connections_accepted_total", "Client connections.", func(s loop.Stats) uint64 { return s.ConnsAccepted })
	counter("queend_connections_turned_away_total", "Client connections beyond the limit.", func(s loop.Stats) uint64 { return s.ConnsTurned })
	counter("queend_accept_errors_total", "Failures to accept, such as too few descriptors.", func(s loop.Stats) uint64 { return s.AcceptErrors })
	set.Gauge("queend_connections_open", "Client connections.", func() float64 { return float64(server.Stats().ConnsOpen) })
	counter("queend_http_received_bytes_total", "Bytes from clients.", func(s loop.Stats) uint64 { return s.BytesIn })
	counter("queend_http_sent_bytes_total", "Bytes to clients.", func(s loop.Stats) uint64 { return s.BytesOut })
	timeouts := "Connections ended because their client was too slow or silent."
	counter("queend_timeouts_total", timeouts, func(s loop.Stats) uint64 { return s.TimeoutsIdle }, "kind", "idle")
	counter("queend_timeouts_total", timeouts, func(s loop.Stats) uint64 { return s.TimeoutsHead }, "kind", "head")
	counter("queend_timeouts_total", timeouts, func(s loop.Stats) uint64 { return s.TimeoutsBody }, "kind", "body")
	counter("queend_timeouts_total", timeouts, func(s loop.Stats) uint64 { return s.TimeoutsWrite }, "kind", "write")
	counter("queend_timeouts_total", timeouts, func(s loop.Stats) uint64 { return s.TimeoutsSilent }, "kind", "silent")
	counter("queend_readers_closed_total", "Connections ended because their client did not read its answers.", func(s loop.Stats) uint64 { return s.ReadersClosed })
	counter("queend_replies_dropped_total", "Answers to clients that had gone.", func(s loop.Stats) uint64 { return s.RepliesDropped })
	counter("queend_bugs_total", "Panics that were caught. Each is a bug; please report it.", func(s loop.Stats) uint64 { return s.Panics })
}

// exportDatabase names what the lanes count. There are none until the schema is known;
// then lanes holds those of each loop.
func exportDatabase(set *metrics.Set, database *atomic.Pointer[asyncdb.Database], all func() []*lanes) {
	set.Gauge("queend_database_up", "Whether every loop has working connections to PostgreSQL.", func() float64 {
		if db := database.Load(); db != nil && db.Health().OK() {
			return 1
		}
		return 0
	})
	for i, name := range laneNames {
		exportLane(set, name, func(visit func(*asyncdb.Stats)) {
			if database.Load() == nil {
				return
			}
			for _, l := range all() {
				if lane := l.all()[i]; lane != nil {
					visit(lane.Stats())
				}
			}
		})
	}
}

// exportLane names what one lane of all loops counts.
func exportLane(set *metrics.Set, lane string, each func(visit func(*asyncdb.Stats))) {
	counter := func(name, help string, of func(*asyncdb.Stats) uint64, labels ...string) {
		set.Counter(name, help, func() (sum float64) {
			each(func(s *asyncdb.Stats) { sum += float64(of(s)) })
			return sum
		}, append(labels, "lane", lane)...)
	}
	gauge := func(name, help string, of func(*asyncdb.Stats) int64) {
		set.Gauge(name, help, func() (sum float64) {
			each(func(s *asyncdb.Stats) { sum += float64(of(s)) })
			return sum
		}, "lane", lane)
	}
	histogram := func(name, help string, unit float64, of func(*asyncdb.Stats) *asyncdb.Histogram) {
		set.Histogram(name, help, func() metrics.Distribution {
			total := metrics.Distribution{Cumulative: map[float64]uint64{}}
			each(func(s *asyncdb.Stats) {
				count, sum, cumulative := of(s).Snapshot(unit)
				total.Add(metrics.Distribution{Count: count, Sum: sum, Cumulative: cumulative})
			})
			return total
		}, "lane", lane)
	}
	histogram("queend_batch_messages", "Messages, acks or other items in a batch.", 1, func(s *asyncdb.Stats) *asyncdb.Histogram { return &s.BatchRows })
	histogram("queend_batch_seconds", "Time of a batch, from its first statement to its last answer.", 1e-9, func(s *asyncdb.Stats) *asyncdb.Histogram { return &s.BatchNanos })
	histogram("queend_step_seconds", "Time of one transaction.", 1e-9, func(s *asyncdb.Stats) *asyncdb.Histogram { return &s.StepNanos })
	gauge("queend_in_flight_messages", "Messages, acks or other items in statements that are not answered yet.", func(s *asyncdb.Stats) int64 { return s.InFlightRows.Load() })
	gauge("queend_waiting_requests", "Requests that wait for the statement before theirs.", func(s *asyncdb.Stats) int64 { return s.WaitingOps.Load() })
	gauge("queend_held_bytes", "Bytes of requests that are not answered yet.", func(s *asyncdb.Stats) int64 { return s.HeldBytes.Load() })
	counter("queend_batches_total", "Batches.", func(s *asyncdb.Stats) uint64 { return s.Batches.Load() })
	refused := "Requests that were not taken to PostgreSQL, or given up."
	counter("queend_store_refused_total", refused, func(s *asyncdb.Stats) uint64 { return s.Overloaded.Load() }, "why", "overloaded")
	counter("queend_store_refused_total", refused, func(s *asyncdb.Stats) uint64 { return s.Unavailable.Load() }, "why", "unavailable")
	counter("queend_store_refused_total", refused, func(s *asyncdb.Stats) uint64 { return s.Expired.Load() }, "why", "deadline")
	counter("queend_database_connects_total", "Connections made to PostgreSQL.", func(s *asyncdb.Stats) uint64 { return s.Connects.Load() })
	counter("queend_database_connect_failures_total", "Attempts that failed.", func(s *asyncdb.Stats) uint64 { return s.ConnectFailures.Load() })
	counter("queend_database_early_total", "Batches that were stored before it was their turn, on a second connection.", func(s *asyncdb.Stats) uint64 { return s.Earlies.Load() })
	counter("queend_database_early_late_total", "Of these, those for which that was in vain.", func(s *asyncdb.Stats) uint64 { return s.Late.Load() })
	counter("queend_database_follows_total", "Batches that were sent behind another, before its answer.", func(s *asyncdb.Stats) uint64 { return s.Follows.Load() })
	counter("queend_database_turns_total", "Batches that waited until another loop's, with a partition in common, was committed.", func(s *asyncdb.Stats) uint64 { return s.Turns.Load() })
	counter("queend_database_moves_total", "Connections closed because another server is the primary now.", func(s *asyncdb.Stats) uint64 { return s.Moves.Load() })
	counter("queend_database_losses_total", "Connections lost.", func(s *asyncdb.Stats) uint64 { return s.Losses.Load() })
	counter("queend_database_hangs_total", "Connections ended because PostgreSQL did not answer.", func(s *asyncdb.Stats) uint64 { return s.Hangs.Load() })
	counter("queend_unknown_outcomes_total", "Transactions whose answer was lost, and which were settled by their ids.", func(s *asyncdb.Stats) uint64 { return s.Unknowns.Load() })
	counter("queend_retries_total", "Transactions tried again after a deadlock or a time-out.", func(s *asyncdb.Stats) uint64 { return s.Retries.Load() })
	for class := range len(new(asyncdb.Stats).Errors) {
		counter("queend_database_errors_total", "Errors of PostgreSQL by class.",
			func(s *asyncdb.Stats) uint64 { return s.Errors[class].Load() }, "class", queue.Class(class).String())
	}
}
