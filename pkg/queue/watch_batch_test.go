package queue

import (
	"strings"
	"testing"
)

// A tell and a check that begins want the flags; all that want them in one step share one
// look. What was read before does not stay.
func TestTheFlagsAreReadOnceForAllWhoAsk(t *testing.T) {
	b := NewWatchBatch()
	tell := &Op{Watch: WatchRequest{Kind: WatchTell, Since: "1:1:"}}
	begins := &Op{Watch: WatchRequest{Kind: WatchCheck}}
	goesOn := &Op{Watch: WatchRequest{Kind: WatchCheck, Since: "1:1:", Flags: Flags{true, true, true}}}
	for _, op := range []*Op{goesOn, tell, begins} {
		op.Done = ignored{}
		b.Add(op)
	}
	at, names := -1, []string{}
	for i, st := range b.Step(0) {
		names = append(names, st.Name)
		if st.Name == "system_state_read" {
			at = i
		}
	}
	if got := strings.Join(names, " "); got != "watch_lax watch_check watch_here system_state_read" && got != "watch_check watch_lax watch_here system_state_read" {
		t.Fatal(got)
	}
	b.Row(at, [][]byte{{1}, {0}})
	b.StepDone(nil, 0)
	for _, op := range []*Op{tell, begins} {
		if op.Watch.Flags != (Flags{Push: true, Known: true}) {
			t.Errorf("kind %d hears %+v", op.Watch.Kind, op.Watch.Flags)
		}
	}
	if goesOn.Watch.Flags.Known {
		t.Error("one that did not ask hears them")
	}
}

type ignored struct{}

func (ignored) OpDone(*Op) {}
