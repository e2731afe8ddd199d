package loop_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/queend/queend/pkg/loop"
)

// A handler owns its exchange until it replies, which may be later: meanwhile the loop
// serves others.
func Example() {
	server, err := loop.New(loop.Options{Handler: func(x *loop.Exchange) {
		name := string(x.Request().Body) // a copy: the request dies with the handler
		x.Loop().After(time.Millisecond, func() {
			x.Reply(201, []byte("Content-Type: text/plain\r\n"), []byte("hello, "+name), false)
		})
	}})
	if err != nil {
		panic(err)
	}
	if err := server.Listen("127.0.0.1:0"); err != nil {
		panic(err)
	}
	if err := server.Start(); err != nil {
		panic(err)
	}

	answer, err := http.Post("http://"+server.Addr().String(), "text/plain", strings.NewReader("world"))
	if err != nil {
		panic(err)
	}
	body, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	fmt.Println(answer.StatusCode, string(body))
	http.DefaultClient.CloseIdleConnections()

	if err := server.Shutdown(context.Background()); err != nil {
		panic(err)
	}
	// Output: 201 hello, world
}
