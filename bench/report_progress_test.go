package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// clock is a progress whose time is set by hand.
func clock(terminal bool) (p *progress, out *bytes.Buffer, pass func(time.Duration)) {
	now := time.Unix(1000, 0)
	out = &bytes.Buffer{}
	p = &progress{out: out, terminal: terminal, now: func() time.Time { return now }, started: now}
	return p, out, func(d time.Duration) { now = now.Add(d) }
}

func TestWhatIsStillToComeIsJudgedByWhatWasSlow(t *testing.T) {
	p, out, pass := clock(true)
	p.plan(4, 40*time.Second)
	p.begin("one")
	if want := "1 of 4 · one · 0 s gone, about 40 s still"; !strings.Contains(out.String(), want) {
		t.Fatalf("%q, want %q", out, want)
	}
	pass(20 * time.Second) // twice what was planned
	p.end(10 * time.Second)
	out.Reset()
	p.begin("two")
	if want := "2 of 4 · two · 20 s gone, about 1 min 00 s still"; !strings.Contains(out.String(), want) {
		t.Fatalf("%q, want %q", out, want)
	}
	if got := p.expect(time.Second); got != 2*time.Second {
		t.Fatalf("a second is expected to take %v", got)
	}
}

func TestHalfAStepIsHalfItsPlan(t *testing.T) {
	p, out, pass := clock(true)
	p.plan(2, 40*time.Second)
	p.begin("filling")
	pass(20 * time.Second)
	p.partly(10*time.Second, "filling: half")
	if want := "1 of 2 · filling: half · 20 s gone, about 1 min 00 s still"; !strings.Contains(out.String(), want) {
		t.Fatalf("%q, want %q", out, want)
	}
	p.end(20 * time.Second)
	if p.spent != 20*time.Second || p.done != 1 {
		t.Fatalf("%v spent, %d done", p.spent, p.done)
	}
}

func TestATerminalHasOneLineThatIsRewritten(t *testing.T) {
	p, out, _ := clock(true)
	p.plan(2, time.Minute)
	p.begin("one")
	p.begin("two")
	p.say("something %s", "else")
	p.clear()
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "\r\x1b[Ksomething else\n\r") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Fatalf("%q", got)
	}
}

func TestElsewhereALineComesNowAndThen(t *testing.T) {
	p, out, pass := clock(false)
	p.plan(100, 100*time.Second)
	for range 100 {
		p.begin("a step")
		pass(time.Second)
		p.end(time.Second)
	}
	if got := strings.Count(out.String(), "\n"); got != 7 {
		t.Fatalf("%d lines in 100 s:\n%s", got, out)
	}
	if strings.ContainsAny(out.String(), "\r\x1b") {
		t.Fatalf("%q", out)
	}
}

func TestDurationsAreShort(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := short(d); got != want {
			t.Fatalf("%v is %q", d, got)
		}
	}
	f(0, "0 s")
	f(59*time.Second, "59 s")
	f(61*time.Second, "1 min 01 s")
	f(2*time.Hour+3*time.Minute, "2 h 03 min")
}
