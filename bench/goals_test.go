package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestGoalsAreJudgedByRatiosWithinRounds(t *testing.T) {
	r := sampleReport()
	f := func(name string, median float64, verdict string) {
		t.Helper()
		i := slices.IndexFunc(r.Goals, func(g *Goal) bool { return g.Name == name })
		if i < 0 {
			t.Fatalf("there is no goal %q", name)
		}
		g := r.Goals[i]
		if len(g.Values) != 2 || g.Median() != number(median) || g.Verdict() != verdict {
			t.Errorf("%s: %v, %s, want %v, %s", name, g.Values, g.Verdict(), median, verdict)
		}
	}
	f("messages: push / push-legacy, 64 connections", 5, "met") // the pool of 16 is the better one
	f("messages: push / net/http+pgxpool, 64 connections", 1/0.15, "met")
	f("p50: push / push-legacy, 256 connections", 0.2, "met")
	f("server CPU a message: push / net/http+pgxpool, 64 connections", 0.15, "met")
	f("voluntary context switches a message, 64 connections", 0.1, "met")
	f("voluntary context switches: push / push-legacy, 64 connections", 1, "MISSED")
	f("resident MiB, 256 connections, in each round", 30, "met")
	f("messages: 1 partition / 100", 1, "met")
	f("messages: a table of 10M rows / an empty one", 1, "met")
	f("rows/s: push, 100 a request, 64 connections / floor, unnest", 0.8, "met")
	f("PostgreSQL CPU a row: push, 100 a request, 64 connections / floor, unnest", 1.25, "met")
	f("rows/s: push, 1 a request, 256 connections / floor, 100 rows a statement", 1/1.5, "met")
	f("server CPU a message: push / hello, 256 connections", 4, "MISSED")
	f("messages: pop + ack / push, 100 a request, 8 connections", 1, "met")
}

func TestWhatWasNotMeasuredIsNoMiss(t *testing.T) {
	r := &Report{}
	r.judge(goals)
	for _, g := range r.Goals {
		if g.Verdict() != "not measured" || g.Median() != "-" {
			t.Errorf("%s: %s", g.Name, g.Verdict())
		}
	}
	var out bytes.Buffer
	printGoals(&out, r.Goals)
	if n := strings.Count(out.String(), "not measured"); n != len(goals) {
		t.Errorf("%d of %d goals are printed", n, len(goals))
	}
}

func TestARoundThatOnlyOneSideHasIsNoPair(t *testing.T) {
	got := rounds{0: 10, 1: 20, 2: 30}.over(rounds{0: 5, 2: 10, 3: 1})
	if !slices.Equal(got, []float64{2, 3}) {
		t.Fatalf("%v", got)
	}
}

func TestGoalsOfOtherCommandsAreTakenOver(t *testing.T) {
	var f Figures
	f.Command = "wake"
	f.goal(7, "p99 ms ack", "≤", 10)
	r := &Report{Figures: []*Figures{&f}}
	r.judge(goals)
	i := slices.IndexFunc(r.Goals, func(g *Goal) bool { return g.Name == "p99 ms ack" })
	if g := r.Goals[i]; g.Verdict() != "met" || g.From != "wake" {
		t.Fatalf("%+v", g)
	}
	r.FlushBefore = 2000 // no goal for a disk like that
	r.judge(goals)
	if g := r.Goals[i]; g.Verdict() != "not measured" {
		t.Fatalf("%+v", g)
	}
}
