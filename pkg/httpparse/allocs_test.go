package httpparse

import (
	"bytes"
	"testing"
)

const (
	wrkPost = "POST /api/v1/push HTTP/1.1\r\n" +
		"Host: 127.0.0.1:6632\r\n" +
		"Content-Type: application/json\r\n" +
		"Content-Length: 65\r\n" +
		"User-Agent: wrk/4.2.0\r\n\r\n" +
		`{"items":[{"queue":"bench","partition":"p1","payload":{"n":12}}]}`

	abPost = "POST /api/v1/push HTTP/1.0\r\n" +
		"Connection: Keep-Alive\r\n" +
		"Content-length: 65\r\n" +
		"Content-type: application/json\r\n" +
		"Host: localhost:6632\r\n" +
		"User-Agent: ApacheBench/2.3\r\n" +
		"Accept: */*\r\n\r\n" +
		`{"items":[{"queue":"bench","partition":"p1","payload":{"n":12}}]}`

	popGet = "GET /api/v1/pop/queue/orders?batch=10&wait=true&timeout=30000 HTTP/1.1\r\n" +
		"Host: localhost:6632\r\n" +
		"Accept: application/json, text/plain, */*\r\n" +
		"Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl\r\n" +
		"User-Agent: axios/1.7.2\r\n" +
		"Accept-Encoding: gzip, compress, deflate, br\r\n" +
		"Connection: keep-alive\r\n\r\n"

	chunkedPost = "POST /api/v1/push HTTP/1.1\r\n" +
		"Host: 127.0.0.1:6632\r\n" +
		"Content-Type: application/json\r\n" +
		"Transfer-Encoding: chunked\r\n\r\n" +
		"20\r\n" + `{"items":[{"queue":"bench","part` + "\r\n" +
		"21\r\n" + `ition":"p1","payload":{"n":12}}]}` + "\r\n" +
		"0\r\n\r\n"
)

// serve reads every request in buf, as a connection does.
func serve(tb testing.TB, p *Parser, buf []byte) (requests int) {
	for len(buf) > 0 {
		event, n, err := p.Next(buf)
		if event != Complete {
			tb.Fatal(event, err)
		}
		buf = buf[n:]
		requests++
	}
	return requests
}

func TestNothingIsAllocated(t *testing.T) {
	var p Parser
	f := func(name string, run func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	served := func(name, input string) {
		t.Helper()
		buf := make([]byte, len(input))
		f(name, func() {
			copy(buf, input)
			serve(t, &p, buf)
		})
	}
	served("GET", popGet)
	served("POST", wrkPost)
	served("HTTP/1.0", abPost)
	served("chunked", chunkedPost)
	served("pipelined", popGet+wrkPost+chunkedPost+wrkPost)

	buf := make([]byte, len(chunkedPost))
	f("byte by byte", func() {
		copy(buf, chunkedPost)
		for n := range buf {
			if event, _, _ := p.Next(buf[:n+1]); event == Failed || (event == Complete) != (n+1 == len(buf)) {
				t.Fatal(event, "after", n+1)
			}
		}
	})
	for _, input := range []string{"?", "GET /\r\n", "GET / HTTP/1.1\r\nA b: c\r\n", "GET / HTTP/2.0\r\n", chunkedHead + "x\r\n", wrkPost[:30] + "\x00" + wrkPost[31:]} {
		buf := []byte(input)
		f("refused", func() {
			p.Reset(nil)
			if event, _, _ := p.Next(buf); event != Failed {
				t.Fatal(event)
			}
		})
	}

	p.Reset(nil)
	get := []byte(popGet)
	serve(t, &p, get)
	r, room := &p.Request, make([]byte, 0, 64)
	f("Field", func() {
		if !bytes.HasPrefix(r.Field("Authorization"), []byte("Bearer ")) || r.Field("X-Absent") != nil {
			t.Fatal("wrong field")
		}
	})
	f("QueryValue", func() {
		if value, _, _ := QueryValue(room, r.Query, "timeout"); string(value) != "30000" {
			t.Fatal("wrong value")
		}
	})
	f("DecodeSegment", func() {
		if value, _ := DecodeSegment(room, []byte("a%2Fb")); string(value) != "a/b" {
			t.Fatal("wrong value")
		}
	})
}

func benchmarkParse(b *testing.B, input string) {
	buf := make([]byte, len(input))
	chunks := bytes.Contains([]byte(input), []byte("chunked"))
	copy(buf, input)
	var p Parser
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	requests := 0
	for b.Loop() {
		if chunks {
			copy(buf, input) // the parser moves chunks
		}
		requests += serve(b, &p, buf)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(requests), "ns/request")
}

func BenchmarkParsePost(b *testing.B)    { benchmarkParse(b, wrkPost) }
func BenchmarkParsePost10(b *testing.B)  { benchmarkParse(b, abPost) }
func BenchmarkParseGet(b *testing.B)     { benchmarkParse(b, popGet) }
func BenchmarkParseChunked(b *testing.B) { benchmarkParse(b, chunkedPost) }
func BenchmarkParsePipelined(b *testing.B) {
	benchmarkParse(b, wrkPost+wrkPost+wrkPost+wrkPost+wrkPost+wrkPost+wrkPost+wrkPost)
}

func BenchmarkParseByteByByte(b *testing.B) {
	buf := []byte(wrkPost)
	var p Parser
	b.ReportAllocs()
	for b.Loop() {
		for n := range buf {
			p.Next(buf[:n+1])
		}
	}
}

func BenchmarkField(b *testing.B) {
	var p Parser
	serve(b, &p, []byte(popGet))
	b.ReportAllocs()
	for b.Loop() {
		p.Request.Field("Authorization")
	}
}

func BenchmarkQueryValue(b *testing.B) {
	query, room := []byte("batch=10&wait=true&timeout=30000&consumerGroup=my%20group"), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		QueryValue(room, query, "consumerGroup")
	}
}
