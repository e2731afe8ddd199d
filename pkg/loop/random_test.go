package loop

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Requests of every kind and size, cut into pieces anywhere, replied to at any time and
// in any order, read slowly or at once: each client gets each answer whole, in order.
// LOOP_SEED repeats a run.
func TestAnyRequestsInAnyPiecesAreAnsweredInOrder(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LOOP_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Log("LOOP_SEED =", seed)
	const loops = 2
	var random [loops]*rand.Rand // the handler's, one for each loop
	for i := range random {
		random[i] = rand.New(rand.NewPCG(seed, uint64(i)))
	}
	b := newBench(t, Options{
		Loops: loops, PipelineRequestsMax: 8, OutputBytesMax: 64 << 20, UnreadBytesMax: 64 << 20,
		Handler: func(x *Exchange) {
			l, r := x.Loop(), random[x.Loop().Index()]
			number := string(x.Request().Field("X-Number"))
			body := append([]byte(number+" "), x.Request().Body...)
			reply := func() { x.Reply(200, nil, body, false) }
			switch r.IntN(5) {
			case 0:
				reply()
			case 1:
				l.Defer(reply)
			case 2:
				l.After(time.Duration(r.IntN(3_000))*time.Microsecond, reply)
			case 3:
				l.Post(reply)
			case 4:
				go l.Post(reply)
			}
		},
	})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Add(1)
		c := b.dial()
		go func() {
			defer clients.Done()
			b.converse(c, rand.New(rand.NewPCG(seed, uint64(loops+i))))
		}()
	}
	clients.Wait()
	if s := b.Stats(); s.Panics != 0 || s.RepliesDropped != 0 {
		t.Fatalf("%+v", s)
	}
}

// converse sends random requests and reads the answers. It runs in a goroutine.
func (b *bench) converse(c *client, r *rand.Rand) {
	type asked struct {
		method string
		answer []byte
	}
	var sent bytes.Buffer
	var want []asked
	for n := range 20 {
		method, body := "POST", bytes.Repeat([]byte{'a' + byte(n%26)}, []int{0, 1, 10, 1000, 5_000, 70_000, 200_000}[r.IntN(7)])
		head := fmt.Sprintf(" /x HTTP/1.1\r\nHost: x\r\nX-Number: %d\r\n", n)
		switch r.IntN(4) {
		case 0: // chunked
			fmt.Fprintf(&sent, "POST%sTransfer-Encoding: chunked\r\n\r\n", head)
			for rest := body; len(rest) > 0; {
				k := min(len(rest), 100+r.IntN(20_000))
				fmt.Fprintf(&sent, "%x;ext=1\r\n%s\r\n", k, rest[:k])
				rest = rest[k:]
			}
			sent.WriteString("0\r\nTrailer: x\r\n\r\n")
		case 1: // no body
			method, body = []string{"GET", "HEAD"}[r.IntN(2)], nil
			fmt.Fprintf(&sent, "%s%s\r\n", method, head)
		default:
			fmt.Fprintf(&sent, "POST%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
		}
		want = append(want, asked{method, append(fmt.Appendf(nil, "%d ", n), body...)})
	}
	half := r.IntN(2) == 0
	pieces := rand.New(rand.NewPCG(r.Uint64(), 0))
	go func() {
		for all := sent.Bytes(); len(all) > 0; {
			n := min(len(all), 1+pieces.IntN([]int{3, 300, 30_000, 300_000}[pieces.IntN(4)]))
			if _, err := c.Write(all[:n]); err != nil {
				b.t.Error("cannot send:", err)
				return
			}
			all = all[n:]
		}
		if half {
			_ = c.CloseWrite()
		}
	}()
	for i, w := range want {
		answer, err := http.ReadResponse(c.r, &http.Request{Method: w.method})
		if err != nil {
			b.t.Errorf("answer %d: %v", i, err)
			return
		}
		var body bytes.Buffer
		_, err = body.ReadFrom(answer.Body)
		switch {
		case err != nil || answer.StatusCode != 200:
			b.t.Errorf("answer %d: %d, %v", i, answer.StatusCode, err)
			return
		case w.method == "HEAD" && answer.ContentLength != int64(len(w.answer)):
			b.t.Errorf("answer %d: length %d, want %d", i, answer.ContentLength, len(w.answer))
			return
		case w.method != "HEAD" && !bytes.Equal(body.Bytes(), w.answer):
			b.t.Errorf("answer %d: %.40q, %d bytes, want %.40q, %d bytes", i, body.Bytes(), body.Len(), w.answer, len(w.answer))
			return
		}
	}
}
