package httpparse_test

import (
	"fmt"

	"github.com/queend/queend/pkg/httpparse"
)

// A connection's owner keeps what was received and asks what is in it.
func ExampleParser() {
	var p httpparse.Parser
	limits := httpparse.DefaultLimits()
	p.Reset(&limits)

	var buf []byte
	for _, received := range []string{
		"POST /push HTTP/1.1\r\nHost: localhost\r\nContent-",
		"Length: 5\r\n\r\n",
		"helloGET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/3.0\r\n\r\n",
	} {
		buf = append(buf, received...)
		for event := httpparse.Complete; event == httpparse.Complete && len(buf) > 0; {
			var n int
			var err *httpparse.Error
			event, n, err = p.Next(buf)
			switch event {
			case httpparse.HeadDone:
				fmt.Printf("%d bytes of body are to come\n", p.Request.ContentLength)
			case httpparse.Complete:
				fmt.Printf("%s %s %q\n", p.Request.Method, p.Request.Path, p.Request.Body)
				buf = buf[n:]
			case httpparse.Failed:
				fmt.Println(err.Status, err.Reason)
			}
		}
	}
	// Output:
	// 5 bytes of body are to come
	// POST /push "hello"
	// GET /health ""
	// 505 Only HTTP/1.1 and HTTP/1.0 are spoken here.
}

// A slash that the client encoded does not separate segments.
func ExampleCutSegment() {
	for rest := []byte("/queue/a%2Fb"); ; {
		segment, next, ok := httpparse.CutSegment(rest)
		if !ok {
			break
		}
		name, err := httpparse.DecodeSegment(nil, segment)
		if err != nil {
			fmt.Println(err)
		}
		fmt.Printf("%q\n", name)
		rest = next
	}
	// Output:
	// "queue"
	// "a/b"
}

func ExampleQueryValue() {
	value, found, err := httpparse.QueryValue(nil, []byte("mygroup=x&group=a+b%2Fc"), "group")
	if err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%q %v\n", value, found)
	// Output: "a b/c" true
}
