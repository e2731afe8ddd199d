// Package api is the wire contract: which route does what, and which status and
// body an outcome gets. It decodes through queue, hands ops to the first store of
// a chain, and turns what comes back into an answer. It knows no socket and no
// SQL; a Router belongs to one loop and runs on it.
package api

import (
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
}

// Services is what a router is given; all of it belongs to its loop.
type Services struct {
	Now     func() time.Duration                        // the loop's clock
	Offload func(work func() []byte, then func([]byte)) // work elsewhere, then on the loop again

	Deadline time.Duration // from acceptance to answer: DB_FAILOVER_MS

	Database func() (connected bool) // PostgreSQL answers, as far as this loop knows; any goroutine
	Metrics  func() ([]byte, error)  // the exposition; called by Offload
	Timing   func(t PushTiming)      // nil unless timings are logged
	Version  string
	WorkerID int
}

// Stores is what a router pushes into. It has them once the database's schema is
// known; see Open.
type Stores struct {
	Push       queue.Store // the loop's way
	PushLegacy queue.Store // the pool's way
	Config     *queue.Config
	IDs        *queue.IDs // the loop's own
}

// Router answers the requests of one loop. All its methods run on that loop.
type Router struct {
	Services
	Counters Counters

	stores  *Stores // nil: not open yet
	routes  map[string]*route
	calls   []*pushCall // free list
	scrapes int         // under way
}

// route is one path: a handler for each method that it has.
type route struct {
	handlers map[string]func(Exchange)
	allow    []byte // header line for 405
	options  []byte // header lines for OPTIONS
}

// NewRouter makes the router of one loop.
func NewRouter(s Services) *Router {
	r := &Router{Services: s, routes: map[string]*route{}}
	// The table: every route there is.
	r.add("POST", "/api/v1/push", func(x Exchange) { r.push(x, &r.Counters.Push, push) })
	r.add("POST", "/api/v1/push-legacy", func(x Exchange) { r.push(x, &r.Counters.PushLegacy, pushLegacy) })
	r.add("GET", "/health", r.health)
	r.add("GET", "/livez", r.livez)
	r.add("GET", "/readyz", r.readyz)
	r.add("GET", "/metrics/prometheus", r.metrics)
	for _, route := range r.routes {
		route.allow = []byte("Allow: " + strings.Join(route.methods(), ", ") + "\r\n")
		route.options = append(append([]byte(nil), preflightHeader...), route.allow...)
	}
	return r
}

// Open gives the router its stores: from here on pushes are taken. Until then they
// are answered 503, since what a payload may hold depends on the database.
func (r *Router) Open(s Stores) { r.stores = &s }

func push(s *Stores) queue.Store       { return s.Push }
func pushLegacy(s *Stores) queue.Store { return s.PushLegacy }

func (r *Router) add(method, path string, handle func(Exchange)) {
	if r.routes[path] == nil {
		r.routes[path] = &route{handlers: map[string]func(Exchange){}}
	}
	r.routes[path].handlers[method] = handle
}

// methods lists what a path answers to, in one fixed order. HEAD is GET without
// the body (RFC 9110 §9.3.2), which the loop leaves out.
func (r *route) methods() []string {
	var methods []string
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
		if r.handlers[m] != nil || (m == "HEAD" && r.handlers["GET"] != nil) {
			methods = append(methods, m)
		}
	}
	return append(methods, "OPTIONS")
}

// Serve answers one request, now or later.
func (r *Router) Serve(x Exchange) {
	req := x.Request()
	// Paths are compared as they came: what is written with escapes that were not
	// needed is another path, and has no route (and, later, no way past auth).
	found := r.routes[string(req.Path)]
	if string(req.Method) == "OPTIONS" {
		header := preflightHeader
		if found != nil {
			header = found.options
		}
		x.Reply(204, header, nil, false)
		return
	}
	if found == nil {
		r.Counters.NotFound.Add(1)
		r.fail(x, 404, nil, "there is nothing at this path; the routes are listed in the README")
		return
	}
	handle := found.handlers[string(req.Method)]
	if handle == nil && string(req.Method) == "HEAD" {
		handle = found.handlers["GET"]
	}
	if handle == nil {
		r.fail(x, 405, found.allow, "this path does not take that method; see the Allow header")
		return
	}
	handle(x)
}
