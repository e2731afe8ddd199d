package httpparse

import "testing"

const wrkPost = "POST /api/v1/push HTTP/1.1\r\n" +
	"Host: 127.0.0.1:6632\r\n" +
	"Content-Type: application/json\r\n" +
	"Content-Length: 65\r\n" +
	"User-Agent: wrk/4.2.0\r\n\r\n" +
	`{"items":[{"queue":"bench","partition":"p1","payload":{"n":12}}]}`

func BenchmarkParsePost(b *testing.B) {
	buf := []byte(wrkPost)
	var p Parser
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		event, n, err := p.Next(buf)
		if event != Complete || n != len(buf) {
			b.Fatal(event, n, err)
		}
	}
}
