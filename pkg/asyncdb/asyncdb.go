// Package asyncdb speaks PostgreSQL's wire protocol without ever blocking: bytes in,
// bytes out. It lives on an event loop that it does not know: the loop reads and
// writes the socket, this room says what to write and what the bytes mean.
//
// It is not a driver for general use: it sends the statements that a Batch asks for,
// and has no queries, rows or transactions to offer. It knows no HTTP and no SQL
// (package schema has that), and it never decides whether a push is a duplicate or an
// error (package queue does).
//
// # One lane per loop
//
// A Store belongs to one loop and has one lane: one connection, on which one batch is
// in flight, mostly. While it is, arriving ops gather, and the lane takes them all
// when it is free (batch.go). So an idle server answers after one round trip and a
// commit, a busy one puts more rows under each commit, no timer is needed for either,
// and the order of a client's requests is kept without effort. With as much waiting as is
// in flight a second batch follows the first on the same connection (follow.go), or is
// stored before its turn on a second one, if it is a large one (early.go). A second lane
// buys nothing: two batches of one process would wait for each other's partition locks.
// Where the lanes of two loops have partitions in common they go one after another
// (turn.go).
//
//	       dialed            Defer, ready            Sync answered
//	down ─────────▶ idle ───────────────▶ busy ─┬──────────────────▶ idle, or busy with the next
//	 ▲               │  nothing heard for a      │ again, after a while
//	 │               │  time: a probe            ├──────────────────▶ resting ──▶ busy
//	 └───────────────┴───────────────────────────┴─ connection lost, hung, or closed by us
//
// # Connecting
//
// A goroutine of its own does what may block (dial.go): names are resolved, pgconn
// speaks TLS and authentication, settings are checked, statements are prepared. Then the
// socket is given to the loop, and from there this package cuts the messages (frame.go)
// and knows whose they are (pipeline.go). With TLS, two goroutines copy between the TLS
// connection and one end of a socketpair, whose other end the loop gets (relay.go).
//
// # What a client notices
//
// Nothing of one lost connection to a healthy server: its batch runs again on the next
// connection, with the same ids, so that what a lost COMMIT did is found and not done
// twice. When PostgreSQL is known to be away (an attempt to connect failed, a step hung,
// an error said so) new ops get Unavailable at once, and those accepted before wait for
// the reconnection until their deadline, not longer. Every op is completed by its
// Deadline, give or take a pass of the loop.
package asyncdb

import (
	"net"
	"time"
)

// Services is what a Store is given by the loop that it lives on.
type Services struct {
	// Attach hands a connected socket to the loop; any goroutine. The callbacks run on the
	// loop: opened first, then data for what arrives (the slice is the loop's, valid during
	// the call), then closed, once, whoever closed it; or closed alone when the loop could
	// not take it. write takes what it is given before it returns, keeps unsent bytes in
	// memory and never blocks; it and close run on the loop and may call closed before
	// they return.
	Attach func(nc net.Conn, opened func(write func([]byte) error, close func()), data func([]byte), closed func(error))

	Post  func(func())                       // any goroutine: run on the loop
	After func(d time.Duration, fire func()) // on the loop: run on the loop in d
	Defer func(func())                       // on the loop: run at the end of this pass
	Now   func() time.Duration               // any goroutine: monotonic
}
