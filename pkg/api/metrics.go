package api

var metricsHeader = []byte("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nCache-Control: no-cache\r\n")

// ScrapesMax bounds the expositions that one loop has under way: each is a
// goroutine that works for a millisecond or two.
const ScrapesMax = 4

// metrics gathers elsewhere, since that allocates and reads /proc, and answers
// from the loop.
func (r *Router) metrics(x Exchange) {
	if r.scrapes >= ScrapesMax {
		r.fail(x, 503, nil, "too many scrapes at once, try again in a second")
		return
	}
	x.Expect(AnyLength)
	r.scrapes++
	r.Counters.Scrapes.Add(1)
	r.Offload(func() []byte {
		text, err := r.Metrics()
		if err != nil {
			return nil
		}
		return text
	}, func(text []byte) {
		r.scrapes--
		if text == nil {
			r.fail(x, 500, nil, "the metrics could not be gathered; the log says why")
			return
		}
		x.Reply(200, metricsHeader, text, false)
	})
}
