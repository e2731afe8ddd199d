package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

func TestMemoryIsGivenBackAfterABurstAndOnlyThen(t *testing.T) {
	var now heap
	freed, rests := 0, uint64(3<<20)
	tr := &trimmer{low: 8 << 20, read: func() heap { return now }, free: func() {
		freed++
		now = heap{held: rests, collections: now.collections + 3}
	}}
	look := func(held, collections uint64, want int) {
		t.Helper()
		now = heap{held: held, collections: collections}
		tr.look()
		if freed != want {
			t.Errorf("%d bytes after %d collections: freed %d times, not %d", held, collections, freed, want)
		}
	}
	look(8<<20+trimBytes, 0, 0)
	look(100<<20, 1, 0) // the collector is at it
	look(100<<20, 2, 0)
	look(100<<20, 2, 1)
	look(3<<20+trimBytes, 5, 1) // beyond what was left, and not by enough
	look(4<<20+trimBytes, 5, 2)
	if n := tr.n.Load(); n != 2 {
		t.Errorf("it counts %d", n)
	}
}

// Memory that is used cannot be given back; to try costs a collection each time.
func TestATrimmerThatFindsLittleRests(t *testing.T) {
	var now heap
	freed, rests := 0, uint64(100<<20)
	tr := &trimmer{low: 8 << 20, read: func() heap { return now }, free: func() {
		freed++
		now.held = rests
	}}
	until := func(n int) (looks int) {
		for freed < n {
			now.held = 100 << 20
			tr.look()
			if looks++; looks > 100 {
				t.Fatal("it never frees")
			}
		}
		return looks
	}
	var looks []int
	for n := 1; n <= 7; n++ {
		looks = append(looks, until(n))
	}
	if want := []int{1, 2, 4, 8, 16, 1 + trimRestMax, 1 + trimRestMax}; !slices.Equal(looks, want) {
		t.Errorf("after %v looks, not %v", looks, want)
	}
	// Another burst is not what it rests from.
	now.held = 101<<20 + trimBytes
	if tr.look(); freed != 8 || tr.rest != 0 {
		t.Errorf("after another burst it freed %d times, and rests for %d", freed, tr.rest)
	}
	if until(9); tr.rest == 0 {
		t.Error("it does not rest after a time that gave back little")
	}
	rests = 20 << 20 // now it is not used any more
	if until(10); tr.rest != 0 {
		t.Error("it rests after a time that was worth it")
	}
	if looks := until(11); looks != 1 {
		t.Errorf("it frees after %d looks", looks)
	}
}

func TestTheTrimmerSeesTheHeap(t *testing.T) {
	forgot := false
	var burst []byte
	tr := newTrimmer(func() { forgot, burst = true, nil })
	burst = make([]byte, 4*trimBytes)
	for i := range burst {
		burst[i] = 1
	}
	runtime.KeepAlive(burst)
	before := tr.read()
	tr.last = before
	tr.look()
	if after := tr.read(); !forgot || tr.n.Load() != 1 || after.held+3*trimBytes > before.held || after.collections == before.collections {
		t.Errorf("%+v, then %+v", before, tr.read())
	}
}

// Who keeps memory for later lets go of it: lanes, of whose batches each has had one of three
// large requests, and routers, which have had many smaller ones at once.
func TestAProcessIsAsSmallAfterABurstAsBefore(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	held := func() (bytes float64) {
		for line := range strings.Lines(metricsOf(p)) {
			if n, _ := fmt.Sscanf(line, "go_memstats_heap_inuse_bytes %g", &bytes); n == 1 {
				return bytes
			}
		}
		t.Fatal("there is no such metric")
		return 0
	}
	p.put(t, `{"queue":"q","payload":0}`)
	before := held()
	item := `{"queue":"q","payload":"` + strings.Repeat("x", 1000) + `"},`
	items := func(n int) string { return strings.TrimSuffix(strings.Repeat(item, n), ",") }
	for range 3 {
		p.put(t, items(3000))
	}
	locker, err := pgx.Connect(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close(context.Background())
	lock := func(sql string) {
		if _, err := locker.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	lock("BEGIN; LOCK queen.messages IN SHARE MODE") // until all are there
	var all []net.Conn
	for range 200 {
		c, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		body := `{"items":[` + items(50) + `]}`
		fmt.Fprintf(c, "POST /api/v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		all = append(all, c)
	}
	lock("COMMIT")
	for _, c := range all {
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != 201 {
			t.Fatal(answer, err)
		}
		c.Close()
	}
	// To ask more often would keep the collector at work, which the trimmer waits for.
	for limit := time.Now().Add(neverHangs); held() > before+2<<20; time.Sleep(time.Second) {
		if time.Now().After(limit) {
			t.Fatalf("%.0f bytes before, %.0f long after\n%s", before, held(), metricsOf(p))
		}
	}
}
