package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/httpparse"
	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// exchange is a request whose answer is kept.
type exchange struct {
	parser  httpparse.Parser
	replies int
	status  int
	header  string
	body    string

	whenGone   func()
	whenHalf   func()
	gone, half bool
	expected   int
}

func (x *exchange) Request() *httpparse.Request { return &x.parser.Request }
func (x *exchange) RequestID() []byte           { return []byte("id-1") }
func (x *exchange) Accepted() time.Duration     { return time.Second }
func (x *exchange) OnHalfClosed(f func())       { x.whenHalf = f }
func (x *exchange) OnGone(f func())             { x.whenGone = f }
func (x *exchange) IsGone() bool                { return x.gone }
func (x *exchange) IsHalfClosed() bool          { return x.half }
func (x *exchange) Expect(bytes int)            { x.expected = bytes }
func (x *exchange) Reply(status int, header, body []byte, close bool) {
	x.replies++
	x.status, x.header, x.body = status, string(header), string(body)
}

// scripted is a store whose ops end the way a test says.
type scripted struct {
	ops []*queue.Op
	end func(*queue.Op)
}

func (s *scripted) Do(op *queue.Op) {
	s.ops = append(s.ops, op)
	if s.end != nil {
		s.end(op)
		op.Done.OpDone(op)
	}
}
func (s *scripted) Cancel(*queue.Op) {}

type world struct {
	router    *Router
	store     *scripted
	legacy    *scripted
	connected bool
	timings   []PushTiming
	work      []func()
}

func newWorld() *world {
	w := &world{store: &scripted{}, legacy: &scripted{}, connected: true}
	w.router = NewRouter(Services{
		Now:      func() time.Duration { return 3 * time.Second },
		Offload:  func(work func() []byte, then func([]byte)) { w.work = append(w.work, func() { then(work()) }) },
		Deadline: 2 * time.Second,
		Database: func() bool { return w.connected },
		Metrics:  func() ([]byte, error) { return []byte("queend_up 1\n"), nil },
		Timing:   func(t PushTiming) { w.timings = append(w.timings, t) },
		Version:  "1.2.3",
	})
	w.router.Open(Stores{
		Push: w.store, PushLegacy: w.legacy, Config: &queue.Config{},
		IDs: queue.NewIDs(func() int64 { return 1_700_000_000_000 }),
	})
	return w
}

func (w *world) send(t *testing.T, method, target, body string) *exchange {
	t.Helper()
	x := &exchange{}
	raw := method + " " + target + " HTTP/1.1\r\nHost: q\r\nContent-Length: " + itoa(len(body)) + "\r\n\r\n" + body
	if event, _, err := x.parser.Next([]byte(raw)); event != httpparse.Complete {
		t.Fatalf("%s %s: %v %v", method, target, event, err)
	}
	w.router.Serve(x)
	return x
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func TestARouteAnswersItsMethodsAndNoOthers(t *testing.T) {
	w := newWorld()
	f := func(method, target string, status int, header, body string) {
		t.Helper()
		x := w.send(t, method, target, "")
		if x.replies != 1 || x.status != status || !strings.Contains(x.header, header) || x.body != body {
			t.Errorf("%s %s: %d replies, %d %q %q", method, target, x.replies, x.status, x.header, x.body)
		}
	}
	f("OPTIONS", "/api/v1/push", 204, "Access-Control-Max-Age: 86400\r\n", "")
	f("OPTIONS", "/api/v1/push", 204, "Allow: POST, OPTIONS\r\n", "")
	f("OPTIONS", "*", 204, "", "")
	f("GET", "/livez", 200, "Content-Type: application/json\r\n", `{"status":"alive"}`)
	for _, pop := range []string{"/api/v1/pop", "/api/v1/pop/queue/q", "/api/v1/pop/queue/q/partition/p"} { // it takes something away
		f("HEAD", pop, 405, "Allow: GET, OPTIONS\r\n", `{"error":"this path does not take that method; see the Allow header"}`)
		f("PATCH", pop, 405, "Allow: GET, OPTIONS\r\n", `{"error":"this path does not take that method; see the Allow header"}`)
		f("OPTIONS", pop, 204, "Access-Control-Max-Age: 86400\r\nAllow: GET, OPTIONS\r\n", "")
	}
	f("HEAD", "/livez", 200, "", `{"status":"alive"}`) // the loop leaves the body out
	f("GET", "/api/v1/push", 405, "Allow: POST, OPTIONS\r\n", `{"error":"this path does not take that method; see the Allow header"}`)
	f("DELETE", "/health", 405, "Allow: GET, HEAD, OPTIONS\r\n", `{"error":"this path does not take that method; see the Allow header"}`)
	notFound := `{"error":"there is nothing at this path; the routes are listed in the README"}`
	f("GET", "/", 404, "", notFound)
	f("POST", "/api/v1/push/", 404, "", notFound)
	f("POST", "/api/v1/PUSH", 404, "", notFound)
	f("POST", "//api/v1/push", 404, "", notFound)
	f("POST", "/api/v1/%70ush", 404, "", notFound)
	f("POST", "/api/v1/push?x=1", 400, "", `{"error":"Empty request body"}`)
}

func TestAPushThatMakesNoSenseIsRefusedAndReachesNoStore(t *testing.T) {
	w := newWorld()
	f := func(body, want string) {
		t.Helper()
		for _, route := range []string{"/api/v1/push", "/api/v1/push-legacy"} {
			x := w.send(t, "POST", route, body)
			if x.replies != 1 || x.status != 400 || x.body != want {
				t.Errorf("%s: %d replies, %d %q", body, x.replies, x.status, x.body)
			}
		}
	}
	f(``, `{"error":"Empty request body"}`)
	f(`{}`, `{"error":"items array is required"}`)
	f(`[]`, `{"error":"items array is required"}`)
	f(`{"items":[{}]}`, `{"error":"Queue must be a string"}`)
	f(`{"items":[{"queue":"q","partition":null}]}`, `{"error":"Partition must be a string"}`)
	if len(w.store.ops)+len(w.legacy.ops) != 0 {
		t.Error("a refused push reached a store")
	}
	if got := w.router.Counters.Push.Refused.Load(); got != 5 {
		t.Errorf("%d refusals counted, want 5", got)
	}
}

func TestAnOutcomeBecomesItsStatus(t *testing.T) {
	w := newWorld()
	f := func(fault queue.Fault, status int, header, body string) {
		t.Helper()
		w.store.end = func(op *queue.Op) {
			op.Fault = fault
			for i := range op.Items {
				op.Items[i].Status, op.Items[i].WinnerID = queue.Queued, op.Items[i].ID
			}
		}
		x := w.send(t, "POST", "/api/v1/push", `{"items":[{"queue":"q","transactionId":"t"}]}`)
		if x.replies != 1 || x.status != status || !strings.Contains(x.header, header) || !strings.HasPrefix(x.body, body) {
			t.Errorf("%v: %d replies, %d %q %q", fault, x.replies, x.status, x.header, x.body)
		}
	}
	f(queue.Fault{}, 201, "application/json", `[{"index":0,"message_id":"`)
	f(queue.Fault{Code: queue.Invalid, Message: "no"}, 400, "application/json", `{"error":"no"}`)
	f(queue.Fault{Code: queue.TooLarge, Message: "no"}, 413, "application/json", `{"error":"no"}`)
	f(queue.Fault{Code: queue.Unavailable, Message: "no"}, 503, "Retry-After: 1\r\n", `{"error":"no"}`)
	f(queue.Fault{Code: queue.Overloaded, Message: "no"}, 503, "Retry-After: 1\r\n", `{"error":"no"}`)
	f(queue.Fault{Code: queue.Internal, Message: `"no"`}, 500, "application/json", `{"error":"\"no\""}`)
	if len(w.timings) != 6 || w.timings[0].Status != 201 || w.timings[0].Items != 1 || w.timings[0].Total != 2*time.Second || w.timings[0].Parse != 2*time.Second {
		t.Errorf("timings: %+v", w.timings)
	}
}

func TestAnAnswerMayComeLaterAndInAnyOrder(t *testing.T) {
	w := newWorld()
	a := w.send(t, "POST", "/api/v1/push", `{"items":[{"queue":"q","transactionId":"a"}]}`)
	b := w.send(t, "POST", "/api/v1/push", `{"items":[{"queue":"q","transactionId":"b"}]}`)
	if a.replies+b.replies != 0 {
		t.Fatal("answered before the store was done")
	}
	for _, i := range []int{1, 0} {
		op := w.store.ops[i]
		op.Items[0].Status, op.Items[0].WinnerID = queue.Queued, op.Items[0].ID
		if op.Deadline != 3*time.Second {
			t.Errorf("deadline %v", op.Deadline)
		}
		op.Done.OpDone(op)
	}
	if !strings.Contains(a.body, `"transaction_id":"a"`) || !strings.Contains(b.body, `"transaction_id":"b"`) {
		t.Errorf("%q %q", a.body, b.body)
	}
}

func TestAnEmptyPushIsAnEmptyArray(t *testing.T) {
	w := newWorld()
	if x := w.send(t, "POST", "/api/v1/push", `{"items":[]}`); x.status != 201 || x.body != "[]" || len(w.store.ops) != 0 {
		t.Errorf("%d %q", x.status, x.body)
	}
}

func TestPushesAreRefusedUntilTheRouterIsOpen(t *testing.T) {
	w := newWorld()
	w.router.stores = nil
	if x := w.send(t, "POST", "/api/v1/push", `{"items":[{"queue":"q"}]}`); x.status != 503 || !strings.Contains(x.header, "Retry-After: 1\r\n") {
		t.Errorf("%d %q", x.status, x.header)
	}
}

func TestABodyMayBeAsDeepInAnyRoute(t *testing.T) {
	deep := func(n int, within string) string {
		return strings.Repeat(`{"a":[`, n/2) + within + strings.Repeat("]}", n/2)
	}
	for text, want := range map[string]bool{
		deep(queue.DepthMax, `1`): false, deep(queue.DepthMax, `"[[{"`): false, deep(queue.DepthMax, `"\\\"[["`): false,
		deep(queue.DepthMax, `[]`): true, deep(queue.DepthMax, `"\\",[]`): true,
		`[` + strings.Repeat(`[{}],`, 600) + `1]`: false,
	} {
		if got := isDeep([]byte(text)); got != want || !json.Valid([]byte(text)) {
			t.Errorf("%s: %v", text, got)
		}
	}
	w := newWorld()
	if x := w.send(t, "POST", "/api/v1/configure", `{"queue":"q","x":`+deep(600, "1")+`}`); x.status != 400 || !strings.Contains(x.body, "nested more than 512 deep") {
		t.Errorf("%d %s", x.status, x.body)
	}
}

// What may have a long answer says so before it is done.
func TestLongAnswersAreAnnounced(t *testing.T) {
	w := ackWorld(func(op *queue.Op) {
		for i := range op.Items {
			op.Items[i].Status = queue.Queued
		}
	})
	stores := *w.router.stores
	stores.Pop = w.store
	stores.Admin = func(time.Duration, func(Session), func()) bool { return true }
	w.router.Open(stores)
	f := func(method, target, body string, want func(n int) bool) {
		t.Helper()
		if x := w.send(t, method, target, body); !want(x.expected) {
			t.Errorf("%s %s: %d bytes are expected, %d %s", method, target, x.expected, x.status, x.body)
		}
	}
	none, any := func(n int) bool { return n == 0 }, func(n int) bool { return n == AnyLength }
	f("GET", "/api/v1/pop/queue/q", "", any)
	f("GET", "/api/v1/pop?wait=true", "", any)
	f("GET", "/api/v1/messages", "", any)
	f("GET", "/metrics/prometheus", "", any)
	const id = `"transactionId":"t","partitionId":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`
	f("POST", "/api/v1/ack", `{`+id+`}`, none)
	f("POST", "/api/v1/ack/batch", `{"acknowledgments":[{`+id+`},{`+id+`}]}`, any)
	f("POST", "/api/v1/push", `{"items":[{"queue":"q"}]}`, none)
	f("POST", "/api/v1/push", `{"items":[{"queue":"q"},{"queue":"q"}]}`, func(n int) bool { return n > 0 && n < 10_000 })
	f("GET", "/livez", "", none)
}

func TestHealthFollowsTheDatabase(t *testing.T) {
	w := newWorld()
	f := func(target string, status int, body string) {
		t.Helper()
		if x := w.send(t, "GET", target, ""); x.status != status || x.body != body {
			t.Errorf("%s: %d %s", target, x.status, x.body)
		}
	}
	f("/health", 200, `{"database":"connected","queen":{"status":"active","worker_id":0},"server":"queend","shared_state":{"enabled":false,"maintenance_mode":false,"pop_maintenance_mode":false,"running":false},"status":"healthy","version":"1.2.3","worker_id":0}`)
	f("/readyz", 200, `{"status":"ready"}`)
	w.connected = false
	f("/health", 503, `{"database":"disconnected","queen":{"status":"active","worker_id":0},"server":"queend","shared_state":{"enabled":false,"maintenance_mode":false,"pop_maintenance_mode":false,"running":false},"status":"unhealthy","version":"1.2.3","worker_id":0}`)
	f("/readyz", 503, `{"error":"PostgreSQL does not answer; pushes get 503 until it does"}`)
	f("/livez", 200, `{"status":"alive"}`)
}

// In maintenance mode pushes go to disk also while PostgreSQL is well.
func TestReadinessIsWhetherAPushWouldBeTaken(t *testing.T) {
	const (
		stored, buffering = `{"status":"ready"}`, `{"status":"buffering"}`
		away              = `{"error":"PostgreSQL does not answer; pushes get 503 until it does"}`
		stopped           = `{"error":"maintenance mode is on, and there is no file buffer that takes messages meanwhile; pushes get 503 until it is over"}`
	)
	f := func(database, maintenance, buffer bool, status int, body string) {
		t.Helper()
		w := newWorld()
		w.connected = database
		w.router.Maintenance = func() (push, pop bool) { return maintenance, false }
		w.router.Buffered = func() bool { return buffer }
		x := w.send(t, "GET", "/readyz", "")
		if x.status != status || x.body != body || strings.Contains(x.header, "Retry-After") != (status == 503) {
			t.Errorf("database %v, maintenance %v, buffer %v: %d %s %s", database, maintenance, buffer, x.status, x.header, x.body)
		}
	}
	f(true, false, true, 200, stored)
	f(true, false, false, 200, stored)
	f(true, true, true, 200, buffering)
	f(true, true, false, 503, stopped)
	f(false, false, true, 200, buffering)
	f(false, false, false, 503, away)
	f(false, true, true, 200, buffering)
	f(false, true, false, 503, stopped)
	w := newWorld() // that has no buffer at all
	w.router.Maintenance = func() (push, pop bool) { return true, true }
	if x := w.send(t, "GET", "/readyz", ""); x.status != 503 || x.body != stopped {
		t.Errorf("%d %s", x.status, x.body)
	}
}

func TestScrapesWorkElsewhereAndAreBounded(t *testing.T) {
	w := newWorld()
	var open []*exchange
	for range ScrapesMax {
		open = append(open, w.send(t, "GET", "/metrics/prometheus", ""))
	}
	if x := w.send(t, "GET", "/metrics/prometheus", ""); x.status != 503 {
		t.Errorf("one scrape too many: %d", x.status)
	}
	for _, work := range w.work {
		work()
	}
	for _, x := range open {
		if x.status != 200 || x.body != "queend_up 1\n" || !strings.Contains(x.header, "text/plain; version=0.0.4") {
			t.Errorf("%d %q %q", x.status, x.header, x.body)
		}
	}
	if x := w.send(t, "GET", "/metrics/prometheus", ""); x.replies != 0 {
		t.Error("the bound was not given back")
	}
}

func TestEveryCounterHasAName(t *testing.T) {
	w := newWorld()
	w.store.end = func(op *queue.Op) { op.Items[0].Status = queue.Duplicate }
	w.send(t, "POST", "/api/v1/push", `{"items":[{"queue":"q"}]}`)
	set := metrics.NewSet()
	Export(set, []*Router{w.router, newWorld().router})
	set.Seal()
	text, err := set.Exposition()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`queend_push_requests_total{outcome="answered",route="push"} 1`,
		`queend_push_messages_total{route="push",status="duplicate"} 1`,
		`queend_push_seconds_count{route="push"} 1`,
		`queend_push_seconds_count{route="push-legacy"} 0`,
		`queend_not_found_total 0`,
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
}
