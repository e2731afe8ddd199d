// Package loop runs the event loops: a goroutine each that polls its sockets,
// serves HTTP/1.1 connections, and lets guests (PostgreSQL's sockets, timers, posted
// functions) run on the same goroutine, so that a request never changes goroutines on
// its way.
//
// It is not a router: it calls one handler for each request and writes what the
// handler replies, in the order of the requests. It knows no JSON but the one line of
// its own refusals, no TLS, and no SQL.
//
//	          goroutine "accept"                loop i (one goroutine each)
//	client ─→ accept, cap, refuse ── enroll ─→ conn ─→ httpparse ─→ Handler(Exchange)
//	                                            ↑                        │ now or later
//	                                            └── out ←── in order ←── Exchange.Reply
//	PostgreSQL ←──────────────────── guest (Attach) ←→ its owner's callbacks
//	any goroutine ── Post ──┐
//	alarm clock   ── After ─┼─ one byte ─→ waker ─→ timers, posted, deferred functions
//	the loop      ── Defer ─┘
//
// # What is taken from gnet, and what is not
//
// gnet polls, reads, and owns the descriptors; gnet.go is the only file that knows it.
// Loops are those of a gnet.Client, because gnet's own acceptor ends the whole engine
// when accept fails for want of descriptors (accept.go is ours instead), and because
// it sets SO_REUSEPORT to be in every loop, which lets a second process steal half of
// the connections without a word. A loop is reachable before any client is, through
// one end of a unix socketpair enrolled in it (loop.go).
//
// Answers are written by us and not by gnet's Write: gnet closes a connection whose
// client has shut down its sending side, and throws away what it could not write yet,
// with no way to get it back. Here unsent bytes belong to the connection, which goes on
// on a duplicate of the descriptor until the client has its answers (conn.go,
// writable.go). The same keeps OnClose from being called in the middle of a write.
// Guests are written to through gnet's buffers: their end of input is the end.
//
// # Memory and limits
//
// Everything that can grow has a bound in Options, which says what happens at the
// bound. Bytes given to a callback are valid during the call; bytes given to us are
// copied before we return.
//
// # Goroutines
//
// Methods say "on the loop" or "any goroutine". One loop shares nothing with another;
// its counters are atomics that only it writes.
package loop
