package loop

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The wire, byte by byte: request → exact answer. Dates are replaced by <date>, ids
// that we make by <id>.
func TestTranscripts(t *testing.T) {
	b := newBench(t, Options{Header: "Access-Control-Allow-Origin: *\r\n"})
	date := regexp.MustCompile(`Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT\r\n`)
	id := regexp.MustCompile(`X-Request-Id: [0-9a-f]{16}\r\n`)
	f := func(request, want string) {
		t.Helper()
		c := b.dial()
		c.send(request)
		_ = c.CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		answer := id.ReplaceAllString(date.ReplaceAllString(string(got), "Date: <date>\r\n"), "X-Request-Id: <id>\r\n")
		if want = strings.ReplaceAll(want, "\n", "\r\n"); answer != want {
			t.Fatalf("got:\n%s\nwant:\n%s", answer, want)
		}
	}
	const common = "Date: <date>\nX-Content-Type-Options: nosniff\nAccess-Control-Allow-Origin: *\n"
	f(get("/a"), "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nContent-Length: 2\n\n/a")
	f("GET /a HTTP/1.1\r\nHost: x\r\nX-Request-Id: 4f-a!\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: 4f-a!\nContent-Length: 2\n\n/a")
	f("GET /a HTTP/1.1\r\nHost: x\r\nX-Request-Id: a b\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nContent-Length: 2\n\n/a")
	f("GET /a HTTP/1.1\r\nHost: x\r\nX-Request-Id:\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nContent-Length: 2\n\n/a")
	longest := strings.Repeat("i", RequestIDBytesMax)
	f("GET /a HTTP/1.1\r\nHost: x\r\nX-Request-Id: "+longest+"\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: "+longest+"\nContent-Length: 2\n\n/a")
	f("GET /a HTTP/1.1\r\nHost: x\r\nX-Request-Id: "+longest+"i\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nContent-Length: 2\n\n/a")
	f("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nContent-Length: 2\n\n")
	f("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nConnection: close\nContent-Length: 2\n\n/a")
	f("GET /a HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nConnection: close\nContent-Length: 2\n\n/a")
	f("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nConnection: keep-alive\nContent-Length: 2\n\n/a")
	f(get("/204"), "HTTP/1.1 204 No Content\n"+common+"X-Request-Id: <id>\n\n")
	f(get("/304"), "HTTP/1.1 304 Not Modified\n"+common+"X-Request-Id: <id>\n\n")
	f(get("/header"), "HTTP/1.1 200 OK\n"+common+"X-Request-Id: <id>\nContent-Type: text/plain\nX-More: 1\nContent-Length: 2\n\nok")
	f("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request\n"+common+"X-Request-Id: <id>\nContent-Type: application/json\nConnection: close\nContent-Length: 38\n\n"+`{"error":"The Host field is missing."}`)
}

func TestEveryRequestHasAnotherID(t *testing.T) {
	b := newBench(t, Options{Loops: 2})
	seen := map[string]bool{}
	for range 10 {
		c := b.dial()
		for range 10 {
			c.send(get("/a"))
			r := c.hears(200, "/a")
			id := r.Header.Get("X-Request-Id")
			if len(id) != 16 || seen[id] {
				t.Fatal(id, "was given twice")
			}
			seen[id] = true
		}
	}
}

func TestTheDateIsThatOfTheSecond(t *testing.T) {
	l := &Loop{server: &Server{}}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		earliest := time.Now().Truncate(time.Second)
		l.clock = l.Now()
		line := string(l.dateLine())
		latest := time.Now()
		date, err := http.ParseTime(strings.TrimSuffix(strings.TrimPrefix(line, "Date: "), "\r\n"))
		if err != nil || date.Before(earliest) || date.After(latest) {
			t.Fatal(line, earliest, latest, err)
		}
	}
}

func TestAReplyWithAnImpossibleStatusIsABug(t *testing.T) {
	for _, status := range []int{0, 100, 199, 600} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error(status, "was accepted")
				}
			}()
			l := &Loop{}
			(&Exchange{loop: l, state: open}).Reply(status, nil, nil, false)
		}()
	}
}
