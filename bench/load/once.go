package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Once is what `ab -n N -c C` does without -k: N requests by C workers, each on
// a connection of its own, in HTTP/1.0, read until the server closes. It stands
// in for ab where that is not installed, and keeps the ids, which ab does not.
func Once(ctx context.Context, addr string, s Shape, body []byte, n, workers int) (*Result, error) {
	request := fmt.Appendf(nil, "POST %s HTTP/1.0\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		s.Path, addr, len(body), body)
	r := NewResult()
	var mu sync.Mutex // guards r
	var begun atomic.Int64
	var wg sync.WaitGroup
	cpu, start := ProcessCPU(), time.Now()
	for range workers {
		wg.Go(func() {
			for begun.Add(1) <= int64(n) {
				sent := time.Now()
				a, err := once(ctx, addr, request)
				mu.Lock()
				if err != nil {
					r.refuse(err.Error())
				} else {
					n := hearQueued(r, a, s.Items)
					r.Queued, r.InTime = r.Queued+n, r.InTime+n
					Record(r.Latency, time.Since(sent))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.Elapsed, r.CPU = time.Since(start), ProcessCPU()-cpu
	return r, ctx.Err()
}

// onceMax bounds one exchange.
const onceMax = 30 * time.Second

func once(ctx context.Context, addr string, request []byte) (a answer, err error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return a, err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(onceMax)); err != nil {
		return a, err
	}
	if _, err := nc.Write(request); err != nil {
		return a, err
	}
	all, err := io.ReadAll(nc)
	if err != nil {
		return a, err
	}
	a, n, err := cutAnswer(all)
	if err == nil && n != len(all) {
		err = fmt.Errorf("the answer is %d bytes, not the %d that it says", len(all), n)
	}
	return a, err
}
