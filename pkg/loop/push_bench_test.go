package loop

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkPushReply is the last stage of a push: the body of an answer to the answer's
// bytes. See BenchmarkPushParse in package httpparse.
func BenchmarkPushReply(b *testing.B) {
	s, err := New(Options{Handler: func(*Exchange) {}, Header: "Access-Control-Allow-Origin: *\r\n"})
	if err != nil {
		b.Fatal(err)
	}
	item := `{"index":0,"message_id":"` + strings.Repeat("0", 36) + `","partition_id":"` + strings.Repeat("0", 36) +
		`","queueName":"bench","status":"queued","trace_id":null,"transactionId":"` + strings.Repeat("0", 36) + `","transaction_id":"` + strings.Repeat("0", 36) + `"}`
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			l := s.Loops()[0]
			x, header := &Exchange{loop: l, minor: 1, keep: true}, []byte("Content-Type: application/json\r\n")
			body := []byte("[" + strings.Repeat(item+",", n-1) + item + "]")
			answer := make([]byte, 0, 2*len(body)+1024)
			b.ReportAllocs()
			for b.Loop() {
				x.setID(nil)
				answer = l.appendAnswer(answer[:0], x, 201, header, body)
			}
			b.SetBytes(int64(len(answer)))
		})
	}
}
