package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// maintained is a world whose process knows flags, and has a file buffer.
type maintained struct {
	*adminWorld
	push, pop bool
	buffer    BufferStatus
}

func newMaintained(t *testing.T, queens bool) *maintained {
	w := &maintained{adminWorld: newAdminWorld(t, queens), buffer: BufferStatus{Healthy: true, DatabaseHealthy: true}}
	w.router.Offload = func(work func() []byte, then func([]byte)) {
		go func() {
			result := work()
			w.posts <- func() { then(result) }
		}()
	}
	w.router.Maintenance = func() (bool, bool) { return w.push, w.pop }
	w.router.SetMaintenance = func(push, pop *bool) {
		if push != nil {
			w.push = *push
		}
		if pop != nil {
			w.pop = *pop
		}
	}
	w.router.Buffer = func() BufferStatus { return w.buffer }
	return w
}

// The bodies that Queen answers with. (It has none recorded for pops that are stopped.)
const (
	goldenShow    = `{"bufferHealthy":true,"bufferStats":{"dbHealthy":true,"failedCount":0,"failedFiles":{"count":0,"failoverCount":0,"qos0Count":0,"totalBytes":0,"totalMB":0.0},"pendingCount":0},"bufferedMessages":0,"maintenanceMode":false,"popMaintenanceMode":false}`
	goldenShowOn  = `{"bufferHealthy":true,"bufferStats":{"dbHealthy":true,"failedCount":0,"failedFiles":{"count":0,"failoverCount":0,"qos0Count":0,"totalBytes":0,"totalMB":0.0},"pendingCount":2},"bufferedMessages":2,"maintenanceMode":true,"popMaintenanceMode":false}`
	goldenPoison  = `{"bufferHealthy":false,"bufferStats":{"dbHealthy":false,"failedCount":18,"failedFiles":{"count":1,"failoverCount":1,"qos0Count":0,"totalBytes":1259,"totalMB":0.0012006759643554688},"pendingCount":6},"bufferedMessages":6,"maintenanceMode":false,"popMaintenanceMode":false}`
	goldenOn      = `{"bufferHealthy":true,"bufferedMessages":0,"maintenanceMode":true,"message":"Maintenance mode ENABLED. All PUSHes routing to file buffer."}`
	goldenOff     = `{"bufferHealthy":true,"bufferedMessages":2,"maintenanceMode":false,"message":"Maintenance mode DISABLED. Background processor will drain buffer to DB."}`
	goldenBad     = `{"error":"enabled (boolean) is required"}`
	goldenPopShow = `{"message":"Pop maintenance mode is OFF. Normal operation.","popMaintenanceMode":false}`
	goldenPopOn   = `{"message":"Pop maintenance mode ENABLED. All POP operations will return empty arrays.","popMaintenanceMode":true}`
	goldenPopOff  = `{"message":"Pop maintenance mode DISABLED. Normal operation resumed.","popMaintenanceMode":false}`
	popShowOn     = `{"message":"Pop maintenance mode is ON. All POP operations return empty arrays.","popMaintenanceMode":true}`
)

const (
	pushPath = "/api/v1/system/maintenance"
	popPath  = "/api/v1/system/maintenance/pop"
)

func TestMaintenanceIsSetAndShownAsQueenDoes(t *testing.T) {
	for _, queens := range []bool{false, true} {
		t.Run(fmt.Sprint("taken over ", queens), func(t *testing.T) {
			w := newMaintained(t, queens)
			w.says("GET", pushPath, "", 200, goldenShow)
			w.says("GET", popPath, "", 200, goldenPopShow)
			w.says("POST", pushPath, `{"enabled":true}`, 200, goldenOn)
			w.buffer.Buffered, w.buffer.Pending = 2, 2
			w.says("GET", pushPath, "", 200, goldenShowOn)
			w.says("HEAD", pushPath, "", 200, goldenShowOn) // the loop leaves the body out
			if !w.push || w.pop {
				t.Errorf("the process knows %v %v", w.push, w.pop)
			}
			w.says("POST", popPath, `{"enabled":true}`, 200, goldenPopOn)
			w.says("GET", popPath, "", 200, popShowOn)
			w.says("POST", pushPath, `{"enabled":false}`, 200, goldenOff)
			if w.push || !w.pop {
				t.Errorf("the process knows %v %v", w.push, w.pop)
			}
			w.holds(`SELECT key, value FROM queen.system_state WHERE key LIKE '%maintenance_mode' ORDER BY key`, `maintenance_mode|{"enabled": false}`, `pop_maintenance_mode|{"enabled": true}`)
			w.says("POST", popPath, ` { "enabled" : false , "by" : "me" } `, 200, goldenPopOff)
			w.buffer = BufferStatus{Buffered: 6, Pending: 6, Failed: 18, FailedFiles: 1, FailedBytes: 1259}
			w.says("GET", pushPath, "", 200, goldenPoison)
		})
	}
}

func TestWhatIsNoFlagSetsNone(t *testing.T) {
	w := newMaintained(t, false)
	for _, path := range []string{pushPath, popPath} {
		f := func(body string, status int, answer string) {
			t.Helper()
			w.says("POST", path, body, status, answer)
		}
		f(`{"enabled":"yes"}`, 400, goldenBad)
		f(`{"enabled":1}`, 400, goldenBad)
		f(`{"enabled":null}`, 400, goldenBad)
		f(`{"enabled":[true]}`, 400, goldenBad)
		f(`{"Enabled":true}`, 400, goldenBad)
		f(`{}`, 400, goldenBad)
		f(`[true]`, 400, goldenBad)
		f(`true`, 400, goldenBad)
		f(``, 400, `{"error":"Empty request body"}`)
		f(`{"enabled":`, 400, `{"error":"Invalid JSON: unexpected end of JSON input"}`)
		f(`{"enabled":TRUE}`, 400, `{"error":"Invalid JSON: invalid character 'T' looking for beginning of value"}`)
	}
	w.holds(`SELECT key FROM queen.system_state WHERE key LIKE '%maintenance_mode'`)
	if w.push || w.pop {
		t.Error("the process knows one")
	}
	if x := w.ask("PUT", pushPath, `{"enabled":true}`); x.status != 405 || !strings.Contains(x.header, "Allow: GET, HEAD, POST, OPTIONS\r\n") {
		t.Errorf("PUT: %d %q", x.status, x.header)
	}
}

// The database may say anything; what is no flag is off, and never an error.
func TestWhatTheDatabaseHoldsIsShownAfresh(t *testing.T) {
	w := newMaintained(t, false)
	f := func(value string, on bool) {
		t.Helper()
		w.sql(`INSERT INTO queen.system_state (key, value) VALUES ('pop_maintenance_mode', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, value)
		want := goldenPopShow
		if on {
			want = popShowOn
		}
		w.says("GET", popPath, "", 200, want)
	}
	f(`{"enabled":true}`, true)
	f(`{"enabled":true,"since":"today"}`, true)
	for _, value := range []string{`{"enabled":false}`, `{"enabled":null}`, `{"enabled":"true"}`, `{"enabled":1}`, `{"enabled":{}}`, `{}`, `[]`, `["enabled"]`, `[{"enabled":true}]`, `true`, `"enabled"`, `1`, `null`} {
		f(value, false)
	}
	w.sql(`DELETE FROM queen.system_state`)
	w.says("GET", pushPath, "", 200, goldenShow)
	if w.push || w.pop {
		t.Error("to look is not to set")
	}
}

// While PostgreSQL is away nothing is changed, and what the process knows is shown.
func TestWithoutPostgreSQLFlagsAreShownAndNotSet(t *testing.T) {
	f := func(what string, away func(w *maintained)) {
		t.Helper()
		w := newMaintained(t, false)
		away(w)
		w.push, w.pop = true, true
		w.buffer = BufferStatus{Healthy: true, Buffered: 3, Pending: 4}
		w.says("GET", pushPath, "", 200, `{"bufferHealthy":true,"bufferStats":{"dbHealthy":false,"failedCount":0,"failedFiles":{"count":0,"failoverCount":0,"qos0Count":0,"totalBytes":0,"totalMB":0.0},"pendingCount":4},"bufferedMessages":3,"maintenanceMode":true,"popMaintenanceMode":true}`)
		w.says("GET", popPath, "", 200, popShowOn)
		for _, path := range []string{pushPath, popPath} {
			if x := w.ask("POST", path, `{"enabled":false}`); x.status != 503 || !strings.Contains(x.header, "Retry-After: 1\r\n") || !strings.HasPrefix(x.body, `{"error":"`) {
				t.Errorf("%s: POST %s: %d %q %s", what, path, x.status, x.header, x.body)
			}
			w.says("POST", path, `{"enabled":0}`, 400, goldenBad)
		}
		if !w.push || !w.pop {
			t.Errorf("%s: the process knows %v %v", what, w.push, w.pop)
		}
	}
	lost := func(work func(Session), done func(), w *maintained) bool {
		work(failing{errors.New("cannot reach PostgreSQL")})
		w.posts <- done
		return true
	}
	f("the loops know it", func(w *maintained) { w.connected = false })
	f("nobody knows it yet", func(w *maintained) {
		w.router.stores.Admin = func(_ time.Duration, work func(Session), done func()) bool { return lost(work, done, w) }
	})
	f("too many ask", func(w *maintained) {
		w.router.stores.Admin = func(time.Duration, func(Session), func()) bool { return false }
	})
	f("it was not there at the start", func(w *maintained) { w.router.stores = nil })
}

// PostgreSQL hangs, and nobody has noticed yet.
func TestFlagsAreShownWhenPostgreSQLDoesNotAnswer(t *testing.T) {
	w := newMaintained(t, false)
	w.router.Deadline, w.pop = time.Millisecond, true
	release := make(chan struct{})
	w.router.stores.Admin = func(_ time.Duration, work func(Session), done func()) bool {
		go func() {
			<-release
			work(failing{errors.New("cannot reach PostgreSQL")})
			w.posts <- done
		}()
		return true
	}
	w.says("GET", popPath, "", 200, popShowOn)
	close(release)
	w.turn()
}

// What PostgreSQL does not do in time is not done, and not done later either.
func TestAFlagThatCannotBeSetInTimeIsNotSet(t *testing.T) {
	w := newMaintained(t, false)
	for _, path := range []string{pushPath, popPath} {
		w.says("POST", path, `{"enabled":false}`, 200, map[string]string{pushPath: strings.Replace(goldenOff, ":2", ":0", 1), popPath: goldenPopOff}[path])
	}
	w.router.Deadline = time.Millisecond // the bound of a change is its own
	w.sql(`BEGIN`)
	w.sql(`LOCK TABLE queen.system_state`)
	for _, path := range []string{pushPath, popPath} {
		x := w.says("POST", path, `{"enabled":true}`, 503, `{"error":"PostgreSQL does not answer, try again in a second"}`)
		if !strings.Contains(x.header, "Retry-After: 1\r\n") {
			t.Errorf("%q", x.header)
		}
	}
	w.sql(`COMMIT`)
	w.holds(`SELECT DISTINCT value FROM queen.system_state WHERE key LIKE '%maintenance_mode'`, `{"enabled": false}`)
	if w.push || w.pop {
		t.Errorf("the process knows %v %v", w.push, w.pop)
	}
}

// Whether it was committed is the database's to say: the process does not believe that it was.
func TestAFlagThatMayBeSetIsNotBelieved(t *testing.T) {
	w := newMaintained(t, false)
	w.router.stores.Admin = func(_ time.Duration, work func(Session), done func()) bool {
		work(failing{inDoubt{}})
		w.posts <- done
		return true
	}
	for _, path := range []string{pushPath, popPath} {
		x := w.says("POST", path, `{"enabled":true}`, 503, `{"error":"PostgreSQL does not answer, try again in a second; it may have been done"}`)
		if !strings.Contains(x.header, "Retry-After: 1\r\n") {
			t.Errorf("%q", x.header)
		}
	}
	if w.push || w.pop {
		t.Errorf("the process knows %v %v", w.push, w.pop)
	}
}

func TestWhatIsInTheBufferIsShownWithoutPostgreSQL(t *testing.T) {
	w := newWorld()
	f := func(answer string) {
		t.Helper()
		if x := w.send(t, "GET", "/api/v1/status/buffers", ""); x.replies != 1 || x.status != 200 || x.body != answer {
			t.Errorf("%d %s", x.status, x.body)
		}
	}
	f(`{"dbHealthy":true,"failed":0,"pending":0,"worker":0,"bytes":0,"drainRatePerSecond":0.0,"drainedTotal":0,"keyMissing":false,"oldestAgeMs":0}`)
	w.connected, w.router.stores = false, nil
	f(`{"dbHealthy":false,"failed":0,"pending":0,"worker":0,"bytes":0,"drainRatePerSecond":0.0,"drainedTotal":0,"keyMissing":false,"oldestAgeMs":0}`)
	w.router.Buffer = func() BufferStatus {
		return BufferStatus{DatabaseHealthy: true, Failed: 1, Pending: 6, Bytes: 1 << 40, OldestAge: 1500 * time.Millisecond, Drained: 12, DrainRate: 2.5, KeyMissing: true}
	}
	f(`{"dbHealthy":true,"failed":1,"pending":6,"worker":0,"bytes":1099511627776,"drainRatePerSecond":2.5,"drainedTotal":12,"keyMissing":true,"oldestAgeMs":1500}`)
}
