package loop

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestRequestsAreServedAndHalfClosedClientsAnswered(t *testing.T) {
	s, err := New(Options{Loops: 2, Log: zerolog.New(zerolog.NewTestWriter(t)), Handler: func(x *Exchange) {
		l := x.Loop()
		b := append([]byte(nil), x.Request().Body...)
		l.Defer(func() { l.After(time.Millisecond, func() { go l.Post(func() { x.Reply(201, nil, b, false) }) }) })
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 100; i++ {
		r, err := http.Post("http://"+s.Addr().String()+"/x", "text/plain", strings.NewReader(strings.Repeat("x", i*3000)))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		if len(b) != i*3000 || r.StatusCode != 201 {
			t.Fatal(i, r.StatusCode, len(b))
		}
		if i == 0 {
			t.Log(r.Header)
		}
	}
	c, _ := net.Dial("tcp", s.Addr().String())
	io.WriteString(c, strings.Repeat("POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", 1))
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	t.Log(string(b), err)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	t.Log(s.Shutdown(ctx))
	t.Logf("%+v", s.Stats())
}
