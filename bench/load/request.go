// Package load makes load over HTTP/1.1 and hears what became of it. It is made
// not to flatter and not to be what is measured: requests are prebuilt bytes,
// connections are kept alive and polled by one thread, and the CPU that the
// generator itself used is part of every result.
//
// Each mode (Push, PopAck, Pipeline, FanOut, Mixed, Hello) is one function of its
// Settings. It knows any server that answers as queend does, by its address. It is no
// HTTP client: it speaks plain HTTP/1.1 on connections that are kept alive, follows no
// redirection, and reads answers that carry Content-Length or are chunked.
package load

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Shape says what is pushed.
type Shape struct {
	Path         string // empty: "/api/v1/push"
	Queue        string
	Queues       int     // 0 or 1: the one of that name; more: Queue-0, Queue-1, …
	Partitions   int     // of each queue, named p0, p1, …
	Zipf         float64 // 0: drawn uniformly, over all queues; else the s of Zipf's law, above 1
	Items        int     // messages in one request
	Together     bool    // all of a request into one partition
	PayloadBytes int     // of each message, as JSON text
	Transactions bool    // give each message a transactionId; else the server makes them
	Seed         uint64
}

// ZipfDefault is the s of a distribution in which few partitions have most messages:
// of 100, the first has a fifth.
const ZipfDefault = 1.1

// payloadBytesMin is the shortest payload that we can make: `{"n":""}`.
const payloadBytesMin = len(`{"n":""}`)

// Body is the JSON of one push of s.Items messages, each into a partition drawn
// from r. Items carry no transactionId: the server makes them.
func (s Shape) Body(r *rand.Rand) []byte {
	s.Transactions = false
	t := s.template(r, plain, "")
	t.fill(newDraw(s, r), 0)
	return t.bytes
}

// requestsPrebuilt is how many different requests a run cycles through: enough
// that each of 100 partitions is drawn as often as chance has it, few enough
// that their bytes stay in the processor's cache beside the server's own.
const requestsPrebuilt = 1024

// Requests are whole requests for a server at host. The same shape and seed give
// the same bytes. With thousands of partitions, or with transactionIds, they are too
// few: the modes draw anew for each request.
func (s Shape) Requests(host string) [][]byte {
	r := rand.New(rand.NewPCG(s.Seed, 0))
	all := make([][]byte, requestsPrebuilt)
	for i := range all {
		all[i] = Post(host, s.path(), s.Body(r))
	}
	return all
}

func (s Shape) path() string {
	if s.Path == "" {
		return "/api/v1/push"
	}
	return s.Path
}

func (s Shape) queues() int { return max(s.Queues, 1) }

// queueName is the name of queue i.
func (s Shape) queueName(i int) string {
	if s.queues() == 1 {
		return s.Queue
	}
	return fmt.Sprintf("%s-%0*d", s.Queue, digits(s.queues()), i)
}

// QueueNames are all queues that are pushed to.
func (s Shape) QueueNames() (all []string) {
	for i := range s.queues() {
		all = append(all, s.queueName(i))
	}
	return all
}

// check says what of a shape cannot be.
func (s Shape) check(numbered bool) error {
	least := payloadBytesMin
	if numbered {
		least = numberedBytesMin
	}
	switch {
	case !plainName(s.Queue) || s.Partitions < 1 || s.Items < 1:
		return fmt.Errorf("a push needs a queue (of letters, digits, '-', '_' and '.'), partitions and messages: %+v", s)
	case s.Zipf != 0 && s.Zipf <= 1:
		return fmt.Errorf("the s of Zipf's law must be above 1, not %v", s.Zipf)
	case s.PayloadBytes < least:
		return fmt.Errorf("payloads of this mode have %d bytes at least, not %d", least, s.PayloadBytes)
	}
	return nil
}

// plainName: it needs no escapes, neither in JSON nor in a path.
func plainName(name string) bool {
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	}) < 0
}

// Post is a whole request with a body of JSON.
func Post(host, path string, body []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, host, len(body), body)
}

// digits is how many decimal digits the numbers below n have at most.
func digits(n int) int { return len(fmt.Sprint(max(n-1, 0))) }

// draw draws where messages go.
type draw struct {
	shape  Shape
	random *rand.Rand
	zipf   *rand.Zipf // nil: uniformly
}

func newDraw(s Shape, r *rand.Rand) *draw {
	d := &draw{shape: s, random: r}
	if s.Zipf != 0 {
		d.zipf = rand.NewZipf(r, s.Zipf, 1, uint64(s.queues()*s.Partitions-1))
	}
	return d
}

// Drawer draws places as the modes do: queue i mod n and its partition i / n, of n
// queues. It is for one goroutine at a time.
func (s Shape) Drawer() func() int {
	d := newDraw(s, rand.New(rand.NewPCG(s.Seed, 1)))
	return d.index
}

// place is a queue and a partition of it. The first ones of Zipf's law are spread over
// the queues.
func (d *draw) place() (queue, partition int) {
	n, at := d.shape.queues(), d.index()
	return at % n, at / n
}

func (d *draw) index() int {
	if d.zipf != nil {
		return int(d.zipf.Uint64())
	}
	return d.random.IntN(d.shape.queues() * d.shape.Partitions)
}

// template is the prebuilt body, or request, of one push: what differs from one to the
// next stands at known places and has a fixed width.
type template struct {
	bytes    []byte
	together bool
	items    []slots
}

// slots say where in a template an item's parts are; 0: it has none.
type slots struct {
	queue, partition    int // of their numbers, which end there
	transaction, number int // which end there
}

// What the payloads of a template are.
type payload bool

const (
	plain    payload = false // {"n":"…"}
	numbered payload = true  // {"i":"…"}, which begins with the message's number
)

// numberDigits is how many hexadecimal digits a message's number has.
const numberDigits = 12

// numberedBytesMin is the shortest payload with a number.
const numberedBytesMin = len(`{"i":""}`) + numberDigits

// template builds one. Transaction ids begin with nonce, which has to differ between
// runs that share a database.
func (s Shape) template(r *rand.Rand, kind payload, nonce string) *template {
	if err := s.check(bool(kind)); err != nil {
		panic("BUG: " + err.Error())
	}
	var b bytes.Buffer
	t := &template{together: s.Together, items: make([]slots, s.Items)}
	b.WriteString(`{"items":[`)
	for i := range t.items {
		at := &t.items[i]
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"queue":"%s`, s.queueName(0))
		if s.queues() > 1 {
			at.queue = b.Len()
		}
		fmt.Fprintf(&b, `","partition":"p%0*d`, digits(s.Partitions), 0)
		if at.partition = b.Len(); s.Partitions == 1 {
			at.partition = 0
		}
		b.WriteString(`",`)
		if s.Transactions {
			fmt.Fprintf(&b, `"transactionId":"%s-%0*x`, nonce, numberDigits, 0)
			at.transaction = b.Len()
			b.WriteString(`",`)
		}
		b.WriteString(`"payload":{"`)
		rest := s.PayloadBytes - payloadBytesMin
		if kind == numbered {
			fmt.Fprintf(&b, `i":"%0*x`, numberDigits, 0)
			at.number = b.Len()
			rest -= numberDigits
		} else {
			b.WriteString(`n":"`)
		}
		for range rest {
			b.WriteByte("0123456789abcdef"[r.IntN(16)])
		}
		b.WriteString(`"}}`)
	}
	b.WriteString(`]}`)
	t.bytes = b.Bytes()
	return t
}

// inRequest makes a template of a body into one of a whole request.
func (t *template) inRequest(host, path string) *template {
	size := len(t.bytes)
	t.bytes = Post(host, path, t.bytes)
	head := len(t.bytes) - size
	for i := range t.items {
		at := &t.items[i]
		for _, slot := range []*int{&at.queue, &at.partition, &at.transaction, &at.number} {
			if *slot > 0 {
				*slot += head
			}
		}
	}
	return t
}

// fill makes it a push of messages first, first+1, …, to places that are drawn.
func (t *template) fill(d *draw, first int64) {
	queue, partition := d.place()
	for i, at := range t.items {
		if i > 0 && !t.together {
			queue, partition = d.place()
		}
		putNumber(t.bytes, at.queue, queue)
		putNumber(t.bytes, at.partition, partition)
		putHex(t.bytes, at.transaction, first+int64(i))
		putHex(t.bytes, at.number, first+int64(i))
	}
}

// putNumber writes decimal digits that end at a place, over those that are there.
func putNumber(b []byte, end, n int) {
	for i := end - 1; i > 0 && b[i] >= '0' && b[i] <= '9'; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

func putHex(b []byte, end int, n int64) {
	if end == 0 {
		return
	}
	for i := end - 1; i >= end-numberDigits; i-- {
		b[i] = "0123456789abcdef"[n&15]
		n >>= 4
	}
}
