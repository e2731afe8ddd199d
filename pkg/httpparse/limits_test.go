package httpparse

import (
	"math"
	"strings"
	"testing"
)

// Each bound holds exactly, and a request that cannot get below it any more is
// refused at once, not when its end is seen.

func fill(n int) string { return strings.Repeat("x", n) }

func TestTargetsAreBounded(t *testing.T) {
	l := DefaultLimits()
	l.TargetBytesMax = 100
	f := transcript(t, &l)
	const end = " HTTP/1.1\r\nHost: h\r\n\r\n"
	f("GET /"+fill(99)+end, "GET /"+fill(99)+" 1.1 h keep")
	f("GET /"+fill(100)+end, "!414")
	f("GET /"+fill(130)+end, "!414")
	f("GET /"+fill(500)+end, "!414")
	f("GET /"+fill(100+MethodBytesMax+11-len("GET /")), "…")
	f("GET /"+fill(100+MethodBytesMax+12-len("GET /")), "!414")
	f("GET ?"+fill(130)+end, "!414") // that it has no form either is not looked at
	f("GET/"+fill(500)+end, "!400 The method is not a token.")

	l.HeaderBytesMax = 100 + MethodBytesMax + 12
	f("GET /"+fill(500), "!414")
	l.HeaderBytesMax--
	f("GET /"+fill(500), "!431")

	g := transcript(t, nil)
	g("GET /"+fill(16<<10-1)+end, "GET /"+fill(16<<10-1)+" 1.1 h keep")
	g("GET /"+fill(16<<10)+end, "!414")
}

func TestMethodsAreBounded(t *testing.T) {
	f := transcript(t, nil)
	const end = " / HTTP/1.1\r\nHost: h\r\n\r\n"
	f(fill(MethodBytesMax)+end, fill(MethodBytesMax)+" / 1.1 h keep")
	f(fill(MethodBytesMax+1)+end, "!501")
	l := DefaultLimits()
	l.TargetBytesMax = 10
	transcript(t, &l)(fill(100), "!501")
}

func TestHeadsAreBounded(t *testing.T) {
	l := DefaultLimits()
	l.HeaderBytesMax = 200
	f := transcript(t, &l)
	const start, end = "GET / HTTP/1.1\r\nHost: h\r\nX: ", "\r\n\r\n"
	room := 200 - len(start+end)
	f(start+fill(room)+end, "GET / 1.1 h keep")
	f(start+fill(room+1)+end, "!431 The header section is too large.")
	f(start+fill(room+3), "…")
	f(start+fill(room+4), "!431")
	f(strings.Repeat("GET / HTTP/1.1\r\n\r\n", 1)+fill(200), "!400 The Host field is missing.")
	f("\r\n"+start+fill(room-2)+end, "GET / 1.1 h keep")
	f("\r\n"+start+fill(room-1)+end, "!431")
	f("GET /"+fill(500), "!431")
	f("GET / HTTP/1.1\r\n"+strings.Repeat("a:\r\n", 100), "!431 The header section is too large.")
	f("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 500\r\n\r\n"+fill(500), `POST / 1.1 h keep "`+fill(500)+`"`)

	g := transcript(t, nil)
	room = 64<<10 - len(start+end)
	g(start+fill(room)+end, "GET / 1.1 h keep")
	g(start+fill(room+1)+end, "!431")
}

func TestFieldsAreBounded(t *testing.T) {
	f := transcript(t, nil)
	const start = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
	x := func(n int) string { return strings.Repeat("X: y\r\n", n) }
	f("GET / HTTP/1.1\r\nHost: h\r\n"+x(127)+"\r\n", "GET / 1.1 h keep")
	f("GET / HTTP/1.1\r\nHost: h\r\n"+x(128)+"\r\n", "!431 There are too many header fields.")
	f("GET / HTTP/1.1\r\nHost: h\r\n"+x(128), "!431 There are too many header fields.")
	f(start+x(100)+"\r\n0\r\n"+x(26)+"\r\n", "POST / 1.1 h keep chunked")
	f(start+x(100)+"\r\n0\r\n"+x(27)+"\r\n", "!431 There are too many header fields.")
}

func TestTrailersUseWhatTheHeadLeft(t *testing.T) {
	l := DefaultLimits()
	l.HeaderBytesMax = 200
	f := transcript(t, &l)
	room := 200 - len(chunkedHead) - len("X: \r\n")
	f(chunkedHead+"0\r\nX: "+fill(room)+"\r\n\r\n", "POST /c 1.1 h keep chunked")
	f(chunkedHead+"0\r\nX: "+fill(room+1)+"\r\n\r\n", "!431 The header section is too large.")
	f(chunkedHead+"0\r\nX: "+fill(room+3), "…")
	f(chunkedHead+"0\r\nX: "+fill(room+4), "!431 The header section is too large.")
	full := chunkedHead[:len(chunkedHead)-2] + "X: " + fill(room) + "\r\n\r\n" // a head that leaves nothing
	f(full+"1\r\na\r\n0\r\n\r\n", `POST /c 1.1 h keep chunked "a"`)
	f(full+"1\r\na\r\n0\r\na:\r\n\r\n", "!431 The header section is too large.")
}

func TestBodiesAreBounded(t *testing.T) {
	l := DefaultLimits()
	l.BodyBytesMax = 10
	f := transcript(t, &l)
	const start = "POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: "
	f(start+"10\r\n\r\n"+fill(10), `POST /c 1.1 h keep "xxxxxxxxxx"`)
	f(start+"11\r\n\r\n", "!413")
	f(start+"11\r\nExpect: 100-continue\r\n\r\n", "!413")
	f(chunkedHead+"a\r\n"+fill(10)+"\r\n0\r\n\r\n", `POST /c 1.1 h keep chunked "xxxxxxxxxx"`)
	f(chunkedHead+"b\r\n", "!413")
	f(chunkedHead+"6\r\n"+fill(6)+"\r\n4\r\n"+fill(4)+"\r\n0\r\n\r\n", `POST /c 1.1 h keep chunked "xxxxxxxxxx"`)
	f(chunkedHead+"6\r\n"+fill(6)+"\r\n5\r\n", "!413")
	f(chunkedHead+"a\r\n"+fill(10)+"\r\n1\r\n", "!413")
	l.BodyBytesMax = 0
	f(start+"0\r\n\r\n", "POST /c 1.1 h keep")
	f(start+"1\r\n\r\n", "!413")
	f(chunkedHead+"0\r\n\r\n", "POST /c 1.1 h keep chunked")
	f(chunkedHead+"1\r\n", "!413")

	g := transcript(t, nil)
	g(start+"67108864\r\n\r\n", "…")
	g(start+"67108865\r\n\r\n", "!413 The request body is too large.")
	g(chunkedHead+"4000000\r\n", "…")
	g(chunkedHead+"4000001\r\n", "!413 The request body is too large.")
}

func TestChunkLinesAreBounded(t *testing.T) {
	f := chunkedTranscript(t)
	room := ChunkLineBytesMax - len("5;\r\n")
	f("5;"+fill(room)+"\r\nhello\r\n0\r\n\r\n", "hello")
	f("5;"+fill(room+1)+"\r\nhello\r\n0\r\n\r\n", "!400 The line that begins a chunk is too long.")
	f("5;"+fill(room+2), "!400 The line that begins a chunk is too long.")
	transcript(t, nil)(chunkedHead+"5;"+fill(room+1), "…")
}

func TestChunkFramingIsBounded(t *testing.T) {
	// A chunk of one byte is five bytes of framing: four more than its data pay for.
	n := ChunkFramingBytesMax / 4
	body := strings.Repeat("1\r\nx\r\n", n)
	if got := read(t, nil, chunkedHead+body+"0\r\n\r\n"); len(got) != 1 || len(got[0]) != len(`POST /c 1.1 h keep chunked ""`)+n {
		t.Errorf("at the bound: %.100q", got)
	}
	for _, rest := range []string{"1\r\n", "1\r\nx\r\n0\r\n\r\n"} {
		if got := read(t, nil, chunkedHead+body+"1\r\nx\r\n"+rest); len(got) != 1 || !strings.HasPrefix(got[0], "!413 The request body consists") {
			t.Errorf("behind the bound: %.100q", got)
		}
	}
	// Chunks of five bytes pay for themselves, however many there are.
	n = 3 * ChunkFramingBytesMax
	if got := read(t, nil, chunkedHead+strings.Repeat("5\r\nhello\r\n", n)+"0\r\n\r\n"); len(got) != 1 || got[0][0] == '!' {
		t.Errorf("small chunks: %.100q", got)
	}
}

func TestNeedIsKnownWithContentLength(t *testing.T) {
	var p Parser
	f := func(buf string, event Event, need int) {
		t.Helper()
		if got, _, err := p.Next([]byte(buf)); got != event || p.Need() != need {
			t.Errorf("%q: %v %v, needs %d, want %v and %d", buf, got, err, p.Need(), event, need)
		}
	}
	const head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
	f(head[:20], NeedMore, 0)
	f(head, HeadDone, len(head)+5)
	f(head+"hell", NeedMore, len(head)+5)
	f(head+"hello", Complete, 0)
	f(head+"h", HeadDone, len(head)+5)
	p.Reset(nil)
	f(chunkedHead, HeadDone, 0)
	f(chunkedHead+"5\r\n", NeedMore, 0)
	p.Reset(nil)
	f("?\r\n\r\n", Failed, 0)
}

func TestNonsenseLimitsAreABug(t *testing.T) {
	f := func(change func(l *Limits)) {
		t.Helper()
		defer func() {
			t.Helper()
			if recover() == nil {
				t.Error("accepted")
			}
		}()
		l := DefaultLimits()
		change(&l)
		new(Parser).Reset(&l)
	}
	f(func(l *Limits) { *l = Limits{} })
	f(func(l *Limits) { l.HeaderBytesMax = 0 })
	f(func(l *Limits) { l.HeaderBytesMax = 1<<28 + 1 })
	f(func(l *Limits) { l.TargetBytesMax = 0 })
	f(func(l *Limits) { l.TargetBytesMax = 1<<28 + 1 })
	f(func(l *Limits) { l.FieldsMax = 0 })
	f(func(l *Limits) { l.BodyBytesMax = -1 })
	f(func(l *Limits) { l.BodyBytesMax = math.MaxInt/4 + 1 })
}
