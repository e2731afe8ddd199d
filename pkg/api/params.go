package api

import (
	"strings"
	"unicode/utf8"

	"github.com/queend/queend/pkg/httpparse"
)

// ParamsMax is how many parameters a path may have.
const ParamsMax = 4

// Params are the values of a path's parameters, in the order in which the path names
// them. They are decoded, valid UTF-8, and may be empty: a queue may be named "".
// The router owns their memory, which is valid until the handler returns.
type Params struct{ values [][]byte }

// Get returns the value of parameter i, counted from 0.
func (p *Params) Get(i int) []byte { return p.values[i] }

// node is a segment of the paths that have parameters: what may follow it.
type node struct {
	static map[string]*node
	param  *node // any segment
	route  *route
}

// insert makes the node of a path such as /api/v1/pop/queue/:queue. A segment that
// begins with a colon is a parameter; its name is for the reader.
func (n *node) insert(path string) *node {
	if strings.Count(path, "/:") > ParamsMax {
		panic("BUG: too many parameters in " + path)
	}
	for _, segment := range strings.Split(path[1:], "/") {
		if strings.HasPrefix(segment, ":") {
			if n.param == nil {
				n.param = &node{}
			}
			n = n.param
			continue
		}
		if n.static == nil {
			n.static = map[string]*node{}
		}
		if n.static[segment] == nil {
			n.static[segment] = &node{}
		}
		n = n.static[segment]
	}
	return n
}

// each calls f for every route at and below n.
func (n *node) each(f func(*route)) {
	if n.route != nil {
		f(n.route)
	}
	for _, next := range n.static {
		next.each(f)
	}
	if n.param != nil {
		n.param.each(f)
	}
}

// find looks for the route of a path, segment by segment as they came, and leaves the
// raw values of its parameters in found. A segment that is written out wins over a
// parameter, unless its route does not take the method and the other does: the
// group that is called "lagging" can be deleted. If no route takes the method, the
// first that has the path is found.
func (n *node) find(path, method []byte, found *match) {
	segment, rest, ok := httpparse.CutSegment(path)
	if !ok {
		if len(path) == 0 && n.route != nil {
			found.at(n.route, method)
		}
		return
	}
	if next := n.static[string(segment)]; next != nil {
		if next.find(rest, method, found); found.takes {
			return
		}
	}
	if n.param != nil {
		found.path[found.depth] = segment
		found.depth++
		n.param.find(rest, method, found)
		found.depth--
	}
}

// match is what find looks for and has found.
type match struct {
	path  [ParamsMax][]byte // the way to the node that is looked at
	depth int

	route  *route
	takes  bool // the route takes the method
	values [ParamsMax][]byte
	count  int
}

func (m *match) at(r *route, method []byte) {
	takes := r.handler(method) != nil
	if m.route == nil || takes && !m.takes {
		m.route, m.takes, m.values, m.count = r, takes, m.path, m.depth
	}
}

// params decodes the values, each once, into the router's memory.
func (r *Router) params(m *match) (Params, string) {
	r.paramBytes = r.paramBytes[:0]
	for i, raw := range m.values[:m.count] {
		from := len(r.paramBytes)
		decoded, err := httpparse.DecodeSegment(r.paramBytes, raw)
		if err != nil {
			return Params{}, err.Reason
		}
		if !utf8.Valid(decoded[from:]) {
			return Params{}, "the path is not UTF-8"
		}
		r.paramBytes, r.paramValues[i] = decoded, decoded[from:len(decoded):len(decoded)]
	}
	return Params{r.paramValues[:m.count]}, ""
}
