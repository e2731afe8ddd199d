// Package api is the wire contract: which route does what, and which status and
// body an outcome gets. It decodes through queue, hands ops to the first store of
// a chain, and turns what comes back into an answer. It knows no socket and no
// SQL; a Router belongs to one loop and runs on it.
package api

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/queend/queend/pkg/httpparse"
	"github.com/queend/queend/pkg/queue"
)

// CommonHeader is what every answer carries, errors of the HTTP layer included:
// Queen's clients in browsers rely on it.
const CommonHeader = "Access-Control-Allow-Origin: *\r\n" +
	"Access-Control-Allow-Methods: GET, POST, PUT, DELETE, OPTIONS\r\n" +
	"Access-Control-Allow-Headers: Content-Type, Authorization\r\n"

var (
	jsonHeader      = []byte("Content-Type: application/json\r\n")
	preflightHeader = []byte("Access-Control-Max-Age: 86400\r\n")
)

// Exchange is a request that waits for its answer; the loop's satisfies it. Reply
// is called exactly once, on the loop, now or later. The request is valid only
// until the handler returns.
type Exchange interface {
	Request() *httpparse.Request
	RequestID() []byte
	Accepted() time.Duration
	Reply(status int, header, body []byte, close bool)
	Expect(bytes int) // so long the answer may become; before it comes

	OnGone(f func())       // f is called, once, if the client's connection ends before Reply
	OnHalfClosed(f func()) // f is called, once, if the client stops sending before Reply
	IsGone() bool          // it has ended
	IsHalfClosed() bool    // the client will send no more; it may wait
}

// AnyLength is what Expect is told of an answer that may have any: others are not begun
// beside it.
const AnyLength = math.MaxInt32

// Services is what a router is given; all of it belongs to its loop.
type Services struct {
	Now     func() time.Duration                        // the loop's clock
	Offload func(work func() []byte, then func([]byte)) // work elsewhere, then on the loop again

	Deadline time.Duration // from acceptance to answer: DB_FAILOVER_MS

	Database func() (connected bool) // PostgreSQL answers, as far as this loop knows; any goroutine
	Buffered func() (usable bool)    // pushes can be written to disk meanwhile; nil: there is no buffer; any goroutine
	Metrics  func() ([]byte, error)  // the exposition; called by Offload
	Timing   func(t PushTiming)      // nil unless timings are logged
	Version  string
	WorkerID int

	Pop PopDefaults

	// Maintenance is what this process knows of the maintenance flags, and SetMaintenance
	// hears at once what it has committed itself; nil is as it was. Any goroutine; nil: none
	// is known and nobody hears.
	Maintenance    func() (push, pop bool)
	SetMaintenance func(push, pop *bool)

	// Buffer is the file buffer in numbers. Any goroutine; it does not wait. nil: there is no
	// file buffer.
	Buffer func() BufferStatus
}

// Stores is what a router pushes into. It has them once the database's schema is
// known; see Open.
type Stores struct {
	Push       queue.Store // the loop's way
	PushLegacy queue.Store // the pool's way
	Pop        queue.Store
	Config     *queue.Config
	IDs        *queue.IDs // the loop's own

	Ack         queue.Store // acknowledgments and leases
	Transaction queue.Store

	// Admin has work done in a goroutine, with a session of its own, and then done
	// called on the loop. It returns at once; false means that too much waits already,
	// and nothing will be called. Any goroutine. nil: there are no administrative routes.
	//
	// From within after the call on, the session's statements fail instead of waiting, also
	// those of work that had to wait for its turn until then. 0: they have as long as
	// administrative work may take, which is longer than most clients wait.
	Admin func(within time.Duration, work func(Session), done func()) bool

	// Changed hears that messages of a queue may have become claimable otherwise than
	// by a push: a cursor was moved, a message was put back, a group begins anew. It is
	// called on the loop; may be nil.
	Changed func(queue string)

	// AllChanged is Changed for all queues, also those that are to come.
	AllChanged func()
}

// Router answers the requests of one loop. All its methods run on that loop.
type Router struct {
	Services
	Counters Counters

	stores   *Stores // nil: not open yet
	routes   map[string]*route
	paths    node // the routes whose paths have parameters
	calls    freeList[pushCall]
	popCalls freeList[popCall]
	ackCalls freeList[ackCall]
	scrapes  int // under way

	paramBytes  []byte // decoded parameters, of the request that is handled now
	paramValues [ParamsMax][]byte
}

// route is one path: a handler for each method that it has.
type route struct {
	handlers map[string]func(Exchange, Params)
	noHead   bool   // GET changes something, and HEAD must not (RFC 9110 §9.2.1)
	allow    []byte // header line for 405
	options  []byte // header lines for OPTIONS
}

// NewRouter makes the router of one loop.
func NewRouter(s Services) *Router {
	r := &Router{Services: s, routes: map[string]*route{}}
	r.popCalls.most = popCallsKept
	// The table: every route there is. Whoever makes a route adds its line here: add
	// for a path that is fixed, addPath for one with parameters.
	r.add("POST", "/api/v1/push", func(x Exchange) { r.push(x, &r.Counters.Push, push) })
	r.add("POST", "/api/v1/push-legacy", func(x Exchange) { r.push(x, &r.Counters.PushLegacy, pushLegacy) })
	r.addPop()
	r.add("GET", "/health", r.health)
	r.add("GET", "/livez", r.livez)
	r.add("GET", "/readyz", r.readyz)
	r.add("GET", "/metrics/prometheus", r.metrics)
	r.add("POST", "/api/v1/ack", r.acknowledge)
	r.add("POST", "/api/v1/ack/batch", r.acknowledgeMany)
	r.addPath("POST", "/api/v1/lease/:leaseId/extend", r.extendLease)
	r.add("POST", "/api/v1/transaction", r.transaction)
	r.addAdmin()
	r.addMaintenance()
	r.seal()
	return r
}

// seal writes down what each path answers to, once the table is whole.
func (r *Router) seal() {
	seal := func(route *route, also []string) {
		route.allow = []byte("Allow: " + strings.Join(route.methods(also), ", ") + "\r\n")
		route.options = append(append([]byte(nil), preflightHeader...), route.allow...)
	}
	r.paths.each(func(route *route) { seal(route, nil) })
	for path, route := range r.routes {
		// A fixed path may also be one with parameters, which has other methods.
		var m match
		var also []string
		if r.paths.find([]byte(path), nil, &m); m.route != nil {
			also = m.route.methods(nil)
		}
		seal(route, also)
	}
}

// Open gives the router its stores: from here on pushes are taken. Until then they
// are answered 503, since what a payload may hold depends on the database.
func (r *Router) Open(s Stores) { r.stores = &s }

func push(s *Stores) queue.Store       { return s.Push }
func pushLegacy(s *Stores) queue.Store { return s.PushLegacy }

// add makes a route of a path without parameters.
func (r *Router) add(method, path string, handle func(Exchange)) *route {
	if r.routes[path] == nil {
		r.routes[path] = &route{handlers: map[string]func(Exchange, Params){}}
	}
	r.routes[path].handlers[method] = func(x Exchange, _ Params) { handle(x) }
	return r.routes[path]
}

// addPath makes a route of a path with parameters: /api/v1/pop/queue/:queue. A path
// is matched segment by segment as it came, then each parameter is decoded once: a
// slash that the client encoded stays inside its segment, and an empty segment is an
// empty parameter. A path that is written out wins over one with a parameter.
func (r *Router) addPath(method, path string, handle func(Exchange, Params)) *route {
	n := r.paths.insert(path)
	if n.route == nil {
		n.route = &route{handlers: map[string]func(Exchange, Params){}}
	}
	n.route.handlers[method] = handle
	return n.route
}

// handler is who answers a method, or nil. HEAD is GET without the body (RFC 9110
// §9.3.2), which the loop leaves out.
func (r *route) handler(method []byte) func(Exchange, Params) {
	handle := r.handlers[string(method)]
	if handle == nil && string(method) == "HEAD" && !r.noHead {
		handle = r.handlers["GET"]
	}
	return handle
}

// methods lists what a path answers to, and also what others do, in one fixed order.
func (r *route) methods(also []string) []string {
	var methods []string
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
		if r.handler([]byte(m)) != nil || slices.Contains(also, m) {
			methods = append(methods, m)
		}
	}
	return append(methods, "OPTIONS")
}

// Serve answers one request, now or later.
func (r *Router) Serve(x Exchange) {
	req := x.Request()
	// Paths are compared as they came: what is written with escapes that were not
	// needed is another path, and has no route (and, later, no way past auth). Only
	// what stands where a parameter is is decoded.
	m := match{route: r.routes[string(req.Path)]}
	handle := m.handler(req.Method)
	if handle == nil {
		r.paths.find(req.Path, req.Method, &m)
		handle = m.handler(req.Method)
	}
	if string(req.Method) == "OPTIONS" {
		header := preflightHeader
		if m.route != nil {
			header = m.route.options
		}
		x.Reply(204, header, nil, false)
		return
	}
	if m.route == nil {
		r.Counters.NotFound.Add(1)
		r.fail(x, 404, nil, "there is nothing at this path; the routes are listed in the README")
		return
	}
	if handle == nil {
		r.fail(x, 405, m.route.allow, "this path does not take that method; see the Allow header")
		return
	}
	if sentence := r.queryFault(req.Query); sentence != "" {
		r.fail(x, 400, nil, sentence)
		return
	}
	params, sentence := r.params(&m)
	if sentence != "" {
		r.fail(x, 400, nil, sentence)
		return
	}
	handle(x, params)
}

func (m *match) handler(method []byte) func(Exchange, Params) {
	if m.route == nil {
		return nil
	}
	return m.route.handler(method)
}
