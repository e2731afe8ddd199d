package load

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/queend/queend/chaos/history"
)

// How producers behave, in percent of their pushes.
const (
	keyedPercent  = 60 // with transactionIds
	legacyPercent = 10 // by push-legacy
	againPercent  = 2  // that were answered and are sent again all the same
)

// retries is how often a push whose outcome is unknown is sent again.
const retries = 3

// produce sends until the load stops, at its share of the rate.
func (l *Load) produce(w *worker) {
	pause := time.Duration(float64(time.Second) * float64(l.config.Producers) / float64(l.config.Rate))
	next := time.Now()
	for l.sending.Err() == nil {
		next = next.Add(time.Duration(float64(pause) * 2 * w.rng.Float64()))
		if late := time.Now(); next.Before(late) {
			next = late // who waited for an answer does not catch up
		}
		if l.config.Bulk > 0 {
			next = time.Now().Truncate(pause).Add(pause) // all at once: one is in flight while others wait
		}
		if !sleep(l.sending, time.Until(next)) {
			return
		}
		key := ""
		if w.rng.IntN(100) < keyedPercent {
			key = "k-"
		}
		var messages []*history.Message
		n := 1 + w.rng.IntN(4)*w.rng.IntN(2)
		if l.config.Bulk > 0 {
			n = 1 + w.rng.IntN(l.config.Bulk)
		}
		for range n {
			messages = append(messages, w.message(Work, fmt.Sprint(w.rng.IntN(l.config.Partitions)), key))
		}
		w.send(messages, key != "")
	}
}

// send pushes messages of one request, again if that is right.
func (w *worker) send(messages []*history.Message, keyed bool) {
	route := "/api/v1/push"
	bulk := w.load.config.Bulk > 0 // legacy pushes come between, and for a while after a duplicate none is stored early
	if w.rng.IntN(100) < legacyPercent && !bulk {
		route = "/api/v1/push-legacy"
	}
	body := pushBody(messages)
	outcome := w.pushOnce(w.c, route, body, messages)
	switch {
	case outcome == history.Fail:
		sleep(w.load.sending, 100*time.Millisecond)
	case !keyed:
	case outcome == history.Unknown:
		w.again(route, body, messages)
	case w.rng.IntN(100) < againPercent && !bulk:
		w.pushOnce(w.c, route, body, messages)
	}
}

// again sends a push from other connections: at once from all, or one after the other.
func (w *worker) again(route, body string, messages []*history.Message) {
	together := w.rng.IntN(2) == 0
	first := w.rng.IntN(len(w.load.config.Dials))
	var wait sync.WaitGroup
	logs := make([]*history.Log, retries)
	attempts := make([][]history.Attempt, retries)
	for i := range retries {
		logs[i] = &history.Log{}
		one := func() {
			c := w.connection(logs[i], first+i)
			defer c.close()
			// No connection is no retry: the server may be coming up.
			for limit := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				a := c.call("POST", route, body, 0)
				if a.sent || time.Now().After(limit) {
					attempts[i] = w.attempts(logs[i], a, messages)
					return
				}
			}
		}
		if together {
			wait.Go(one)
		} else {
			one()
		}
	}
	wait.Wait()
	for i := range retries {
		w.log.Calls = append(w.log.Calls, logs[i].Calls...)
		w.log.Wrong = append(w.log.Wrong, logs[i].Wrong...)
		w.record(attempts[i], messages)
	}
}

// pushOnce is one request over c.
func (w *worker) pushOnce(c *client, route, body string, messages []*history.Message) history.Outcome {
	attempts := w.attempts(w.log, c.call("POST", route, body, 0), messages)
	w.record(attempts, messages)
	worst := history.OK
	for i := range attempts {
		if o := attempts[i].Outcome; o == history.Unknown || o == history.Fail && worst == history.OK {
			worst = o
		}
	}
	return worst
}

func (w *worker) record(attempts []history.Attempt, messages []*history.Message) {
	for i, m := range messages {
		a := attempts[i]
		m.Attempts = append(m.Attempts, a)
		if a.Outcome == history.OK && !a.Duplicate {
			w.load.stored.Add(1)
			w.load.lastOK.Store(int64(a.End))
			if a.Buffered {
				w.load.buffered.Add(1)
			} else {
				w.load.directAt.Store(int64(a.End))
			}
		}
	}
}

func pushBody(messages []*history.Message) string {
	var b strings.Builder
	b.WriteString(`{"items":[`)
	for i, m := range messages {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(item(m))
	}
	b.WriteString(`]}`)
	return b.String()
}

func item(m *history.Message) string {
	key := ""
	if m.Key != "" {
		key = fmt.Sprintf(`"transactionId":%q,`, m.Key)
	}
	return fmt.Sprintf(`{"queue":%q,"partition":%q,%s"payload":%s}`, m.Queue, m.Partition, key, m.Payload)
}

// attempts reads the answer to a push, an attempt for each message. Any goroutine: it
// writes to log alone.
func (w *worker) attempts(log *history.Log, a answer, messages []*history.Message) []history.Attempt {
	all := make([]history.Attempt, len(messages))
	for i := range all {
		all[i] = history.Attempt{Start: a.start, End: a.end, Status: a.status, Server: a.server, Outcome: a.outcome(), Why: a.why}
	}
	if a.outcome() != history.OK {
		return all
	}
	var items []struct {
		Index         int    `json:"index"`
		Status        string `json:"status"`
		MessageID     string `json:"message_id"`
		TransactionID string `json:"transaction_id"`
		Error         string `json:"error"`
	}
	if err := json.Unmarshal(a.body, &items); err != nil || len(items) != len(messages) {
		log.Wrong = append(log.Wrong, fmt.Sprintf("a push of %d messages was answered %d %.300s", len(messages), a.status, a.body))
		for i := range all {
			all[i].Outcome = history.Unknown
		}
		return all
	}
	for i := range items {
		it := &items[i]
		all[i].ID, all[i].Key, all[i].Duplicate, all[i].Buffered = it.MessageID, it.TransactionID, it.Status == "duplicate", it.Status == "buffered"
		switch it.Status {
		case "queued", "duplicate":
			if it.MessageID == "" || it.Index != i || messages[i].Key != "" && it.TransactionID != messages[i].Key {
				log.Wrong = append(log.Wrong, fmt.Sprintf("item %d with key %q was answered %+v", i, messages[i].Key, *it))
			}
			if it.Status == "duplicate" && messages[i].Key == "" {
				log.Wrong = append(log.Wrong, fmt.Sprintf("message %s has no key and was answered %+v", messages[i].UID, *it))
			}
		case "buffered":
			if it.TransactionID == "" || it.Index != i || messages[i].Key != "" && it.TransactionID != messages[i].Key {
				log.Wrong = append(log.Wrong, fmt.Sprintf("item %d with key %q was answered %+v", i, messages[i].Key, *it))
			}
		case "failed":
			all[i].Outcome, all[i].Why = history.Fail, it.Error
		default:
			log.Wrong = append(log.Wrong, fmt.Sprintf("item %d was answered with status %q", i, it.Status))
			all[i].Outcome = history.Unknown
		}
	}
	return all
}
