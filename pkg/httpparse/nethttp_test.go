package httpparse

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// What net/http makes of the same bytes. http.ReadRequest is the lenient half of
// its server: the other half refuses some more afterwards.
type reference struct {
	request  *http.Request
	body     []byte
	consumed int
	err      error
}

func readReference(input []byte) reference {
	under := bytes.NewReader(input)
	buffered := bufio.NewReader(under)
	request, err := http.ReadRequest(buffered)
	if err != nil {
		return reference{err: err}
	}
	body, err := io.ReadAll(request.Body)
	return reference{request, body, len(input) - under.Len() - buffered.Buffered(), err}
}

// verdict is how the two readings of an input relate.
type verdict struct {
	input []byte
	event Event
	n     int
	err   *Error
	ours  Request
	ref   reference
}

func judge(input []byte) verdict {
	var p Parser
	buf := bytes.Clone(input)
	event, n, err := p.Next(buf)
	return verdict{input, event, n, err, p.Request, readReference(input)}
}

// same says whether both refuse the input or wait for more of it, or both read the
// same request. To wait and to refuse are the same here: ours refuses what it can
// tell at once, net/http what it can tell at the input's end.
func (v verdict) same() bool {
	return v.served() == (v.ref.err == nil) && v.differs() == ""
}

func (v verdict) served() bool { return v.event == Complete }

// differs names the parts of a request that both serve but read differently.
func (v verdict) differs() string {
	if !v.served() || v.ref.err != nil {
		return ""
	}
	var parts []string
	r, ref := &v.ours, v.ref.request
	path, _ := DecodeSegment(nil, r.Path)
	for part, same := range map[string]bool{
		"method":         string(r.Method) == ref.Method,
		"target":         string(r.Target) == ref.RequestURI,
		"path":           string(path) == ref.URL.Path || string(path) == "/" && ref.URL.Path == "",
		"query":          string(r.Query) == ref.URL.RawQuery,
		"host":           string(r.Host) == ref.Host,
		"version":        r.Minor == min(1, ref.ProtoMinor),
		"keep-alive":     r.KeepAlive != ref.Close,
		"content length": r.ContentLength == ref.ContentLength,
		"body":           bytes.Equal(r.Body, v.ref.body),
		"end":            v.n == v.ref.consumed,
	} {
		if !same {
			parts = append(parts, part)
		}
	}
	for name, values := range ref.Header {
		if string(r.Field(name)) != values[0] {
			parts = append(parts, "field "+name)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// A difference from net/http that is meant.
type difference struct {
	name    string // what ours does and net/http does not
	why     string
	example string
	holds   func(v verdict) bool
}

// refusesWith: ours refuses with that error, net/http serves.
func refusesWith(err *Error) func(verdict) bool {
	return func(v verdict) bool { return v.err == err && v.ref.err == nil }
}

// servesDespite: ours serves, net/http refuses with words like these.
func servesDespite(words string) func(verdict) bool {
	return func(v verdict) bool {
		return v.served() && v.ref.err != nil && strings.Contains(v.ref.err.Error(), words)
	}
}

// getWith is a request with these additional lines in its head.
func getWith(lines string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\n" + lines + "\r\n"
}

var differences = []difference{
	{"refuses a bare LF", "RFC 9112 §2.2 allows both; two readings of a line's end are two requests",
		"GET / HTTP/1.1\nHost: h\n\n", refusesWith(errBareLF)},
	{"refuses spaces in a name", "RFC 9112 §5.1; net/http keeps such a name as it is, unless the space is the last byte",
		getWith("X y: a\r\n"), refusesWith(errNameSpace)},
	{"refuses folded lines", "RFC 9112 §5.2 allows both",
		getWith("X: a\r\n b\r\n"), func(v verdict) bool { // or what is left of a line that is folded
			folded := bytes.Contains(v.input, []byte("\n ")) || bytes.Contains(v.input, []byte("\n\t"))
			return v.event == Failed && v.ref.err == nil && folded
		}},
	{"refuses a request without Host", "RFC 9112 §3.2; net/http's server does it after ReadRequest",
		"GET / HTTP/1.1\r\n\r\n", refusesWith(errHostMissing)},
	{"refuses an invalid host", "RFC 9112 §3.2; net/http's server does it after ReadRequest, less strictly",
		"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", refusesWith(errHostInvalid)},
	{"refuses equal lengths", "RFC 9112 §6.3 allows both; nobody sends them",
		getWith("Content-Length: 0\r\nContent-Length: 0\r\n"), refusesWith(errLengthRepeated)},
	{"refuses both lengths", "RFC 9112 §6.1 allows both; it is what smugglers send",
		getWith("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", refusesWith(errLengthAndCoded)},
	{"refuses Transfer-Encoding in HTTP/1.0", "RFC 9112 §6.1: faulty framing",
		"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", refusesWith(errCodedBefore11)},
	{"refuses unknown expectations", "RFC 9110 §10.1.1; net/http's server does it after ReadRequest",
		getWith("Expect: x\r\n"), refusesWith(errExpectation)},
	{"refuses CONNECT", "it is for proxies; net/http leaves it to the handler",
		"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", func(v verdict) bool {
			return v.event == Failed && v.ref.err == nil && v.ref.request.Method == "CONNECT"
		}},
	{"refuses long methods", "RFC 9112 §3: 501 for what is longer than any known one",
		strings.Repeat("X", MethodBytesMax+1) + " / HTTP/1.1\r\nHost: h\r\n\r\n", refusesWith(errMethodLong)},
	{"refuses other major versions", "505; net/http's server does it after ReadRequest",
		"GET / HTTP/3.0\r\nHost: h\r\n\r\n", refusesWith(errVersionMajor)},
	{"refuses * but with OPTIONS", "RFC 9112 §3.2.4",
		"GET * HTTP/1.1\r\nHost: h\r\n\r\n", refusesWith(errTargetAsterisk)},
	{"refuses URIs that are not http", "no such thing lives here",
		"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", refusesWith(errTargetForm)},
	{"refuses fragments", "RFC 9112 §3.2: no form of a target has one",
		"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", refusesWith(errTargetByte)},
	{"refuses malformed chunk extensions", "RFC 9112 §7.1.1; net/http skips whatever is there",
		getWith("Transfer-Encoding: chunked\r\n") + "0;\"\r\n\r\n", refusesWith(errChunkExt)},
	{"refuses long chunk lines", "RFC 9112 §7.1.1 asks for a bound; net/http's is higher",
		getWith("Transfer-Encoding: chunked\r\n") + "0;a=" + strings.Repeat("b", 256) + "\r\n\r\n", refusesWith(errChunkLong)},
	{"serves after empty lines", "RFC 9112 §2.2: at least one should be ignored",
		"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", servesDespite("malformed HTTP request")},
	{"serves paths with broken percent-encoding", "whoever decodes the path reports it (DecodeSegment)",
		"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", servesDespite("invalid URL escape")},
	{"does not decode NUL in a path", "no name contains it, and PostgreSQL's text cannot (DecodeSegment)",
		"GET /a%00b HTTP/1.1\r\nHost: h\r\n\r\n", func(v verdict) bool {
			_, err := DecodeSegment(nil, v.ours.Path)
			return v.differs() == "path" && err == errNUL
		}},
}

// toleratedAs returns the difference that explains a verdict, or nil.
func toleratedAs(v verdict) *difference {
	for i := range differences {
		if differences[i].holds(v) {
			return &differences[i]
		}
	}
	return nil
}

func TestDifferencesFromNetHTTPAreMeant(t *testing.T) {
	for _, d := range differences {
		v := judge([]byte(d.example))
		if got := toleratedAs(v); v.same() || got == nil || got.name != d.name {
			t.Errorf("%q does not show that ours %s: %v %v, theirs %v, %v", d.example, d.name, v.event, v.err, v.ref.err, got)
		}
	}
}

// FuzzAgainstNetHTTP holds the two readings of the first request in the input
// against each other. Whatever differs has to be one of the differences above.
func FuzzAgainstNetHTTP(f *testing.F) {
	for _, d := range differences {
		f.Add([]byte(d.example))
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(compare)
}

func compare(t *testing.T, input []byte) {
	v := judge(input)
	if v.same() || toleratedAs(v) != nil {
		return
	}
	t.Errorf("%q\nours: %v %d %v %s\ntheirs: %+v %q %d %v\ndiffers: %s", input, v.event, v.n, v.err, line(&v.ours),
		v.ref.request, v.ref.body, v.ref.consumed, v.ref.err, v.differs())
}

// fragments are what requests and attacks on them are made of: FuzzFragments puts
// them together, and so gets deeper into a request than bytes by chance do.
var fragments = []string{
	"GET ", "HEAD ", "POST ", "OPTIONS ", "CONNECT ", "get ", "*", "/", "/a/b", "?x=y", "%2F", "%", "http://h", "https://h:1/", "h:80", "#f",
	" HTTP/1.1\r\n", " HTTP/1.0\r\n", " HTTP/2.0\r\n", " HTTP/1.2\r\n", "\r\n", "\r\n\r\n", "\n", "\r", " ", "\t", ":", ",", ";", "\"", "\x00", "\xff",
	"Host: h\r\n", "Host:", "Host: [::1]:8\r\n", "Host: a@b\r\n", "X: y\r\n", "X-Y", "host", "Expect: 100-continue\r\n", "Expect:",
	"Connection: close\r\n", "Connection: keep-alive\r\n", "Connection:", "close", "keep-alive",
	"Content-Length: 0\r\n", "Content-Length: 5\r\n", "Content-Length: 05\r\n", "Content-Length:", "content-length: 3", "5", "0", "+5", "-1", "18446744073709551621",
	"Transfer-Encoding: chunked\r\n", "Transfer-Encoding:", "TRANSFER-ENCODING: Chunked", "chunked", "gzip", "identity",
	"5\r\nhello\r\n", "0\r\n\r\n", "1\r\na\r\n", "a\r\n0123456789\r\n", "A;x=y\r\n0123456789\r\n", "0;x\r\n", "0\r\nX: y\r\n\r\n", "5\r\n", "hello", "Trailer: X\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a HTTP/1.0\r\n",
}

// FuzzFragments is FuzzAgainstNetHTTP with an alphabet of fragments.
func FuzzFragments(f *testing.F) {
	spell := func(words ...string) (recipe []byte) {
		for _, word := range words {
			recipe = append(recipe, byte(slices.Index(fragments, word)))
		}
		return recipe
	}
	f.Add(spell("POST / HTTP/1.1\r\nHost: h\r\n", "Content-Length: 5\r\n", "\r\n", "hello"))
	f.Add(spell("POST / HTTP/1.1\r\nHost: h\r\n", "Transfer-Encoding: chunked\r\n", "\r\n", "5\r\nhello\r\n", "0\r\n\r\n"))
	f.Add(spell("GET ", "http://h", "?x=y", " HTTP/1.0\r\n", "Connection: keep-alive\r\n", "\r\n"))
	f.Fuzz(func(t *testing.T, recipe []byte) {
		var input []byte
		for _, c := range recipe[:min(len(recipe), 64)] {
			if int(c) < len(fragments) {
				input = append(input, fragments[c]...)
			} else {
				input = append(input, c)
			}
		}
		compare(t, input)
	})
}
