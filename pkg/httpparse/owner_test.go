package httpparse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// owner does with a Parser what a connection does: it holds the buffer, feeds it,
// and goes on to the next request. It is as unkind as the contract allows: the
// buffer moves before every call, and the old one is wiped.
type owner struct {
	t      testing.TB
	p      Parser
	buf    []byte
	got    []string // a line per request, as line says it; a refusal is the last one
	ended  int      // bytes that belonged to whole requests
	headed bool     // HeadDone was said in this request
}

func newOwner(t testing.TB, l *Limits) *owner {
	o := &owner{t: t}
	o.p.Reset(l)
	return o
}

// feed adds bytes and takes what requests there are.
func (o *owner) feed(piece []byte) {
	old := o.buf
	o.buf = slices.Concat(old, piece)
	for i := range old {
		old[i] = 0xFF
	}
	for {
		event, n, err := o.p.Next(o.buf)
		o.check(event, n, err)
		switch event {
		case NeedMore:
			return
		case HeadDone:
			if o.headed {
				o.t.Fatalf("HeadDone twice in a request, after %q", o.got)
			}
			o.headed = true
			return
		case Failed:
			if len(o.got) == 0 || !strings.HasPrefix(o.got[len(o.got)-1], "!") {
				o.got = append(o.got, fmt.Sprintf("!%d %s", err.Status, err.Reason))
			}
			return
		}
		o.got = append(o.got, line(&o.p.Request))
		o.ended += n
		o.buf = o.buf[n:]
		o.headed = false
		if len(o.buf) == 0 {
			return
		}
	}
}

// check holds the parser to its invariants, whatever the input.
func (o *owner) check(event Event, n int, err *Error) {
	o.t.Helper()
	p := &o.p
	ok := 0 <= p.line && p.line <= p.scanned && p.scanned <= len(o.buf) &&
		p.body.from <= p.body.to && p.body.to <= max(p.read, p.line) &&
		(event == Failed) == (err != nil) &&
		(event == Complete || n == 0) && n <= len(o.buf) && (event != Complete || n > 0)
	if !ok {
		o.t.Fatalf("invariant: event %v, n %d of %d, err %v, line %d, scanned %d, body %v, read %d",
			event, n, len(o.buf), err, p.line, p.scanned, p.body, p.read)
	}
	if event == NeedMore || event == HeadDone {
		// Everything at hand was looked at, so the next call begins behind it.
		switch p.state {
		case inLine, inFields, inChunkLine, inTrailers, inChunk:
			if p.scanned != len(o.buf) {
				o.t.Fatalf("looked at %d of %d bytes in state %d", p.scanned, len(o.buf), p.state)
			}
		}
	}
	if need := p.Need(); need != 0 && (event == NeedMore || event == HeadDone) && need <= len(o.buf) {
		o.t.Fatalf("needs %d bytes, has %d, and says %v", need, len(o.buf), event)
	}
	if event != NeedMore {
		r := &p.Request
		for _, s := range [][]byte{r.Method, r.Target, r.Path, r.Query, r.Host, r.Body, r.head} {
			if len(s) > 0 && !within(s, o.buf) && &s[0] != &rootPath[0] {
				o.t.Fatalf("%q does not point into the buffer", s)
			}
			if len(s) != cap(s) {
				o.t.Fatalf("%q has spare capacity", s)
			}
		}
	}
}

func within(s, buf []byte) bool {
	if len(buf) == 0 {
		return false
	}
	from := uintptr(unsafe.Pointer(&s[0]))
	first := uintptr(unsafe.Pointer(&buf[0]))
	return from >= first && from+uintptr(len(s)) <= first+uintptr(len(buf))
}

// line is a request on one line: "POST /path?q 1.1 host keep expect chunked "body"".
func line(r *Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s 1.%d %s", r.Method, r.Target, r.Minor, r.Host)
	if len(r.Host) == 0 {
		b.WriteString("-")
	}
	for word, said := range map[bool]string{r.KeepAlive: " keep", !r.KeepAlive: " close"} {
		if word {
			b.WriteString(said)
		}
	}
	if r.ExpectContinue {
		b.WriteString(" expect")
	}
	if r.ContentLength < 0 {
		b.WriteString(" chunked")
	} else if r.ContentLength != int64(len(r.Body)) {
		fmt.Fprintf(&b, " length=%d", r.ContentLength)
	}
	if len(r.Body) > 0 {
		fmt.Fprintf(&b, " %q", r.Body)
	}
	return b.String()
}

// read feeds the input in the pieces that end at the cuts, and returns what was
// heard: requests, a refusal, and "…" if bytes of an unfinished request are left.
func read(t testing.TB, l *Limits, input string, cuts ...int) []string {
	t.Helper()
	o := newOwner(t, l)
	from := 0
	for _, cut := range append(cuts, len(input)) {
		o.feed([]byte(input[from:cut]))
		from = cut
	}
	if failed := o.p.state == broken; !failed && len(o.buf) > 0 {
		o.got = append(o.got, "…")
	}
	return o.got
}

// readAnyhow reads the input whole, byte by byte, and cut in two at every offset
// (at some offsets if it is long), and fails if that makes a difference.
func readAnyhow(t testing.TB, l *Limits, input string) []string {
	t.Helper()
	want := read(t, l, input)
	same := func(cuts ...int) {
		t.Helper()
		if got := read(t, l, input, cuts...); !slices.Equal(got, want) {
			t.Fatalf("%.300q cut at %.20v\n got %q\nwant %q", input, cuts, got, want)
		}
	}
	step := 1 + len(input)*len(input)>>20 // every call copies what is there
	var all []int
	for cut := 1; cut < len(input); cut += step {
		same(cut)
		all = append(all, cut)
	}
	same(all...)
	return want
}
