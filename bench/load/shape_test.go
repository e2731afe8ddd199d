package load

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
)

type pushBody struct {
	Items []struct {
		Queue, Partition, TransactionID string
		Payload                         json.RawMessage
	}
}

// requests makes n requests of a mode, and decodes their bodies.
func requests(t *testing.T, s Shape, kind payload, n int) (all []pushBody) {
	t.Helper()
	src := Settings{Target: Target{Addr: "h:1", Prefix: "/base"}, Shape: s, Nonce: "run"}.source(kind)
	k := &conn{random: rand.New(rand.NewPCG(1, 1))}
	for i := range n {
		request := src.next(k, int64(i*s.Items))
		head, body, _ := bytes.Cut(request, []byte("\r\n\r\n"))
		if !bytes.HasPrefix(head, []byte("POST /base/api/v1/push HTTP/1.1\r\nHost: h:1\r\n")) {
			t.Fatalf("%s", head)
		}
		var p pushBody
		if err := json.Unmarshal(body, &p); err != nil || len(p.Items) != s.Items {
			t.Fatalf("%s: %v", body, err)
		}
		all = append(all, p)
	}
	return all
}

func TestEveryRequestIsFilledAnew(t *testing.T) {
	s := Shape{Queue: "q", Queues: 12, Partitions: 345, Items: 7, PayloadBytes: 64, Transactions: true}
	seen, queues := map[string]bool{}, map[string]bool{}
	for i, p := range requests(t, s, numbered, 300) {
		for j, item := range p.Items {
			if seen[item.TransactionID] || !strings.HasPrefix(item.TransactionID, "run-") {
				t.Fatalf("transaction %q", item.TransactionID)
			}
			seen[item.TransactionID], queues[item.Queue] = true, true
			if len(item.Payload) != 64 || len(item.Partition) != 4 || item.Partition > "p344" || item.Partition < "p000" {
				t.Fatalf("%+v", item)
			}
			if got := payloadNumber(item.Payload); got != int64(i*7+j) {
				t.Fatalf("message %d says that it is %d: %s", i*7+j, got, item.Payload)
			}
		}
	}
	if len(queues) != 12 || !queues["q-00"] || !queues["q-11"] {
		t.Fatalf("%v", queues)
	}
}

func TestAllOfARequestMayGoTogether(t *testing.T) {
	s := Shape{Queue: "q", Partitions: 50, Items: 5, PayloadBytes: 20, Together: true}
	places := map[string]bool{}
	for _, p := range requests(t, s, numbered, 100) {
		for _, item := range p.Items {
			if item.Partition != p.Items[0].Partition || item.TransactionID != "" || len(item.Payload) != 20 {
				t.Fatalf("%+v", p)
			}
		}
		places[p.Items[0].Partition] = true
	}
	if len(places) < 20 {
		t.Fatalf("only %d partitions", len(places))
	}
}

func TestAUniformDrawReachesAllAndZipfPrefersTheFirst(t *testing.T) {
	count := func(s Shape) map[string]int {
		all := map[string]int{}
		for _, p := range requests(t, s, plain, 10000) {
			all[p.Items[0].Queue+"/"+p.Items[0].Partition]++
		}
		return all
	}
	s := Shape{Queue: "q", Partitions: 10, Items: 1, PayloadBytes: 8}
	uniform := count(s)
	if len(uniform) != 10 {
		t.Fatalf("%v", uniform)
	}
	for place, n := range uniform {
		if n < 700 || n > 1300 {
			t.Errorf("%s: %d of 10,000", place, n)
		}
	}
	s.Partitions, s.Zipf = 100, ZipfDefault
	zipf := count(s)
	if first, last := zipf["q/p00"], zipf["q/p99"]; first < 1500 || first < 20*last {
		t.Errorf("the first has %d of 10,000, the last %d", first, last)
	}
}

func TestAShapeThatCannotBeIsRefused(t *testing.T) {
	good := Shape{Queue: "q", Partitions: 1, Items: 1, PayloadBytes: 20}
	f := func(ok bool, change func(*Shape)) {
		t.Helper()
		s := good
		change(&s)
		if err := s.check(true); (err == nil) != ok {
			t.Errorf("%+v: %v", s, err)
		}
	}
	f(true, func(*Shape) {})
	f(true, func(s *Shape) { s.Zipf = 1.01 })
	f(false, func(s *Shape) { s.Zipf = 1 })
	f(false, func(s *Shape) { s.Zipf = -1 })
	f(false, func(s *Shape) { s.PayloadBytes = 19 })
	f(false, func(s *Shape) { s.Queue = `a"b` })
	f(false, func(s *Shape) { s.Queue = "" })
	f(false, func(s *Shape) { s.Partitions = 0 })
	f(false, func(s *Shape) { s.Items = 0 })
}

func TestNumbersAreReadThroughTheBlanksOfJSONB(t *testing.T) {
	f := func(body string, want ...int64) {
		t.Helper()
		var got []int64
		eachNumber([]byte(body), func(n int64) { got = append(got, n) })
		if len(got) != len(want) {
			t.Fatalf("%s: %d", body, got)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s: %d", body, got)
			}
		}
	}
	f(`{"messages":[{"data":{"i":"00000000000aff"}},{"data":{"i":"000000000010"}}]}`, 10, 16)
	f(`{"data": {"i": "0000000000ff77"}}`, 255)
	f(`{"data":{"n":"0000000000ff77"}}`, -1)
	f(`{"data":{"i":"0000`, -1)
	f(`{"data":{"i":"zzzzzzzzzzzz"}}`, -1)
	f(`{"messages":[]}`)
}

func TestABaseURLIsTakenApart(t *testing.T) {
	f := func(url string, want Target, ok bool) {
		t.Helper()
		if got, err := ParseTarget(url); got != want || (err == nil) != ok {
			t.Fatalf("%s: %+v, %v", url, got, err)
		}
	}
	f("http://127.0.0.1:6632", Target{Addr: "127.0.0.1:6632", Host: "127.0.0.1:6632"}, true)
	f("http://q.example/queen/", Target{Addr: "q.example:80", Host: "q.example", Prefix: "/queen"}, true)
	f("http://[::1]:99", Target{Addr: "[::1]:99", Host: "[::1]:99"}, true)
	f("https://q.example", Target{}, false)
	f("q.example:80", Target{}, false)
	f("http://", Target{}, false)
	f("http://h/?x=1", Target{}, false)
}

func TestChunkedAnswersAreCutWhenTheyAreWhole(t *testing.T) {
	const whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
	for i := range len(whole) {
		if _, n, err := cutAnswer([]byte(whole[:i])); n != 0 || err != nil {
			t.Fatalf("%d bytes: %d, %v", i, n, err)
		}
	}
	a, n, err := cutAnswer([]byte(whole + "HTTP/1.1"))
	if err != nil || n != len(whole) || a.status != 200 || string(a.body) != "abcd0123456789" {
		t.Fatalf("%+v, %d, %v", a, n, err)
	}
	if _, _, err := cutAnswer([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")); err == nil {
		t.Fatal("no size is a size")
	}
}

func TestAPercentileCurveRisesToTheHighest(t *testing.T) {
	h := NewHistogram()
	if Curve(h) != nil || Curve(nil) != nil {
		t.Fatal("nothing makes a curve")
	}
	for us := int64(1); us <= 10000; us++ {
		_ = h.RecordValue(us)
	}
	all := Curve(h)
	for i, p := range all[1:] {
		if p.Percent <= all[i].Percent || p.Micros < all[i].Micros {
			t.Fatalf("%+v after %+v", p, all[i])
		}
	}
	if last := all[len(all)-1]; last.Percent != 100 || last.Micros != h.Max() || len(all) < 20 {
		t.Fatalf("%d points to %+v", len(all), last)
	}
}
