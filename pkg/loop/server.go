package loop

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/httpparse"
)

// Handler is called for each request, on the loop, when the request is complete; for
// one connection in the order of its requests, the next one possibly before the
// former is replied to. It must not block.
type Handler func(x *Exchange)

// Options of a Server. A field that is zero has the default named beside it.
type Options struct {
	// Handler serves the requests. It may look at Exchange.Loop to find what belongs to
	// the loop it runs on.
	Handler Handler
	// Loops is how many event loops there are (1).
	Loops int
	// Header is put into every answer, refusals included: "Name: value\r\n" lines, or "".
	Header string
	// Limits bound a request (httpparse.DefaultLimits).
	Limits httpparse.Limits
	// Log hears of starts, stops and surprises, never of single requests.
	Log zerolog.Logger
	// HandOver lets a second process listen on the same port while this one drains
	// (SO_REUSEPORT, in both of them). Without it a second process is refused.
	HandOver bool

	// ConnsMax is how many clients may be connected (20,000). It is lowered to what the
	// descriptor limit allows, less FilesReserve. More are answered 503 and closed.
	ConnsMax int
	// FilesReserve is how many descriptors are left to everything else: PostgreSQL's
	// sockets, files, duplicates of half-closed connections (128, at most half of the limit).
	FilesReserve int
	// PipelineRequestsMax is how many requests of one connection may wait for their
	// replies (1,000). Further ones are not parsed until some have gone.
	PipelineRequestsMax int
	// RequestsMax is how many requests of one loop may wait for their replies (100,000).
	// Further ones are answered 503 without being handled.
	RequestsMax int
	// OutputBytesMax is how many bytes a connection may have unsent, held-back answers
	// included, when one more answer comes (1 MiB). More: the reader does not read, and is
	// closed. So a single answer may be larger. Of answers whose length the handler has
	// announced (Exchange.Expect) no more than that are asked for at once, and one more.
	OutputBytesMax int
	// UnreadBytesMax is how many bytes are kept of requests that are not parsed because
	// the connection is at one of the bounds above (128 KiB; as much as one request may have,
	// where the client reads and an answer that was announced is what is waited for). More:
	// 503, and close.
	UnreadBytesMax int
	// InboundBytesMax is how many bytes of incomplete requests one loop keeps (256 MiB
	// divided by Loops, at least twice the largest request). More: 503, and close.
	InboundBytesMax int
	// OutboundBytesMax is how many unsent bytes one loop keeps for readers that are slow
	// (64 MiB divided by Loops), beside what the kernel keeps for each. More: the
	// connection that has not moved for longest is closed, and so on until it is less, and
	// one that gets an answer although it has not read the one before. A single connection
	// may have more.
	OutboundBytesMax int
	// StalledBytesMax is how many of them one loop keeps for readers that stand still, that
	// is, have taken nothing for StallGrace (24 MiB divided by Loops). More: the one that has
	// stood still for longest is closed, and so on until it is less. A single one may have
	// more, until WriteTimeout.
	StalledBytesMax int
	// HalfClosedMax is how many connections of one loop may wait for an answer after
	// their client has shut down its sending side (1,000). More are closed.
	HalfClosedMax int

	// IdleTimeout ends a connection on which nothing happens between two requests (60 s).
	IdleTimeout time.Duration
	// HeadTimeout is from a request's first byte to the end of its head (10 s): 408.
	HeadTimeout time.Duration
	// BodyTimeout is how long a body may stand still (30 s): 408.
	BodyTimeout time.Duration
	// BodyTotalTimeout is how long a body may take altogether (10 min): 408.
	BodyTotalTimeout time.Duration
	// RateBytesMin is how many bytes a second a sender of a body and a reader of an
	// answer have to do on average (1 KiB), once RateGrace has passed.
	RateBytesMin int
	// RateGrace is how long the average is not looked at (20 s).
	RateGrace time.Duration
	// WriteTimeout is how long a client may take nothing of an answer that is ready, be it
	// with us or with the kernel (25 s): the connection is closed.
	WriteTimeout time.Duration
	// StallGrace is how long a reader may take nothing and still count as one that moves (2 s).
	StallGrace time.Duration
	// LingerTimeout is how long a connection that we end is read from and ignored, so
	// that the client gets the last answer instead of a reset (5 s).
	LingerTimeout time.Duration
}

// withDefaults fills in what was left out, and refuses what makes no sense.
func (o Options) withDefaults() (Options, error) {
	if o.Handler == nil {
		return o, errors.New("no handler is given")
	}
	if o.Header != "" && (!strings.HasSuffix(o.Header, "\r\n") || strings.Contains(o.Header, "\r\n\r\n")) {
		return o, errors.New("the common header is not made of lines that end with CR LF")
	}
	if o.Limits == (httpparse.Limits{}) {
		o.Limits = httpparse.DefaultLimits()
	}
	counts := []struct {
		name  string
		value *int
		or    int
	}{
		{"Loops", &o.Loops, 1},
		{"ConnsMax", &o.ConnsMax, 20_000},
		{"FilesReserve", &o.FilesReserve, 128},
		{"PipelineRequestsMax", &o.PipelineRequestsMax, 1_000},
		{"RequestsMax", &o.RequestsMax, 100_000},
		{"OutputBytesMax", &o.OutputBytesMax, 1 << 20},
		{"UnreadBytesMax", &o.UnreadBytesMax, 128 << 10},
		{"InboundBytesMax", &o.InboundBytesMax, 0},
		{"OutboundBytesMax", &o.OutboundBytesMax, 0},
		{"StalledBytesMax", &o.StalledBytesMax, 0},
		{"HalfClosedMax", &o.HalfClosedMax, 1_000},
		{"RateBytesMin", &o.RateBytesMin, 1 << 10},
	}
	for _, c := range counts {
		if *c.value < 0 {
			return o, fmt.Errorf("%s is negative", c.name)
		}
		if *c.value == 0 {
			*c.value = c.or
		}
	}
	if o.Loops > loopsMax {
		return o, fmt.Errorf("there cannot be more than %d loops", loopsMax)
	}
	request := o.Limits.HeaderBytesMax + int(o.Limits.BodyBytesMax)
	if o.InboundBytesMax == 0 {
		o.InboundBytesMax = max(256<<20/o.Loops, 2*request)
	}
	if o.OutboundBytesMax == 0 {
		o.OutboundBytesMax = 64 << 20 / o.Loops
	}
	if o.StalledBytesMax == 0 {
		o.StalledBytesMax = 24 << 20 / o.Loops
	}
	times := []struct {
		name  string
		value *time.Duration
		or    time.Duration
	}{
		{"IdleTimeout", &o.IdleTimeout, 60 * time.Second},
		{"HeadTimeout", &o.HeadTimeout, 10 * time.Second},
		{"BodyTimeout", &o.BodyTimeout, 30 * time.Second},
		{"BodyTotalTimeout", &o.BodyTotalTimeout, 10 * time.Minute},
		{"RateGrace", &o.RateGrace, 20 * time.Second},
		{"WriteTimeout", &o.WriteTimeout, 25 * time.Second},
		{"StallGrace", &o.StallGrace, 2 * time.Second},
		{"LingerTimeout", &o.LingerTimeout, 5 * time.Second},
	}
	for _, t := range times {
		if *t.value < 0 {
			return o, fmt.Errorf("%s is negative", t.name)
		}
		if *t.value == 0 {
			*t.value = t.or
		}
	}
	return o, nil
}

// loopsMax is what a byte can count.
const loopsMax = 255

// sweepEvery is how often each loop looks for connections whose time is up: often
// enough that no time-out is late by more than an eighth, and at most once a second.
func (o *Options) sweepEvery() time.Duration {
	shortest := min(o.IdleTimeout, o.HeadTimeout, o.BodyTimeout, o.RateGrace, o.WriteTimeout, o.LingerTimeout)
	return max(min(shortest/8, time.Second), 5*time.Millisecond)
}

// Server is the loops and the listener that feeds them.
type Server struct {
	options Options
	log     zerolog.Logger
	loops   []*Loop
	engine  *engine
	slow    *watcher
	accept  acceptor

	// conns counts clients that were accepted and are not closed; the acceptor adds,
	// loops subtract. connsMax is its bound.
	conns    atomic.Int64
	connsMax int
	files    int // how many descriptors the process may have

	accepted, refusals, acceptErrors atomic.Uint64 // the acceptor's
	farewellID                       atomic.Uint64
	stopAccepting                    chan struct{} // closed: Drain was called

	draining atomic.Bool
	emptied  chan struct{} // capacity 1: conns became 0 while draining
	hurry    chan struct{} // closed: do not wait for answers any more

	mu      sync.Mutex
	started bool
	hurried bool
	drained chan struct{} // closed when no client is left; nil before Drain
	stopped chan struct{} // closed when all has ended; nil before Shutdown
}

// ErrStopped is what a guest hears when its loop ends.
var ErrStopped = errors.New("the loop has stopped")

// New makes a server; nothing runs yet. Its loops can be asked for and posted to: what
// is posted runs when they start.
func New(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("cannot make a server: %w", err)
	}
	s := &Server{
		options: o, log: o.Log,
		emptied: make(chan struct{}, 1),
		hurry:   make(chan struct{}),

		stopAccepting: make(chan struct{}),
	}
	var nonce [8]byte
	_, _ = crand.Read(nonce[:]) // it never fails
	first := binary.LittleEndian.Uint64(nonce[:])
	s.farewellID.Store(first + 1<<63)
	for i := range o.Loops {
		s.loops = append(s.loops, newLoop(s, i, first))
	}
	return s, nil
}

// Loops are the server's loops; the slice is the server's.
func (s *Server) Loops() []*Loop { return s.loops }

// Start starts the loops. When it returns they are reachable, and clients are accepted
// if Listen was called.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return errors.New("the server was started before")
	}
	s.connsMax = s.connsAllowed()
	if err := s.start(); err != nil {
		return fmt.Errorf("cannot start the event loops: %w", err)
	}
	s.started = true
	s.log.Info().Int("loops", len(s.loops)).Int("conns_max", s.connsMax).Msg("event loops run")
	if s.accept.listener != nil {
		s.accept.start(s)
	}
	return nil
}

func (s *Server) start() (err error) {
	if s.slow, err = newWatcher(s.loops); err != nil {
		return err
	}
	if s.engine, err = startEngine(len(s.loops), s.log); err != nil {
		s.slow.stop()
		return err
	}
	for _, l := range s.loops {
		if err := l.start(s.engine); err != nil {
			s.stopLoops()
			return err
		}
	}
	return nil
}

// Listen binds the address (host:port). It fails if another process listens there.
// Clients are accepted as soon as the loops run.
func (s *Server) Listen(address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accept.listener != nil || s.drained != nil {
		return errors.New("the server listens already, or is stopping")
	}
	if err := s.accept.listen(address, &s.options); err != nil {
		return err
	}
	if s.started {
		s.accept.start(s)
	}
	return nil
}

// Addr is where the server listens, or nil.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accept.listener == nil {
		return nil
	}
	return s.accept.listener.Addr()
}

// Drain stops accepting, closes idle connections, lets the others have the answers they
// wait for, and returns when no client is connected. When ctx ends, or Drain or
// Shutdown is called a second time, the rest is cut off and ctx's error is returned if
// there is one. Guests stay: their owner says goodbye after Drain and before Shutdown.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	if s.drained != nil {
		if !s.hurried {
			s.hurried = true
			close(s.hurry)
		}
		drained := s.drained
		s.mu.Unlock()
		<-drained
		return ctx.Err()
	}
	drained := make(chan struct{})
	s.drained = drained
	started := s.started
	s.mu.Unlock()
	defer close(drained)

	close(s.stopAccepting)
	s.accept.stop()
	if !started {
		return nil
	}
	s.draining.Store(true)
	s.everywhere((*Loop).lastOrders)
	var err error
	for err == nil && s.conns.Load() > 0 {
		select {
		case <-s.emptied:
		case <-s.hurry:
			err = errHurried
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err == nil {
		return nil
	}
	s.log.Warn().Int64("conns", s.conns.Load()).Msg("connections are cut off")
	s.everywhere((*Loop).closeConns)
	if err == errHurried {
		return ctx.Err()
	}
	return err
}

var errHurried = errors.New("a second call asked for haste")

// Shutdown is Drain, and then the end: guests hear ErrStopped, the loops stop, and
// every goroutine of the server has ended when it returns. What is posted from then on
// is dropped.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.stopped != nil {
		stopped := s.stopped
		s.mu.Unlock()
		err := s.Drain(ctx) // the second call: now
		<-stopped
		return err
	}
	stopped := make(chan struct{})
	s.stopped = stopped
	s.mu.Unlock()
	defer close(stopped)

	err := s.drainOrWait(ctx)
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	if started {
		s.stopLoops()
		s.log.Info().Msg("event loops have stopped")
	}
	return err
}

// drainOrWait drains unless that is done already.
func (s *Server) drainOrWait(ctx context.Context) error {
	s.mu.Lock()
	drained := s.drained
	s.mu.Unlock()
	if drained != nil {
		select {
		case <-drained:
			return nil
		default:
		}
	}
	return s.Drain(ctx)
}

// stopLoops ends what Start started, also when Start got only half way.
func (s *Server) stopLoops() {
	for _, l := range s.loops {
		l.refuseGuests()
	}
	s.everywhere((*Loop).end)
	s.slow.stop()
	s.engine.stop()
	for _, l := range s.loops {
		l.dispose()
	}
}

// everywhere runs f on each loop that runs, and returns when all have done it.
func (s *Server) everywhere(f func(*Loop)) {
	var done sync.WaitGroup
	for _, l := range s.loops {
		if !l.up.Load() {
			continue
		}
		done.Add(1)
		l.Post(func() {
			defer done.Done()
			f(l)
		})
	}
	done.Wait()
}
