package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/bench/floor"
	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/pkg/schema"
)

// floorPoint is one way to put rows, and how many a second it put when that was tried: the
// median of its tries.
type floorPoint struct {
	Way   string    `json:"way"`
	Batch int       `json:"batch"` // rows in a statement
	Conns int       `json:"connections"`
	Rate  float64   `json:"rows_per_second"`
	Tries []float64 `json:"tries,omitempty"`
}

func (p floorPoint) String() string { return fmt.Sprintf("floor(%s, %d, %d)", p.Way, p.Batch, p.Conns) }

// floorSizes are what a sweep tries.
type floorSizes struct{ batches, conns []int }

// The likeliest come first: see sweepMax.
var sweepSizes = floorSizes{batches: []int{100, 1000, 10}, conns: []int{4, 2, 8, 1}}

const (
	// sweepMax bounds a sweep on a machine that is too busy for all of it: what was not
	// tried by then is left out. The first batch is always tried.
	sweepMax = time.Minute

	// finalists are how many of the best of a kind are tried again, finalTurns times by turns:
	// a machine's luck in one try is not to say which is the best.
	finalists  = 2
	finalTurns = 2
)

// floorServer stands for the server that the floor has not.
func (w *world) floorServer() *server {
	s := &server{name: armFloor, db: w.db, postgres: w.pg.Pid()}
	s.lack("the floor has no server: the generator talks to PostgreSQL", append([]string{lackAllocations}, lackProcess...)...)
	return s
}

// floorArm is an arm that puts rows this way. Its trials take of a load.Settings the
// shape but for Items, the warm-up and the window.
func (w *world) floorArm(p floorPoint) arm {
	return arm{name: armFloor, floor: &p, server: w.floorServer()}
}

// sweepFloor tries every way, batch and number of connections, each for the window, and then
// those again, for twice as long, that may be the best of a kind. It says what each carried:
// the finalists, the best first, and then the others. It is done once a run; the best are then
// measured in turns with the other arms.
func (w *world) sweepFloor(ctx context.Context, shape load.Shape, sizes floorSizes, window time.Duration, kinds ...floorKind) ([]floorPoint, error) {
	var all []floorPoint
	start := time.Now()
	for _, p := range sizes.ways() {
		if p.Batch != sizes.batches[0] && time.Since(start) > sweepMax {
			say("the floor was looked for %v long: %s and what follows is left out", sweepMax, p)
			break
		}
		if err := w.tryFloor(ctx, &p, shape, window); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	in, out := finals(sorted(all), kinds)
	for range finalTurns {
		for i := range in {
			if err := w.tryFloor(ctx, &in[i], shape, 2*window); err != nil {
				return nil, err
			}
		}
	}
	return append(sorted(in), out...), nil
}

// ways are all that a sweep tries.
func (s floorSizes) ways() (all []floorPoint) {
	for _, batch := range s.batches {
		for _, conns := range s.conns {
			for _, way := range []string{floor.Unnest, floor.Copy} {
				all = append(all, floorPoint{Way: way, Batch: batch, Conns: conns})
			}
		}
	}
	return all
}

// finals divides a sweep, the best first, into the finalists of each kind and the others.
func finals(all []floorPoint, kinds []floorKind) (in, out []floorPoint) {
	left := make([]int, len(kinds))
	for i := range left {
		left[i] = finalists
	}
	for _, p := range all {
		wanted := false
		for i, kind := range kinds {
			if p.is(kind) && left[i] > 0 {
				left[i]--
				wanted = true
			}
		}
		if wanted {
			in = append(in, p)
		} else {
			out = append(out, p)
		}
	}
	return in, out
}

func (p floorPoint) is(k floorKind) bool {
	return (k.way == "" || p.Way == k.way) && (k.batch == 0 || p.Batch == k.batch)
}

// tryFloor measures one way for a moment, once more.
func (w *world) tryFloor(ctx context.Context, p *floorPoint, shape load.Shape, window time.Duration) error {
	c, err := w.trial(ctx, w.floorArm(*p), trial{load: load.Settings{Shape: shape, Warm: window / 4, Window: window}})
	if err == nil && !c.honest() {
		err = fmt.Errorf("%s: %d rows that were committed are not there, %d are that were not", p, c.Missing, c.Untold)
	}
	p.Tries = append(p.Tries, c.Rate)
	p.Rate = median(p.Tries)
	return err
}

// sorted is a sweep with the best first.
func sorted(all []floorPoint) []floorPoint {
	slices.SortStableFunc(all, func(a, b floorPoint) int { return cmp.Compare(b.Rate, a.Rate) })
	return all
}

// limit is the best of a sweep: what PostgreSQL takes.
func limit(all []floorPoint) floorPoint { return all[0] }

// bestFloor is the best of a sweep that is of a kind.
func bestFloor(all []floorPoint, k floorKind) (p floorPoint, ok bool) {
	i := slices.IndexFunc(all, func(p floorPoint) bool { return p.is(k) })
	if i < 0 {
		return p, false
	}
	return all[i], true
}

// floorQueue is where the floor's rows go: into a queue that no server pushes to, since
// its heads stay where they are.
const floorQueue = "floor"

// floorMode is a mode of load, by pgconn instead of HTTP.
func (w *world) floorMode(p floorPoint) load.Mode {
	return func(ctx context.Context, s load.Settings) (*load.Result, error) {
		partitions, err := w.floorPartitions(ctx, s.Shape)
		if err != nil {
			return nil, err
		}
		o := floor.Options{Way: p.Way, Batch: p.Batch, Conns: p.Conns, Partitions: partitions, PayloadBytes: s.Shape.PayloadBytes, Seed: s.Shape.Seed}
		if s.Shape.Zipf != 0 {
			o.Draw = s.Shape.Drawer()
		}
		f, err := floor.Open(ctx, &w.db.Config().Config, o)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return s.Windows(func(warm bool) (*load.Result, error) {
			if warm {
				return f.Run(ctx, s.Warm)
			}
			return f.Run(ctx, s.Window)
		})
	}
}

// floorPartitions makes the queues and partitions of a shape by the statements that
// pushes use, and lists the partitions.
func (w *world) floorPartitions(ctx context.Context, shape load.Shape) ([]load.ID, error) {
	var queues, partitions []string
	for _, queue := range shape.QueueNames() {
		for i := range shape.Partitions {
			queues, partitions = append(queues, queue), append(partitions, fmt.Sprintf("p%d", i))
		}
	}
	b := &pgx.Batch{}
	b.Queue(schema.Statement("push_queues"), queues)
	b.Queue(schema.Statement("push_partitions"), queues, partitions)
	b.Queue(schema.Statement("push_heads"), queues, partitions)
	var all []load.ID
	b.Queue(schema.Statement("push_ids"), queues, partitions).Query(func(rows pgx.Rows) error {
		var o int64
		var id [16]byte
		var encrypted bool
		_, err := pgx.ForEachRow(rows, []any{&o, &id, &encrypted}, func() error {
			all = append(all, id)
			return nil
		})
		return err
	})
	if err := w.db.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("cannot make the floor's partitions: %w", err)
	}
	if len(all) != len(queues) {
		return nil, fmt.Errorf("%d of %d partitions of the floor are there", len(all), len(queues))
	}
	return all, nil
}
