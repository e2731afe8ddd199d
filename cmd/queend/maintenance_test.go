package main

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queend/queend/pkg/admindb"
	"github.com/queend/queend/pkg/postgres/postgrestest"
)

const (
	popMaintenance = "/api/v1/system/maintenance/pop"
	nothingPaused  = `{"messages":[],"paused":true}`
)

// stopsPops waits until a process has heard that pops are stopped, or that they go on. It
// looks where nothing ever is.
func (p *process) stopsPops(stopped bool) {
	p.t.Helper()
	for limit := time.Now().Add(neverHangs); ; time.Sleep(5 * time.Millisecond) {
		got := p.pop("/queue/empty?wait=false")
		if (got.text == nothingPaused) == stopped {
			return
		}
		if time.Now().After(limit) {
			p.t.Fatalf("stopped %v: a pop hears %s", stopped, got.text)
		}
	}
}

// A flag that one process sets holds for all on the database, those that start later
// included, and whoever waits is served when it is taken back.
func TestPopsAreStoppedForAllProcessesAndGoOn(t *testing.T) {
	db := postgrestest.Database(t)
	a, b := start(t, "DATABASE_URL="+db, "NUM_WORKERS=2"), start(t, "DATABASE_URL="+db, "NUM_WORKERS=2")
	held := make(chan popped, 3)
	wait := func(p *process, path string) { held <- p.pop(path + "wait=true&timeout=100000&autoAck=true") }
	go wait(b, "/queue/q/partition/p?") // parked before
	for limit := time.Now().Add(neverHangs); !strings.Contains(metricsOf(b), "queend_pops_parked 1\n"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it is not parked")
		}
	}

	a.says("POST", popMaintenance, `{"enabled":true}`, 200, `{"message":"Pop maintenance mode ENABLED. All POP operations will return empty arrays.","popMaintenanceMode":true}`)
	a.says("GET", "/api/v1/pop/queue/empty", "", 200, nothingPaused) // at once
	a.stopsPops(true)
	b.stopsPops(true)
	for _, partition := range []string{"p", "p2", "p3"} {
		a.put(t, `{"queue":"q","partition":"`+partition+`"}`)
	}
	go wait(a, "/queue/q/partition/p2?")
	go wait(b, "/queue/q/partition/p3?")
	c := start(t, "DATABASE_URL="+db) // whose first pop is this:
	c.says("GET", "/api/v1/pop/queue/q", "", 200, nothingPaused)
	for _, p := range []*process{a, b, c} {
		p.says("GET", popMaintenance, "", 200, `{"message":"Pop maintenance mode is ON. All POP operations return empty arrays.","popMaintenanceMode":true}`)
		for _, path := range []string{"/queue/q?", "/queue/q/partition/p?", "?namespace=q&"} {
			p.says("GET", "/api/v1/pop"+path+"wait=true&timeout=200&autoAck=true", "", 200, nothingPaused)
		}
	}
	select {
	case got := <-held:
		t.Fatalf("one that waits hears %s", got.text)
	default:
	}
	// It is stopped while it holds one: the client hears so and is not kept waiting.
	go func() { held <- c.pop("/queue/q?wait=true&timeout=100000") }()
	for limit := time.Now().Add(neverHangs); !strings.Contains(metricsOf(c), "queend_pops_parked 1\n"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it is not held")
		}
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if got := <-held; got.text != nothingPaused {
		t.Errorf("when its process is stopped, a held pop hears %d %s", got.status, got.text)
	}

	b.says("POST", popMaintenance, `{"enabled":false}`, 200, `{"message":"Pop maintenance mode DISABLED. Normal operation resumed.","popMaintenanceMode":false}`)
	for range 3 {
		if got := <-held; len(got.Messages) != 1 {
			t.Errorf("when pops go on: %s", got.text)
		}
	}
	a.stopsPops(false)
	a.says("GET", popMaintenance, "", 200, `{"message":"Pop maintenance mode is OFF. Normal operation.","popMaintenanceMode":false}`)
	sound(t, db)
}

// PostgreSQL hangs, and nobody has noticed: whoever changes the mode hears so all the same.
// What is in the database when it goes on is what all processes see.
func TestAChangeOfMaintenanceModeIsAnsweredWhilePostgreSQLHangs(t *testing.T) {
	server := postgrestest.Own(t, nil)
	db := server.URL("postgres")
	a, b := start(t, "DATABASE_URL="+db, "DB_FAILOVER_MS=2000"), start(t, "DATABASE_URL="+db)
	paths := []string{"/api/v1/system/maintenance", popMaintenance}
	type heard struct {
		status      int
		header      http.Header
		text        string
		path        string
		whileItHung bool
	}
	var hangs atomic.Bool
	for _, connected := range []bool{false, true} { // without a connection for it yet, and with some
		hangs.Store(true)
		if err := server.Pause(); err != nil {
			t.Fatal(err)
		}
		all := slices.Repeat(paths, admindb.ConnectionsDefault) // some have to wait for a connection
		answers := make(chan heard, len(all))
		for _, path := range all {
			go func() {
				status, header, text := a.ask("POST", path, `{"enabled":true}`)
				answers <- heard{status, header, text, path, hangs.Load()}
			}()
		}
		limit := time.AfterFunc(neverHangs/4, func() { hangs.Store(false); _ = server.Resume() })
		for range all {
			h := <-answers
			if !h.whileItHung || h.status != 503 || h.header.Get("Retry-After") != "1" || !strings.Contains(h.text, "PostgreSQL") {
				t.Errorf("connected %v, %s: %d Retry-After %q, %s, while PostgreSQL hung: %v", connected, h.path, h.status, h.header.Get("Retry-After"), h.text, h.whileItHung)
			}
		}
		limit.Stop()
		if err := server.Resume(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "PostgreSQL to be back", func() bool {
			status, _, _ := a.ask("POST", popMaintenance, `{"enabled":true}`)
			return status == 200
		})
		b.stopsPops(true)
		a.stopsPops(true)
		a.says("POST", popMaintenance, `{"enabled":false}`, 200, `{"message":"Pop maintenance mode DISABLED. Normal operation resumed.","popMaintenanceMode":false}`)
		b.stopsPops(false)
		a.stopsPops(false)
		a.says("GET", popMaintenance, "", 200, `{"message":"Pop maintenance mode is OFF. Normal operation.","popMaintenanceMode":false}`)
		if n := query[int](t, db, `SELECT count(*)::int FROM queen.system_state WHERE key = 'maintenance_mode' AND value -> 'enabled' = 'true'`); n != 0 {
			t.Error("a change was done of which nobody could know")
		}
	}
}
