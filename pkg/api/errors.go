package api

import (
	"github.com/queend/queend/pkg/queue"
)

// statusOf is the one map from what went wrong to what the client sees. Overload
// and an absent database are 503 and never 429: the clients in the field retry
// 5xx and give up on 4xx.
var statusOf = [...]int{
	queue.OK:          201,
	queue.Invalid:     400,
	queue.TooLarge:    413,
	queue.Unavailable: 503,
	queue.Outage:      503,
	queue.Overloaded:  503,
	queue.Internal:    500,
}

// retryHeader asks for one second: as long as an outage that a restart of
// PostgreSQL makes, and too short to matter to a client that waits.
var retryHeader = []byte("Retry-After: 1\r\nContent-Type: application/json\r\n")

// fail answers {"error":"…"}. header holds lines beside the content type, or nil.
// It allocates; errors are not the common path.
func (r *Router) fail(x Exchange, status int, header []byte, sentence string) {
	lines := jsonHeader
	if status == 503 {
		lines = retryHeader
	}
	if header != nil {
		lines = append(append([]byte(nil), header...), lines...)
	}
	body := append([]byte(`{"error":`), appendJSON(nil, sentence)...)
	x.Reply(status, lines, append(body, '}'), false)
}

func (r *Router) fault(x Exchange, f queue.Fault) { r.fail(x, statusOf[f.Code], nil, f.Message) }
