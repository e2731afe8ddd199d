package httpparse

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkPush… in several packages are the stages of a push, which `make bench-compare`
// follows from one record to the next. This one is the first: bytes to requests.
func BenchmarkPushParse(b *testing.B) {
	const fields = "POST /api/v1/push HTTP/1.1\r\nHost: 127.0.0.1:6632\r\nContent-Type: application/json\r\n"
	whole := func(body string) string {
		return fields + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
	}
	chunked := func(body string, size int) string {
		text := fields + "Transfer-Encoding: chunked\r\n\r\n"
		for ; len(body) > 0; body = body[min(size, len(body)):] {
			part := body[:min(size, len(body))]
			text += fmt.Sprintf("%x\r\n%s\r\n", len(part), part)
		}
		return text + "0\r\n\r\n"
	}
	item := `{"queue":"bench","partition":"p1","payload":"` + strings.Repeat("x", 200) + `"}`
	one := `{"items":[` + item + `]}`
	many := `{"items":[` + strings.Repeat(item+",", 99) + item + `]}`
	for _, c := range []struct{ name, input string }{
		{"messages=1", whole(one)},
		{"messages=100", whole(many)},
		{"messages=100/chunked", chunked(many, 4096)},
		{"messages=1/pipelined=16", strings.Repeat(whole(one), 16)},
	} {
		b.Run(c.name, func(b *testing.B) {
			// The parser moves chunks, so each turn has fresh bytes; all pay for them alike.
			buf := make([]byte, len(c.input))
			var p Parser
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				copy(buf, c.input)
				serve(b, &p, buf)
			}
		})
	}
}
