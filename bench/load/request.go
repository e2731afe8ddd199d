// Package load makes load over HTTP/1.1 and hears what became of it. It is made
// not to flatter and not to be what is measured: requests are prebuilt bytes,
// connections are kept alive and polled by one thread, and the CPU that the
// generator itself used is part of every result.
//
// It knows any server that answers POST /api/v1/push as queend does, by its
// address. It is no HTTP client: answers must carry Content-Length.
package load

import (
	"bytes"
	"fmt"
	"math/rand/v2"
)

// Shape says what is pushed.
type Shape struct {
	Path         string // "/api/v1/push"
	Queue        string
	Partitions   int  // drawn uniformly, named p0, p1, …
	Items        int  // messages in one request
	Together     bool // all of a request into one partition
	PayloadBytes int  // of each message, as JSON text
	Seed         uint64
}

// payloadBytesMin is the shortest payload that we can make: `{"n":""}`.
const payloadBytesMin = len(`{"n":""}`)

// Body is the JSON of one push of s.Items messages, each into a partition drawn
// from r. Items carry no transactionId: the server makes them.
func (s Shape) Body(r *rand.Rand) []byte {
	if s.PayloadBytes < payloadBytesMin {
		panic(fmt.Sprintf("BUG: no payload has %d bytes", s.PayloadBytes))
	}
	var b bytes.Buffer
	b.WriteString(`{"items":[`)
	partition := r.IntN(s.Partitions)
	for i := range s.Items {
		if i > 0 && !s.Together {
			partition = r.IntN(s.Partitions)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"queue":%q,"partition":"p%d","payload":{"n":"`, s.Queue, partition)
		for range s.PayloadBytes - payloadBytesMin {
			b.WriteByte("0123456789abcdef"[r.IntN(16)])
		}
		b.WriteString(`"}}`)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// requestsPrebuilt is how many different requests a run cycles through: enough
// that each of 100 partitions is drawn as often as chance has it, few enough
// that their bytes stay in the processor's cache beside the server's own.
const requestsPrebuilt = 1024

// Requests are whole requests for a server at host. The same shape and seed give
// the same bytes.
func (s Shape) Requests(host string) [][]byte {
	r := rand.New(rand.NewPCG(s.Seed, 0))
	all := make([][]byte, requestsPrebuilt)
	for i := range all {
		body := s.Body(r)
		all[i] = Post(host, s.Path, body)
	}
	return all
}

// Post is a whole request with a body of JSON.
func Post(host, path string, body []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, host, len(body), body)
}
