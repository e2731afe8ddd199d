package httpparse

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// seeds begin the fuzzing, besides those in testdata.
var seeds = []string{
	wrkPost, abPost, popGet, chunkedPost, popGet + wrkPost,
	"GET http://h:80/a?b HTTP/1.1\r\nHost: x\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close, x\r\n\r\n",
	"HEAD //a/%2F?b#c HTTP/1.0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: [::1]:8\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
	chunkedHead + "1;a=b;c=\"d\"\r\nx\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

// FuzzCuts: the result does not depend on how the input was cut; no input
// panics, and owner.check sees to it that no call leaves bytes unlooked at that the
// next one would have to search again.
func FuzzCuts(f *testing.F) {
	for i, s := range seeds {
		f.Add([]byte(s), uint16(i*7), uint16(i*31))
	}
	small := Limits{HeaderBytesMax: 160, TargetBytesMax: 24, FieldsMax: 6, BodyBytesMax: 40}
	f.Fuzz(func(t *testing.T, input []byte, a, b uint16) {
		if len(input) > 4096 {
			return
		}
		for _, l := range []*Limits{nil, &small} {
			want := read(t, l, string(input))
			cuts := []int{int(a) % (len(input) + 1), int(b) % (len(input) + 1)}
			slices.Sort(cuts)
			if got := read(t, l, string(input), cuts...); !slices.Equal(got, want) {
				t.Errorf("%q cut at %v: %q, want %q", input, cuts, got, want)
			}
			each := make([]int, len(input))
			for i := range each {
				each[i] = i
			}
			if got := read(t, l, string(input), each...); !slices.Equal(got, want) {
				t.Errorf("%q byte by byte: %q, want %q", input, got, want)
			}
		}
	})
}

// FuzzRequests: what is put together by the rules is read as it was meant,
// whatever the bytes of the body and however it is cut into chunks.
func FuzzRequests(f *testing.F) {
	f.Add([]byte("hello"), []byte{1, 2}, true, "X-Y", "value", uint16(3))
	f.Add([]byte("0\r\n\r\nGET / HTTP/1.1\r\n\r\n"), []byte{5}, true, "Content-Type", "a/b", uint16(70))
	f.Add([]byte("\r\n\r\n"), []byte{}, false, "x", "\xff\t", uint16(100))
	f.Fuzz(func(t *testing.T, body, sizes []byte, chunked bool, name, value string, cut uint16) {
		if tokenLength([]byte(name)) != len(name) || name == "" || !isFieldValue([]byte(value)) || len(body)+len(sizes)+len(name)+len(value) > 4096 {
			return
		}
		name = "X-" + name // no name of ours begins so
		var in bytes.Buffer
		fmt.Fprintf(&in, "POST /p HTTP/1.1\r\nHost: h\r\n%s:%s\r\n", name, value)
		want := "POST /p 1.1 h keep"
		if chunked {
			in.WriteString("Transfer-Encoding: chunked\r\n\r\n")
			want += " chunked"
			rest := body
			for _, size := range sizes {
				n := min(int(size), len(rest))
				if n > 0 {
					fmt.Fprintf(&in, "%x\r\n%s\r\n", n, rest[:n])
					rest = rest[n:]
				}
			}
			if len(rest) > 0 {
				fmt.Fprintf(&in, "%X;x=%q\r\n%s\r\n", len(rest), "y", rest)
			}
			fmt.Fprintf(&in, "0\r\n%s:%s\r\n\r\n", name, value)
		} else {
			fmt.Fprintf(&in, "Content-Length: %d\r\n\r\n%s", len(body), body)
		}
		if len(body) > 0 {
			want += fmt.Sprintf(" %q", body)
		}
		input := in.String() + popGet + "GE"
		wants := []string{want, line(first(t, popGet)), "…"}
		if got := read(t, nil, input, int(cut)%len(input)); !slices.Equal(got, wants) {
			t.Errorf("%q\n got %q\nwant %q", input, got, wants)
		}
		if r := first(t, in.String()); string(r.Field(strings.ToUpper(name))) != strings.Trim(value, " \t") {
			t.Errorf("%s is %q, want %q", name, r.Field(name), value)
		}
	})
}

// first is the first request of an input, which has to be whole.
func first(t *testing.T, input string) *Request {
	t.Helper()
	var p Parser
	if event, _, err := p.Next([]byte(input)); event != Complete {
		t.Fatalf("%q: %v %v", input, event, err)
	}
	return &p.Request
}
