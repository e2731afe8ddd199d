package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
	"github.com/queend/queend/pkg/schema"
)

// benchQueue is what all cells push to.
const benchQueue = "bench"

// place is a database and the arms that serve it.
type place struct {
	name  string
	world *world // whose db is this place's database
	arms  []arm
	kept  bool // the table is not emptied: what it holds is the point
	env   []string
}

// partitionsApart is from how many partitions on a database of their own is made: heads
// are shared by all that is in a database, and a hundred thousand of them should not
// burden cells that push to a hundred.
const partitionsApart = 10_000

// placeOf names the place that a load needs; "" is where everything else is.
func (l *lab) placeOf(d *Load) string {
	switch {
	case d.Rows > 0:
		return fmt.Sprintf("rows_%d", d.Rows)
	case d.Partitions >= partitionsApart:
		return fmt.Sprintf("partitions_%d", d.Partitions)
	case d.Loops > 0:
		return fmt.Sprintf("loops_%d", d.Loops)
	}
	return ""
}

// About how long preparations take.
const (
	buildCost   = 15 * time.Second
	primeCost   = 2 * time.Second
	perRow      = 25 * time.Microsecond
	perHead     = 40 * time.Microsecond
	settleCost  = 2 * time.Second
	chooseTurns = 2
)

// preparation is everything before the first round.
func (l *lab) preparation() (all []task) {
	all = append(all, task{"building, and starting servers", buildCost, l.start})
	all = append(all, task{"priming", primeCost * time.Duration(2*len(l.o.pools)), l.prime})
	needs := map[string]Load{}
	for i := range l.curves {
		for _, p := range l.curves[i].points {
			if name := l.placeOf(&p.load); name != "" {
				needs[name] = p.load
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		d := needs[name]
		cost := settleCost
		title := fmt.Sprintf("%d loops", d.Loops)
		if d.Loops == 0 {
			title = fmt.Sprintf("filling a database: %d partitions, %d rows", d.Partitions, d.Rows)
			cost += perRow*time.Duration(d.Rows) + perHead*time.Duration(d.Partitions)
		}
		all = append(all, task{title, cost, func(ctx context.Context) error { return l.makePlace(ctx, name, title, &d) }})
	}
	if l.o.wants(curveArms) || l.o.wants(curveBatch) {
		all = append(all, task{"looking for the floor", l.sweepCost(), l.sweep})
	}
	if steps := l.trialSteps(); len(steps) > 0 && !l.o.wants(curveArms) {
		all = append(all, task{"choosing pools", time.Duration(len(steps)) * l.t.cell(), func(ctx context.Context) error { return l.choose(ctx, steps) }})
	}
	return all
}

// start builds and starts the arms that are measured where nothing special is.
func (l *lab) start(ctx context.Context) error {
	arms, err := l.w.arms(ctx, l.needed(), l.o.pools)
	if err != nil {
		return err
	}
	if l.o.url != "" {
		a, err := l.w.external(ctx, l.o.external)
		if err != nil {
			return err
		}
		arms = append(arms, a)
	}
	l.here = &place{world: l.w, arms: arms}
	return nil
}

// needed are the arms that have servers of their own and are measured.
func (l *lab) needed() (names []string) {
	for _, name := range armNames {
		needed := name == armLoop
		for _, c := range l.curves {
			needed = needed || slices.ContainsFunc(c.points, func(p curvePoint) bool { return slices.Contains(p.arms, name) })
		}
		if needed {
			names = append(names, name)
		}
	}
	return names
}

func (l *lab) prime(ctx context.Context) error { return l.primeAll(ctx, l.here) }

// primeLoop is a loop's share: its batches are few, and each of its connections has to
// see some before PostgreSQL's plans settle.
const primeLoop = 1500

func (l *lab) primeAll(ctx context.Context, p *place) error {
	for _, a := range p.arms {
		if a.server.foreign {
			continue
		}
		messages := l.o.prime
		if a.name == armLoop {
			messages = max(messages, primeLoop)
		}
		if err := l.w.primeArm(ctx, a, l.shape(&baseLoad, a), messages); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return nil
}

func (l *lab) shape(d *Load, a arm) load.Shape {
	return load.Shape{Path: a.path, Queue: benchQueue, Partitions: d.Partitions, Items: d.Batch, PayloadBytes: d.PayloadBytes, Seed: l.o.seed}
}

// makePlace makes a database and fills it, or names what is special of its queend. That
// is started when it is needed: its pool is not chosen yet.
func (l *lab) makePlace(ctx context.Context, name, title string, d *Load) error {
	p := &place{name: name, world: l.w, kept: d.Rows > 0}
	l.others[name] = p
	if d.Loops > 0 {
		p.env = []string{fmt.Sprintf("NUM_WORKERS=%d", d.Loops)}
		return nil
	}
	if err := l.w.pg.CreateDatabase(ctx, name); err != nil {
		return err
	}
	db, err := pgx.Connect(ctx, l.w.pg.ConnString(name))
	if err != nil {
		return err
	}
	w := *l.w
	w.db = db
	p.world, p.env = &w, []string{"DATABASE_URL=" + l.w.pg.URL(name)}
	if _, err := schema.Migrate(ctx, &db.Config().Config, nil); err != nil {
		return err
	}
	return fill(ctx, db, benchQueue, d.Partitions, d.Rows, func(n int) {
		l.p.partly(perRow*time.Duration(n), fmt.Sprintf("%s, %d stored", title, n))
	})
}

// serve starts a place's queend, which serves both ways to push.
func (l *lab) serve(ctx context.Context, p *place) error {
	if p.arms != nil {
		return nil
	}
	binary, err := l.w.buildQueend(ctx)
	if err != nil {
		return err
	}
	pool := l.pool(armLegacy, baseLoad.Connections)
	s, err := l.w.startQueend(ctx, p.name, binary, append(poolEnv(armLegacy, pool), p.env...)...)
	if err != nil {
		return err
	}
	s.db = p.world.db
	p.arms = []arm{{name: armLoop, path: "/api/v1/push", server: s}, {name: armLegacy, path: "/api/v1/push-legacy", pool: pool, server: s}}
	return l.primeAll(ctx, p)
}

// trialSteps are the cells by which pools are chosen when the arms are not measured anyway.
func (l *lab) trialSteps() (all []step) {
	c := curves(shortSizes, 1)[0]
	for range chooseTurns {
		for _, s := range c.steps(l.o.pools) {
			if s.point.load.Connections == baseLoad.Connections && s.pool > 0 && len(l.o.pools) > 1 && slices.Contains(l.needed(), s.arm) {
				all = append(all, s)
			}
		}
	}
	return all
}

func (l *lab) choose(ctx context.Context, steps []step) error {
	var cells []Cell
	for _, s := range steps {
		c, err := l.cell(ctx, s, 0)
		if err != nil {
			return err
		}
		cells = append(cells, c.Cell)
	}
	l.chosen(cells)
	return nil
}

// chosen keeps each arm's best pool of those cells.
func (l *lab) chosen(cells []Cell) {
	for _, arm := range pooledArms {
		for _, n := range connectionCounts(cells) {
			if pool := bestPool(cells, arm, n); pool > 0 {
				l.best[bestKey(arm, n)] = pool
			}
		}
	}
}

func bestKey(arm string, connections int) string { return fmt.Sprintf("%s at %d", arm, connections) }

// pool is the size of an arm's pool with which it carried most: at 256 connections if
// there are so many, else at 64. It stays what the first round has found, so that a
// curve is of one server.
func (l *lab) pool(arm string, connections int) int {
	if !slices.Contains(pooledArms, arm) {
		return 0
	}
	if len(l.best) == 0 {
		l.chosen(l.report.curve(curveArms).cells())
	}
	if n, ok := l.best[bestKey(arm, 256)]; ok && connections >= 256 {
		return n
	}
	if n, ok := l.best[bestKey(arm, 64)]; ok {
		return n
	}
	return l.o.pools[0]
}

// measure takes one cell and puts it into the report.
func (l *lab) measure(ctx context.Context, s step, round int) error {
	sample, err := l.cell(ctx, s, round)
	if err != nil {
		return err
	}
	c := l.report.curve(s.curve.name)
	if c == nil {
		c = &Curve{Name: s.curve.name, Title: s.curve.title, X: s.curve.x, Note: s.curve.note}
		for _, p := range s.curve.points {
			c.Labels = append(c.Labels, p.label)
		}
		l.report.Curves = append(l.report.Curves, c)
	}
	sample.Point = slices.IndexFunc(s.curve.points, func(p curvePoint) bool { return p.label == s.point.label })
	c.Samples = append(c.Samples, sample)
	return nil
}

// cell measures.
func (l *lab) cell(ctx context.Context, s step, round int) (Sample, error) {
	sample := Sample{Series: s.arm, Load: s.point.load}
	p := l.here
	if name := l.placeOf(&sample.Load); name != "" {
		p = l.others[name]
		if err := l.serve(ctx, p); err != nil {
			return sample, err
		}
	}
	a, err := l.arm(p, s)
	if err != nil {
		return sample, err
	}
	t := l.trialOf(s, a, round)
	if sample.Load.Fraction > 0 {
		if t.load.Rate, err = l.fraction(&sample.Load, s.arm, round); err != nil {
			return sample, err
		}
	}
	if s.curve.name == curveArms && round == 0 {
		t.syscalls = syscallWindow
	}
	if t.keep = p.kept; p.kept {
		if _, err := p.world.db.Exec(ctx, "CHECKPOINT"); err != nil {
			return sample, err
		}
	}
	sample.Cell, err = p.world.trial(ctx, a, t)
	if err != nil && a.server.cmd != nil {
		err = fmt.Errorf("%w; the server wrote: %s", err, a.server.lastWords())
	}
	if err != nil {
		return sample, err
	}
	return sample, settle(ctx, a, &sample.Cell)
}

// settleMax bounds the wait for what a cell has left behind.
const settleMax = 30 * time.Second

// settle waits, after a cell in which pushes were refused, until none of them can be
// stored any more: by a server that has them on disk, or by PostgreSQL, which is still
// at work for a push that was given up. Or they would be rows of the next cell, which
// nobody there was told of.
func settle(ctx context.Context, a arm, c *Cell) error {
	if c.Refused == 0 || a.server.foreign || a.server.cmd == nil {
		return nil
	}
	if a.name == armLoop || a.name == armLegacy {
		if _, err := a.server.drained(ctx); err != nil {
			return fmt.Errorf("what was buffered is not delivered: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settleMax)
	defer cancel()
	for busy := 1; busy > 0; {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%d sessions are still at work for pushes that were given up: %w", busy, err)
		}
		if err := a.server.db.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND state <> 'idle' AND backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&busy); err != nil {
			return err
		}
	}
	return nil
}

// syscallWindow is how long system calls are counted, in the first round, of all arms.
const syscallWindow = 200 * time.Millisecond

// arm finds what a step measures.
func (l *lab) arm(p *place, s step) (arm, error) {
	pool := cmp.Or(s.pool, l.pool(s.arm, s.point.load.Connections))
	if s.arm == armHello {
		a, err := p.find(armLoop, 0)
		return a.hello(), err
	}
	if kind, ok := floorKindOf(s.arm); ok {
		best, _ := bestFloor(l.floors, kind)
		return l.w.floorArm(best), nil
	}
	return p.find(s.arm, pool)
}

func (p *place) find(name string, pool int) (arm, error) {
	i := slices.IndexFunc(p.arms, func(a arm) bool { return a.name == name && a.pool == pool })
	if i < 0 {
		return arm{}, fmt.Errorf("BUG: place %q has no %s with a pool of %d", p.name, name, pool)
	}
	return p.arms[i], nil
}

// trialOf is a load as a trial is told it.
func (l *lab) trialOf(s step, a arm, round int) trial {
	d, long := &s.point.load, l.t.of(s)
	return trial{mode: d.Mode, round: round, load: load.Settings{
		Shape: l.shape(d, a), Connections: d.Connections, Rate: d.Rate, Warm: long.warm, Window: long.window,
		Consumers: d.Consumers, Groups: d.Groups, Backlog: d.Backlog, Pop: load.Pop{Batch: d.PopBatch, AutoAck: d.AutoAck},
	}}
}

// fraction is a part of what an arm carried in this round's closed loop.
func (l *lab) fraction(d *Load, arm string, round int) (float64, error) {
	of := cmp.Or(d.FractionOf, arm)
	c := l.report.curve(curveRate)
	whole := c.at(rateOf, func(s *Sample) bool {
		return s.Round == round && s.Series == of && c.Labels[s.Point] == saturated
	})[round]
	if whole <= 0 {
		return 0, fmt.Errorf("%s carried nothing in a closed loop", of)
	}
	return d.Fraction * whole, nil
}

// sweep looks for the best floors.
func (l *lab) sweep(ctx context.Context) (err error) {
	l.floors, err = l.w.sweepFloor(ctx, load.Shape{Queue: floorQueue, Partitions: baseLoad.Partitions, Items: 1, PayloadBytes: baseLoad.PayloadBytes, Seed: l.o.seed}, l.sweepSizes(), l.sweepWindow(), floorKinds...)
	return err
}

// sweepCost is about how long that takes.
func (l *lab) sweepCost() time.Duration {
	each := func(window time.Duration) time.Duration { return window*5/4 + l.t.beside }
	again := finalTurns * finalists * len(floorKinds) // at most: one may be of several kinds
	return time.Duration(len(l.sweepSizes().ways()))*each(l.sweepWindow()) + time.Duration(again)*each(2*l.sweepWindow())
}

// sweepWindow is how long each of the floor's sizes is tried at first. In a third of a second
// the wrong ones were found, half as fast as the best.
func (l *lab) sweepWindow() time.Duration {
	return min(max(l.t.window/2, 600*time.Millisecond), time.Second)
}

// sweepSizes leave out in a short report what was never best.
func (l *lab) sweepSizes() floorSizes {
	if l.o.full {
		return sweepSizes
	}
	return floorSizes{batches: []int{100, 1000}, conns: []int{2, 4, 8}}
}

// addExternal has the server at -url take part where it is asked for the same as
// others.
func (l *lab) addExternal() {
	for i := range l.curves {
		for j := range l.curves[i].points {
			p := &l.curves[i].points[j]
			if p.load.Loops == 0 && l.placeOf(&p.load) == "" && !slices.Contains(p.arms, armExternal) {
				p.arms = append(slices.Clone(p.arms), armExternal)
			}
		}
	}
}

// wakeSeconds is how long each measurement of wake takes here.
const wakeSeconds = 3.0

func (l *lab) wakeCost() time.Duration { return 14 * time.Second }

// loopServer is the server of the loop's arm.
func (l *lab) loopServer() *server {
	return l.here.arms[slices.IndexFunc(l.here.arms, func(a arm) bool { return a.name == armLoop })].server
}

// part makes the figures of another command; of its first round, what warms it is not
// counted.
func (l *lab) part(name string, f **Figures, once func(into *Figures) error) error {
	if *f == nil {
		*f = &Figures{Command: name, Started: l.report.Started, Machine: l.report.Machine, PostgreSQL: l.report.PostgreSQL, Commit: l.report.Commit, Dirty: l.report.Dirty, Seed: l.o.seed}
		if err := once(&Figures{}); err != nil {
			return err
		}
	}
	return once(*f)
}

// wakeRound is a round of `wake`, shorter.
func (l *lab) wakeRound(ctx context.Context) error {
	o := wakeOptions{rate: 100, seconds: wakeSeconds}
	if err := l.w.fleet.only(ctx, l.w.db, l.loopServer()); err != nil {
		return err
	}
	return l.part("wake", &l.wake, func(into *Figures) error {
		for _, auto := range []bool{true, false} {
			if err := l.w.wakeOnce(ctx, l.loopServer(), o, into, auto); err != nil {
				return err
			}
		}
		return nil
	})
}

func loadAverage() float64 { return proc.LoadAverage() }
