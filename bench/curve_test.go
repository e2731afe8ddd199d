package main

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// planOf is what a run of these options is planned to take: preparations, and a round.
func planOf(t *testing.T, args ...string) (first, round time.Duration) {
	t.Helper()
	o, err := fullFlags(args)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{o: o, t: o.times(), report: &Report{}, curves: curves(o.sizes(), 2)}
	l.report.Machine.Cores = 2
	_, first = sum(l.preparation())
	_, round = sum(l.round(0))
	return first, round
}

func TestTheShortReportFitsItsBudgetWithTwoRoundsAtLeast(t *testing.T) {
	first, round := planOf(t)
	if n := roundsThatFit(fitBudget-first, round, 0); n < 2 || first+time.Duration(n)*round > 10*time.Minute {
		t.Fatalf("%v of preparations and %d rounds of %v", first, n, round)
	}
}

func TestTheFullReportTakesHoursNotDays(t *testing.T) {
	first, round := planOf(t, "-full")
	if d := first + 5*round; d < 30*time.Minute || d > 6*time.Hour {
		t.Fatalf("%v of preparations and 5 rounds of %v", first, round)
	}
}

// What is compared is turned round within its point; points stay where they are, since some
// are made of those before.
func TestEverySecondRoundGoesTheOtherWayRound(t *testing.T) {
	for _, c := range curves(shortSizes, 2) {
		forth := c.steps([]int{16, 32})
		back := backwards(forth)
		if len(back) != len(forth) {
			t.Fatal(c.name)
		}
		turned := 0
		for i := range forth {
			if back[i].point != forth[i].point {
				t.Fatalf("%s: %s came in the place of %s", c.name, back[i], forth[i])
			}
			if back[i] != forth[i] {
				turned++
			}
		}
		if again := backwards(back); !slices.Equal(again, forth) || len(c.points[0].arms) > 1 && turned == 0 {
			t.Errorf("%s: %d of %d were turned", c.name, turned, len(forth))
		}
	}
}

func TestRoundsAreAsManyAsFitAndOneAtLeast(t *testing.T) {
	f := func(left, each time.Duration, done, want int) {
		t.Helper()
		if got := roundsThatFit(left, each, done); got != want {
			t.Fatalf("%v left, %v each, %d done: %d more", left, each, done, got)
		}
	}
	f(time.Minute, 20*time.Second, 0, 3)
	f(time.Minute, 2*time.Minute, 0, 1)
	f(-time.Minute, 2*time.Minute, 0, 1)
	f(-time.Minute, 2*time.Minute, 1, 0)
	f(time.Hour, time.Second, 2, roundsMost-2)
}

func TestWhatGoalsAreMadeOfIsMeasuredForLonger(t *testing.T) {
	short := times{warm: 200 * time.Millisecond, window: 600 * time.Millisecond}
	window := map[string]time.Duration{}
	for _, c := range curves(shortSizes, 2) {
		for _, s := range c.steps([]int{16}) {
			long := short.of(s)
			window[c.name+" "+s.point.label+" "+s.arm] = long.window
			if (long.window >= judged.window) != (long.warm == judged.warm) {
				t.Errorf("%v: %+v", s, long)
			}
			if all := (times{window: time.Minute}).of(s); all.window < time.Minute {
				t.Errorf("%v is shortened to %v", s, all.window)
			}
		}
	}
	for name, want := range map[string]time.Duration{
		"arms 64 push": judged.window, "arms 256 hello": judged.window, "arms 256 " + armHundred: judged.window, "arms 256 push-legacy": judged.window, "arms 64 net/http+pgxpool": judged.window, "arms 1 push": short.window,
		"batch 100 push": judged.window, "batch 100 " + armUnnest: judged.window, "batch 10 push": short.window, "batch 100 push-legacy": short.window,
		"partitions 1,000 push": judged.window, "partitions 10 push": short.window, "partitions 100 push-legacy": short.window,
		"rows 1M push": judged.window, "rows 0 push": judged.window, "rows 100k push": short.window,
		"modes push push": judged.window, "rate 50 % push": 2 * short.window, "connections 64 push": short.window,
	} {
		if got := window[name]; got != want {
			t.Errorf("%s is measured for %v, not %v", name, got, want)
		}
	}
}

func TestEveryCurveVariesOneThing(t *testing.T) {
	for _, c := range curves(fullSizes, 8) {
		if c.title == "" || c.x == "" || len(c.points) < 2 {
			t.Errorf("%s: %+v", c.name, c)
		}
		labels := map[string]bool{}
		for _, p := range c.points {
			if labels[p.label] || p.label == "" || len(p.arms) == 0 {
				t.Errorf("%s: point %q", c.name, p.label)
			}
			labels[p.label] = true
		}
		if !slices.Contains(curveNames, c.name) {
			t.Errorf("-only does not know %s", c.name)
		}
	}
}

func TestPoolsAreOfThreeSizesWhereAllArmsAreMeasuredAndChosenElsewhere(t *testing.T) {
	all := curves(shortSizes, 2)
	f := func(name string, connections int, want ...int) {
		t.Helper()
		var pools []int
		for i := range all {
			for _, s := range all[i].steps([]int{16, 32, 64}) {
				if s.curve.name == name && s.arm == armLegacy && s.point.load.Connections == connections {
					pools = append(pools, s.pool)
				}
			}
		}
		if !slices.Equal(pools, want) {
			t.Errorf("%s at %d: %v", name, connections, pools)
		}
	}
	f(curveArms, 1, 16)
	f(curveArms, 64, 16, 32, 64)
	f(curveConnections, 64, 0)
}

func TestServersAreStartedForWhatIsMeasured(t *testing.T) {
	f := func(only string, want ...string) {
		t.Helper()
		l := &lab{o: fullOptions{only: only, pools: intList{16, 32}}}
		l.curves = slices.DeleteFunc(curves(shortSizes, 2), func(c curve) bool { return !l.o.wants(c.name) })
		if got := l.needed(); !slices.Equal(got, want) {
			t.Errorf("%s: %v", only, got)
		}
		if trial := len(l.trialSteps()) > 0; trial != (len(want) > 1) {
			t.Errorf("%s: pools are tried: %v", only, trial)
		}
	}
	f("wake", armLoop)
	f("modes,wake", armLoop)
	f("rows", armLoop, armLegacy)
	f("rate", armLoop, armLegacy, armBaseline)
}

func TestNamesOfOnlyAreKnown(t *testing.T) {
	if o, err := fullFlags([]string{"-only", "rows,wake"}); err != nil || !o.wants("rows") || !o.wants("wake") || o.wants("arms") {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := fullFlags([]string{"-only", "rows,nothing"}); err == nil {
		t.Error("nothing is something")
	}
	if o, err := fullFlags(nil); err != nil || !o.wants("rate") {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestTheLargestTableCanBeSmaller(t *testing.T) {
	f := func(want []int, args ...string) {
		t.Helper()
		if o, err := fullFlags(args); err != nil || !slices.Equal(o.sizes().rows, want) {
			t.Errorf("%v: %v, %v", args, o.sizes().rows, err)
		}
	}
	f([]int{0, 100_000, 1_000_000})
	f([]int{0, 100_000}, "-rows", "100000")
	f([]int{0, 10_000, 100_000, 1_000_000, 10_000_000}, "-full")
}

// How many loops a queend has by itself is not said by the cores alone.
func TestEachNumberOfLoopsIsAServerOfItsOwn(t *testing.T) {
	l := &lab{report: &Report{}}
	l.report.Machine.Cores = 2
	for _, n := range loopCounts(2) {
		if name := l.placeOf(&Load{Loops: n}); name != fmt.Sprint("loops_", n) {
			t.Errorf("%d loops are measured at %q", n, name)
		}
	}
}

func TestTheFloorIsLookedForLongEnough(t *testing.T) {
	for window, want := range map[time.Duration]time.Duration{600 * time.Millisecond: 600 * time.Millisecond, 5 * time.Second: time.Second} {
		got := (&lab{t: times{window: window}}).sweepWindow()
		if got != want {
			t.Errorf("cells of %v: tries of %v", window, got)
		}
		if whole := got + finalTurns*2*got; whole < judged.window {
			t.Errorf("cells of %v: the best is chosen by %v", window, whole)
		}
	}
}

// The table takes less than a minute. A pool carries 1,500 messages a second or more, and
// 15 s are for building and starting.
func TestTheQuickFormTakesLessThanAMinute(t *testing.T) {
	o := quickFlags(nil)
	cells, primed := 0, 0
	for _, n := range o.connections {
		for _, arm := range splitNames(o.arms) {
			if pooled := slices.Contains(pooledArms, arm); pooled && n > 1 {
				cells += len(o.pools)
			} else {
				cells++
			}
		}
	}
	for _, n := range o.pools {
		primed += len(pooledArms) * n * o.prime
	}
	each := seconds(o.seconds+o.warm) + besideCell + 300*time.Millisecond
	total := 15*time.Second + time.Duration(o.rounds*cells)*each + time.Duration(primed)*time.Second/1500
	if total > time.Minute || o.ab || o.wrk {
		t.Errorf("%d cells and %d messages before: %v; ab %v, wrk %v", o.rounds*cells, primed, total, o.ab, o.wrk)
	}
}

func TestLoopsAreDoubledUpToTheCores(t *testing.T) {
	f := func(cores int, want ...int) {
		t.Helper()
		if got := loopCounts(cores); !slices.Equal(got, want) {
			t.Errorf("%d cores: %v", cores, got)
		}
	}
	f(1, 1)
	f(2, 1, 2)
	f(6, 1, 2, 4, 6)
	f(8, 1, 2, 4, 8)
}

func TestThePoolThatCarriedMostIsKept(t *testing.T) {
	l := &lab{o: fullOptions{pools: intList{16, 32}}, best: map[string]int{}, report: &Report{}}
	if got := l.pool(armLegacy, 64); got != 16 {
		t.Errorf("before anything is measured: %d", got)
	}
	l.chosen([]Cell{
		{Arm: armLegacy, Pool: 16, Generator: "closed", Connections: 64, Rate: 2},
		{Arm: armLegacy, Pool: 32, Generator: "closed", Connections: 64, Rate: 1},
		{Arm: armLegacy, Pool: 16, Generator: "closed", Connections: 256, Rate: 1},
		{Arm: armLegacy, Pool: 32, Generator: "closed", Connections: 256, Rate: 2}})
	f := func(arm string, connections, want int) {
		t.Helper()
		if got := l.pool(arm, connections); got != want {
			t.Errorf("%s at %d: %d", arm, connections, got)
		}
	}
	f(armLegacy, 1, 16)
	f(armLegacy, 64, 16)
	f(armLegacy, 1024, 32)
	f(armLoop, 64, 0)
}
