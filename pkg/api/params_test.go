package api

import (
	"strings"
	"testing"

	"github.com/queend/queend/pkg/httpparse"
)

// paramWorld is a router with a few routes beside its own, which answer with what they got.
func paramWorld() *world {
	w := newWorld()
	echo := func(name string, n int) func(Exchange, Params) {
		return func(x Exchange, p Params) {
			body := []byte(name)
			for i := range n {
				body = append(append(append(body, " ["...), p.Get(i)...), ']')
			}
			x.Reply(200, nil, body, false)
		}
	}
	r := w.router
	r.paths, r.routes = node{}, map[string]*route{}
	r.add("GET", "/pop", func(x Exchange) { x.Reply(200, nil, []byte("all"), false) })
	r.add("GET", "/groups/lagging", func(x Exchange) { x.Reply(200, nil, []byte("lagging"), false) })
	r.addPath("GET", "/pop/queue/:queue", echo("queue", 1))
	r.addPath("GET", "/pop/queue/:queue/partition/:partition", echo("partition", 2))
	r.addPath("DELETE", "/pop/queue/:queue", echo("delete", 1))
	r.addPath("DELETE", "/groups/:group", echo("group", 1))
	r.addPath("POST", "/groups/:group/queues/:queue/seek", echo("seek", 2))
	r.addPath("POST", "/groups/:group/queues/fixed/seek", echo("fixed", 1))
	r.addPath("DELETE", "/groups/:group/:what/:which/seek", echo("other", 3))
	r.seal()
	return w
}

func TestAPathIsCutBeforeItsParametersAreDecoded(t *testing.T) {
	w := paramWorld()
	f := func(method, target string, status int, body string) {
		t.Helper()
		x := w.send(t, method, target, "")
		if x.replies != 1 || x.status != status || x.body != body {
			t.Errorf("%s %s: %d replies, %d %q", method, target, x.replies, x.status, x.body)
		}
	}
	f("GET", "/pop", 200, "all")
	f("GET", "/pop/queue/q", 200, "queue [q]")
	f("GET", "/pop/queue/q?x=/partition/y", 200, "queue [q]")
	f("GET", "/pop/queue/", 200, "queue []")
	f("GET", "/pop/queue//partition/x", 200, "partition [] [x]")
	f("GET", "/pop/queue/q/partition/", 200, "partition [q] []")
	f("GET", "/pop/queue//partition/", 200, "partition [] []")
	f("GET", "/pop/queue/a%2Fb%2fc/partition/%20+%2B", 200, "partition [a/b/c] [ ++]")
	f("GET", "/pop/queue/%2520", 200, "queue [%20]")
	f("GET", "/pop/queue/%C3%A4\xc3\xb6", 200, "queue [äö]")
	f("GET", "/pop/queue/partition/partition/partition", 200, "partition [partition] [partition]")
	f("GET", "/pop/queue/..", 200, "queue [..]")
	f("GET", "/pop/queue/%", 400, `{"error":"A percent sign is not followed by two hexadecimal digits."}`)
	f("GET", "/pop/queue/q/partition/%zz", 400, `{"error":"A percent sign is not followed by two hexadecimal digits."}`)
	f("GET", "/pop/queue/%00", 400, `{"error":"The byte NUL is not allowed here."}`)
	f("GET", "/pop/queue/%ff", 400, `{"error":"the path is not UTF-8"}`)
	f("GET", "/pop/queue/%C3/partition/%A4", 400, `{"error":"the path is not UTF-8"}`)

	notFound := `{"error":"there is nothing at this path; the routes are listed in the README"}`
	f("GET", "/pop/", 404, notFound)
	f("GET", "/pop/queue", 404, notFound)
	f("GET", "/pop/queue/q/", 404, notFound)
	f("GET", "/pop/queue/q/partition", 404, notFound)
	f("GET", "/pop/queue/q/partition/p/x", 404, notFound)
	f("GET", "/pop/%71ueue/q", 404, notFound)
	f("GET", "/", 404, notFound)
}

func TestWhatIsWrittenOutWinsUnlessItDoesNotTakeTheMethod(t *testing.T) {
	w := paramWorld()
	f := func(method, target string, status int, header, body string) {
		t.Helper()
		x := w.send(t, method, target, "")
		if x.replies != 1 || x.status != status || !strings.Contains(x.header, header) || !strings.HasPrefix(x.body, body) {
			t.Errorf("%s %s: %d replies, %d %q %q", method, target, x.replies, x.status, x.header, x.body)
		}
	}
	f("GET", "/groups/lagging", 200, "", "lagging")
	f("DELETE", "/groups/lagging", 200, "", "group [lagging]")
	f("POST", "/groups/lagging", 405, "Allow: GET, HEAD, DELETE, OPTIONS\r\n", "")
	f("POST", "/groups/g", 405, "Allow: DELETE, OPTIONS\r\n", "")
	f("POST", "/groups/g/queues/q/seek", 200, "", "seek [g] [q]")
	f("POST", "/groups/g/queues/fixed/seek", 200, "", "fixed [g]")
	f("DELETE", "/groups/g/queues/fixed/seek", 200, "", "other [g] [queues] [fixed]")
	f("DELETE", "/groups/g/a/b/seek", 200, "", "other [g] [a] [b]")
	f("PUT", "/groups/g/queues/fixed/seek", 405, "Allow: POST, OPTIONS\r\n", "")
	f("HEAD", "/pop/queue/q", 200, "", "queue [q]")
	f("PUT", "/pop/queue/q", 405, "Allow: GET, HEAD, DELETE, OPTIONS\r\n", "")
	f("PUT", "/pop/queue/%zz", 405, "Allow: GET, HEAD, DELETE, OPTIONS\r\n", "")
	f("OPTIONS", "/pop/queue/q", 204, "Allow: GET, HEAD, DELETE, OPTIONS\r\n", "")
	f("OPTIONS", "/groups/lagging", 204, "Allow: GET, HEAD, DELETE, OPTIONS\r\n", "")
	f("OPTIONS", "/nowhere/at/all", 204, "Access-Control-Max-Age: 86400\r\n", "")
}

func TestFindingARouteCostsNoAllocation(t *testing.T) {
	f := func(target string) {
		t.Helper()
		w := newWorld()
		r := w.router
		r.addPath("GET", "/queue/:queue/partition/:partition", func(x Exchange, p Params) { x.Reply(len(p.Get(1)), nil, nil, false) })
		r.add("GET", "/fixed", func(x Exchange) { x.Reply(200, nil, nil, false) })
		r.seal()
		x := &exchange{}
		if event, _, err := x.parser.Next([]byte("GET " + target + " HTTP/1.1\r\nHost: q\r\n\r\n")); event != httpparse.Complete {
			t.Fatal(event, err)
		}
		if n := testing.AllocsPerRun(20, func() { r.Serve(x) }); n != 0 {
			t.Errorf("%s: %v allocations", target, n)
		}
	}
	f("/fixed")
	f("/fixed?a=b")
	f("/queue/a%20b/partition/p?wait=true")
}
