package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/bench/load"
	"github.com/queend/queend/bench/proc"
)

func TestAMetricIsReadByItsWholeName(t *testing.T) {
	text := []byte("# TYPE go_memstats_mallocs_total counter\ngo_memstats_mallocs_total_more 1\ngo_memstats_mallocs_total 1.234567e+06\n" +
		`batch_sum{lane="pop"} 1` + "\n" + `batch_sum{lane="push"} 2` + "\n")
	if v, err := metric(text, "go_memstats_mallocs_total"); err != nil || v != 1234567 {
		t.Fatalf("%v, %v", v, err)
	}
	if v, err := metric(text, `batch_sum{lane="push"}`); err != nil || v != 2 {
		t.Fatalf("%v, %v", v, err)
	}
	if _, err := metric(text, "go_memstats_mallocs"); err == nil {
		t.Fatal("half a name is a name")
	}
}

func TestAnsweredAndStoredAreComparedOneToOne(t *testing.T) {
	f := func(answered, stored string, missing, untold int64) {
		t.Helper()
		var a []load.ID
		var s [][16]byte
		for _, c := range []byte(answered) {
			a = append(a, load.ID{c})
		}
		for _, c := range []byte(stored) {
			s = append(s, [16]byte{c})
		}
		if m, u := compare(a, s); m != missing || u != untold {
			t.Fatalf("answered %q, stored %q: %d missing, %d untold", answered, stored, m, u)
		}
	}
	f("", "", 0, 0)
	f("abc", "cba", 0, 0)
	f("abc", "ab", 1, 0)
	f("ab", "abc", 0, 1)
	f("aab", "abc", 1, 1) // one row answered for two messages
	f("ab", "aab", 0, 1)  // one message stored twice
}

func TestMediansAreTakenFromTheMiddle(t *testing.T) {
	f := func(want float64, of ...float64) {
		t.Helper()
		if got := median(of); got != want {
			t.Fatalf("median%v = %v", of, got)
		}
	}
	f(0)
	f(3, 3)
	f(2, 3, 1)
	f(2, 1, 9, 2)
	f(2.5, 4, 1, 3, 2)
}

func TestNumbersAreReadBetweenCommas(t *testing.T) {
	f := func(text string, want ...int) {
		t.Helper()
		var l intList
		if err := l.Set(text); (err == nil) != (want != nil) || want != nil && !slices.Equal(l, want) {
			t.Fatalf("%q: %v, %v", text, l, err)
		}
	}
	f("1,64,256", 1, 64, 256)
	f("7", 7)
	f("")
	f("0")
	f("1,")
	f("x")
}

// measured is two rounds in which push carries 10,000 and 12,000, and the pools
// less.
func measured() []Cell {
	var cells []Cell
	for round := range 2 {
		add := func(arm string, pool int, rate float64) {
			cells = append(cells, Cell{Arm: arm, Pool: pool, Generator: "closed", Connections: 64, Round: round,
				Rate: rate, P50: 1e8 / rate, P99: 2e8 / rate, ServerCPU: 1e5 / rate, PostgresCPU: 2e5 / rate})
		}
		add(armLoop, 0, float64(10000+2000*round))
		add(armLegacy, 16, 2000)
		add(armLegacy, 32, 2500)
		add(armBaseline, 16, 1000)
	}
	return append(cells, Cell{Arm: armLegacy, Pool: 16, Generator: "wrk", Connections: 64, Rate: 9000})
}

func TestTheBestPoolIsTheOneThatCarriedMost(t *testing.T) {
	f := func(arm string, connections, want int) {
		t.Helper()
		if got := bestPool(measured(), arm, connections); got != want {
			t.Fatalf("%s at %d: a pool of %d", arm, connections, got)
		}
	}
	f(armLoop, 64, 0)
	f(armLegacy, 64, 32)
	f(armBaseline, 64, 16)
	f(armBaseline, 256, 0)
}

func TestRoundsOfOneArmMakeOneRow(t *testing.T) {
	all := rows(measured())
	if len(all) != 5 {
		t.Fatalf("%d rows", len(all))
	}
	if r := all[0]; len(r) != 2 || r[0].Arm != armLoop || r.median(rate) != 11000 {
		t.Fatalf("%+v", r)
	}
	if last := all[4]; last[0].Generator != "wrk" {
		t.Fatalf("%+v", last)
	}
}

func TestTheTableSaysRatiosWithinRounds(t *testing.T) {
	var out bytes.Buffer
	r := &Report{Cells: measured(), Machine: proc.ThisMachine(), Commit: strings.Repeat("ab", 20), PostgreSQL: PostgreSQL{Version: "PostgreSQL 15"}}
	r.Table(&out)
	for _, want := range []string{
		"push / push-legacy (pool of 32), 64 connections: messages 4.40 (4.00-4.80)",
		"push / net/http+pgxpool (pool of 16), 64 connections: messages 11.00 (10.00-12.00)",
		"10000-12000",
		"commit abababababab",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, &out)
		}
	}
}

func TestAServerThatLosesMessagesHasNoFigures(t *testing.T) {
	f := func(c Cell, ok bool) {
		t.Helper()
		if err := (&Report{Cells: []Cell{c}}).verdict(); (err == nil) != ok {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	f(Cell{}, true)
	f(Cell{Missing: 1}, false)
	f(Cell{Untold: 1}, false)
	f(Cell{Refused: 1, Refusal: "503"}, true)
	f(Cell{Refused: 1, Untold: 1}, true) // given up in flight, and committed after all
	f(Cell{Refused: 1, Missing: 1}, false)
	f(Cell{Twice: 1}, false)
	f(Cell{Refused: 1, PopBatch: 10, Twice: 10}, true) // given up in flight, and they came again
	f(Cell{Refused: 1, PopBatch: 10, Twice: 11}, false)
	f(Cell{Refused: 1, Lost: 1}, false)
	f(Cell{Generator: "wrk", Connections: 64, Untold: 64}, true)
	f(Cell{Generator: "wrk", Connections: 64, Untold: 65}, false)
	f(Cell{Generator: "wrk", Connections: 64, Missing: 1}, false)
}

func TestCostsAreSharedByTheMessages(t *testing.T) {
	c := Cell{Messages: 1000}
	c.costs(probe{counts: counts{mallocs: 5000, batches: 10, batched: 50}, scrape: 300, wal: 100},
		probe{counts: counts{mallocs: 7300, batches: 50, batched: 1050}, wal: 600100, postgres: 50 * time.Millisecond}, 10*time.Millisecond)
	if c.Allocations != 2 || c.PerCommit != 25 || c.WALBytes != 600 || c.PostgresCPU != 50 || c.GeneratorCPU != 10 {
		t.Fatalf("%+v", c)
	}
	none := Cell{}
	none.costs(probe{}, probe{}, 0) // nothing answered: no division by zero
	if _, err := json.Marshal(none); err != nil {
		t.Fatal(err)
	}
}

// Where a server serves its profiles, they say what it has allocated: the metrics are late.
func TestAllocationsAreReadWhereTheyAreExact(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics/prometheus" {
			fmt.Fprint(w, "go_memstats_mallocs_total 42\nqueend_batch_messages_count{lane=\"push\"} 7\n")
		} else {
			fmt.Fprint(w, "# Alloc = 1\n# Mallocs = 43\n")
		}
	}))
	defer s.Close()
	at := s.Listener.Addr().String()
	for profiles, want := range map[string]float64{"": 42, at: 43} {
		if c, err := (&server{addr: at, profiles: profiles}).counts(context.Background()); err != nil || c.mallocs != want || c.batches != 7 {
			t.Errorf("profiles at %q: %+v, %v", profiles, c, err)
		}
	}
}

func TestAFetchWithAnotherStatusIsAnError(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics/prometheus" {
			w.WriteHeader(503)
			return
		}
		fmt.Fprintln(w, "go_memstats_mallocs_total 42")
	}))
	defer s.Close()
	up := &server{addr: s.Listener.Addr().String()}
	if c, err := up.counts(context.Background()); err != nil || c.mallocs != 42 || c.batches != 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := up.get(context.Background(), "/health"); err == nil {
		t.Fatal("503 is no error")
	}
}

func TestAGoalIsHeldAgainstTheMedian(t *testing.T) {
	f := func(met bool, relation string, values ...float64) {
		t.Helper()
		var all Figures
		for _, v := range values {
			all.goal(v, "x", relation, 1)
		}
		if got := all.Goals[0].Met(); got != met {
			t.Fatalf("%v %s 1: met %v", values, relation, got)
		}
	}
	f(true, "≤", 0.9, 0.8, 3)
	f(false, "≤", 1.1)
	f(true, "≤", 1)
	f(true, "≥", 1)
	f(true, "≥", 0.5, 1.2, 1.3)
	f(false, "≥", 0.9)
}

func TestAGoalOfEachRoundIsHeldAgainstTheWorst(t *testing.T) {
	f := func(met, atLeast bool, values ...float64) {
		t.Helper()
		if got := (&Goal{Bound: 1, AtLeast: atLeast, Each: true, Values: values}).Met(); got != met {
			t.Fatalf("%v: met %v", values, got)
		}
	}
	f(true, false, 0.9, 1, 0.2)
	f(false, false, 0.9, 1.1, 0.2)
	f(true, true, 1, 1.1, 3)
	f(false, true, 0.9, 1.1, 3)
	f(false, true)
}

func TestTheNumberOfAMessageIsRead(t *testing.T) {
	f := func(body string, want int) {
		t.Helper()
		if got := messageNumber([]byte(body)); got != want {
			t.Fatalf("%s: %d, not %d", body, got, want)
		}
	}
	f(`{"messages":[{"createdAt":"x","data":{"i":17,"n":"0"},"id":"y"}]}`, 17)
	f(`{"messages":[]}`, -1)
	f(`{"data":{"i":x,`, -1)
}

func TestWhatCameIsComparedWithTheTableInOrder(t *testing.T) {
	// Partition a holds messages 1 2 3, partition b holds 7 8.
	all := []stored{{[16]byte{'a'}, [16]byte{'1'}}, {[16]byte{'a'}, [16]byte{'2'}}, {[16]byte{'a'}, [16]byte{'3'}}, {[16]byte{'b'}, [16]byte{'7'}}, {[16]byte{'b'}, [16]byte{'8'}}}
	f := func(ok, turns bool, answers ...string) {
		t.Helper()
		var came []delivered
		for _, answer := range answers {
			var d delivered
			for _, id := range []byte(answer) {
				partition := load.ID{'a'}
				if id > '3' {
					partition = load.ID{'b'}
				}
				d.list = append(d.list, load.Delivery{ID: load.ID{id}, Partition: partition})
			}
			came = append(came, d)
		}
		if err := onceInOrder(all, came, turns); (err == nil) != ok {
			t.Fatalf("%q, turns %v: %v", answers, turns, err)
		}
	}
	f(true, true, "12", "78", "3")
	f(true, true, "12378")
	f(true, false, "3", "78", "12") // answers may overtake each other
	f(false, true, "3", "78", "12")
	f(false, false, "13", "2", "78")
	f(false, false, "21", "3", "78")
	f(false, true, "12", "78")
	f(false, false, "12", "78")
	f(false, true, "12", "23", "78")
	f(false, false, "12", "23", "78")
	f(false, false, "12", "3", "78", "9")
}
