// Package load is the traffic of a trial: producers that wait for their answers,
// consumers of several groups that acknowledge, refuse, forget and extend, and workers
// that move messages from one queue to another by transactions. All that they see is
// recorded (package history); what is drawn comes from the seed.
//
//	work  ← producers          read by queue mode, g1 (with acks), auto (autoAck), tx
//	out   ← transactions of tx read by d
//
// Producers send a push whose outcome they do not know again, three times, over other
// connections, if it has transactionIds; so the promise that nothing is doubled is always
// tried.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queend/queend/chaos/history"
)

// The queues and groups of a load.
const (
	Work = "chaos.work"
	Out  = "chaos.out"

	QueueMode = ""
	Group     = "g1"
	Auto      = "auto"
	Mover     = "tx"
	OutGroup  = "d"
)

// MustGet says which groups must get every message of a queue.
var MustGet = map[string][]string{Work: {QueueMode, Group, Mover}, Out: {OutGroup}}

// Size is how much of everything there is.
type Size struct {
	Rate       int // pushes per second, all producers together
	Producers  int
	Consumers  int // of each group with acks
	Movers     int
	Partitions int
	Pad        int // bytes of a payload beside its uid
	Bulk       int // messages of a push at most; 0: four
}

// Sizes are the loads by name. A push has one to four messages, but for bulk, where it has so many
// that it is stored before its turn, and nobody pops.
var Sizes = map[string]Size{
	"small":  {Rate: 100, Producers: 6, Consumers: 2, Movers: 2, Partitions: 20, Pad: 200},
	"medium": {Rate: 500, Producers: 16, Consumers: 4, Movers: 4, Partitions: 100, Pad: 200},
	"large":  {Rate: 5000, Producers: 64, Consumers: 16, Movers: 4, Partitions: 100, Pad: 200},
	"bulk":   {Rate: 40, Producers: 30, Partitions: 6, Pad: 20, Bulk: 400},
}

// Config says what a load is like.
type Config struct {
	Size
	Seed  uint64
	Clock *history.Clock
	Dials []func() (net.Conn, error) // one for each queend
	Poll  time.Duration              // the time-out of long polls
	Lease time.Duration              // leaseTime of the queues

	// CallTimeout is how long clients wait for answers, beyond Poll.
	CallTimeout time.Duration
}

// Load is one that runs.
type Load struct {
	config Config

	sending   context.Context
	stopSend  context.CancelFunc
	consuming context.Context
	stopAll   context.CancelFunc
	producers sync.WaitGroup
	consumers sync.WaitGroup
	calm      atomic.Bool

	mu   sync.Mutex
	logs []*history.Log

	stored   atomic.Int64 // messages whose push was answered 2xx
	lastOK   atomic.Int64 // when, on the clock
	buffered atomic.Int64 // of them, those that will be stored later
	directAt atomic.Int64 // when a push was last answered so that it is in the database

	texts sync.Map // string → the same string, kept once: deliveries repeat payloads
}

// Start starts one.
func Start(c Config) *Load {
	l := &Load{config: c}
	l.sending, l.stopSend = context.WithCancel(context.Background())
	l.consuming, l.stopAll = context.WithCancel(context.Background())
	for i := range c.Producers {
		l.producers.Go(l.worker("p", i, l.produce))
	}
	for i := range c.Consumers {
		l.consumers.Go(l.worker("q", i, func(w *worker) { w.consume(QueueMode, Work) }))
		l.consumers.Go(l.worker("g", i, func(w *worker) { w.consume(Group, Work) }))
	}
	for i := range (c.Consumers + 1) / 2 {
		l.consumers.Go(l.worker("a", i, func(w *worker) { w.consume(Auto, Work) }))
		l.consumers.Go(l.worker("o", i, func(w *worker) { w.consume(OutGroup, Out) }))
	}
	for i := range c.Movers {
		l.consumers.Go(l.worker("t", i, func(w *worker) { w.move() }))
	}
	return l
}

// Stored is how many messages were answered 2xx so far, and when the last one was.
func (l *Load) Stored() (n int64, last time.Duration) {
	return l.stored.Load(), time.Duration(l.lastOK.Load())
}

// Buffered is how many of them were answered that they will be stored later.
func (l *Load) Buffered() int64 { return l.buffered.Load() }

// Direct is when a push was last answered that it is in the database.
func (l *Load) Direct() time.Duration { return time.Duration(l.directAt.Load()) }

// keep returns text, the same one for equal texts.
func (l *Load) keep(text string) string {
	kept, _ := l.texts.LoadOrStore(text, text)
	return kept.(string)
}

// StopSending ends the producers and waits for their last answers. From then on consumers
// neither refuse nor forget what they get.
func (l *Load) StopSending() {
	l.stopSend()
	l.producers.Wait()
	l.calm.Store(true)
}

// Stop ends everything and returns what was seen.
func (l *Load) Stop() *history.History {
	l.StopSending()
	l.stopAll()
	l.consumers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return history.Merge(l.config.Clock, l.logs...)
}

// Client is a connection for a trial's own calls; they are recorded too. Only one
// goroutine may use it, and not once Stop was called.
func (l *Load) Client(name string) *Client {
	return &Client{l.newWorker(name, 1000)}
}

// worker is one client, with its own randomness, connection and log.
type worker struct {
	load *Load
	name string
	rng  *rand.Rand
	log  *history.Log
	c    *client
	n    int // messages made so far
}

func (l *Load) worker(kind string, i int, run func(*worker)) func() {
	w := l.newWorker(kind, i)
	return func() {
		run(w)
		w.c.close()
	}
}

func (l *Load) newWorker(kind string, i int) *worker {
	w := &worker{load: l, name: fmt.Sprintf("%s%d", kind, i), log: &history.Log{}}
	var h uint64 = 14695981039346656037
	for _, b := range []byte(w.name) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	w.rng = rand.New(rand.NewPCG(l.config.Seed, h))
	w.c = w.connection(w.log, w.rng.IntN(len(l.config.Dials)))
	l.mu.Lock()
	l.logs = append(l.logs, w.log)
	l.mu.Unlock()
	return w
}

// connection is a client that begins with the nth queend and takes another one when that
// one does not answer the door.
func (w *worker) connection(log *history.Log, n int) *client {
	dials := w.load.config.Dials
	return &client{clock: w.load.config.Clock, log: log, timeout: w.load.config.CallTimeout, dial: func() (net.Conn, int, error) {
		server := n % len(dials)
		conn, err := dials[server]()
		if err != nil {
			n++
		}
		return conn, server, err
	}}
}

// sleep waits and says whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// wrong records an answer that breaks the contract.
func (w *worker) wrong(format string, args ...any) {
	w.log.Wrong = append(w.log.Wrong, fmt.Sprintf(format, args...))
}

// message makes the next message of this worker.
func (w *worker) message(queue, partition, key string) *history.Message {
	w.n++
	uid := fmt.Sprintf("%s-%d", w.name, w.n)
	pad := make([]byte, w.load.config.Pad)
	for i := range pad {
		pad[i] = byte('a' + w.rng.IntN(26))
	}
	m := &history.Message{
		UID: uid, Queue: queue, Partition: partition, Producer: w.name, N: w.n,
		Payload: fmt.Sprintf(`{"uid":%q,"pad":"%s"}`, uid, pad),
	}
	if key != "" {
		m.Key = key + uid
	}
	w.load.texts.Store(m.Payload, m.Payload)
	w.log.Messages = append(w.log.Messages, m)
	return m
}

// Client is a trial's own.
type Client struct{ w *worker }

// Call sends a request and returns its status, 0 for no answer, and its body.
func (c *Client) Call(method, path, body string, wait time.Duration) (int, string) {
	a := c.w.c.call(method, path, body, wait)
	if a.status == 0 {
		return 0, a.why
	}
	return a.status, string(a.body)
}

// Message makes a message to be sent by Push or PushRaw.
func (c *Client) Message(queue, partition string) *history.Message {
	return c.w.message(queue, partition, "k-")
}

// Burst pushes n messages to partitions of a queue in one request and says whether they
// were accepted.
func (c *Client) Burst(queue string, n int) bool {
	var messages []*history.Message
	for range n {
		messages = append(messages, c.Message(queue, fmt.Sprint(c.w.rng.IntN(c.w.load.config.Partitions))))
	}
	return c.w.pushOnce(c.w.c, "/api/v1/push", pushBody(messages), messages) == history.OK
}

// Doomed makes a message that PostgreSQL refuses, for a reason that queend cannot see.
func (c *Client) Doomed(queue, partition string) *history.Message {
	m := c.Message(queue, partition)
	m.Payload, m.Doomed = fmt.Sprintf(`{"uid":%q,"doom":true}`, m.UID), true // see audit.sql
	return m
}

// Close ends the connection.
func (c *Client) Close() { c.w.c.close() }

// Push sends a message and says whether it is stored.
func (c *Client) Push(m *history.Message) bool {
	return c.w.pushOnce(c.w.c, "/api/v1/push", pushBody([]*history.Message{m}), []*history.Message{m}) == history.OK
}

// PushRaw sends a body that is meant to hold these messages, and returns its status and
// answer. What came of it is noted for each of them.
func (c *Client) PushRaw(body string, messages ...*history.Message) (int, string) {
	a := c.w.c.call("POST", "/api/v1/push", body, 0)
	c.w.record(c.w.attempts(c.w.log, a, messages), messages)
	return a.status, string(a.body) + a.why
}
