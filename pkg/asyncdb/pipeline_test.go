package asyncdb

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/queend/queend/pkg/queue"
)

// heard writes down what a pipeline tells of rows and tags.
type heard []string

func (h *heard) Row(stmt int, values [][]byte) {
	*h = append(*h, fmt.Sprintf("row %d %q", stmt, values))
}
func (h *heard) Tag(stmt int, rows int64) { *h = append(*h, fmt.Sprintf("tag %d %d", stmt, rows)) }

// talk sends a step of statements ("p": with a Parse, "b": without, "l": the store's own)
// and gives the
// pipeline messages: 1 2 D C Z as on the wire, T for a ReadyForQuery inside a
// transaction, E for an error. It returns what was told, and how it ended.
func talk(statements, messages string) string {
	var p pipeline
	var h heard
	var parsed []bool
	lead := strings.Count(statements, "l")
	for _, s := range strings.ReplaceAll(statements, "l", "p") {
		parsed = append(parsed, s == 'p')
	}
	p.begin(&h, lead, parsed)
	for i, m := range messages {
		var ready bool
		var err error
		switch m {
		case 'E':
			err = p.failed(&queue.SQLError{Code: "23505"})
		case 'D':
			ready, err = p.frame('D', []byte("\x00\x01\x00\x00\x00\x01x"))
		case 'C':
			ready, err = p.frame('C', []byte("SELECT 7\x00"))
		case 'Z':
			ready, err = p.frame('Z', []byte("I"))
		case 'T':
			ready, err = p.frame('Z', []byte("T"))
		default:
			ready, err = p.frame(byte(m), nil)
		}
		if err != nil {
			return strings.Join(append(h, fmt.Sprintf("broken at %d", i)), ", ")
		}
		if ready {
			end := "committed"
			if p.err != nil {
				end = "failed " + p.err.Code
			}
			if p.busy() || i != len(messages)-1 {
				end += " too early"
			}
			return strings.Join(append(h, end), ", ")
		}
	}
	return strings.Join(append(h, "open"), ", ")
}

func TestRepliesBelongToTheirStatements(t *testing.T) {
	f := func(statements, messages, want string) {
		t.Helper()
		if got := talk(statements, messages); got != want {
			t.Errorf("%s answered by %s: %s", statements, messages, got)
		}
	}
	f("b", "2CZ", "tag 0 7, committed")
	f("b", "2DDCZ", `row 0 ["x"], row 0 ["x"], tag 0 7, committed`)
	f("p", "12DCZ", `row 0 ["x"], tag 0 7, committed`)
	f("bb", "2DC2CZ", `row 0 ["x"], tag 0 7, tag 1 7, committed`)
	f("bpb", "2C12C2CZ", "tag 0 7, tag 1 7, tag 2 7, committed")
	f("", "Z", "committed")
	f("bb", "2C2", "tag 0 7, open")

	// Of the store's own statements the batch hears nothing.
	f("lb", "12DC2DCZ", `row 0 ["x"], tag 0 7, committed`)
	f("lpb", "12C12C2CZ", "tag 0 7, tag 1 7, committed")
	f("lb", "1EZ", "failed 23505")

	// An error at each place, and what the server skips is not waited for.
	f("pb", "EZ", "failed 23505")
	f("pb", "1EZ", "failed 23505")
	f("pb", "12EZ", "failed 23505")
	f("pb", "12DEZ", `row 0 ["x"], failed 23505`)
	f("pb", "12DCEZ", `row 0 ["x"], tag 0 7, failed 23505`)
	f("pb", "12C2EZ", "tag 0 7, failed 23505")
	f("pb", "12C2CEZ", "tag 0 7, tag 1 7, failed 23505") // at the commit

	// A server that is not one.
	f("b", "Z", "broken at 0")
	f("b", "2Z", "broken at 1")
	f("b", "1", "broken at 0")
	f("p", "2", "broken at 0")
	f("b", "C", "broken at 0")
	f("b", "D", "broken at 0")
	f("b", "22", "broken at 1")
	f("b", "2CC", "tag 0 7, broken at 2")
	f("b", "2CT", "tag 0 7, broken at 2") // somebody began a transaction
	f("b", "2CD", "tag 0 7, broken at 2")
	f("b", "EE", "broken at 1")
	f("b", "E2", "broken at 1")
	f("b", "EC", "broken at 1")
	f("b", "ET", "broken at 1")
	f("b", "2t", "broken at 1")
	f("b", "2I", "broken at 1") // the empty query
	f("b", "2s", "broken at 1") // a suspended portal
	f("b", "2G", "broken at 1") // COPY
	f("b", "R", "broken at 0")
}

func TestNothingIsExpectedOfAQuietLane(t *testing.T) {
	f := func(kind byte) {
		t.Helper()
		var p pipeline
		if _, err := p.frame(kind, []byte("I")); err == nil {
			t.Errorf("%q was taken", kind)
		}
	}
	for _, kind := range "12CDZtT" {
		f(byte(kind))
	}
	var p pipeline
	if err := p.failed(&queue.SQLError{}); !errors.Is(err, errStrayError) {
		t.Error(err)
	}
}

func TestAMalformedBodyBreaksTheLane(t *testing.T) {
	f := func(kinds string, bodies ...string) {
		t.Helper()
		var p pipeline
		var h heard
		p.begin(&h, 0, []bool{false})
		for i := range bodies {
			_, err := p.frame(kinds[i], []byte(bodies[i]))
			if last := i == len(bodies)-1; last != errors.Is(err, errFrameBody) {
				t.Errorf("%s %q: %v", kinds, bodies, err)
			}
		}
	}
	f("2D", "", "\x00\x01\x00")
	f("2C", "", "SELECT 1")
	f("2CZ", "", "SELECT 1\x00", "")
	f("2CZ", "", "SELECT 1\x00", "II")
}

func TestADroppedStepIsForgotten(t *testing.T) {
	var p pipeline
	p.begin(&heard{}, 0, []bool{false, false})
	p.drop()
	if p.busy() {
		t.Error("the step is still in flight")
	}
	p.begin(nil, 0, nil)
	if ready, err := p.frame('Z', []byte("I")); !ready || err != nil {
		t.Error(ready, err)
	}
}

func TestASecondStepInFlightIsABug(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it was taken")
		}
	}()
	var p pipeline
	p.begin(&heard{}, 0, []bool{false})
	p.begin(&heard{}, 0, []bool{false})
}
